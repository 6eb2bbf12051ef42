"""Training: everything between a `Run` value and a trained network in its run folder.

run               train a run into its folder, and measure its result
run_result        measure the errors of a trained network, and summarise its run
prepared_run      read the data, build the network, and choose the function that trains it
loop              the training loop: steps, evaluations, metrics, checkpoints
step              one step: forward pass, backward pass, update
step_graphs       the CUDA graphs of a step: one, or two around the all-reduce of ranks
bn_splits         the forward and backward passes over the BN splits of a batch
gradients         the memory of gradients, their exchange, and the limit of their norm
prefetched_batch  assembles the next batch on a GPU beside the current step
weight_average    a running average of the weights over the steps
prepared_network  freeze what a recipe freezes, and move the network to its device
optimisers        build torch optimisers and their parameter groups
muon              the Muon optimiser
progress          the progress of a run, and the step results not yet in metrics.jsonl
loggers           what a run measures, in TensorBoard, Weights & Biases, MLflow or an own object
checkpoint        checkpoint files, with a checksum
training_state    save the state of a run to a checkpoint, and restore it
machine           device, precision and process group
memory            compare the memory that a run needs with the memory that is free
shared_request    ranks agree on when to stop, without waiting at every step
distributed       data-parallel processes, started by torchrun
batch_share       the images of each batch that a rank computes
patient_wait      how ranks wait for one that prepares data
rank_failures     how the processes of a run learn that one of them has stopped
rank_agreement    check that all processes of a run train the same on the same data
sync_batchnorm    BN and drop-path over the ranks that share a BN split
cuda_graph        a training step, or a part of it, as one CUDA graph
gpu_streams       the CUDA streams of a thread
chosen_start      choose the weights that a run starts from, if the user chose nothing
initial_weights   the weights that a run starts from
added_classes     train on from a model with more classes
data_settings     the settings of photographs that a run's record keeps
auto_config       choose network, image size, recipe and duration for images
storage_choice    how photographs are kept: the choice of a run or of its record
run_request       turn a request to train into a run
user_additions    a module and a transform of the user's, which no JSON describes
dry_run           preview a run without training it
dry_run_sample    a sample of many photographs, for a preview
step_profile      where a step goes: its parts, and its share of the machine's limit
step_parts        the parts of a step, from a trace of the profiler
product_rate      the rate of a large matrix product, the limit of a step
data_bench        how fast photographs become batches, and what binds
find_lr           the learning-rate range test
evaluate          count the errors of a network on a split
assess            a full evaluation: confusion matrix, calibration, confident mistakes
evaluation_measures  all measures of an evaluation, from log probabilities
shown_images      the images that the page of an evaluation shows
doubtful_labels   labels that are probably wrong
final_evaluation  the full evaluation of a finished run on its test images
calibration       calibration error and temperature scaling
evaluation_checks  checks of an evaluation's options before images are read
stored_temperature  store a temperature in a model folder if it helps, or remove it
recalibrate_bn    BN statistics recomputed for the final weights
vlad              fit VLAD classifiers, which are not trained by gradient descent
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.training.assess import evaluate_model_folder as evaluate_model_folder
    from residua.training.assess import predict_log_probabilities as predict_log_probabilities
    from residua.training.checkpoint import CheckpointPolicy as CheckpointPolicy
    from residua.training.checkpoint import parse_save_interval as parse_save_interval
    from residua.training.chosen_start import NO_WEIGHTS as NO_WEIGHTS
    from residua.training.data_bench import measure_data_pipeline as measure_data_pipeline
    from residua.training.distributed import DataParallelGroup as DataParallelGroup
    from residua.training.distributed import join_process_group as join_process_group
    from residua.training.distributed import (
        report_failure_before_joining as report_failure_before_joining,
    )
    from residua.training.dry_run import preview_run as preview_run
    from residua.training.dry_run_sample import is_sampled as is_sampled
    from residua.training.evaluate import EvaluationScore as EvaluationScore
    from residua.training.evaluate import evaluate_network as evaluate_network
    from residua.training.final_evaluation import evaluate_finished_run as evaluate_finished_run
    from residua.training.find_lr import RangeTest as RangeTest
    from residua.training.find_lr import run_range_test as run_range_test
    from residua.training.initial_weights import adapt_network_to_data as adapt_network_to_data
    from residua.training.initial_weights import read_image_size as read_image_size
    from residua.training.initial_weights import resolve_weight_source as resolve_weight_source
    from residua.training.loggers.make_loggers import make_run_loggers as make_run_loggers
    from residua.training.loggers.run_logger import RunLogger as RunLogger
    from residua.training.loggers.run_logs import RunLogs as RunLogs
    from residua.training.machine import Machine as Machine
    from residua.training.machine import Precision as Precision
    from residua.training.machine import set_up_machine as set_up_machine
    from residua.training.memory import describe_memory as describe_memory
    from residua.training.progress import ProgressListener as ProgressListener
    from residua.training.progress import TrainingProgress as TrainingProgress
    from residua.training.progress import call_listeners as call_listeners
    from residua.training.run import catch_stop_signals as catch_stop_signals
    from residua.training.run import train_run as train_run
    from residua.training.run_request import ResolvedRun as ResolvedRun
    from residua.training.run_request import RunRequest as RunRequest
    from residua.training.run_request import choose_storage_in_folder as choose_storage_in_folder
    from residua.training.run_request import resolve_run as resolve_run
    from residua.training.run_request import (
        resolve_run_before_storage as resolve_run_before_storage,
    )
    from residua.training.step import TrainingStep as TrainingStep
    from residua.training.step_profile import profile_run as profile_run
    from residua.training.storage_choice import (
        require_storage_of_record as require_storage_of_record,
    )

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "assess": "evaluate_model_folder predict_log_probabilities",
        "checkpoint": "CheckpointPolicy parse_save_interval",
        "distributed": "DataParallelGroup join_process_group report_failure_before_joining",
        "dry_run": "preview_run",
        "evaluate": "EvaluationScore evaluate_network",
        "final_evaluation": "evaluate_finished_run",
        "chosen_start": "NO_WEIGHTS",
        "find_lr": "RangeTest run_range_test",
        "initial_weights": "adapt_network_to_data read_image_size resolve_weight_source",
        "machine": "Machine Precision set_up_machine",
        "memory": "describe_memory",
        "loggers.make_loggers": "make_run_loggers",
        "loggers.run_logger": "RunLogger",
        "loggers.run_logs": "RunLogs",
        "progress": "ProgressListener TrainingProgress call_listeners",
        "dry_run_sample": "is_sampled",
        "run_request": "ResolvedRun RunRequest choose_storage_in_folder resolve_run "
        "resolve_run_before_storage",
        "storage_choice": "require_storage_of_record",
        "data_bench": "measure_data_pipeline",
        "run": "catch_stop_signals train_run",
        "step": "TrainingStep",
        "step_profile": "profile_run",
    },
)

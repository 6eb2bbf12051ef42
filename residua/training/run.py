"""Train a run: from a `Run` value to a folder with its record, its networks and its result."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.read import Images, read_split
from residua.data.sources.resolve import resolve_dataset
from residua.errors import Interrupted, RecordError, UsageError
from residua.files import try_lock_folder
from residua.net.model_folder import save_pretrained
from residua.record import RunRecord
from residua.training.checkpoint import DEFAULT_CHECKPOINT_POLICY, CheckpointPolicy
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine
from residua.training.memory import require_enough_memory
from residua.training.prepared_run import PreparedRun, prepare_run
from residua.training.progress import ProgressListener, TrainingProgress
from residua.training.recalibrate_bn import list_unfrozen_batchnorms, score_with_recalibrated_bn


def train_run(
    run: Run,
    folder: Path,
    machine: Machine,
    *,
    data: Dataset | None = None,
    initial_weights: Path | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    checkpoint_policy: CheckpointPolicy = DEFAULT_CHECKPOINT_POLICY,
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> dict[str, Json]:
    """Train `run`, write its record to `folder`, and return its result.

    A finished run is not trained again; its stored result is returned.  `data` is the run's data
    set if the caller has resolved it already.  `initial_weights` is a model folder, whose mean and
    std are then used too, or a weight file.  `resume` continues from the newest checkpoint.  VLAD
    models have no checkpoints, metrics or `best`: they are fitted in one go, and start over if
    interrupted.

    Every rank of the machine's group must call this; rank 0 writes.  A run may resume with another
    number of processes, with the same results up to rounding.  Processes that torchrun restarted
    resume even without `resume`.  Raises UsageError if the folder holds another run, RecordError if
    another process is training it, DataError if images cannot be read, TrainingError if training
    cannot start or continue, and Interrupted once `should_stop()` is true.
    """
    record, group = RunRecord(folder), machine.group
    if run.recipe is None:
        machine = replace(machine, precision="fp32")
        if group.world_size > 1:
            raise UsageError(
                f"{run.network.name} is fitted by a single process: start it without torchrun"
            )
    data = data or resolve_dataset(run.dataset, run.network.input)
    is_finished = record.run_json_path.exists() and bool(record.read_result())
    if isinstance(run.network, Network) and not is_finished:
        require_enough_memory(run, plan(run.network), data, machine)
    prepared_run = prepare_run(
        run, data, record, machine, initial_weights, data_dir, checkpoint_policy
    )
    may_resume = resume or group.restart_count > 0
    earlier_result = group.broadcast_from_rank0(
        lambda: begin_or_load_result(record, run, prepared_run.environment, may_resume)
    )
    if earlier_result is not None:
        return earlier_result
    with try_lock_folder(folder) if group.is_main else nullcontext(True) as has_lock:
        if not has_lock:
            raise RecordError(f"the run in {folder} is being trained by another process")
        progress = prepared_run.train_function(
            on_progress=on_progress, should_stop=group.true_on_any_rank(should_stop)
        )
        if progress.step < progress.total_steps:
            raise Interrupted(
                f"stopped at step {progress.step:,} of {progress.total_steps:,}: "
                f"add --resume to continue, with --out {folder}"
            )
        return finish_run(prepared_run, progress, data, record, machine, data_dir)


def begin_or_load_result(
    record: RunRecord, run: Run, environment: dict[str, Json], resume: bool
) -> dict[str, Json] | None:
    """Claim the record's folder for `run`; return the stored result if the run is finished."""
    record.claim_folder(run, environment, resume)
    return record.read_result()


def finish_run(
    prepared_run: PreparedRun,
    progress: TrainingProgress,
    data: Dataset,
    record: RunRecord,
    machine: Machine,
    data_dir: Path | None,
) -> dict[str, Json]:
    """Evaluate the trained network in fp32, and write the model folder `last` and the result."""
    fp32_machine = replace(machine, precision="fp32")
    splits = load_evaluation_splits(prepared_run, data, data_dir)
    errors = measure_errors(prepared_run, splits, fp32_machine)
    result = summarise_run(prepared_run, progress, errors)
    result |= measure_recalibrated_error(prepared_run, splits["train"], fp32_machine)
    if machine.group.is_main:
        test_error, test_images = errors["test_error"], len(splits["test"])
        config = replace(prepared_run.config, test_error=test_error, test_images=test_images)
        save_pretrained(prepared_run.net, config, record.folder / "last")
        record.write_result(result)
    return result


def load_evaluation_splits(
    prepared_run: PreparedRun, data: Dataset, data_dir: Path | None
) -> dict[str, Images]:
    """The images to evaluate, by split, all at the network's input size.

    The test split is read only now, after the training.
    """
    dev_images = prepared_run.dev_images
    return {
        "train": prepared_run.train_images.center_crop(dev_images.image_size),
        "dev": dev_images,
        "test": read_split(data, "test", data_dir),
    }


def measure_errors(
    prepared_run: PreparedRun, splits: dict[str, Images], machine: Machine
) -> dict[str, float]:
    """The share of wrong images of each split, in [0, 1], as `train_error`, `dev_error` etc."""
    net, config = prepared_run.net, prepared_run.config
    return {
        f"{split}_error": evaluate_network(net, images, config.mean, config.std, machine).error
        for split, images in splits.items()
    }


def measure_recalibrated_error(
    prepared_run: PreparedRun, train_images: Images, machine: Machine
) -> dict[str, Json]:
    """The training error and loss with BN statistics of the final weights; empty without BN."""
    net, config = prepared_run.net, prepared_run.config
    if not list_unfrozen_batchnorms(net):
        return {}
    score = score_with_recalibrated_bn(net, train_images, config.mean, config.std, machine)
    return {"train_error_reestimated": score.error, "train_loss": score.loss}


def summarise_run(
    prepared_run: PreparedRun, progress: TrainingProgress, errors: dict[str, float]
) -> dict[str, Json]:
    """The result of a run: steps, time, throughput and errors."""
    best_dev_error = progress.best_dev_error
    return {
        "model": prepared_run.config.network.name,
        "steps": prepared_run.total_steps,
        "seconds": progress.seconds,
        "images_per_second": prepared_run.images_seen / progress.seconds,
        **errors,
        "best_dev_error": errors["dev_error"] if best_dev_error is None else best_dev_error,
    }


@contextmanager
def catch_stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that is true once Ctrl-C was pressed or SIGTERM received.

    The first signal asks for a stop after the current step; a second one stops immediately, by
    KeyboardInterrupt.  Outside of the main thread no signal is caught.
    """
    stop_requested = threading.Event()

    def request_stop(number: int, frame: object) -> None:
        if stop_requested.is_set():
            raise KeyboardInterrupt
        stop_requested.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop_requested.is_set
        return
    previous_handlers = {
        number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop_requested.is_set
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)

"""Train a run, and write its record, its networks and its result to a folder."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.summary import DataSummary, ignore_summary
from residua.errors import DataError, ImageError, Interrupted, RecordError, UsageError
from residua.files import clean_up_interrupted_writes, delete_path, try_lock_folder
from residua.net.model_folder import save_pretrained
from residua.record import RunRecord
from residua.training.checkpoint import DEFAULT_CHECKPOINT_POLICY, CheckpointPolicy
from residua.training.data_settings import explain_other_decoding, prepare_data_of_run
from residua.training.distributed import DataParallelGroup
from residua.training.initial_weights import was_trained_on_imagenet
from residua.training.machine import Machine
from residua.training.memory import require_enough_memory
from residua.training.prepared_network import require_recipe_suits_data
from residua.training.prepared_run import PreparedRun, prepare_run
from residua.training.progress import ProgressListener, TrainingProgress
from residua.training.rank_agreement import require_shared_folder
from residua.training.recalibrate_bn import recalibrate_batchnorm
from residua.training.run_result import (
    load_evaluation_splits,
    measure_errors,
    measure_recalibrated_error,
    summarise_run,
)
from residua.training.user_additions import NO_ADDITIONS, UserAdditions


def ignore_start(record: RunRecord) -> None:
    """Do nothing; this is the `on_start` of a run that nobody logs."""


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
    additions: UserAdditions = NO_ADDITIONS,
    on_data: Callable[[DataSummary], None] = ignore_summary,
    on_start: Callable[[RunRecord], None] = ignore_start,
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> dict[str, Json]:
    """Train `run`, write its record to `folder`, and return its result.

    A finished run is not trained again; its stored result is returned.  `data` is the run's data
    set if the caller has resolved it already.  `initial_weights` is a weight file or a model
    folder; with a model folder, its mean and std are also used.  With `resume`, training continues
    from the newest checkpoint.  VLAD, which is fitted in one go, writes no checkpoints, no metrics
    and no model folder `best`.  `additions` holds what JSON cannot describe.  `on_data` gets a
    summary of the data, and `on_start`, on rank 0, the record that holds the run, before it begins.

    Every rank of the machine's group must call this function; only rank 0 writes files.  A run may
    resume with another number of processes, and its results are then the same up to rounding.
    Processes that torchrun restarted resume even if `resume` is False.  Raises UsageError if the
    folder holds another run, RecordError if another process is training it, DataError if images
    cannot be read, TrainingError if training cannot go on, and Interrupted if it is to stop.
    """
    record, group = RunRecord(folder), machine.group
    if run.recipe is None:
        machine = make_vlad_machine(run, machine)
    data = prepare_data_of_run(run, data, record, data_dir)
    require_recipe_suits_data(run.recipe, data)
    if isinstance(run.network, Network) and not record.is_finished:
        require_enough_memory(run, plan(run.network), data, machine)
    prepared_run = prepare_run(
        run, data, record, machine, initial_weights, data_dir, checkpoint_policy, additions
    )
    on_data(add_notes(prepared_run, run, record))
    environment, may_resume = prepared_run.environment, resume or group.restart_count > 0
    with lock_run_folder(folder, group), explain_how_to_go_on(folder):
        earlier_result = group.broadcast_from_rank0(
            lambda: begin_or_load_result(record, run, environment, may_resume, on_start)
        )
        require_shared_folder(record, group)
        if earlier_result is not None:
            return earlier_result
        progress = prepared_run.train_function(
            on_progress=on_progress,
            should_stop=group.true_on_any_rank(should_stop, is_streamed=data.is_streamed),
        )
        if progress.step < progress.total_steps:
            raise Interrupted(
                f"training stopped at step {progress.step:,} of {progress.total_steps:,}: "
                f"to continue, repeat the command with --resume and --out {folder}"
            )
        return finish_run(run, prepared_run, progress, data, record, machine, data_dir)


def make_vlad_machine(run: Run, machine: Machine) -> Machine:
    """Prepare the machine for a run of VLAD, in fp32; raise UsageError for several processes."""
    if machine.group.world_size > 1:
        raise UsageError(
            f"{run.network.name} is fitted by a single process: start it without torchrun"
        )
    return replace(machine, precision="fp32")


def add_notes(prepared_run: PreparedRun, run: Run, record: RunRecord) -> DataSummary:
    """Return the data summary with notes, on known dev images and on photographs.

    Dev images are known if the weights that training starts from were trained on them.  Photographs
    may have moved since the run in `record` was started, or be decoded in another way.
    """
    summary, config = prepared_run.data_summary, prepared_run.config
    notes = [*summary.notes]
    if other_decoding := explain_other_decoding(record, prepared_run.environment):
        notes.append(other_decoding)
    if former_path := record.find_moved_images(run, prepared_run.environment):
        notes.append(f"when this run was started, the same photographs were in {former_path}")
    if config.trained_on_dev and prepared_run.dev_images is not None:
        notes.append(
            f"the weights that training starts from were trained on the dev images of "
            f"{config.dataset}, so the dev error looks too low and cannot choose an epoch: use the "
            "folder last, not best"
        )
    elif was_trained_on_imagenet(config, config.dataset):
        notes.append(
            f"the weights {config.weights_from} were trained on all training images of ImageNet, "
            "of which the dev images are a part, so the dev error looks too low and cannot choose "
            "an epoch: use the folder last, not best"
        )
    return replace(summary, notes=tuple(notes))


@contextmanager
def lock_run_folder(folder: Path, group: DataParallelGroup) -> Iterator[None]:
    """Make `folder` and, inside the context, keep other processes from training the run in it.

    Raises RecordError if another process is already training it.  Only rank 0 of the group takes
    the lock.
    """
    if not group.is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with try_lock_folder(folder) as has_lock:
        if not has_lock:
            raise RecordError(f"the run in {folder} is being trained by another process")
        clean_up_interrupted_writes(folder)
        yield


@contextmanager
def explain_how_to_go_on(folder: Path) -> Iterator[None]:
    """Add the way on to the error of a photograph whose file has vanished or changed meanwhile."""
    try:
        yield
    except ImageError as error:
        raise DataError(
            f"{error}: once the file is back as it was, repeat the command with --resume and "
            f"--out {folder}; to train without it, choose another --out"
        ) from error


def begin_or_load_result(
    record: RunRecord,
    run: Run,
    environment: dict[str, Json],
    resume: bool,
    on_start: Callable[[RunRecord], None],
) -> dict[str, Json] | None:
    """Claim the record's folder for `run`; return the stored result if the run is finished.

    If it is not finished, `on_start` is called with the record.
    """
    record.claim_folder(run, environment, resume)
    result = record.read_result()
    if result is None:
        on_start(record)
    else:  # a process that was killed after it had written the result left them
        delete_path(record.checkpoints_folder)
    return result


def finish_run(
    run: Run,
    prepared_run: PreparedRun,
    progress: TrainingProgress,
    data: Dataset,
    record: RunRecord,
    machine: Machine,
    data_dir: Path | None,
) -> dict[str, Json]:
    """Evaluate the trained network in fp32, write the model folder `last`, and store the result.

    If the recipe says so, BN statistics are computed anew before.
    """
    fp32_machine = replace(machine, precision="fp32")
    test_views = run.recipe.views if run.recipe else "none"
    splits = load_evaluation_splits(prepared_run, data, data_dir, test_views)
    if run.recipe and run.recipe.bn == "reestimated":
        config = prepared_run.config
        recalibrate_batchnorm(
            prepared_run.net, splits["train"], config.mean, config.std, fp32_machine
        )
    errors = measure_errors(prepared_run, splits, fp32_machine, test_views)
    dev_error = errors["dev_error"]
    is_last_best = dev_error is not None and progress.update_best(dev_error)
    result = summarise_run(prepared_run, progress, errors, splits, machine)
    result |= measure_recalibrated_error(prepared_run, splits["train"], fp32_machine)
    if test_views != "none":
        result["test_views"] = test_views
    if machine.group.is_main:
        config = replace(
            prepared_run.config,
            test_error=errors["test_error"],
            test_images=len(splits["test"]),
            test_views=test_views,
        )
        save_pretrained(prepared_run.net, config, record.folder / "last")
        if is_last_best and (record.folder / "best").exists():  # VLAD has no such folder
            save_pretrained(prepared_run.net, prepared_run.config, record.folder / "best")
        record.write_result(result)
    return result


@contextmanager
def catch_stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns true after Ctrl-C or SIGTERM.

    After the first signal, the caller is expected to stop at the end of the current step.  Ctrl-C
    raises KeyboardInterrupt if it is not the first signal.  Another SIGTERM changes nothing,
    because torchrun and a scheduler may each send one.  Outside the main thread, no signal is
    caught.
    """
    stop_requested = threading.Event()

    def request_stop(number: int, frame: object) -> None:
        if stop_requested.is_set() and number == signal.SIGINT:
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

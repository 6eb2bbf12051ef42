"""Train one run into its folder, from its values alone."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.batches import make_training_batches
from residua.data.image_cache import problems_to_json
from residua.data.read import Images, ensure_dataset_available, list_skipped_images, read_split
from residua.data.sources.image_folder import resolve_dataset
from residua.errors import Interrupted, RecordError, UsageError
from residua.files import try_lock_folder
from residua.net.build import ResidualNetwork
from residua.net.freeze import freeze_backbone
from residua.net.model_folder import build_untrained, save_pretrained
from residua.net.vlad import VladNetwork
from residua.record import RunRecord
from residua.training.checkpoint import DEFAULT_CHECKPOINT_POLICY, CheckpointPolicy
from residua.training.distributed import assign_batch_share
from residua.training.evaluate import evaluate_network
from residua.training.initial_weights import load_initial_weights
from residua.training.loop import ProgressListener, TrainingProgress, fit_network
from residua.training.machine import Machine
from residua.training.memory import require_enough_memory
from residua.training.recalibrate_bn import list_unfrozen_batchnorms, score_with_recalibrated_bn
from residua.training.sync_batchnorm import convert_to_sync_modules
from residua.training.vlad import fit_vlad


def train_run(
    run: Run,
    folder: Path,
    machine: Machine,
    *,
    initial_weights: Path | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    checkpoint_policy: CheckpointPolicy = DEFAULT_CHECKPOINT_POLICY,
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> dict[str, Json]:
    """Train `run`, keep its record in `folder`, and return its result; a finished run is returned as it is.

    VLAD is fitted at once: its result has the same keys, with 0 steps; its record has no metrics and no `best`, and `resume`
    begins anew.
    Where the run starts from weights, they are those of the model folder or the file `start`; a folder's mean and std go with them.
    Every process of the machine's group calls it; the leading one writes, and another number of them goes on from a checkpoint
    to the same but for rounding.  What torchrun starts again goes on by itself.
    Raises UsageError where the folder holds another run, RecordError where another process trains it, DataError,
    TrainingError, and Interrupted once `stop()`.
    """
    record, group, fp32_machine = (
        RunRecord(folder),
        machine.group,
        replace(machine, precision="fp32"),
    )
    if run.recipe is None:
        machine = fp32_machine
        if group.world_size > 1:
            raise UsageError(
                f"{run.network.name} is fitted by one process: start it without torchrun"
            )
    if isinstance(run.network, Network) and not (
        record.run_json_path.exists() and record.read_result()
    ):
        require_enough_memory(run, plan(run.network), machine)
    prepared_run = prepare_run(run, record, machine, initial_weights, data_dir, checkpoint_policy)
    earlier_result = group.broadcast_from_rank0(
        lambda: begin_or_load_result(
            record, run, prepared_run.environment, resume or group.restart_count > 0
        )
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
            position = f"step {progress.step:,} of {progress.total_steps:,}"
            raise Interrupted(f"stopped at {position}: add --resume to go on, with --out {folder}")

        splits = {
            "train": prepared_run.train_images.center_crop(prepared_run.dev_images.image_size),
            "dev": prepared_run.dev_images,
            "test": read_split(prepared_run.data, "test", data_dir),
        }
        errors = {
            f"{split}_error": evaluate_network(
                prepared_run.net,
                images,
                prepared_run.config.mean,
                prepared_run.config.std,
                fp32_machine,
            ).error
            for split, images in splits.items()
        }
        result: dict[str, Json] = {
            "model": run.network.name,
            "steps": prepared_run.total_steps,
            "seconds": progress.seconds,
            "images_per_second": prepared_run.images_seen / progress.seconds,
            **errors,
            "best_dev_error": errors["dev_error"]
            if progress.best_dev_error is None
            else progress.best_dev_error,
        }
        if list_unfrozen_batchnorms(prepared_run.net):
            score = score_with_recalibrated_bn(
                prepared_run.net,
                splits["train"],
                prepared_run.config.mean,
                prepared_run.config.std,
                fp32_machine,
            )
            result |= {"train_error_reestimated": score.error, "train_loss": score.loss}
        if group.is_main:
            config = replace(
                prepared_run.config,
                test_error=errors["test_error"],
                test_images=len(splits["test"]),
            )
            save_pretrained(prepared_run.net, config, folder / "last")
            record.write_result(result)
    return result


class TrainFunction(Protocol):
    """Trains or fits, telling of it, to the end or until `stop()`."""

    def __call__(
        self, *, on_progress: ProgressListener, should_stop: Callable[[], bool]
    ) -> TrainingProgress: ...


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """What a run is made of, in memory."""

    net: ResidualNetwork | VladNetwork
    config: ModelConfig
    data: Dataset
    train_images: Images  # to train on
    dev_images: Images
    train_function: TrainFunction
    total_steps: int
    images_seen: int  # images in all steps
    environment: dict[str, Json]  # for the record


def prepare_run(
    run: Run,
    record: RunRecord,
    machine: Machine,
    initial_weights: Path | None,
    data_dir: Path | None,
    checkpoint_policy: CheckpointPolicy,
) -> PreparedRun:
    """Data and network of `run`, and how it learns."""
    data, group = resolve_dataset(run.dataset, run.network.input), machine.group
    group.run_local_rank0_first(
        partial(ensure_dataset_available, data, data_dir)
    )  # so that a missing test file is said now, not after the training
    train_images, dev_images = [
        read_split(data, split, data_dir).to(machine.device) for split in ("train", "dev")
    ]
    fingerprint = train_images.fingerprint
    config = ModelConfig(
        network=run.network,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        dataset=data.name,
        recipe=run.recipe.name if run.recipe else "",
        fingerprint=fingerprint,
        residua=version("residua"),
        torch=torch.__version__,
        resize=data.resize,
    )
    net = build_untrained(run.network, run.seed)
    if initial_weights is not None and isinstance(run.network, Network):
        weights, mean, std = load_initial_weights(initial_weights, run.network, data)
        net.load_state_dict({**net.state_dict(), **weights})
        config = replace(config, mean=mean, std=std)
    train_function: TrainFunction
    if isinstance(net, VladNetwork):
        net, bn_splits, total_steps, images_seen, train_images = (
            machine.prepare_model(net),
            1,
            0,
            len(train_images),
            train_images.center_crop(dev_images.image_size),
        )
        train_function = partial(fit_vlad, net, train_images, config.mean, config.std, run.seed)
    else:
        recipe = run.recipe_for_depth(net.plan.depth)
        if recipe.freeze:
            freeze_backbone(net)
        net, bn_splits = (
            machine.prepare_model(convert_to_sync_modules(net, recipe.bn_splits, machine)),
            recipe.bn_splits,
        )
        batches = make_training_batches(
            train_images,
            recipe,
            data,
            config.mean,
            config.std,
            run.seed,
            assign_batch_share(recipe, group),
        )
        total_steps = recipe.total_steps(len(train_images))
        images_seen = total_steps * recipe.batch_size
        save_best = (
            partial(save_pretrained, net, config, record.folder / "best")
            if group.is_main
            else do_nothing
        )
        train_function = partial(
            fit_network,
            net,
            batches,
            recipe,
            dev_images=dev_images,
            machine=machine,
            record=record,
            checkpoint_policy=checkpoint_policy,
            save_best=save_best,
        )
    environment = machine.describe_environment(bn_splits) | {"images": fingerprint}
    if skipped := list_skipped_images(data):
        environment["left_out"] = problems_to_json(skipped)
    return PreparedRun(
        net,
        config,
        data,
        train_images,
        dev_images,
        train_function,
        total_steps,
        images_seen,
        environment,
    )


def begin_or_load_result(
    record: RunRecord, run: Run, environment: dict[str, Json], resume: bool
) -> dict[str, Json] | None:
    """The result that the record holds already; None where the run is still to be trained, and the record is ready for it."""
    record.claim_folder(run, environment, resume)
    return record.read_result()


def do_nothing() -> None:
    """What the processes do that write nothing."""


@contextmanager
def catch_stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed or SIGTERM sent.  The first time asks to stop after the step at hand, the second stops at once."""
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

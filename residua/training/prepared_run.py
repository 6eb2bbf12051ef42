"""Prepare a run for training: its data, its network, and the function that trains it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.batches import make_training_batches
from residua.data.read import Images, ensure_dataset_available, list_skipped_images, read_split
from residua.data.sources.listing import problems_to_json
from residua.net.build import ResidualNetwork
from residua.net.freeze import freeze_backbone
from residua.net.model_folder import build_untrained, save_pretrained
from residua.net.vlad import VladNetwork
from residua.record import RunRecord
from residua.training.checkpoint import CheckpointPolicy
from residua.training.distributed import assign_batch_share
from residua.training.initial_weights import load_initial_weights
from residua.training.loop import fit_network
from residua.training.machine import Machine
from residua.training.progress import ProgressListener, TrainingProgress
from residua.training.sync_batchnorm import convert_to_sync_modules
from residua.training.vlad import fit_vlad


class TrainFunction(Protocol):
    """Trains or fits to the end, or until `should_stop()` returns true; reports its progress."""

    def __call__(
        self, *, on_progress: ProgressListener, should_stop: Callable[[], bool]
    ) -> TrainingProgress: ...


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """Data, network and training function of a run, ready to train."""

    net: ResidualNetwork | VladNetwork
    config: ModelConfig  # for the model folders that the run writes
    train_images: Images
    dev_images: Images
    train_function: TrainFunction
    total_steps: int  # 0 for VLAD
    images_seen: int  # training images in all steps, repetitions included
    environment: dict[str, Json]  # for the record: versions, device, fingerprint of the images


def prepare_run(
    run: Run,
    data: Dataset,
    record: RunRecord,
    machine: Machine,
    initial_weights: Path | None,
    data_dir: Path | None,
    checkpoint_policy: CheckpointPolicy,
) -> PreparedRun:
    """Read the images of `data` and build the network of `run` on the machine.

    All files of the data set are checked first, so that a missing test file is reported before
    training rather than after it.  Raises DataError if files are missing or damaged, and UsageError
    if the run cannot be trained on this data or machine.
    """
    machine.group.run_local_rank0_first(partial(ensure_dataset_available, data, data_dir))
    train_images, dev_images = [
        read_split(data, split, data_dir).to(machine.device) for split in ("train", "dev")
    ]
    fingerprint = train_images.fingerprint
    config = make_model_config(run, data, fingerprint)
    net = build_untrained(run.network, run.seed)
    if initial_weights is not None and isinstance(run.network, Network):
        weights, mean, std = load_initial_weights(initial_weights, run.network, data)
        net.load_state_dict({**net.state_dict(), **weights})
        config = replace(config, mean=mean, std=std)
    environment: dict[str, Json] = {"images": fingerprint}
    if skipped := list_skipped_images(data):
        environment["left_out"] = problems_to_json(skipped)
    if isinstance(net, VladNetwork):
        return prepare_vlad_fit(run, net, config, train_images, dev_images, machine, environment)
    return prepare_network_training(
        run,
        data,
        net,
        config,
        train_images,
        dev_images,
        machine,
        record,
        checkpoint_policy,
        environment,
    )


def make_model_config(run: Run, data: Dataset, fingerprint: str) -> ModelConfig:
    """The config of the run's model folders; `fingerprint` is that of the training images."""
    return ModelConfig(
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


def prepare_vlad_fit(
    run: Run,
    net: VladNetwork,
    config: ModelConfig,
    train_images: Images,
    dev_images: Images,
    machine: Machine,
    environment: dict[str, Json],
) -> PreparedRun:
    """Prepare to fit VLAD on the center crops of the training images, each used once."""
    net = machine.prepare_model(net)
    train_images = train_images.center_crop(dev_images.image_size)
    return PreparedRun(
        net,
        config,
        train_images,
        dev_images,
        partial(fit_vlad, net, train_images, config.mean, config.std, run.seed),
        total_steps=0,
        images_seen=len(train_images),
        environment=machine.describe_environment() | environment,
    )


def prepare_network_training(
    run: Run,
    data: Dataset,
    net: ResidualNetwork,
    config: ModelConfig,
    train_images: Images,
    dev_images: Images,
    machine: Machine,
    record: RunRecord,
    checkpoint_policy: CheckpointPolicy,
    environment: dict[str, Json],
) -> PreparedRun:
    """Prepare to train a network by gradient descent; the ranks share each batch."""
    recipe = run.recipe_for_depth(net.plan.depth)
    if recipe.freeze:
        freeze_backbone(net)
    net = machine.prepare_model(convert_to_sync_modules(net, recipe.bn_splits, machine))
    batch_share = assign_batch_share(recipe, machine.group)
    batches = make_training_batches(
        train_images, recipe, data, config.mean, config.std, run.seed, batch_share
    )
    total_steps = recipe.total_steps(len(train_images))
    save_best = partial(save_pretrained, net, config, record.folder / "best")
    train_function = partial(
        fit_network,
        net,
        batches,
        recipe,
        dev_images=dev_images,
        machine=machine,
        record=record,
        checkpoint_policy=checkpoint_policy,
        save_best=save_best if machine.group.is_main else do_nothing,
    )
    return PreparedRun(
        net,
        config,
        train_images,
        dev_images,
        train_function,
        total_steps,
        images_seen=total_steps * recipe.batch_size,
        environment=machine.describe_environment(recipe.bn_splits) | environment,
    )


def do_nothing() -> None:
    """Do nothing: passed as `save_best` on the ranks that write no files."""

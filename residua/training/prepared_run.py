"""Prepare a run for training: its data, its network, and the function that trains it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.module_classifier import ModuleClassifier, qualified_name
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.augment import normalise_pixels
from residua.data.batches import make_training_batches
from residua.data.class_match import match_classes
from residua.data.images import Images
from residua.data.read import (
    ensure_dataset_ready,
    read_split,
    read_training_splits,
)
from residua.data.seen_images import store_seen_images
from residua.data.sources.resolve import PhotoDataset
from residua.data.streamed_images import ImageSet
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary
from residua.net.model_folder import build_untrained, save_pretrained
from residua.net.vlad import VladNetwork
from residua.net.whiten import count_start_images, set_stem_from_images
from residua.record import RunRecord
from residua.training.added_classes import extend_head
from residua.training.batch_share import share_batch_of_recipe
from residua.training.checkpoint import CheckpointPolicy
from residua.training.data_settings import describe_data_facts
from residua.training.initial_weights import (
    load_initial_weights,
    record_weights_origin,
    resolve_weight_source,
)
from residua.training.loop import fit_network
from residua.training.machine import Machine
from residua.training.prepared_network import prepare_network_for_recipe
from residua.training.progress import ProgressListener, TrainingProgress
from residua.training.rank_agreement import RankFacts, describe_run_on_rank, require_equal_ranks
from residua.training.sync_batchnorm import describe_exchange
from residua.training.user_additions import NO_ADDITIONS, UserAdditions
from residua.training.vlad import fit_vlad
from residua.version import __version__


class TrainFunction(Protocol):
    """A function that trains a network to the end, or until `should_stop()` returns true.

    It calls `on_progress` as it goes, and returns the progress.
    """

    def __call__(
        self, *, on_progress: ProgressListener, should_stop: Callable[[], bool]
    ) -> TrainingProgress: ...


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to train: its images, its network and the function that trains it."""

    net: nn.Module
    config: ModelConfig  # for the model folders that the run writes
    train_images: ImageSet
    dev_images: ImageSet | None  # None if they are trained on
    train_function: TrainFunction
    total_steps: int  # 0 for VLAD
    images_seen: int  # training images in all steps, repetitions included
    environment: dict[str, Json]  # for the record: versions, device, fingerprint of the images
    data_summary: DataSummary


def prepare_run(
    run: Run,
    data: Dataset,
    record: RunRecord,
    machine: Machine,
    initial_weights: Path | None,
    data_dir: Path | None,
    checkpoint_policy: CheckpointPolicy,
    additions: UserAdditions = NO_ADDITIONS,
) -> PreparedRun:
    """Read the images of `data` and build the network of `run` on the machine.

    All files of the data set are checked first, so that a missing test file is reported before
    training rather than after it.  Raises DataError if files are missing or damaged, and UsageError
    if the run cannot be trained on this data or machine.
    """
    train_images, dev_images = read_images_of_run(run, data, data_dir, machine)
    fingerprint = train_images.fingerprint
    config = store_seen_images(make_model_config(run, data, fingerprint), data)
    summary = summarize_training_data(data, train_images, dev_images)
    environment = describe_data_facts(data, fingerprint)
    net = additions.module or build_untrained(run.network, run.seed)
    if initial_weights is None and additions.module is None:
        start_stem_from_images(net, train_images, data)
    if initial_weights is not None and isinstance(run.network, Network):
        weights, mean, std = load_initial_weights(initial_weights, run.network, data)
        if run.add_class:
            weights |= extend_head(net, run.network, initial_weights)
            environment["class_match"] = match_classes(data, train_images.labels.tolist()).json
        net.load_state_dict({**net.state_dict(), **weights})
        config = replace(config, mean=mean, std=std)
    if initial_weights is not None:
        source = resolve_weight_source(initial_weights)
        environment["weights_from"] = source.json
        config = record_weights_origin(config, source)
    if additions.transform is not None:
        environment["transform"] = qualified_name(additions.transform)
    require_equal_ranks(
        machine,
        partial(describe_training_on_rank, run, data, fingerprint, dev_images, data_dir),
    )
    if isinstance(net, VladNetwork):
        assert dev_images is not None  # VLAD has no recipe
        return prepare_vlad_fit(
            run, net, config, train_images, dev_images, machine, environment, summary
        )
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
        summary,
        additions,
    )


def read_images_of_run(
    run: Run, data: Dataset, data_dir: Path | None, machine: Machine
) -> tuple[ImageSet, ImageSet | None]:
    """Check all files, and read the images to train on and the dev images, if it has any."""
    machine.group.run_local_rank0_first(partial(ensure_dataset_ready, data, data_dir))
    holds_out_dev = run.recipe is None or run.recipe.dev
    train, dev = read_training_splits(data, data_dir, holds_out_dev=holds_out_dev)
    return train.to(machine.device), None if dev is None else dev.to(machine.device)


def start_stem_from_images(net: nn.Module, train_images: ImageSet, data: Dataset) -> None:
    """Set the stem's weights from the first training images, if the network says so."""
    if count := count_start_images(net):
        images = train_images.center_crop(data.input[1:])[slice(count)]
        set_stem_from_images(net, normalise_pixels(images.pixels, data.mean, data.std))


def describe_training_on_rank(
    run: Run,
    data: Dataset,
    train_fingerprint: str,
    dev_images: ImageSet | None,
    data_dir: Path | None,
) -> RankFacts:
    """Return what all ranks must agree on to train `run`, with fingerprints of all splits.

    The test files of a published data set are not opened: their checksums are known.
    """
    fingerprints = [train_fingerprint, *([dev_images.fingerprint] if dev_images else [])]
    if isinstance(data, PhotoDataset):
        fingerprints.append(read_split(data, "test", data_dir).fingerprint)
    return {"command": "train"} | describe_run_on_rank(run, data, fingerprints)


def make_model_config(run: Run, data: Dataset, fingerprint: str) -> ModelConfig:
    """Make the config of the run's model folders; `fingerprint` identifies the training images."""
    return ModelConfig(
        network=run.network,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        dataset=data.name,
        recipe=run.recipe.name if run.recipe else "",
        ema=run.recipe.ema if run.recipe else 0.0,
        trained_on_dev=run.recipe is not None and not run.recipe.dev,
        fingerprint=fingerprint,
        residua=__version__,
        torch=torch.__version__,
        resize=data.resize,
        white_level=data.listing.white_level if isinstance(data, PhotoDataset) else 0,
        scaled_decoding=isinstance(data, PhotoDataset) and data.storage != "squares",
        fold=run.fold,
    )


def prepare_vlad_fit(
    run: Run,
    net: VladNetwork,
    config: ModelConfig,
    train_images: ImageSet,
    dev_images: ImageSet,
    machine: Machine,
    environment: dict[str, Json],
    summary: DataSummary,
) -> PreparedRun:
    """Prepare to fit VLAD on the training images; the center crop of each image is used once."""
    net = machine.prepare_model_in_place(net)
    train_images = train_images.center_crop(dev_images.image_size)
    assert isinstance(train_images, Images)  # VLAD takes squares
    return PreparedRun(
        net,
        config,
        train_images,
        dev_images,
        partial(fit_vlad, net, train_images, config.mean, config.std, run.seed),
        total_steps=0,
        images_seen=len(train_images),
        environment=machine.describe_environment() | environment,
        data_summary=summary,
    )


def prepare_network_training(
    run: Run,
    data: Dataset,
    net: nn.Module,
    config: ModelConfig,
    train_images: ImageSet,
    dev_images: ImageSet | None,
    machine: Machine,
    record: RunRecord,
    checkpoint_policy: CheckpointPolicy,
    environment: dict[str, Json],
    summary: DataSummary,
    additions: UserAdditions,
) -> PreparedRun:
    """Prepare to train a network by gradient descent; the ranks share each batch."""
    recipe = run.recipe_without_unneeded_warmup(get_depth(run))
    net = prepare_network_for_recipe(net, run, recipe, machine)
    batch_share = share_batch_of_recipe(recipe, machine.group).images
    batches = make_training_batches(
        train_images,
        recipe,
        data,
        config.mean,
        config.std,
        run.seed,
        batch_share,
        additions.transform,
    )
    total_steps = recipe.total_steps(len(train_images))
    recipe.require_probe_step(total_steps)
    engine = machine.describe_engine(net, recipe.bn_splits, recipe.optimiser)
    engine |= describe_exchange(net, machine.group)
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
        environment=machine.describe_environment()
        | {"kernels": engine["kernels"], "engine": engine}
        | environment,
        data_summary=summary,
    )


def get_depth(run: Run) -> int:
    """Return the number of layers of the run's network, on which its warm-up depends."""
    if isinstance(run.network, ModuleClassifier):
        return run.network.depth
    assert isinstance(run.network, Network)  # VLAD is fitted without steps
    return plan(run.network).depth


def do_nothing() -> None:
    """Do nothing; this is the `save_best` of the ranks that write no files."""

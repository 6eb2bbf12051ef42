"""Preview a run: its sizes, schedule, memory and estimated time, without training it."""

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.memory import activation_bytes
from residua.config.module_classifier import ModuleClassifier
from residua.config.network import Network
from residua.config.plan import Plan, plan
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.schedules import StepDecay
from residua.config.serialize import Json
from residua.config.vlad_config import VladClassifier
from residua.data.augment import shrink_sides
from residua.data.batches import TrainingBatches, make_training_batches
from residua.data.read import read_training_splits
from residua.data.sources.resolve import PhotoDataset, resize_for_recipe, resolve_dataset
from residua.data.streamed_images import ImageSet
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary, ignore_summary
from residua.errors import UsageError
from residua.net.build import build
from residua.training.batch_share import share_batch_of_recipe
from residua.training.dry_run_sample import is_sampled, sample_training_images
from residua.training.machine import Machine
from residua.training.memory import estimate_memory_on_machine, require_enough_memory
from residua.training.prepared_network import (
    prepare_network_for_recipe,
    require_recipe_suits_data,
)
from residua.training.rank_agreement import describe_run_on_rank, require_equal_ranks
from residua.training.step import make_training_step

TIMED_STEPS = 3  # after one warm-up step
MAX_LISTED_STEPS = 10_000


def preview_run(
    run: Run,
    machine: Machine,
    data_dir: Path | None,
    data: Dataset | None = None,
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> dict[str, Json]:
    """Return the values that `residua train --dry-run` prints, as a dict.

    `data` is the run's data set if the caller has resolved it already; `on_data` is called with a
    summary of it.  Of many photographs a sample is read, and nothing is stored.  The network takes
    a few real steps to estimate the training time.  For VLAD there is no estimate, as the time to
    fit an SVM is not known in advance.
    """
    data = data or resolve_dataset(run.dataset, run.network.input, data_dir=data_dir)
    data = resize_for_recipe(data, run.recipe)
    require_recipe_suits_data(run.recipe, data)
    if isinstance(run.network, Network):
        require_enough_memory(run, plan(run.network), data, machine)  # for the real steps
    read = partial(read_previewed_images, run, data, data_dir)
    images, summary = machine.group.run_local_rank0_first(read)
    on_data(summary)
    images = images.to(machine.device)
    require_equal_ranks(
        machine,
        lambda: (
            {"command": "train --dry-run"} | describe_run_on_rank(run, data, [images.fingerprint])
        ),
    )
    if isinstance(run.network, VladClassifier):
        return count_vlad_fit_sizes(run.network, run.dataset, images)
    if isinstance(run.network, ModuleClassifier):
        raise UsageError(f"{run.network.name} is a module of your own, which has no preview")
    return estimate_training_sizes_and_time(run, data, plan(run.network), images, machine)


def read_previewed_images(
    run: Run, data: Dataset, data_dir: Path | None
) -> tuple[ImageSet, DataSummary]:
    """Read the training images, or of many photographs a sample, with a summary of the data."""
    holds_out_dev = run.recipe is None or run.recipe.dev
    if isinstance(data, PhotoDataset) and is_sampled(data) and holds_out_dev:
        return sample_training_images(data)
    images, dev_images = read_training_splits(data, data_dir, holds_out_dev=holds_out_dev)
    return images, summarize_training_data(data, images, dev_images)


def count_vlad_fit_sizes(
    classifier: VladClassifier, dataset: str, images: ImageSet
) -> dict[str, Json]:
    """Return the numbers of images, patches and descriptors in a VLAD fit, as a dict.

    `descriptor_bytes` is the memory of the descriptors of all training images.  The SVM needs up to
    twice as much in addition.
    """
    return {
        "model": classifier.name,
        "parameters": classifier.parameters,
        "data": dataset,
        "training_images": len(images),
        "patches_per_image": prod(classifier.patch_grid),
        "descriptor_numbers": classifier.descriptor_length,
        "descriptor_bytes": 8 * len(images) * classifier.descriptor_length,
        "precision": "fp32",
    }


def estimate_training_sizes_and_time(
    run: Run, data: Dataset, network_plan: Plan, images: ImageSet, machine: Machine
) -> dict[str, Json]:
    """Return sizes, steps, learning rates, memory and estimated time of training, as a dict.

    `activation_bytes` and the `memory_` values are for one process, which computes one BN split of
    its share at a time.
    """
    recipe, group = run.recipe_without_unneeded_warmup(network_plan.depth), machine.group
    share = share_batch_of_recipe(recipe, group)
    split_size = -(-len(share.images) // len(share.splits))
    memory = estimate_memory_on_machine(run, network_plan, data, machine)
    batches = make_training_batches(
        images, recipe, data, data.mean, data.std, run.seed, share.images
    )
    total_steps = recipe.total_steps(len(images))
    recipe.require_probe_step(total_steps)
    if batches.prefetcher is not None:
        batches.prefetcher.end_step = 0  # so that none is decoded ahead
    with closing(batches):
        seconds = estimate_training_seconds(run, recipe, batches, machine, total_steps)
    return {
        "model": network_plan.network.name,
        "depth": network_plan.depth,
        "parameters": network_plan.parameters,
        "activation_bytes": split_size * activation_bytes(network_plan),
        "recompute": machine.recompute,
        "memory_bytes": memory.total,
        "memory_activations_bytes": memory.activations,
        "memory_weights_bytes": memory.weights,
        "memory_data_bytes": memory.data,
        "data": run.dataset,
        "training_images": len(images),
        "recipe": recipe.name,
        "batch_size": recipe.batch_size,
        "steps": total_steps,
        "epochs": total_steps * recipe.batch_size / len(images),
        "learning_rates": [
            {"step": step, "lr": lr} for step, lr in list_lr_changes(recipe, total_steps)
        ],
        **describe_phases(network_plan.network, recipe, total_steps),
        "weight_decay_on": recipe.optimiser.decay,
        "precision": machine.precision,
        "estimated_seconds": seconds,
    }


def describe_phases(network: Network, recipe: Recipe, total_steps: int) -> dict[str, Json]:
    """Return what is trained when, at which share of the learning rate, and on which image sizes.

    Keys whose value would be that of plain training are left out.
    """
    phases: dict[str, Json] = {}
    if recipe.freeze or recipe.probe:
        phases["probe_steps"] = (
            total_steps if recipe.freeze else recipe.count_probe_steps(total_steps)
        )
    if recipe.body_lr != 1 or recipe.layer_decay != 1:
        stage_names = [f"stage {i}" for i in range(len(network.stages), 0, -1)]
        factors: list[Json] = [{"part": "last layer", "factor": 1.0}]
        for depth, part in enumerate([*stage_names, "stem"], 1):
            factor = recipe.body_lr * recipe.layer_decay**depth
            factors.append({"part": part, "factor": factor})
        phases["lr_factors"] = factors
    if recipe.sizes or recipe.train_size:
        full_size = recipe.full_train_size((network.input[1], network.input[2]))
        sides = [shrink_sides(full_size, share) for share in recipe.sizes or (1.0,)]
        count = len(sides)
        phases["image_sizes"] = [
            {"step": -(-total_steps * i // count), "height": height, "width": width}
            for i, (height, width) in enumerate(sides)
        ]
    return phases


def list_lr_changes(recipe: Recipe, total_steps: int) -> list[tuple[int, float]]:
    """List each step at which the learning rate changes, with the new rate.

    If the rate changes more than ten times, the list has ten equally spaced steps instead.
    """
    change_steps = [
        step
        for step in list_possible_change_steps(recipe, total_steps)
        if step == 0
        or recipe.lr_at_step(step, total_steps) != recipe.lr_at_step(step - 1, total_steps)
    ]
    if len(change_steps) > 10:
        change_steps = [total_steps * i // 10 for i in range(10)]
    return [(step, recipe.lr_at_step(step, total_steps)) for step in change_steps]


def list_possible_change_steps(recipe: Recipe, total_steps: int) -> Iterable[int]:
    """List the steps at which the learning rate may change, in order.

    A schedule that changes at every step is represented by its first `MAX_LISTED_STEPS` steps,
    since a run may have too many steps to look at each.
    """
    if not isinstance(recipe.schedule, StepDecay):
        return range(min(total_steps, MAX_LISTED_STEPS))
    probe_steps, steps = recipe.count_probe_steps(total_steps), set()
    for first, end in ((0, probe_steps), (probe_steps, total_steps)):
        phase_steps = end - first
        warmup_end = min(recipe.warmup.steps, phase_steps // 10) if recipe.warmup else 0
        changes = {0, warmup_end}
        for progress in recipe.schedule.at:
            if 0 <= progress <= 1:
                # one step earlier or later, because progress is a rounded number
                changes |= {round(progress * phase_steps) + offset for offset in (-1, 0, 1)}
        steps |= {first + step for step in changes if 0 <= step < phase_steps}
    return sorted(steps)


def estimate_training_seconds(
    run: Run, recipe: Recipe, batches: TrainingBatches, machine: Machine, total_steps: int
) -> float:
    """Estimate the seconds of a run: steps of an untrained network, timed in each of its phases.

    The phases differ in the layers that are trained or in the size of the images.
    """
    sizes = max(len(recipe.sizes), 1)
    starts = {0, recipe.count_probe_steps(total_steps), recipe.count_stem_steps(total_steps)}
    starts |= {-(-total_steps * i // sizes) for i in range(sizes)}
    bounds = [*sorted(starts - {total_steps}), total_steps]
    return sum(
        (end - first) * measure_step_seconds(run, recipe, batches, machine, first, total_steps)
        for first, end in pairwise(bounds)
    )


def measure_step_seconds(
    run: Run,
    recipe: Recipe,
    batches: TrainingBatches,
    machine: Machine,
    first_step: int,
    total_steps: int,
) -> float:
    """Measure the mean seconds of the steps that are like `first_step`, with their batches.

    The steps train an untrained network, with learning rate 0.  Photographs that are decoded when
    they are needed are not decoded ahead, so that their time counts, but a GPU trains meanwhile.
    """
    assert isinstance(run.network, Network)
    net = build(run.network, batches.seed)
    training_step = make_training_step(
        prepare_network_for_recipe(net, run, recipe, machine), recipe, machine
    )
    training_step.set_probing(first_step < recipe.count_probe_steps(total_steps))
    if recipe.stem:
        training_step.set_stem_training(first_step < recipe.count_stem_steps(total_steps))
    batch_seconds = step_seconds = 0.0
    for i in range(1 + TIMED_STEPS):
        if i == 1:
            batch_seconds = step_seconds = 0.0
        started = time.perf_counter()
        batch = batches.make_batch(first_step)
        made = time.perf_counter()
        loss, _ = training_step(*batch, lr=0.0)
        loss.item()  # waits for the device
        batch_seconds += made - started
        step_seconds += time.perf_counter() - made
    decodes_beside = batches.prefetcher is not None and machine.device.type == "cuda"
    combine = max if decodes_beside else sum
    return combine([batch_seconds, step_seconds]) / TIMED_STEPS

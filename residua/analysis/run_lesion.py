"""Lesion studies: how often a trained net is wrong without some of its units, and with units in each other's places.

After Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow networks", sections 4 and 5.
Nets are in evaluation mode and in fp32: BN keeps the running statistics of the whole net.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

from residua.analysis.ablation import (
    Ablation,
    delete_units,
    measure_ablation_errors,
    sample_random_deletions,
    sample_random_swaps,
)
from residua.analysis.parts import dissect_network, frozen_eval_mode
from residua.analysis.path_gradients import count_sampled_paths, measure_gradient_shares
from residua.config.dataset import Dataset
from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    RandomDeletionResult,
    RandomSwapResult,
    UnitDeletionResult,
)
from residua.config.memory import EVAL_BATCH, FP32_BYTES
from residua.config.plan import Plan
from residua.data.augment import normalise_pixels
from residua.data.read import Images, Split, read_split
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.model_folder import load_residual_network
from residua.training.evaluate import find_model_folder, read_compatible_config
from residua.training.machine import Machine

MAX_UNIT_INPUT_BYTES = (
    2**29
)  # for the inputs of all units, from which every lesion of a batch goes on
MAX_GRADIENT_IMAGES = 64  # at most, for the gradient by path length
PATHS_PER_DRAW = 4  # of each length for each draw: they cost less than lesions
LesionProgressCallback = Callable[
    [str, int, int], None
]  # a net, how much of it is done, of how much
ChannelMeanStd = tuple[tuple[float, ...], tuple[float, ...]]  # means and stds of the channels
ErrorByAblation = dict[Ablation, float]


@dataclass(frozen=True, slots=True)
class LesionSampling:
    """What is drawn at random: `draws` choices for each number of deletions and of swaps, and for each length of path."""

    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"{self.draws} draws are no sample: give at least 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(
                f"seed {self.seed} is impossible: give a whole number from 0 to {2**32 - 1}"
            )


def run_lesion_study(
    folders: Sequence[Path],
    data: Dataset,
    split: Split,
    machine: Machine,
    sampling: LesionSampling,
    *,
    image_count: int | None = None,
    data_dir: Path | None = None,
    on_progress: LesionProgressCallback,
) -> LesionStudyResult:
    """Lesions of the nets of runs' or model folders, all on the same first `images` of a split.

    Raises UsageError for a first net without shortcuts, for a net of other classes or shapes, for a folder that holds no net of
    units; RecordError, DataError.
    """
    if image_count is not None and image_count < 1:
        raise UsageError(f"{image_count} images are no sample: give at least 1")
    model_folders = [find_model_folder(folder) for folder in folders]
    configs = [read_compatible_config(data, folder) for folder in model_folders]
    nets = [load_residual_network(folder) for folder in model_folders]
    if nets[0].plan.network.unit.shortcut == "none":
        name = nets[0].plan.network.name
        raise UsageError(
            f"{name} has no shortcuts to keep: give a residual net first, and this one by --beside {folders[0]}"
        )
    sample_images = read_split(data, split, data_dir)[slice(0, image_count)].to(machine.device)
    net_labels = make_net_labels([net.plan.network.name for net in nets], folders)
    net_results = [
        measure_lesions(
            machine.prepare_model(net),
            label,
            sample_images,
            (config.mean, config.std),
            sampling,
            on_progress,
        )
        for net, label, config in zip(nets, net_labels, configs, strict=True)
    ]
    return LesionStudyResult(
        dataset=data.name,
        split=split,
        classes=len(data.classes),
        images=len(sample_images),
        draws=sampling.draws,
        seed=sampling.seed,
        nets=tuple(net_results),
    )


def make_net_labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What to call each net: its name, with its folder's where others are called so too."""
    return [
        f"{name} ({folder})" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]


def measure_lesions(
    net: ResidualNetwork,
    label: str,
    images: Images,
    mean_std: ChannelMeanStd,
    sampling: LesionSampling,
    on_progress: LesionProgressCallback,
) -> NetworkLesionResult:
    """Every lesion of one net, which is left as it was."""
    dissected, images_per_batch = dissect_network(net), choose_lesion_batch_size(net.plan)
    if not dissected.deletable_indices:
        raise UsageError(
            f"no unit of {label} can be deleted: each changes the shape, and it has no shortcuts; give a deeper net"
        )
    unit_count = len(dissected.units)
    single_deletions = {i: delete_units(unit_count, i) for i in dissected.deletable_indices}
    deletions_by_count = sample_random_deletions(dissected, sampling.draws, sampling.seed)
    swaps_by_count = sample_random_swaps(dissected, sampling.draws, sampling.seed)
    ablations = list(
        dict.fromkeys(
            [
                delete_units(unit_count),
                *single_deletions.values(),
                *chain(*deletions_by_count.values(), *swaps_by_count.values()),
            ]
        )
    )
    total_steps = -(-len(images) // images_per_batch) * len(ablations) + (
        count_sampled_paths(unit_count, PATHS_PER_DRAW * sampling.draws)
        if dissected.is_residual
        else 0
    )
    gradient_images = (
        min(len(images), images_per_batch, MAX_GRADIENT_IMAGES) if dissected.is_residual else 0
    )
    on_step = make_step_counter(label, total_steps, on_progress)
    pixels = normalise_pixels(images.pixels, *mean_std)
    with frozen_eval_mode(net):
        error_by_ablation = dict(
            zip(
                ablations,
                measure_ablation_errors(
                    dissected, ablations, pixels, images.labels, images_per_batch, on_step
                ),
                strict=True,
            )
        )
        path_lengths = (
            measure_gradient_shares(
                dissected,
                pixels[:gradient_images],
                images.labels[:gradient_images],
                PATHS_PER_DRAW * sampling.draws,
                sampling.seed,
                on_step,
            )
            if dissected.is_residual
            else ()
        )
    return NetworkLesionResult(
        label=label,
        network=net.plan.network,
        depth=net.plan.depth,
        error=error_by_ablation[delete_units(unit_count)],
        units=tuple(
            UnitDeletionResult(
                unit.name,
                unit.stage,
                unit.index,
                unit.changes_shape,
                error_by_ablation[single_deletions[i]] if i in single_deletions else None,
            )
            for i, unit in enumerate(dissected.units)
        ),
        thinned=tuple(
            RandomDeletionResult(
                count,
                len(dissected.deletable_indices) - count,
                *mean_and_sd_of_errors(error_by_ablation, draws),
            )
            for count, draws in deletions_by_count.items()
        ),
        swapped=tuple(
            RandomSwapResult(
                count,
                fmean(wound.kendall_tau for wound in draws),
                *mean_and_sd_of_errors(error_by_ablation, draws),
            )
            for count, draws in swaps_by_count.items()
        ),
        paths=path_lengths,
        gradient_images=gradient_images,
    )


def choose_lesion_batch_size(plan: Plan) -> int:
    """So many images at a time that the inputs of all units stay below KEPT_BYTES."""
    values_per_image = (
        sum(unit.input_shape.numel for unit in plan.units) + plan.units[-1].output_shape.numel
    )
    return min(max(MAX_UNIT_INPUT_BYTES // (FP32_BYTES * values_per_image), 1), EVAL_BATCH)


def mean_and_sd_of_errors(
    error_by_ablation: ErrorByAblation, ablations: Iterable[Ablation]
) -> tuple[float, float | None]:
    """The mean error and its sample sd, which one value does not have."""
    ablation_errors = [error_by_ablation[wound] for wound in ablations]
    return fmean(ablation_errors), stdev(ablation_errors) if len(ablation_errors) > 1 else None


def make_step_counter(
    label: str, total_steps: int, on_progress: LesionProgressCallback
) -> Callable[[], None]:
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        on_progress(label, done, total_steps)

    return count_step

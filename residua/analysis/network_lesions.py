"""Measure one network's error under each ablation, and its gradient along paths of each length."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, stdev
from typing import TypeAlias

from torch import Tensor

from residua.analysis.ablation import (
    Ablation,
    delete_units,
    measure_ablation_errors,
    sample_random_deletions,
    sample_random_swaps,
)
from residua.analysis.modes import frozen_eval_mode
from residua.analysis.parts import DissectedNetwork, dissect_network
from residua.analysis.path_gradients import count_sampled_paths, measure_gradient_shares
from residua.config.checks import check_seed_range
from residua.config.lesion_results import (
    NetworkLesionResult,
    PathLengthShare,
    RandomDeletionResult,
    RandomSwapResult,
    UnitDeletionResult,
)
from residua.config.memory import EVAL_BATCH, FP32_BYTES
from residua.config.plan import Plan
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.training.progress import NamedCountListener

MAX_UNIT_INPUT_BYTES = 2**29  # of the inputs of all units for one batch
MAX_GRADIENT_IMAGES = 64
MAX_DRAWS = 10_000  # our choice
PATHS_PER_DRAW = 4  # paths of each length per draw; a path costs less than an ablation

ErrorByAblation: TypeAlias = Mapping[Ablation, float]


@dataclass(frozen=True, slots=True)
class LesionSampling:
    """The numbers of random ablations and paths to draw, and the seed of the draws.

    `draws` is the number of random ablations for each number of deleted units and for each number
    of swaps.  For each path length, `PATHS_PER_DRAW` times as many paths are drawn.  Raises
    UsageError if `draws` is below 1 or the seed is invalid.
    """

    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= MAX_DRAWS:
            raise UsageError(
                f"draws must be at least 1 and at most {MAX_DRAWS:,}, got {self.draws:,}"
            )
        check_seed_range(self.seed)

    @property
    def paths_per_length(self) -> int:
        return PATHS_PER_DRAW * self.draws


@dataclass(frozen=True, slots=True)
class AblationPlan:
    """All ablations to measure on one network."""

    intact: Ablation
    single_deletions: dict[int, Ablation]  # by the index of the deleted unit
    deletions_by_count: dict[int, list[Ablation]]  # random draws by the number of deleted units
    swaps_by_count: dict[int, list[Ablation]]  # random draws by the number of swaps

    def list_distinct(self) -> list[Ablation]:
        """List each ablation once; random draws may repeat each other or the single deletions."""
        draws = chain(*self.deletions_by_count.values(), *self.swaps_by_count.values())
        return list(dict.fromkeys([self.intact, *self.single_deletions.values(), *draws]))


def measure_lesions(
    net: ResidualNetwork,
    label: str,
    pixels: Tensor,
    labels: Tensor,
    sampling: LesionSampling,
    on_progress: NamedCountListener,
) -> NetworkLesionResult:
    """Measure the error of `net` under each ablation, and its gradient shares by path length.

    `pixels` are normalised images (n, c, h, w), and `labels` (n,) are their classes.  Gradient
    shares are measured only if every unit has a shortcut.  `label` names the network in error
    messages, progress and results.  `net` is unchanged afterwards.  Raises UsageError if no unit
    can be deleted.
    """
    dissected = dissect_network(net)
    if not dissected.deletable_indices:
        raise UsageError(
            f"no unit of {label} can be deleted: the network has no shortcuts, "
            "and each of its units changes the shape of its input; "
            "use a deeper network, where some units keep the shape"
        )
    batch_size = choose_lesion_batch_size(net.plan)
    plan = plan_ablations(dissected, sampling)
    ablations = plan.list_distinct()
    batch_count = -(-len(pixels) // batch_size)
    path_count = (
        count_sampled_paths(len(dissected.units), sampling.paths_per_length)
        if dissected.is_residual
        else 0
    )
    on_step = make_step_counter(label, batch_count * len(ablations) + path_count, on_progress)
    gradient_images = min(len(pixels), batch_size, MAX_GRADIENT_IMAGES)
    path_lengths: tuple[PathLengthShare, ...] = ()
    with frozen_eval_mode(net):
        errors = measure_ablation_errors(dissected, ablations, pixels, labels, batch_size, on_step)
        if dissected.is_residual:
            path_lengths = measure_gradient_shares(
                dissected,
                pixels[:gradient_images],
                labels[:gradient_images],
                sampling.paths_per_length,
                sampling.seed,
                on_step,
            )
    error_by_ablation = dict(zip(ablations, errors, strict=True))
    return NetworkLesionResult(
        label=label,
        network=net.plan.network,
        depth=net.plan.depth,
        error=error_by_ablation[plan.intact],
        units=collect_unit_deletions(dissected, plan, error_by_ablation),
        thinned=summarize_random_deletions(dissected, plan, error_by_ablation),
        swapped=summarize_random_swaps(plan, error_by_ablation),
        paths=path_lengths,
        gradient_images=gradient_images if dissected.is_residual else 0,
    )


def plan_ablations(dissected: DissectedNetwork, sampling: LesionSampling) -> AblationPlan:
    """List the ablations to measure: the intact network, single deletions and random draws."""
    unit_count = len(dissected.units)
    return AblationPlan(
        delete_units(unit_count),
        {i: delete_units(unit_count, i) for i in dissected.deletable_indices},
        sample_random_deletions(dissected, sampling.draws, sampling.seed),
        sample_random_swaps(dissected, sampling.draws, sampling.seed),
    )


def collect_unit_deletions(
    dissected: DissectedNetwork, plan: AblationPlan, error_by_ablation: ErrorByAblation
) -> tuple[UnitDeletionResult, ...]:
    """List the error after deleting each unit; None for a unit that cannot be deleted."""
    error_by_unit = {i: error_by_ablation[single] for i, single in plan.single_deletions.items()}
    return tuple(
        UnitDeletionResult(
            unit.name, unit.stage, unit.index, unit.changes_shape, error_by_unit.get(i)
        )
        for i, unit in enumerate(dissected.units)
    )


def summarize_random_deletions(
    dissected: DissectedNetwork, plan: AblationPlan, error_by_ablation: ErrorByAblation
) -> tuple[RandomDeletionResult, ...]:
    """Summarize the errors for each number of deleted units."""
    deletable_count = len(dissected.deletable_indices)
    return tuple(
        RandomDeletionResult(
            count, deletable_count - count, *summarize_errors(error_by_ablation, draws)
        )
        for count, draws in plan.deletions_by_count.items()
    )


def summarize_random_swaps(
    plan: AblationPlan, error_by_ablation: ErrorByAblation
) -> tuple[RandomSwapResult, ...]:
    """Compute the mean Kendall tau, and summarize the errors, for each number of swaps."""
    return tuple(
        RandomSwapResult(
            count,
            fmean(ablation.kendall_tau for ablation in draws),
            *summarize_errors(error_by_ablation, draws),
        )
        for count, draws in plan.swaps_by_count.items()
    )


def summarize_errors(
    error_by_ablation: ErrorByAblation, ablations: Iterable[Ablation]
) -> tuple[float, float | None, tuple[float, float] | None]:
    """Return the mean, the sample sd and the range of the errors of these ablations.

    The sd and the range are None for a single ablation.
    """
    errors = [error_by_ablation[ablation] for ablation in ablations]
    if len(errors) == 1:
        return errors[0], None, None
    return fmean(errors), stdev(errors), (min(errors), max(errors))


def choose_lesion_batch_size(plan: Plan) -> int:
    """Return a batch size for which the inputs of all units fit in `MAX_UNIT_INPUT_BYTES`.

    The batch size is at least 1 and at most `EVAL_BATCH`.
    """
    values_per_image = (
        sum(unit.input_shape.numel for unit in plan.units) + plan.units[-1].output_shape.numel
    )
    return min(max(MAX_UNIT_INPUT_BYTES // (FP32_BYTES * values_per_image), 1), EVAL_BATCH)


def make_step_counter(
    label: str, total_steps: int, on_progress: NamedCountListener
) -> Callable[[], None]:
    """Make a function that, on each call, passes the number of its calls to `on_progress`."""
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        on_progress(label, done, total_steps)

    return count_step

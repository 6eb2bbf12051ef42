"""What a lesion study finds, as values: the study fills them in, the page reads them.  Errors are in [0, 1]."""

from dataclasses import dataclass, field
from math import exp, lgamma, log
from statistics import median

from residua.config.network import Network
from residua.config.serialize import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class UnitDeletionResult:
    """One unit, and the net's error without it; None where nothing can stand in for it."""

    name: str
    stage: int
    index: int  # in its stage, from 1
    changes_shape: bool = field(
        metadata={"stored_as": "changes"}
    )  # the shape: its output is not as large as its input
    error: float | None


@dataclass(frozen=True, slots=True)
class RandomDeletionResult:
    """Several units deleted at once, chosen at random: the mean over draws, and the sample sd; None for one draw."""

    deleted: int
    kept: int  # of the units that can be deleted: no path through the net is longer
    error: float
    error_sd: float | None


@dataclass(frozen=True, slots=True)
class RandomSwapResult:
    """Units that have changed places: the mean over draws, and the sample sd; None for one draw."""

    swaps: int
    tau: float  # Kendall's, of the order of all units with the true one: 1 is the same, -1 the reverse
    error: float
    error_sd: float | None


@dataclass(frozen=True, slots=True)
class PathLengthShare:
    """The paths that pass through so many branches, and otherwise by shortcuts."""

    units: int
    log_norm: (
        float | None
    )  # natural log of the mean norm of one such path's gradient, between `sampled` lengths interpolated; None for 0
    sampled: bool
    share: float  # of the gradient, by all paths of that length; in [0, 1], 1 in sum


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLesionResult:
    """One net under the knife."""

    label: str  # its name, and its folder's where two have the same name
    network: Network
    depth: int
    error: float  # of the whole net
    units: tuple[UnitDeletionResult, ...]
    thinned: tuple[RandomDeletionResult, ...]
    swapped: tuple[RandomSwapResult, ...]
    paths: tuple[PathLengthShare, ...]  # none in a plain net
    gradient_images: int  # the first so many, for `paths`; 0 in a plain net

    @property
    def is_residual(self) -> bool:
        return self.network.unit.shortcut != "none"

    @property
    def deletion_errors(self) -> list[float]:
        """After each deletion that could be made."""
        return [unit.error for unit in self.units if unit.error is not None]

    @property
    def median_deletion_error(self) -> float:
        """The median error after one deletion."""
        return median(self.deletion_errors)

    @property
    def worst_deletion(self) -> UnitDeletionResult:
        return max(
            (unit for unit in self.units if unit.error is not None),
            key=lambda unit: unit.error or 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionStudyResult:
    """A whole study: the nets were all measured on the same images."""

    dataset: str
    split: str
    classes: int
    images: int
    draws: int
    seed: int
    nets: tuple[NetworkLesionResult, ...]
    kind: str = "lesion"
    format: int = FORMAT_VERSION


def log_number_of_paths(units: int, length: int) -> float:
    """Natural log of the number of paths through `length` of the branches: a binomial coefficient (Veit et al. 2016, section 5)."""
    return lgamma(units + 1) - lgamma(length + 1) - lgamma(units - length + 1)


def share_of_paths_by_length(units: int) -> list[float]:
    """The share of all 2^units paths that has each length, from 0 to `units`."""
    return [exp(log_number_of_paths(units, length) - units * log(2)) for length in range(units + 1)]


def central_length_range(
    paths: tuple[PathLengthShare, ...], gradient_share: float = 0.9
) -> tuple[int, int]:
    """From which length to which the middle `share` of the gradient lies."""
    tail, total, shortest = (1 - gradient_share) / 2, 0.0, paths[0].units
    for path in paths:
        shortest = path.units if total < tail else shortest
        total += path.share
        if total >= 1 - tail:
            return shortest, path.units
    return shortest, paths[-1].units

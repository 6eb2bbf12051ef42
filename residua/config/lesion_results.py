"""Results of a lesion study (Veit et al. 2016).  All errors are error rates in [0, 1]."""

from dataclasses import dataclass, field
from math import exp, lgamma, log, nextafter
from statistics import median

from residua.config.checks import check_range
from residua.config.network import Network
from residua.config.serialize import FORMAT_VERSION
from residua.errors import UsageError


@dataclass(frozen=True, slots=True)
class UnitDeletionResult:
    """The network's error after deleting one unit.

    index          position of the unit in its stage, from 1
    changes_shape  whether the shape of the unit's output differs from that of its input
    error          error without the unit; None if the unit cannot be replaced by its shortcut
    """

    name: str
    stage: int
    index: int
    changes_shape: bool = field(metadata={"stored_as": "changes"})
    error: float | None


@dataclass(frozen=True, slots=True)
class RandomDeletionResult:
    """The error after deleting several random units at once, over several random draws.

    deleted      number of deleted units
    kept         number of deletable units that remain, which is the length of the longest path
    error        mean error over the draws
    error_sd     sample standard deviation of the error over the draws; None for a single draw
    error_range  smallest and largest error of the draws; None for a single draw, and in records of
                 versions before 0.2
    """

    deleted: int
    kept: int
    error: float
    error_sd: float | None
    error_range: tuple[float, float] | None = field(default=None, metadata={"added_later": True})


@dataclass(frozen=True, slots=True)
class RandomSwapResult:
    """The error after swapping random pairs of units, over several random draws.

    swaps        number of swaps
    tau          Kendall's rank correlation between the new and the original order of the units, as
                 a mean over the draws; 1 if the orders are equal, -1 if one is the reverse of the
                 other
    error        mean error over the draws
    error_sd     sample standard deviation of the error over the draws; None for a single draw
    error_range  as of `RandomDeletionResult`
    """

    swaps: int
    tau: float
    error: float
    error_sd: float | None
    error_range: tuple[float, float] | None = field(default=None, metadata={"added_later": True})


@dataclass(frozen=True, slots=True)
class PathLengthShare:
    """The share of the gradient that the paths of one length carry together.

    units     path length: the number of units whose branch the path takes; the path takes the
              shortcut of all other units
    log_norm  natural log of the mean gradient norm of a single path; None if the mean norm is 0
    sampled   True if the norm is measured, False if it is interpolated between measured lengths
    share     fraction of the gradient in [0, 1]; the shares of all path lengths sum to 1
    """

    units: int
    log_norm: float | None
    sampled: bool
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLesionResult:
    """Ablation results of one network.

    label            the network's name, with its folder if two networks have the same name
    error            error of the intact network
    units            results of deleting each unit alone
    thinned          results of deleting several random units, by the number of deleted units
    swapped          results of swapping random pairs of units, by the number of swaps
    paths            gradient share of each path length; () for a plain net
    gradient_images  number of images that `paths` is measured on; 0 for a plain net
    """

    label: str
    network: Network
    depth: int
    error: float
    units: tuple[UnitDeletionResult, ...]
    thinned: tuple[RandomDeletionResult, ...]
    swapped: tuple[RandomSwapResult, ...]
    paths: tuple[PathLengthShare, ...]
    gradient_images: int

    def __post_init__(self) -> None:
        if not any(unit.error is not None for unit in self.units):
            raise UsageError(
                f"no unit of {self.label} was deleted: give the error after the deletion of at "
                "least one unit"
            )
        lengths = [path.units for path in self.paths]
        if lengths and lengths != list(range(len(self.units) + 1)):
            raise UsageError(
                f"{self.label} has {len(self.units)} units, but paths of {len(lengths)} lengths: "
                "give one entry per length, from 0 to the number of units"
            )
        samples: list[RandomDeletionResult | RandomSwapResult] = [*self.thinned, *self.swapped]
        errors = [self.error, *(unit.error for unit in self.units), *(s.error for s in samples)]
        for error in errors:
            check_range(error or 0.0, "error", 0, nextafter(1, 2))
        for sample in samples:
            check_range(sample.error_sd or 0.0, "error_sd", 0, nextafter(1, 2))
            for error in sample.error_range or ():
                check_range(error, "error_range", 0, nextafter(1, 2))

    @property
    def is_residual(self) -> bool:
        return self.network.unit.shortcut != "none"

    @property
    def deletion_errors(self) -> list[float]:
        """The errors after deleting each deletable unit alone."""
        return [unit.error for unit in self.units if unit.error is not None]

    @property
    def median_deletion_error(self) -> float:
        return median(self.deletion_errors)

    @property
    def worst_deletion(self) -> UnitDeletionResult:
        return max(
            (unit for unit in self.units if unit.error is not None),
            key=lambda unit: unit.error or 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionStudyResult:
    """The results of a lesion study, in which all networks are measured on the same images."""

    dataset: str
    split: str
    classes: int
    images: int
    draws: int
    seed: int
    nets: tuple[NetworkLesionResult, ...]
    kind: str = "lesion"
    format: int = FORMAT_VERSION

    def __repr__(self) -> str:
        labels = ", ".join(net.label for net in self.nets)
        return f"LesionStudyResult({labels}: {self.images:,} images of {self.dataset} {self.split})"


def log_number_of_paths(units: int, length: int) -> float:
    """Return the natural log of the number of paths that take `length` of the `units` branches.

    The number is a binomial coefficient (Veit et al. 2016, section 5).
    """
    return lgamma(units + 1) - lgamma(length + 1) - lgamma(units - length + 1)


def share_of_paths_by_length(units: int) -> list[float]:
    """List the fraction of the 2^units paths that have length k, for k = 0, 1, ..., `units`."""
    return [exp(log_number_of_paths(units, length) - units * log(2)) for length in range(units + 1)]


def central_length_range(
    paths: tuple[PathLengthShare, ...], gradient_share: float = 0.9
) -> tuple[int, int]:
    """Return the shortest and the longest path length in the central range of lengths.

    The paths in the central range carry at least `gradient_share` of the gradient.  The shorter
    paths carry at most half of the rest, and so do the longer paths.
    """
    tail, total, shortest = (1 - gradient_share) / 2, 0.0, paths[0].units
    for path in paths:
        shortest = path.units if total < tail else shortest
        total += path.share
        if total >= 1 - tail:
            return shortest, path.units
    return shortest, paths[-1].units

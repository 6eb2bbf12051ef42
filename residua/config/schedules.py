"""Learning-rate schedules: the learning rate as a function of the progress of a run."""

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from residua.config.checks import check_range


@dataclass(frozen=True, slots=True)
class StepDecay:
    """A rate that starts at `lr` and is multiplied by `factor` at each fraction `at` of a run."""

    STORED_KIND: ClassVar[str] = "Drops"

    lr: float = 0.1
    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.factor, "factor", 0)

    def lr_at_progress(self, progress: float) -> float:
        """Return the learning rate after the fraction `progress`, in [0, 1), of the run."""
        return self.lr * self.factor ** sum(progress >= drop for drop in self.at)


@dataclass(frozen=True, slots=True)
class OneCycle:
    """A linear rise to `lr`, then a cosine decay to 0 (after Smith & Topin 2017).

    `rise` is the fraction of the run in which the rate rises.
    """

    lr: float = 0.02
    rise: float = 0.4

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.rise, "rise", 0, 1)

    def lr_at_progress(self, progress: float) -> float:
        """Return the learning rate after the fraction `progress`, in [0, 1), of the run."""
        if progress < self.rise:
            return self.lr * progress / self.rise
        return self.lr * (1 + cos(pi * (progress - self.rise) / (1 - self.rise))) / 2


@dataclass(frozen=True, slots=True)
class LinearDecay:
    """A linear rise to `lr` over the fraction `rise` of the run, then a linear fall.

    The rate at the end is `floor` times `lr`.
    """

    lr: float = 0.1
    floor: float = 0.0
    rise: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.floor, "floor", 0, 1, may_equal_high=True)
        check_range(self.rise, "rise", 0, 1)

    def lr_at_progress(self, progress: float) -> float:
        """Return the learning rate after the fraction `progress`, in [0, 1), of the run."""
        if progress < self.rise:
            return self.lr * progress / self.rise
        share_left = (1 - progress) / (1 - self.rise)
        return self.lr * (self.floor + (1 - self.floor) * share_left)


Schedule = StepDecay | OneCycle | LinearDecay


@dataclass(frozen=True, slots=True)
class Warmup:
    """A warm-up: the learning rate is at most `lr` in the first `steps` steps of deep networks.

    Deep networks are those of at least `from_depth` layers.  The warm-up takes at most a tenth of
    the run (our choice).  He et al. 2015, section 4.2, train their 110-layer net at a rate of 0.01
    until the training error is below 80 %, which took about 400 iterations.
    """

    lr: float = 0.01
    steps: int = 400
    from_depth: int = 110

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.steps, "steps", 0)

"""What the signals of a fresh network would be if its branches were pure noise: the null model of the depth study.

At initialisation a BN that ends a branch gives every unit F = z with mean 0 and variance 1, whatever x is.  The model takes the z
of different units, and z and x, to be independent and Gaussian, and follows the distribution of one activation through the
units.  With the ReLU after the addition (He et al. 2015) that is a reflected random walk,

    x[0] = max(0, z[0]) after the stem,      x[i] = max(0, x[i-1] + z[i]),      z ~ N(0, 1).

Its atom at 0 after unit i is the share of sums that unit i cuts.  Read backwards, x[i] = 0 says that no partial sum of i + 1 steps
is above 0, and x[i] uncut so far that none is below, so that both follow from symmetry and independence alone, whatever the
distribution of z (Sparre Andersen 1954): with b(k) = binom(2k, k) / 4^k, about 1 / sqrt(pi k),

    clip[i] = b(i + 1): 0.375, 0.3125, 0.273, ...,      survival[i] = b(i) / 2 + b(i + 1), about 0.85 / sqrt(i).

Mean and variance do depend on it; with Gaussian steps the mean is the sum of 1 / sqrt(2 pi k) for k = 1 ... i + 1, about
0.8 sqrt(i) (Spitzer 1956).  Real branches have heavier tails, as some positions of an image differ more from the others: measured
means lie some 5 % lower, variances some 10 % higher.

Later stages.  A strided 1x1 subsampling picks positions, and so keeps the distribution of one activation.  Option A adds channels
that are exactly 0: with c of C channels kept, the stage starts from the mixture

    (c / C) D + (1 - c / C) delta(0),      D: the distribution at the end of the stage before,

D being such a mixture's walk itself.  The two halves of stage 2 behave differently: after n units D is about |N(0, n)|, seldom
cut any more, and a path from there survives n further units with probability near (2 / pi) atan(1) = 1/2, while one from 0 does
with binom(2n, n) / 4^n = 0.56 / sqrt(n) (Sparre Andersen 1954): together 0.28 for n = 200 where stage 1 leaves 0.06.  Survival is
counted anew in each stage, from the first unit's shortcut on, whose channels of zeros count too.  Option B starts a stage from a
projection behind BN, a fresh N(0, 1): its first unit cuts exactly half of the sums, all of N(0, 2) below 0.

Other designs.  Without a ReLU after the addition nothing is cut, every path survives, and means and variances of x and z add up:
the variance grows by 1 a unit behind BN.  In full pre-activation a He-initialised weight layer ends the branch: its second moment
is 2 E[relu(BN(.))^2] = 1 over the weights drawn (images bordered with zeros take a tenth off), and the first unit of a stage
goes on from relu(BN(x)), and so knows nothing of the stage before.  A ReLU that ends the branch adds max(0, N(0, 1)).  A
branch that starts at 0 (zero gamma, SkipInit) leaves x as it is.  A plain net's units give max(0, z) each: half is cut.

It does not apply (None) without BN, where the scale of x depends on the weights drawn; behind a max-pool, until a BN comes;
behind BN after the addition; and where the join is a gate or a scaling.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from residua.spec.network import Add, Drop, Scale
from residua.spec.plan import Layers, Plan, PlannedUnit

STEP = 1 / 16  # width of a cell; errors are about STEP^2 / 100
DIGITS = 12  # that count: sums of cells are exact to that
WIDTHS = 10.0  # standard deviations that the cells reach


@dataclass(frozen=True, slots=True)
class Expected:
    """What the null model foresees of one unit; None where it says nothing."""

    clip_fraction: float
    survival: float
    response_std: float
    residual_ratio: float | None = None
    mean: float | None = None
    variance: float | None = None


@dataclass(frozen=True, slots=True)
class Noise:
    """A branch's response: N(mean, variance)."""

    mean: float
    variance: float

    @property
    def second(self) -> float:
        return self.mean**2 + self.variance


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """A distribution of one activation, or a part of one: an atom at 0, and cells of width STEP, half of them below 0."""

    atom: float
    cells: NDArray[np.float64]

    @property
    def total(self) -> float:
        return self.atom + float(self.cells.sum())

    def moment(self, power: int) -> float:
        return float((self.cells * middles(len(self.cells)) ** power).sum())

    @property
    def mean(self) -> float:
        return self.moment(1)

    @property
    def variance(self) -> float:
        return self.moment(2) - self.mean**2

    def plus(self, noise: Noise) -> "Spread":
        """The distribution of x + z."""
        if noise.variance == 0:
            return self
        size = len(self.cells)
        moved = np.fft.irfft(np.fft.rfft(self.cells) * transform(size, noise.mean, noise.variance), size)
        return Spread(0.0, np.maximum(moved, 0) + self.atom * normal(size, noise.mean, noise.variance))

    def cut(self) -> "Spread":
        """What lies at 0 or above."""
        return Spread(self.atom, np.where(middles(len(self.cells)) > 0, self.cells, 0))

    def rectified(self) -> "Spread":
        """The distribution of max(0, x)."""
        kept = self.cut()
        return Spread(self.atom + self.total - kept.total, kept.cells)

    def times(self, share: float) -> "Spread":
        return Spread(self.atom * share, self.cells * share)

    def diluted(self, share: float) -> "Spread":
        """With so many of the activations, and zeros for the others."""
        return Spread(self.atom * share + (1 - share) * self.total, self.cells * share)


def middles(size: int) -> NDArray[np.float64]:
    cells: NDArray[np.float64] = (np.arange(size, dtype=np.float64) - size // 2 + 0.5) * STEP
    return cells


@lru_cache(maxsize=32)
def normal(size: int, mean: float, variance: float) -> NDArray[np.float64]:
    """N(mean, variance) in cells."""
    return density(middles(size), mean, variance)


@lru_cache(maxsize=32)
def transform(size: int, mean: float, variance: float) -> NDArray[np.complex128]:
    """Of the step from cell to cell that N(mean, variance) makes."""
    steps = np.fft.ifftshift((np.arange(size) - size // 2) * STEP)
    return np.fft.rfft(density(steps, mean, variance))


def density(x: NDArray[np.float64], mean: float, variance: float) -> NDArray[np.float64]:
    return np.asarray(STEP * np.exp(-((x - mean) ** 2) / (2 * variance)) / sqrt(2 * pi * variance), np.float64)


def null(planned: Plan) -> list[Expected | None]:
    """What the null model foresees of each unit of a fresh network."""
    return list(walk(planned, cells_for(planned)))


def cells_for(planned: Plan) -> int:
    """Enough for a walk through the whole network: a power of 2."""
    drift = sum(noise.mean for unit in planned.units if (noise := response(unit)))
    reach = WIDTHS * sqrt(len(planned.units) + 4) + drift
    return int(2 ** np.ceil(np.log2(2 * reach / STEP)))


def walk(planned: Plan, size: int) -> Iterator[Expected | None]:
    """One unit after the other; `whole` is the distribution of x, `living` that of what no unit of the stage has cut."""
    whole = after_stem(planned.stem, size)
    living: Spread | None = None
    for unit in planned.units:
        noise, passes = response(unit), ops(unit.after) in ([], ["relu"])
        if noise is None or not passes or not adds(unit):
            yield None
            whole = living = None
            continue
        shortcut = started(unit, led(unit, whole, size), size)
        if shortcut is None:
            yield unmoved(unit, noise)
            whole = living = None
            continue
        fresh = unit.index > 1 and unit.shortcut != ()
        if unit.index == 1 or living is None:
            living = shortcut
        elif fresh:
            living = shortcut.times(living.total)
        summed, living = shortcut.plus(noise), living.plus(noise)
        whole, living = (summed.rectified(), living.cut()) if unit.after else (summed, living)
        second = shortcut.moment(2)
        yield Expected(
            clip_fraction=round(summed.total - summed.cut().total, DIGITS) if unit.after else 0.0,
            survival=round(living.total, DIGITS) if unit.after else 1.0,
            response_std=sqrt(noise.variance),
            residual_ratio=sqrt(noise.second / second) if second > 0 and unit.shortcut is not None else None,
            mean=whole.mean,
            variance=whole.variance,
        )


def unmoved(unit: PlannedUnit, noise: Noise) -> Expected | None:
    """Of a branch of 0 beside an x that is not known, but not below 0 where a ReLU stands behind it."""
    kept = noise.second == 0 and all(layer.op == "pad" for layer in unit.shortcut or ()) and unit.shortcut is not None
    return Expected(0.0, 1.0, 0.0, 0.0) if kept else None


def adds(unit: PlannedUnit) -> bool:
    """Whether the join is a bare sum, as dropout is on average."""
    return isinstance(unit.join, Add | Drop) or unit.join == Scale(1.0, 1.0)


def ops(layers: Layers) -> list[str]:
    return [layer.op for layer in layers if layer.op != "flatten"]


def response(unit: PlannedUnit) -> Noise | None:
    """What the branch adds at initialisation."""
    if any(layer.zero or layer.op == "scale" for layer in unit.branch):
        return Noise(0.0, 0.0)
    match ops(unit.branch):
        case [*_, "weight", "bn"]:
            return Noise(0.0, 1.0)
        case [*_, "weight", "bn", "relu"]:
            return Noise(1 / sqrt(2 * pi), 1 / 2 - 1 / (2 * pi))
        case [*before, "weight"] if [*ops(unit.lead), *before][-2:] == ["bn", "relu"]:
            return Noise(0.0, 1.0)
        case _:
            return None


def after_stem(stem: Layers, size: int) -> Spread | None:
    match ops(stem):
        case ["weight", "bn"]:
            return standard(size)
        case ["weight", "bn", "relu"]:
            return standard(size).rectified()
        case _:
            return None


def led(unit: PlannedUnit, x: Spread | None, size: int) -> Spread | None:
    """Behind what both paths share."""
    for op in ops(unit.lead):
        match op:
            case "bn":
                x = standard(size)
            case "relu":
                x = x and x.rectified()
            case _:
                x = None
    return x


def started(unit: PlannedUnit, x: Spread | None, size: int) -> Spread | None:
    """What the shortcut gives of `x`; 0 where there is none."""
    if unit.shortcut is None:
        return Spread(1.0, np.zeros(size))
    match ops(unit.shortcut):
        case []:
            return x
        case ["pad"]:
            return x and x.diluted(unit.shortcut[0].at.channels / unit.shortcut[0].out.channels)
        case ["weight", "bn"]:
            return standard(size)
        case ["weight"] if x is not None and x.moment(2) > 0:  # He-initialised: twice the second moment
            return Spread(0.0, normal(size, 0.0, 2 * x.moment(2)))
        case _:
            return None


def standard(size: int) -> Spread:
    return Spread(0.0, normal(size, 0.0, 1.0))

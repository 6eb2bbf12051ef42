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

from residua.config.network import Add, Drop, Scale
from residua.config.plan import Layers, Plan, PlannedUnit

CELL_WIDTH = 1 / 16  # width of a cell; errors are about STEP^2 / 100
ROUNDED_DIGITS = 12  # that count: sums of cells are exact to that
REACH_IN_SDS = 10.0  # standard deviations that the cells reach


@dataclass(frozen=True, slots=True)
class ExpectedSignals:
    """What the null model foresees of one unit; None where it says nothing."""

    clip_fraction: float
    survival: float
    response_std: float
    residual_ratio: float | None = None
    mean: float | None = None
    variance: float | None = None


@dataclass(frozen=True, slots=True)
class BranchNoise:
    """A branch's response: N(mean, variance)."""

    mean: float
    variance: float

    @property
    def second_moment(self) -> float:
        return self.mean**2 + self.variance


@dataclass(frozen=True, slots=True, eq=False)
class ActivationDistribution:
    """A distribution of one activation, or a part of one: an atom at 0, and cells of width STEP, half of them below 0."""

    mass_at_zero: float
    cell_masses: NDArray[np.float64]

    @property
    def total_mass(self) -> float:
        return self.mass_at_zero + float(self.cell_masses.sum())

    def moment(self, power: int) -> float:
        return float(
            (self.cell_masses * compute_cell_centers(len(self.cell_masses)) ** power).sum()
        )

    @property
    def mean(self) -> float:
        return self.moment(1)

    @property
    def variance(self) -> float:
        return self.moment(2) - self.mean**2

    def add_noise(self, noise: BranchNoise) -> "ActivationDistribution":
        """The distribution of x + z."""
        if noise.variance == 0:
            return self
        cell_count = len(self.cell_masses)
        convolved = np.fft.irfft(
            np.fft.rfft(self.cell_masses)
            * compute_noise_spectrum(cell_count, noise.mean, noise.variance),
            cell_count,
        )
        return ActivationDistribution(
            0.0,
            np.maximum(convolved, 0)
            + self.mass_at_zero * discretize_normal(cell_count, noise.mean, noise.variance),
        )

    def remove_negatives(self) -> "ActivationDistribution":
        """What lies at 0 or above."""
        return ActivationDistribution(
            self.mass_at_zero,
            np.where(compute_cell_centers(len(self.cell_masses)) > 0, self.cell_masses, 0),
        )

    def apply_relu(self) -> "ActivationDistribution":
        """The distribution of max(0, x)."""
        nonnegative = self.remove_negatives()
        return ActivationDistribution(
            self.mass_at_zero + self.total_mass - nonnegative.total_mass, nonnegative.cell_masses
        )

    def scale_mass(self, factor: float) -> "ActivationDistribution":
        return ActivationDistribution(self.mass_at_zero * factor, self.cell_masses * factor)

    def mix_with_zeros(self, kept_share: float) -> "ActivationDistribution":
        """With so many of the activations, and zeros for the others."""
        return ActivationDistribution(
            self.mass_at_zero * kept_share + (1 - kept_share) * self.total_mass,
            self.cell_masses * kept_share,
        )


def compute_cell_centers(cell_count: int) -> NDArray[np.float64]:
    centers: NDArray[np.float64] = (
        np.arange(cell_count, dtype=np.float64) - cell_count // 2 + 0.5
    ) * CELL_WIDTH
    return centers


@lru_cache(maxsize=32)
def discretize_normal(cell_count: int, mean: float, variance: float) -> NDArray[np.float64]:
    """N(mean, variance) in cells."""
    return normal_mass_per_cell(compute_cell_centers(cell_count), mean, variance)


@lru_cache(maxsize=32)
def compute_noise_spectrum(cell_count: int, mean: float, variance: float) -> NDArray[np.complex128]:
    """Of the step from cell to cell that N(mean, variance) makes."""
    cell_offsets = np.fft.ifftshift((np.arange(cell_count) - cell_count // 2) * CELL_WIDTH)
    return np.fft.rfft(normal_mass_per_cell(cell_offsets, mean, variance))


def normal_mass_per_cell(
    cell_centers: NDArray[np.float64], mean: float, variance: float
) -> NDArray[np.float64]:
    return np.asarray(
        CELL_WIDTH
        * np.exp(-((cell_centers - mean) ** 2) / (2 * variance))
        / sqrt(2 * pi * variance),
        np.float64,
    )


def predict_initial_signals(plan: Plan) -> list[ExpectedSignals | None]:
    """What the null model foresees of each unit of a fresh network."""
    return list(predict_each_unit(plan, choose_cell_count(plan)))


def choose_cell_count(plan: Plan) -> int:
    """Enough for a walk through the whole network: a power of 2."""
    drift = sum(noise.mean for unit in plan.units if (noise := predict_branch_noise(unit)))
    reach = REACH_IN_SDS * sqrt(len(plan.units) + 4) + drift
    return int(2 ** np.ceil(np.log2(2 * reach / CELL_WIDTH)))


def predict_each_unit(plan: Plan, cell_count: int) -> Iterator[ExpectedSignals | None]:
    """One unit after the other; `whole` is the distribution of x, `living` that of what no unit of the stage has cut."""
    distribution = distribution_after_stem(plan.stem, cell_count)
    uncut: ActivationDistribution | None = None
    for unit in plan.units:
        noise, has_known_after = (
            predict_branch_noise(unit),
            list_op_names(unit.after) in ([], ["relu"]),
        )
        if noise is None or not has_known_after or not is_plain_addition(unit):
            yield None
            distribution = uncut = None
            continue
        shortcut = propagate_through_shortcut(
            unit, propagate_through_lead(unit, distribution, cell_count), cell_count
        )
        if shortcut is None:
            yield predict_zero_branch(unit, noise)
            distribution = uncut = None
            continue
        restarts = unit.index > 1 and unit.shortcut != ()
        if unit.index == 1 or uncut is None:
            uncut = shortcut
        elif restarts:
            uncut = shortcut.scale_mass(uncut.total_mass)
        sum_distribution, uncut = shortcut.add_noise(noise), uncut.add_noise(noise)
        distribution, uncut = (
            (sum_distribution.apply_relu(), uncut.remove_negatives())
            if unit.after
            else (sum_distribution, uncut)
        )
        shortcut_second_moment = shortcut.moment(2)
        yield ExpectedSignals(
            clip_fraction=round(
                sum_distribution.total_mass - sum_distribution.remove_negatives().total_mass,
                ROUNDED_DIGITS,
            )
            if unit.after
            else 0.0,
            survival=round(uncut.total_mass, ROUNDED_DIGITS) if unit.after else 1.0,
            response_std=sqrt(noise.variance),
            residual_ratio=sqrt(noise.second_moment / shortcut_second_moment)
            if shortcut_second_moment > 0 and unit.shortcut is not None
            else None,
            mean=distribution.mean,
            variance=distribution.variance,
        )


def predict_zero_branch(unit: PlannedUnit, noise: BranchNoise) -> ExpectedSignals | None:
    """Of a branch of 0 beside an x that is not known, but not below 0 where a ReLU stands behind it."""
    keeps_input = (
        noise.second_moment == 0
        and all(layer.op == "pad" for layer in unit.shortcut or ())
        and unit.shortcut is not None
    )
    return ExpectedSignals(0.0, 1.0, 0.0, 0.0) if keeps_input else None


def is_plain_addition(unit: PlannedUnit) -> bool:
    """Whether the join is a bare sum, as dropout is on average."""
    return isinstance(unit.join, Add | Drop) or unit.join == Scale(1.0, 1.0)


def list_op_names(layers: Layers) -> list[str]:
    return [layer.op for layer in layers if layer.op != "flatten"]


def predict_branch_noise(unit: PlannedUnit) -> BranchNoise | None:
    """What the branch adds at initialisation."""
    if any(layer.zero_init or layer.op == "scale" for layer in unit.branch):
        return BranchNoise(0.0, 0.0)
    match list_op_names(unit.branch):
        case [*_, "weight", "bn"]:
            return BranchNoise(0.0, 1.0)
        case [*_, "weight", "bn", "relu"]:
            return BranchNoise(1 / sqrt(2 * pi), 1 / 2 - 1 / (2 * pi))
        case [*before, "weight"] if [*list_op_names(unit.lead), *before][-2:] == ["bn", "relu"]:
            return BranchNoise(0.0, 1.0)
        case _:
            return None


def distribution_after_stem(stem: Layers, cell_count: int) -> ActivationDistribution | None:
    match list_op_names(stem):
        case ["weight", "bn"]:
            return standard_normal(cell_count)
        case ["weight", "bn", "relu"]:
            return standard_normal(cell_count).apply_relu()
        case _:
            return None


def propagate_through_lead(
    unit: PlannedUnit, x: ActivationDistribution | None, cell_count: int
) -> ActivationDistribution | None:
    """Behind what both paths share."""
    for op in list_op_names(unit.lead):
        match op:
            case "bn":
                x = standard_normal(cell_count)
            case "relu":
                x = x and x.apply_relu()
            case _:
                x = None
    return x


def propagate_through_shortcut(
    unit: PlannedUnit, x: ActivationDistribution | None, cell_count: int
) -> ActivationDistribution | None:
    """What the shortcut gives of `x`; 0 where there is none."""
    if unit.shortcut is None:
        return ActivationDistribution(1.0, np.zeros(cell_count))
    match list_op_names(unit.shortcut):
        case []:
            return x
        case ["pad"]:
            return x and x.mix_with_zeros(
                unit.shortcut[0].input_shape.channels / unit.shortcut[0].output_shape.channels
            )
        case ["weight", "bn"]:
            return standard_normal(cell_count)
        case ["weight"] if (
            x is not None and x.moment(2) > 0
        ):  # He-initialised: twice the second moment
            return ActivationDistribution(0.0, discretize_normal(cell_count, 0.0, 2 * x.moment(2)))
        case _:
            return None


def standard_normal(cell_count: int) -> ActivationDistribution:
    return ActivationDistribution(0.0, discretize_normal(cell_count, 0.0, 1.0))

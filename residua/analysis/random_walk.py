"""Predict the signals of a newly initialised network by modelling its branches as random noise.

At initialisation, a BN at the end of a branch gives the branch's output z mean 0 and variance 1,
whatever the unit's input x is.  The model assumes that z is Gaussian and independent of x and of
the z of all other units.  It tracks the distribution of one activation from unit to unit.

Terms.  A unit clips a sum if the ReLU after the addition sets the sum to 0.  clip[i] is the share
of sums that unit i clips.  survival[i] is the share of activations that none of the units 1 ... i
of the stage has clipped.

ReLU after the addition (He et al. 2015).  The activation is a reflected random walk,

    x[0] = max(0, z[0]) after the stem,      x[i] = max(0, x[i-1] + z[i]),      z ~ N(0, 1).

x[i] = 0 if and only if none of the sums z[i], z[i] + z[i-1], ..., z[i] + ... + z[0] is above 0.
These are the partial sums of the walk's steps in reverse order.  The activation survives to unit i
if and only if none of the sums x[0] + z[1], ..., x[0] + z[1] + ... + z[i] is below 0.  Both
probabilities are the same for every symmetric, continuous distribution of independent z (Sparre
Andersen 1954).  With b(k) = binom(2k, k) / 4^k, about 1 / sqrt(pi k),

    clip[i] = b(i + 1) = 0.375, 0.3125, 0.273, ... for i = 1, 2, 3, ...,
    survival[i] = b(i) / 2 + b(i + 1), about 0.85 / sqrt(i).

The mean and variance of x[i] do depend on the distribution of z.  For Gaussian z the mean is the
sum of 1 / sqrt(2 pi k) over k = 1 ... i + 1, about 0.8 sqrt(i) (Spitzer 1956).  Real branches have
heavier tails, because some positions of an image differ more from the others.  Measured means are
about 5 % below the predicted ones, and measured variances about 10 % above.

Later stages, option A (zero padding).  Strided 1x1 subsampling only selects positions, so it keeps
the distribution D at the end of the previous stage.  Padding adds channels that are exactly 0.  If
c of the new stage's C channels come from the previous stage, the stage starts from the mixture

    (c / C) D + (1 - c / C) delta(0).

Stage 2 doubles the width, so half of its channels start from D and half from 0.  After n units of
stage 1, D is about |N(0, n)|.  An activation drawn from D survives n more units with probability
near (2 / pi) atan(1) = 1/2.  An activation that starts at 0 survives with probability
binom(2n, n) / 4^n = 0.56 / sqrt(n) (Sparre Andersen 1954).  Averaged over both halves, survival
at the end of stage 2 is 0.28 for n = 200, against 0.06 at the end of stage 1.  In each stage,
survival is counted anew from the shortcut's output in the first unit, padded channels included.

Later stages, option B (projection).  The stage starts from a projection with BN, whose output is
N(0, 1).  Its first unit clips exactly half of the sums: the negative half of N(0, 2).

Other designs.
- No ReLU after the addition: nothing is clipped, and every activation survives.  The mean of the
  sum is the mean of x plus that of z, and likewise for the variance.  With BN at the end of the
  branch, the variance grows by 1 per unit.
- Full pre-activation: the branch ends in a He-initialised weight layer.  The second moment of its
  output is 2 E[relu(BN(.))^2] = 1 on average over the weights.  Zero padding at image borders
  lowers it by a tenth.  The shortcut of a stage's first unit gets relu(BN(x)), so the stage does
  not depend on the previous one.
- ReLU at the end of the branch: the branch adds max(0, N(0, 1)).
- Branch that is 0 at initialisation (zero gamma, SkipInit): x is unchanged.
- Plain net: the units output max(0, z), so half of the values z are clipped.

The model does not apply, and predicts None,
- without BN, because the scale of x then depends on the random weights;
- after a max-pool, until the next BN;
- with BN after the addition;
- if the join is a gate or a scaled sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from residua.analysis.activation_distribution import (
    CELL_WIDTH,
    ActivationDistribution,
    BranchNoise,
    discretize_normal,
    standard_normal,
)
from residua.config.layers import Layers
from residua.config.plan import Plan, PlannedUnit

ROUNDED_DIGITS = 12  # sums over cells are accurate to this many decimals
REACH_IN_SDS = 10.0  # standard deviations of the longest walk that the cells cover


@dataclass(frozen=True, slots=True)
class ExpectedSignals:
    """The signals predicted for one unit; a field is None if the model cannot predict it."""

    clip_fraction: float
    survival: float
    response_std: float
    residual_ratio: float | None = None
    mean: float | None = None
    variance: float | None = None


def predict_initial_signals(plan: Plan) -> list[ExpectedSignals | None]:
    """Predict the signals of each unit of a new network; None if the model does not apply to it."""
    return list(predict_unit_signals(plan, choose_histogram_cell_count(plan)))


def choose_histogram_cell_count(plan: Plan) -> int:
    """Choose how many cells (a power of 2) a histogram needs for the activations of all units."""
    drift = sum(noise.mean for unit in plan.units if (noise := predict_branch_noise(unit)))
    reach = REACH_IN_SDS * sqrt(len(plan.units) + 4) + drift
    return int(2 ** np.ceil(np.log2(2 * reach / CELL_WIDTH)))


def predict_unit_signals(plan: Plan, histogram_cells: int) -> Iterator[ExpectedSignals | None]:
    """Yield each unit's expected signals, computed on histograms of `histogram_cells` cells."""
    distribution = distribution_after_stem(plan.stem, histogram_cells)  # of x; None if unknown
    uncut: ActivationDistribution | None = None  # the part that this stage has not clipped
    for unit in plan.units:
        noise = predict_branch_noise(unit)
        has_known_after = list_op_names_without_flatten(unit.after) in ([], ["relu"])
        if noise is None or not has_known_after or not is_sum_in_expectation(unit):
            yield None
            distribution = uncut = None
            continue
        x = propagate_through_lead(unit, distribution, histogram_cells)
        shortcut = propagate_through_shortcut(unit, x, histogram_cells)
        if shortcut is None:
            yield predict_zero_branch(unit, noise)
            distribution = uncut = None
            continue
        restarts = unit.index > 1 and unit.shortcut != ()
        if unit.index == 1 or uncut is None:
            uncut = shortcut
        elif restarts:  # projection within a stage: new distribution, but the same survival
            uncut = shortcut.scale_mass(uncut.total_mass)
        sums, uncut = shortcut.add_noise(noise), uncut.add_noise(noise)
        distribution = sums
        if unit.after:
            distribution, uncut = sums.apply_relu(), uncut.drop_negative_mass()
        clipped_mass = sums.total_mass - sums.drop_negative_mass().total_mass
        yield ExpectedSignals(
            clip_fraction=round(clipped_mass, ROUNDED_DIGITS) if unit.after else 0.0,
            survival=round(uncut.total_mass, ROUNDED_DIGITS) if unit.after else 1.0,
            response_std=sqrt(noise.variance),
            residual_ratio=predict_residual_ratio(unit, noise, shortcut),
            mean=distribution.mean,
            variance=distribution.variance,
        )


def predict_residual_ratio(
    unit: PlannedUnit, noise: BranchNoise, shortcut: ActivationDistribution
) -> float | None:
    """Predict the root mean square of the branch output divided by that of the shortcut output.

    Returns None if the unit has no shortcut, or if the shortcut's output is 0 everywhere.
    """
    shortcut_second_moment = shortcut.moment(2)
    if unit.shortcut is None or shortcut_second_moment <= 0:
        return None
    return sqrt(noise.second_moment / shortcut_second_moment)


def predict_zero_branch(unit: PlannedUnit, noise: BranchNoise) -> ExpectedSignals | None:
    """Predict the signals of a unit whose branch is 0 and whose input distribution is unknown.

    Returns None if the branch is not 0, or if the shortcut is neither the identity nor padding.
    Such a unit clips nothing: its sum is its input, and if a ReLU follows the addition, that input
    is itself the output of a ReLU.
    """
    keeps_input = (
        noise.second_moment == 0
        and all(layer.op == "pad" for layer in unit.shortcut or ())
        and unit.shortcut is not None
    )
    return ExpectedSignals(0.0, 1.0, 0.0, 0.0) if keeps_input else None


def is_sum_in_expectation(unit: PlannedUnit) -> bool:
    """Return whether the expected output of the join is shortcut + branch, without scaling.

    This also holds for joins with dropout or drop-path.
    """
    return unit.join.expected_output_is_sum


def list_op_names_without_flatten(layers: Layers) -> list[str]:
    """List the names of the layers' operations in order, without `flatten`."""
    return [layer.op for layer in layers if layer.op != "flatten"]


def predict_branch_noise(unit: PlannedUnit) -> BranchNoise | None:
    """Predict the distribution of a branch's output at initialisation.

    Returns None if the model does not apply to the branch.
    """
    if any(layer.zero_init or layer.op == "scale" for layer in unit.branch):
        return BranchNoise(0.0, 0.0)
    match list_op_names_without_flatten(unit.branch):
        case [*_, "weight", "bn"]:
            return BranchNoise(0.0, 1.0)
        case [*_, "weight", "bn", "relu"]:
            return BranchNoise(1 / sqrt(2 * pi), 1 / 2 - 1 / (2 * pi))
        case [*before, "weight"] if [*list_op_names_without_flatten(unit.lead), *before][-2:] == [
            "bn",
            "relu",
        ]:
            return BranchNoise(0.0, 1.0)
        case _:
            return None


def distribution_after_stem(stem: Layers, histogram_cells: int) -> ActivationDistribution | None:
    """Return the distribution after the stem; None if the model cannot predict it."""
    match list_op_names_without_flatten(stem):
        case ["weight", "bn"]:
            return standard_normal(histogram_cells)
        case ["weight", "bn", "relu"]:
            return standard_normal(histogram_cells).apply_relu()
        case _:
            return None


def propagate_through_lead(
    unit: PlannedUnit, x: ActivationDistribution | None, histogram_cells: int
) -> ActivationDistribution | None:
    """Return the distribution after the layers that branch and shortcut share; None if unknown."""
    for op in list_op_names_without_flatten(unit.lead):
        match op:
            case "bn":
                x = standard_normal(histogram_cells)
            case "relu":
                x = x and x.apply_relu()
            case _:
                x = None
    return x


def propagate_through_shortcut(
    unit: PlannedUnit, x: ActivationDistribution | None, histogram_cells: int
) -> ActivationDistribution | None:
    """Return the distribution of the shortcut's output; None if it is unknown.

    For a unit without a shortcut, all mass is at 0.
    """
    if unit.shortcut is None:
        return ActivationDistribution(1.0, np.zeros(histogram_cells))
    match list_op_names_without_flatten(unit.shortcut):
        case []:
            return x
        case ["pad"]:
            padding = unit.shortcut[0]
            return x and x.move_mass_to_zero(
                padding.input_shape.channels / padding.output_shape.channels
            )
        case ["weight", "bn"]:
            return standard_normal(histogram_cells)
        case ["weight"] if x is not None and x.moment(2) > 0:
            variance = 2 * x.moment(2)  # He initialisation doubles the second moment
            return ActivationDistribution(0.0, discretize_normal(histogram_cells, 0.0, variance))
        case _:
            return None

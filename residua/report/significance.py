"""Test whether two cells of a study differ significantly, and format the values of cells as text.

A cell holds the results of one arm at one depth over several seeds.  Two means differ significantly
if a two-sided t-test over seeds is significant at the 5 % level.  If both cells have at least three
seeds, the test is Welch's.  Otherwise the variance of a single cell is too uncertain, so the test
pools the variances of both cells, and the means must also differ by at least one percentage point
(our choice).  If the difference is the largest of n differences and below five points, the level is
5 % / n (Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Literal

from residua.report.format import (
    NO_VALUE,
    format_counted_noun,
    format_percent,
    format_points,
    join_with_and,
)
from residua.report.tables import StudyCell

Measure = Literal["train", "running train", "test", "gap", "start"]
"""Training error with re-estimated BN statistics if measured, training and test error with running
ones, the gap between the last two, and steps until a run starts learning."""

SIGNIFICANCE_LEVEL = 0.05  # of the two-sided t-test between means over seeds
# A rise of training error counts as harmless if the rise plus its significance threshold is below
# this; our choice.
HARMLESS_RISE = 0.05
MIN_WELCH_SEEDS = 3  # Welch's test is used if both cells have this many seeds or more
MIN_DIFFERENCE_FEW_SEEDS = 0.01  # the smallest difference of errors with fewer seeds than that
MIN_DIFFERENCE = 0.001  # the smallest difference of errors: tables print tenths of a point
ROUNDING_TOLERANCE = 1e-12  # a difference that equals the threshold counts, despite rounding
CHANCE_SHARE = 0.9  # a net counts as guessing from this share of the guessing error; our choice
FAMILY_DISPLAY_NAMES = {
    "plain": "plain",
    "resnet": "residual",
    "preresnet": "pre-activation",
    "imagenet resnet": "ImageNet residual",
    "highway": "highway",
}


def get_cell_measure(cell: StudyCell, measure: Measure) -> float:
    """Return the cell's mean of `measure`: in steps for "start", otherwise a share in [0, 1]."""
    match measure:
        case "train":
            return cell.comparable_train_error
        case "running train":
            return cell.train_error
        case "test":
            return cell.test_error
        case "gap":
            return cell.test_error - cell.train_error
        case "start":
            return cell.first_learned_step or 0.0


def get_cell_sd(cell: StudyCell, measure: Measure) -> float | None:
    """Return the standard deviation of the cell's `measure` over seeds; None for a single seed."""
    match measure:
        case "train":
            return cell.comparable_train_error_sd
        case "running train":
            return cell.train_error_sd
        case "test":
            return cell.test_error_sd
        case "gap":
            return cell.generalisation_gap_sd
        case "start":
            return cell.first_learned_step_sd


@dataclass(frozen=True, slots=True)
class CellComparison:
    """A comparison of two cells in one measure, and a test of whether they differ significantly.

    If the two cells were picked as the most extreme of several pairs, `num_comparisons` is the
    number of pairs, for the Bonferroni correction.
    """

    from_cell: StudyCell
    to_cell: StudyCell
    measure: Measure
    num_comparisons: int = 1

    @property
    def difference(self) -> float:
        """The measure of `to_cell` minus that of `from_cell`.

        The difference is in steps for the measure "start", and a share (0.01 is one percentage
        point) otherwise.
        """
        from_value = get_cell_measure(self.from_cell, self.measure)
        return get_cell_measure(self.to_cell, self.measure) - from_value

    @property
    def min_seeds(self) -> int:
        """The smaller of the two cells' numbers of seeds."""
        return min(self.from_cell.seeds, self.to_cell.seeds)

    @property
    def min_difference(self) -> float:
        """The smallest difference that counts as significant, however small the spread is.

        Errors must differ by a constant.  The step at which learning starts is known only to within
        one interval between measurements: two such steps must differ by at least one interval, and
        with few seeds by two.
        """
        has_few_seeds = self.min_seeds < MIN_WELCH_SEEDS
        if self.measure == "start":
            interval = max(self.from_cell.measured_every or 1, self.to_cell.measured_every or 1)
            return 2 * interval if has_few_seeds else interval
        return MIN_DIFFERENCE_FEW_SEEDS if has_few_seeds else MIN_DIFFERENCE

    @property
    def significance_threshold(self) -> float:
        """The smallest absolute difference that counts as significant."""
        seeds_and_sds = [
            (cell.seeds, sd)
            for cell in (self.from_cell, self.to_cell)
            if (sd := get_cell_sd(cell, self.measure)) is not None
        ]
        if not seeds_and_sds:
            return self.min_difference
        from scipy.stats import t  # slow to import, and not needed for a single seed

        if self.min_seeds < MIN_WELCH_SEEDS:
            degrees_of_freedom: float = sum(n - 1 for n, _ in seeds_and_sds)
            pooled_variance = sum((n - 1) * sd**2 for n, sd in seeds_and_sds) / degrees_of_freedom
            variance = pooled_variance * (1 / self.from_cell.seeds + 1 / self.to_cell.seeds)
        else:  # Welch's test, with the Welch-Satterthwaite degrees of freedom
            variance_terms = [(n - 1, sd**2 / n) for n, sd in seeds_and_sds]
            variance = sum(term for _, term in variance_terms)
            degrees_of_freedom = (
                variance**2 / sum(term**2 / n for n, term in variance_terms) if variance else 1
            )
        bonferroni_divisor = self.num_comparisons if abs(self.difference) < HARMLESS_RISE else 1
        quantile = 1 - SIGNIFICANCE_LEVEL / (2 * bonferroni_divisor)
        return max(float(t.ppf(quantile, degrees_of_freedom)) * sqrt(variance), self.min_difference)

    @property
    def is_significant(self) -> bool:
        return abs(self.difference) >= self.significance_threshold - ROUNDING_TOLERANCE

    @property
    def rises_significantly(self) -> bool:
        return self.is_significant and self.difference > 0

    @property
    def falls_significantly(self) -> bool:
        return self.is_significant and self.difference < 0

    @property
    def inconclusive_reason(self) -> str:
        """Text that says why the difference is not significant."""
        if self.min_seeds > 1:
            return "within the spread over seeds"
        return "too close to tell apart with one seed"

    @property
    def from_to_text(self) -> str:
        """The change in words: `from 2.6 % at 20 layers to 91.2 % at 110`."""
        from_text = format_measure_at_depth(self.from_cell, self.measure)
        return f"from {from_text} layers to {format_measure_at_depth(self.to_cell, self.measure)}"


def find_largest_significant_rise(
    arm_cells: Sequence[StudyCell], measure: Measure
) -> CellComparison:
    """Find the largest significant rise of `measure` from a shallower to a deeper net of an arm.

    `arm_cells` must be sorted by depth.  If there is no such rise, the function returns a
    comparison of the first cell with itself, whose difference is 0 and never significant.
    """
    pairs = list(combinations(arm_cells, 2))
    comparisons = [CellComparison(a, b, measure, num_comparisons=len(pairs)) for a, b in pairs]
    no_rise = CellComparison(arm_cells[0], arm_cells[0], measure)
    return max(
        (comparison for comparison in comparisons if comparison.rises_significantly),
        key=lambda comparison: comparison.difference,
        default=no_rise,
    )


def rules_out_degradation(arm_cells: Sequence[StudyCell]) -> bool:
    """Return whether a harmful rise of an arm's training error with depth can be ruled out.

    True if the deepest net's training error is significantly lower than the shallowest net's.  Also
    true if, for every two depths, the rise plus its significance threshold is below
    `HARMLESS_RISE`.  `arm_cells` must be sorted by depth.
    """
    if CellComparison(arm_cells[0], arm_cells[-1], "train").falls_significantly:
        return True
    comparisons = [CellComparison(a, b, "train") for a, b in combinations(arm_cells, 2)]
    return all(
        comparison.difference + comparison.significance_threshold < HARMLESS_RISE
        for comparison in comparisons
    )


def is_at_chance(cell: StudyCell, num_classes: int) -> bool:
    """Return whether a cell's test error is close to that of random guessing.

    This is so if the test error minus one standard deviation is at least 0.9 times the guessing
    error, which is 1 - 1/n for n classes.
    """
    lower_error = cell.test_error - (cell.test_error_sd or 0)
    return num_classes > 1 and lower_error >= CHANCE_SHARE * (1 - 1 / num_classes)


def group_cells_by_arm(cells: Sequence[StudyCell]) -> dict[str, list[StudyCell]]:
    """Group cells by arm and sort each group by depth; arms keep their order in `cells`."""
    cells_by_arm: dict[str, list[StudyCell]] = {cell.arm: [] for cell in cells}
    for cell in sorted(cells, key=lambda cell: cell.depth):
        cells_by_arm[cell.arm].append(cell)
    return cells_by_arm


def describe_measure_by_depth(arm_cells: Sequence[StudyCell], measure: Measure) -> str:
    """Describe the measure at every depth: `2.6 % at 20 layers, 71.0 % at 56 and 89.9 % at 110`."""
    first, *others = arm_cells
    first_text = f"{format_measure_at_depth(first, measure)} layers"
    return join_with_and([first_text, *(format_measure_at_depth(c, measure) for c in others)])


def format_measure_at_depth(cell: StudyCell, measure: Measure) -> str:
    """Format the cell's measure and its depth, as text: `2.6 % at 20`."""
    return f"{format_cell_measure(cell, measure)} at {cell.depth:,}"


def format_cell_measure(cell: StudyCell, measure: Measure) -> str:
    """Format the cell's mean with its unit: percent for an error, points for a gap, none for steps.

    The number of steps is written as `more than 242` if some run never started learning.
    """
    value = get_cell_measure(cell, measure)
    if measure == "gap":
        return format_points(value)
    if measure != "start":
        return format_percent(value)
    if cell.learned_seeds == 0:
        return f"more than {cell.steps:,}"
    return f"{value:,.0f}" if cell.learned_seeds == cell.seeds else f"more than {value:,.0f}"


def format_learning_start(cell: StudyCell) -> str:
    """Format the step at which learning starts, for a table: `40`, `> 242`; unknown is a dash."""
    if cell.first_learned_step is None:
        return NO_VALUE
    return format_cell_measure(cell, "start").replace("more than ", "> ")


def format_points_apart(comparison: CellComparison) -> str:
    """Format the absolute difference of two errors in percentage points: `4.1 points`.

    The difference is computed from the rounded errors, so that it agrees with the printed errors.
    """
    from_percent, to_percent = (
        round(100 * get_cell_measure(cell, comparison.measure), 1)
        for cell in (comparison.from_cell, comparison.to_cell)
    )
    return format_points(abs(to_percent - from_percent) / 100)


def format_seed_range(cells: Sequence[StudyCell]) -> str:
    """Format the number of seeds per cell: `3 seeds`, `1 to 3 seeds`, `1 seed`."""
    fewest, most = min(cell.seeds for cell in cells), max(cell.seeds for cell in cells)
    if fewest == most:
        return format_counted_noun(most, "seed")
    return f"{fewest} to {most} seeds"


def note_single_seeds(cells: Sequence[StudyCell]) -> str:
    """Return ` (1 seed)` or ` (1 to 3 seeds)` if some cell has a single seed, otherwise ""."""
    return f" ({format_seed_range(cells)})" if any(cell.seeds == 1 for cell in cells) else ""


def describe_too_few_seeds(cells: Sequence[StudyCell]) -> str:
    """Describe cells that do not differ significantly: `2 seeds are too few`."""
    verb = "is" if all(cell.seeds == 1 for cell in cells) else "are"
    return f"{format_seed_range(cells)} {verb} too few"


def format_arm_name(arm: str) -> str:
    """Format an arm's name for use in a sentence.

    `resnet,shortcut=project` becomes `residual (shortcut=project)`: the papers' name of the family,
    and the changes in parentheses.  If the study gives the arm a label, the label is returned
    unchanged.
    """
    family, comma, changes = arm.partition(",")
    if comma and not all("=" in change for change in changes.split(",")):
        return arm
    family_name = FAMILY_DISPLAY_NAMES.get(family, family)
    return f"{family_name} ({changes.replace(',', ', ')})" if comma else family_name

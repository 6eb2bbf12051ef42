"""Whether two cells of a study differ, and the words for how.

Two means differ when a t-test over seeds says so at the 5 % level, and by a whole point at least where fewer than three seeds
were run (our choice).  It is Welch's where both have three seeds or more; fewer say too little of a spread of their own, and share
one.  An error's largest difference of several, where it is below five points, is held to that level divided by their number
(Bonferroni).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Literal

from residua.report.tables import StudyCell

Measure = Literal["train", "test", "gap", "start"]
"""Training error, test error, test minus training error, and the steps until a run has begun to learn."""

SIGNIFICANCE_LEVEL = 0.05  # of the two-sided t-test between means over seeds
HARMLESS_RISE = 0.05  # a rise of an error that does not come near it, with all that chance may hide, is none; our choice
MIN_WELCH_SEEDS = 3  # with fewer seeds the spread is itself a guess, and
MIN_DIFFERENCE_FEW_SEEDS = 0.01  # a smaller difference says nothing
MIN_DIFFERENCE = 0.001  # a smaller one is never called a difference: tables print tenths of a point
FAMILY_DISPLAY_NAMES = {
    "plain": "plain",
    "resnet": "residual",
    "preresnet": "pre-activation",
    "imagenet resnet": "ImageNet residual",
    "highway": "highway",
}


def get_cell_measure(cell: StudyCell, measure: Measure) -> float:
    """That number of a cell; steps for a start, and a share in [0, 1] otherwise."""
    match measure:
        case "train":
            return cell.comparable_train_error
        case "test":
            return cell.test_error
        case "gap":
            return (
                cell.gap if cell.gap is not None else cell.test_error - cell.comparable_train_error
            )
        case "start":
            return cell.first_learned_step or 0.0


def get_cell_sd(cell: StudyCell, measure: Measure) -> float | None:
    return {
        "train": cell.comparable_train_error_sd,
        "test": cell.test_error_sd,
        "gap": cell.gap_sd,
        "start": cell.first_learned_step_sd,
    }[measure]


@dataclass(frozen=True, slots=True)
class CellComparison:
    """A number of one cell and of another, and the smallest difference that means something, chosen `among` so many."""

    from_cell: StudyCell
    to_cell: StudyCell
    measure: Measure
    num_comparisons: int = 1

    @property
    def difference(self) -> float:
        return get_cell_measure(self.to_cell, self.measure) - get_cell_measure(
            self.from_cell, self.measure
        )

    @property
    def min_seeds(self) -> int:
        """Of the one that has fewer."""
        return min(self.from_cell.seeds, self.to_cell.seeds)

    @property
    def min_difference(self) -> float:
        """What is no difference whatever the spread: a start is known to a line of the record, and twice that for few seeds."""
        if self.measure == "start":
            return (2 if self.min_seeds < MIN_WELCH_SEEDS else 1) * max(
                self.from_cell.measured_every or 1, self.to_cell.measured_every or 1
            )
        return MIN_DIFFERENCE_FEW_SEEDS if self.min_seeds < MIN_WELCH_SEEDS else MIN_DIFFERENCE

    @property
    def significance_threshold(self) -> float:
        seeds_and_sds = [
            (cell.seeds, spread)
            for cell in (self.from_cell, self.to_cell)
            if (spread := get_cell_sd(cell, self.measure)) is not None
        ]
        if not seeds_and_sds:
            return self.min_difference
        from scipy.stats import t  # slow to import, and not needed for a single seed

        if self.min_seeds < MIN_WELCH_SEEDS:
            degrees_of_freedom: float = sum(n - 1 for n, _ in seeds_and_sds)
            pooled_variance = (
                sum((n - 1) * spread**2 for n, spread in seeds_and_sds) / degrees_of_freedom
            )
            variance = pooled_variance * (1 / self.from_cell.seeds + 1 / self.to_cell.seeds)
        else:
            variance_terms = [(n - 1, spread**2 / n) for n, spread in seeds_and_sds]
            variance = sum(part for _, part in variance_terms)
            degrees_of_freedom = (
                variance**2 / sum(part**2 / n for n, part in variance_terms) if variance else 1
            )
        bonferroni_divisor = self.num_comparisons if abs(self.difference) < HARMLESS_RISE else 1
        return max(
            float(t.ppf(1 - SIGNIFICANCE_LEVEL / (2 * bonferroni_divisor), degrees_of_freedom))
            * sqrt(variance),
            self.min_difference,
        )

    @property
    def is_significant(self) -> bool:
        return abs(self.difference) >= self.significance_threshold - 1e-12

    @property
    def rises_significantly(self) -> bool:
        return self.is_significant and self.difference > 0

    @property
    def falls_significantly(self) -> bool:
        return self.is_significant and self.difference < 0

    @property
    def inconclusive_reason(self) -> str:
        return (
            "within the spread of seeds"
            if self.min_seeds > 1
            else "too close to tell apart with one seed"
        )

    @property
    def from_to_text(self) -> str:
        return f"from {format_measure_at_depth(self.from_cell, self.measure)} layers to {format_measure_at_depth(self.to_cell, self.measure)}"


def find_largest_rise(arm_cells: Sequence[StudyCell], measure: Measure) -> CellComparison:
    """The largest rise from a shallower net to a deeper one; not `clear` where there is none."""
    pairs = list(combinations(arm_cells, 2))
    comparisons = [CellComparison(a, b, measure, num_comparisons=len(pairs)) for a, b in pairs]
    no_rise = CellComparison(arm_cells[0], arm_cells[0], measure)
    return max(
        (change for change in comparisons if change.rises_significantly),
        key=lambda change: change.difference,
        default=no_rise,
    )


def rules_out_degradation(arm_cells: Sequence[StudyCell]) -> bool:
    """Whether, as far as seeds tell, no deeper net's training error is higher by HARMLESS; or the deepest one's is lower."""
    if CellComparison(arm_cells[0], arm_cells[-1], "train").falls_significantly:
        return True
    comparisons = [CellComparison(a, b, "train") for a, b in combinations(arm_cells, 2)]
    return all(
        change.difference + change.significance_threshold < HARMLESS_RISE for change in comparisons
    )


def is_at_chance(cell: StudyCell, num_classes: int) -> bool:
    """Whether the test error, less its spread, is at least nine tenths of what guessing gives."""
    return num_classes > 1 and cell.test_error - (cell.test_error_sd or 0) >= 0.9 * (
        1 - 1 / num_classes
    )


def group_cells_by_arm(cells: Sequence[StudyCell]) -> dict[str, list[StudyCell]]:
    """The cells of each arm by depth; arms in the order in which they come."""
    arms: dict[str, list[StudyCell]] = {cell.arm: [] for cell in cells}
    for cell in sorted(cells, key=lambda cell: cell.depth):
        arms[cell.arm].append(cell)
    return arms


def describe_measure_by_depth(arm_cells: Sequence[StudyCell], measure: Measure) -> str:
    """`2.6 % at 20 layers, 71.0 % at 56 and 89.9 % at 110`."""
    first, *others = arm_cells
    return join_with_and(
        [
            f"{format_measure_at_depth(first, measure)} layers",
            *(format_measure_at_depth(cell, measure) for cell in others),
        ]
    )


def format_measure_at_depth(cell: StudyCell, measure: Measure) -> str:
    return f"{format_cell_measure(cell, measure)} at {cell.depth}"


def format_cell_measure(cell: StudyCell, measure: Measure) -> str:
    """The number in words: percent, points, or steps."""
    if measure == "gap":
        return f"{100 * get_cell_measure(cell, measure):.1f} points"
    if measure != "start":
        return format_percent(get_cell_measure(cell, measure))
    if cell.learned_seeds == 0:
        return f"more than {cell.steps:,}"
    return (
        "over " if cell.learned_seeds != cell.seeds else ""
    ) + f"{get_cell_measure(cell, measure):,.0f}"


def format_percent(share: float) -> str:
    """A share in [0, 1] to a tenth of a percent."""
    return "below 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def format_point_difference(comparison: CellComparison) -> str:
    """The difference of the two errors as they are printed, so that a reader can subtract them."""
    from_percent, to_percent = (
        round(100 * get_cell_measure(cell, comparison.measure), 1)
        for cell in (comparison.from_cell, comparison.to_cell)
    )
    return f"{abs(to_percent - from_percent):.1f} points"


def format_arm_name(arm: str) -> str:
    """An arm in words: a family's name in the papers, with what is changed in it; a label of its own as it is."""
    family, comma, changes = arm.partition(",")
    if not all("=" in change for change in changes.split(",") if comma):
        return arm
    return FAMILY_DISPLAY_NAMES.get(family, family) + (
        f" ({changes.replace(',', ', ')})" if comma else ""
    )


def join_with_and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]

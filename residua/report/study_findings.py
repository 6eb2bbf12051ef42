"""The findings of a study for its page: one number, and a table with a short finding per net.

The verdict's sentences say the same at length; both follow from the tests in `significance`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from residua.report.cross_validation import describe_best_fold_error, find_best_folded_cell
from residua.report.format import (
    NO_VALUE,
    capitalize_first,
    format_percent,
    format_percent_number,
)
from residua.report.significance import (
    CellComparison,
    Measure,
    describe_too_few_seeds,
    find_largest_significant_rise,
    format_arm_name,
    format_learning_start,
    format_points_apart,
    get_cell_measure,
    group_cells_by_arm,
    note_single_seeds,
    rules_out_degradation,
)
from residua.report.tables import StudyCell
from residua.report.trend import is_due_to_lagging_statistics, starts_later_with_depth
from residua.report.verdict import (
    SLIGHT_RISE,
    describe_other_effects,
    group_arms_by_depth_effect,
    judge_depth_effect,
)

MAX_DESCRIBED_ARMS = 2  # each with a sentence of its own in the answer


class HeadlineNumber(NamedTuple):
    """The number that stands first on a page, and what it is."""

    number: str
    label: str


class FindingsTable(NamedTuple):
    """A table of findings: the columns' headings, and one row of texts per net."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def choose_headline_number(cells: Sequence[StudyCell], num_classes: int) -> HeadlineNumber:
    """Choose the number that carries the answer of a study.

    With folds, it is the lowest error on held-out folds.  Otherwise it is the training error of the
    first arm that degrades more than slightly, or else of the one that degrades most, or else the
    lowest test error.
    """
    if (folded := find_best_folded_cell(cells)) is not None:
        return HeadlineNumber(*describe_best_fold_error(folded, len(cells)))
    cells_by_arm = group_cells_by_arm(cells)
    rises = [
        find_largest_significant_rise(cells_by_arm[arm], "train")
        for arm in group_arms_by_depth_effect(cells_by_arm, num_classes).get("degradation", ())
    ]
    if rises:
        largest = max(rises, key=lambda rise: rise.difference)
        degradation = next((rise for rise in rises if rise.difference >= SLIGHT_RISE), largest)
        low, high = degradation.from_cell, degradation.to_cell
        return HeadlineNumber(
            format_percent(high.comparable_train_error),
            f"training error of the {format_arm_name(high.arm)} net with {high.depth:,} layers; "
            f"{format_percent(low.comparable_train_error)} with {low.depth:,}",
        )
    best = min(cells, key=lambda cell: cell.test_error)
    suffix = f", the lowest of {len(cells)} nets" if len(cells) > 1 else ""
    return HeadlineNumber(
        format_percent(best.test_error),
        f"test error of the {format_arm_name(best.arm)} net with {best.depth:,} layers{suffix}",
    )


def shorten_answer(cells: Sequence[StudyCell], answer: str, num_classes: int) -> str:
    """Shorten the verdict's answer if more than two arms degrade: their number, and the first."""
    cells_by_arm = group_cells_by_arm(cells)
    arms_by_effect = group_arms_by_depth_effect(cells_by_arm, num_classes)
    degrading = arms_by_effect.get("degradation", [])
    if len(degrading) <= MAX_DESCRIBED_ARMS or find_best_folded_cell(cells) is not None:
        return answer
    design_count = sum(map(len, arms_by_effect.values()))
    rise = find_largest_significant_rise(cells_by_arm[degrading[0]], "train")
    seeds = note_single_seeds([cell for arm in degrading for cell in cells_by_arm[arm]])
    sentences = [
        f"Deeper nets train worse in {len(degrading)} of {design_count} designs{seeds}.",
        f"In {format_arm_name(degrading[0])} nets, training error rises {rise.from_to_text}.",
        *describe_other_effects(arms_by_effect, cells_by_arm),
    ]
    return " ".join(sentences)


def make_findings_table(cells: Sequence[StudyCell], num_classes: int) -> FindingsTable:
    """Make the table of a study's findings, one row per arm.

    If arms have several depths, a row says how its errors change from the shallowest to the deepest
    net.  If all have one depth, rows are sorted by test error and compared with the lowest.
    """
    cells_by_arm = group_cells_by_arm(cells)
    if len({cell.depth for cell in cells}) > 1:
        return make_depth_findings(cells_by_arm, num_classes)
    return make_arm_findings(sorted(cells, key=lambda cell: cell.test_error))


def make_depth_findings(
    cells_by_arm: dict[str, list[StudyCell]], num_classes: int
) -> FindingsTable:
    errors = ("training error, %", "test error, %")
    return FindingsTable(
        ("net", "finding", "layers", *errors, "learns from step"),
        [
            (
                capitalize_first(format_arm_name(arm)),
                capitalize_first(name_depth_finding(arm_cells, num_classes)),
                format_change([f"{cell.depth:,}" for cell in arm_cells]),
                format_measure_change(arm_cells, "train"),
                format_measure_change(arm_cells, "test"),
                format_measure_change(arm_cells, "start"),
            )
            for arm, arm_cells in cells_by_arm.items()
        ],
    )


def format_change(texts: Sequence[str]) -> str:
    """Format the first and the last of some texts: `1.4 → 87.9`; one text alone if they are one."""
    return texts[0] if len(texts) == 1 else f"{texts[0]} → {texts[-1]}"


def format_measure_change(arm_cells: Sequence[StudyCell], measure: Measure) -> str:
    """Format a measure of the shallowest and deepest net: percent without the sign, or a step."""
    ends = [arm_cells[0], arm_cells[-1]] if len(arm_cells) > 1 else list(arm_cells)
    if measure != "start":
        return format_change([format_percent_number(get_cell_measure(c, measure)) for c in ends])
    if any(cell.first_learned_step is None for cell in ends):
        return NO_VALUE
    return format_change([format_learning_start(cell) for cell in ends])


def name_depth_finding(arm_cells: Sequence[StudyCell], num_classes: int) -> str:
    """Name what an arm's errors over depth show, in a few words: `degradation, starts late`."""
    if len(arm_cells) == 1:
        return NO_VALUE
    effect = judge_depth_effect(arm_cells, num_classes)
    if effect == "guessing":
        return "guesses at every depth"
    finding: str = effect
    if effect == "degradation":
        rise = find_largest_significant_rise(arm_cells, "train")
        finding = "slight degradation" if rise.difference < SLIGHT_RISE else effect
        finding += note_single_seeds((rise.from_cell, rise.to_cell))
    elif effect == "inconclusive":
        finding = f"unclear: {describe_too_few_seeds(arm_cells)}"
    else:
        finding += note_single_seeds(arm_cells)
    findings = [finding]
    if effect != "degradation" and over_fits_with_depth(arm_cells):
        findings.append("over-fits")
    if starts_later_with_depth(arm_cells):
        findings.append("starts later")
    return ", ".join(findings)


def over_fits_with_depth(arm_cells: Sequence[StudyCell]) -> bool:
    """Return whether test error and gap rise with depth, and a failure to optimise is ruled out."""
    test_rise = find_largest_significant_rise(arm_cells, "test")
    gap_change = CellComparison(test_rise.from_cell, test_rise.to_cell, "gap")
    return (
        test_rise.is_significant
        and gap_change.rises_significantly
        and rules_out_degradation(arm_cells)
        and not is_due_to_lagging_statistics(test_rise)
    )


def make_arm_findings(best_first: Sequence[StudyCell]) -> FindingsTable:
    """Compare nets of one depth with the one of the lowest test error."""
    best = best_first[0]
    rows = []
    for cell in best_first:
        comparison = CellComparison(best, cell, "test")
        finding = f"+ {format_points_apart(comparison)}"
        if not comparison.is_significant:
            finding += f", {comparison.inconclusive_reason}"
        rows.append(
            (
                capitalize_first(format_arm_name(cell.arm)),
                "Lowest test error" if cell is best else finding,
                format_percent_number(cell.test_error),
                format_percent_number(cell.comparable_train_error),
            )
        )
    headings = ("net", "finding", "test error, %", "training error, %")
    return FindingsTable(headings, rows)

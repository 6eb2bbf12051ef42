"""Fixed rules that tell failure to optimise from over-fitting, by one arm's errors over depth.

- If the training error rises with depth, that is a failure to optimise: degradation (He et al.
  2015, section 1).
- The gap is the test error minus the training error, both with the running BN statistics.  If it
  grows without a rise of the training error, that is over-fitting.
- The training errors of different depths are compared with re-estimated BN statistics, because
  running averages lag behind the weights, most of all in the deepest nets.
- An arm can show both.  It is said to over-fit in addition to degrading only if the gap grows by
  more than the training error rises.  That threshold is our choice, as the gap of a net that does
  not fit the training images means little.  A smaller growth of the gap is still mentioned if it is
  more than a tenth of the rise in training error.
- If deeper nets start learning later, that is a failure to optimise too, even if they catch up.
  Another arm is said to remove the slow start if, at the same depth, it starts earlier and ends
  with less than half of the slow arm's training error (compare He et al. 2016, section 3.1).
"""

from collections.abc import Sequence
from itertools import pairwise

from residua.report.format import format_percent, join_with_and
from residua.report.significance import (
    CellComparison,
    describe_measure_by_depth,
    describe_too_few_seeds,
    find_largest_significant_rise,
    format_arm_name,
    format_cell_measure,
    format_points_apart,
    note_single_seeds,
    rules_out_degradation,
)
from residua.report.tables import StudyCell, compute_learned_error

MIN_GAP_GROWTH_SHARE = 0.1
"""A growth of the gap is mentioned if it exceeds this share of the rise in training error."""


def describe_depth_trend(arm_cells: Sequence[StudyCell]) -> str:
    """Describe an arm's training and test error over depth, and what the two errors show.

    `arm_cells` are at least two cells, sorted by depth.
    """
    train_rise = find_largest_significant_rise(arm_cells, "train")
    if train_rise.is_significant:
        return describe_degradation(arm_cells, train_rise)
    return describe_trend_without_degradation(arm_cells)


def describe_degradation(arm_cells: Sequence[StudyCell], train_rise: CellComparison) -> str:
    """Describe an arm's errors over depth if its training error rises significantly."""
    test_change = find_largest_significant_rise(arm_cells, "test")
    if not test_change.is_significant:
        test_change = CellComparison(train_rise.from_cell, train_rise.to_cell, "test")
    gap_change = CellComparison(test_change.from_cell, test_change.to_cell, "gap")
    rises_steadily = all(
        deeper.comparable_train_error >= shallower.comparable_train_error
        for shallower, deeper in pairwise(arm_cells)
    )
    text = (
        f"training error rises with depth{'' if rises_steadily else ', but not steadily'}: "
        f"{describe_measure_by_depth(arm_cells, 'train')}."
    )
    seeds = note_single_seeds((train_rise.from_cell, train_rise.to_cell))
    if test_change.rises_significantly:
        gap_growth = gap_change.difference if gap_change.rises_significantly else 0.0
        if gap_growth > train_rise.difference:
            how = "more" if test_change.difference > train_rise.difference else "too"
            return (
                f"{text} Test error rises {how}, {test_change.from_to_text}: "
                f"degradation, a failure to optimise{seeds}, and over-fitting as well."
            )
        gap_text = ", not over-fitting."
        if gap_growth > MIN_GAP_GROWTH_SHARE * train_rise.difference:
            gap_text = f"; the gap to training error grows too, {gap_change.from_to_text}."
        return (
            f"{text} Test error rises too, {test_change.from_to_text}: "
            f"degradation, a failure to optimise{seeds}{gap_text}"
        )
    if test_change.falls_significantly:
        return (
            f"{text} Test error falls, {test_change.from_to_text}: "
            "the training images are fitted worse, at no cost on new images."
        )
    return f"{text} {describe_unclear_test_error(test_change)}"


def describe_trend_without_degradation(arm_cells: Sequence[StudyCell]) -> str:
    """Describe an arm's errors over depth if its training error does not rise significantly."""
    first, last = arm_cells[0], arm_cells[-1]
    train_change = CellComparison(first, last, "train")
    train_series = describe_measure_by_depth(arm_cells, "train")
    if train_change.falls_significantly:
        text = f"training error falls with depth: {train_series}"
    else:
        text = (
            f"training error does not clearly change with depth: {train_series}, "
            f"{train_change.inconclusive_reason}"
        )
    test_rise, test_change = (
        find_largest_significant_rise(arm_cells, "test"),
        CellComparison(first, last, "test"),
    )
    if test_rise.is_significant:
        return f"{text}. {describe_test_rise(arm_cells, test_rise)}"
    if test_change.falls_significantly:
        return f"{text}. Test error falls, {test_change.from_to_text}: depth helps."
    return f"{text}. {describe_unclear_test_error(test_change)}"


def describe_test_rise(arm_cells: Sequence[StudyCell], test_rise: CellComparison) -> str:
    """Describe a significant rise of test error when training error does not rise significantly.

    The text calls it over-fitting if the gap grows significantly and degradation is ruled out.  If
    only the errors with running BN statistics rise, the text says that these statistics lag.
    """
    gap_change = CellComparison(test_rise.from_cell, test_rise.to_cell, "gap")
    gap_grows = gap_change.rises_significantly
    if is_due_to_lagging_statistics(test_rise):
        running_change = CellComparison(test_rise.from_cell, test_rise.to_cell, "running train")
        return (
            f"Test error rises, {test_rise.from_to_text}, and so does the training error with the "
            f"same running BN statistics, {running_change.from_to_text}: in the deeper net these "
            "statistics lag behind the weights, which explains most of the rise, not over-fitting."
        )
    text = (
        f"Test error rises, {test_rise.from_to_text}, "
        f"and the gap to training error {gap_change.from_to_text}"
    )
    if gap_grows and rules_out_degradation(arm_cells):
        return f"{text}: over-fitting, not a failure to optimise."
    if not gap_grows:
        text += f", {gap_change.inconclusive_reason}"
    return (
        f"{text}. Inconclusive: {describe_too_few_seeds(arm_cells)} "
        "to tell over-fitting from a failure to optimise."
    )


def is_due_to_lagging_statistics(rise: CellComparison) -> bool:
    """Return whether lagging BN statistics explain most of a rise of the test error or the gap.

    They do if the training error rises with running BN statistics, by more than the gap, and does
    not rise with re-estimated ones.
    """
    running_change, gap_change, train_change = (
        CellComparison(rise.from_cell, rise.to_cell, measure)
        for measure in ("running train", "gap", "train")
    )
    return (
        running_change.rises_significantly
        and running_change.difference > gap_change.difference
        and not train_change.rises_significantly
    )


def describe_unclear_test_error(test_change: CellComparison) -> str:
    """Describe a change of the test error with depth that is not significant."""
    return (
        f"Test error goes {test_change.from_to_text}: "
        f"{format_points_apart(test_change)}, {test_change.inconclusive_reason}."
    )


def keep_cells_with_start(arm_cells: Sequence[StudyCell]) -> list[StudyCell]:
    """Keep the cells of which it was measured when learning starts."""
    return [cell for cell in arm_cells if cell.first_learned_step is not None]


def starts_later_with_depth(arm_cells: Sequence[StudyCell]) -> bool:
    """Return whether a deeper net of an arm starts learning significantly later."""
    measured = keep_cells_with_start(arm_cells)
    return bool(measured) and find_largest_significant_rise(measured, "start").is_significant


def describe_slow_starts(cells_by_arm: dict[str, list[StudyCell]], num_classes: int) -> list[str]:
    """Name the arms whose deeper nets start learning later, and the arms that prevent that.

    The list has one text of a few sentences.  It is empty if no arm starts significantly later with
    depth.
    """
    measured_by_arm = {
        arm: keep_cells_with_start(arm_cells) for arm, arm_cells in cells_by_arm.items()
    }
    slow_by_arm = {
        arm: arm_cells
        for arm, arm_cells in measured_by_arm.items()
        if starts_later_with_depth(arm_cells)
    }
    if not slow_by_arm:
        return []
    learned_below = format_percent(compute_learned_error(num_classes), digits=0)
    measured_every = max(arm_cells[0].measured_every or 1 for arm_cells in slow_by_arm.values())
    arm_names = join_with_and([format_arm_name(arm) for arm in slow_by_arm])
    series = "; ".join(
        describe_measure_by_depth(arm_cells, "start")
        + (f" ({format_arm_name(arm)})" if len(slow_by_arm) > 1 else "")
        for arm, arm_cells in slow_by_arm.items()
    )
    text = (
        f"Slow start: deeper {arm_names} nets start learning later. Steps until training error is "
        f"below {learned_below}, measured every {measured_every} steps: {series}."
    )
    return [" ".join([text, *describe_slow_start_cures(slow_by_arm, measured_by_arm)])]


def describe_slow_start_cures(
    slow_by_arm: dict[str, list[StudyCell]], cells_by_arm: dict[str, list[StudyCell]]
) -> list[str]:
    """Name the arms that avoid the slow start, at the depth of the slowest net.

    Such an arm starts learning significantly earlier at that depth, and its training error is below
    half of the slowest net's.  The list has at most one sentence.
    """
    slowest_cell = max(
        (
            find_largest_significant_rise(arm_cells, "start").to_cell
            for arm_cells in slow_by_arm.values()
        ),
        key=lambda cell: (cell.depth, cell.first_learned_step),
    )
    quick_cells = [
        cell
        for arm, arm_cells in cells_by_arm.items()
        if arm not in slow_by_arm
        for cell in arm_cells
        if cell.depth == slowest_cell.depth
        and cell.comparable_train_error < slowest_cell.comparable_train_error / 2
        and CellComparison(cell, slowest_cell, "train").rises_significantly
        and CellComparison(cell, slowest_cell, "start").rises_significantly
    ]
    if not quick_cells:
        return []
    first, *others = quick_cells
    quick_text = join_with_and(
        [
            f"the {format_arm_name(first.arm)} net needs {format_cell_measure(first, 'start')}",
            *(
                f"the {format_arm_name(cell.arm)} one {format_cell_measure(cell, 'start')}"
                for cell in others
            ),
        ]
    )
    effect = "their changes remove" if others else "its change removes"
    return [f"At {slowest_cell.depth:,} layers {quick_text}: {effect} the slow start."]


def describe_smaller_gaps(cells_by_arm: dict[str, list[StudyCell]]) -> list[str]:
    """Name, for each arm that over-fits when deeper, the arms with a smaller gap at the same depth.

    Only arms whose training error is not significantly higher are named.  There is one sentence for
    each over-fitting arm for which such arms exist.
    """
    sentences = []
    for arm, arm_cells in cells_by_arm.items():
        gap_rise = find_largest_significant_rise(arm_cells, "gap")
        degrades = find_largest_significant_rise(arm_cells, "train").is_significant
        lags = is_due_to_lagging_statistics(gap_rise)
        if degrades or lags or not gap_rise.is_significant:
            continue
        overfitted_cell = gap_rise.to_cell
        better_cells = [
            cell
            for other_cells in cells_by_arm.values()
            for cell in other_cells
            if cell.depth == overfitted_cell.depth
            and cell.arm != arm
            and CellComparison(cell, overfitted_cell, "gap").rises_significantly
            and not CellComparison(overfitted_cell, cell, "train").rises_significantly
        ]
        if better_cells:
            better_text = join_with_and(
                [
                    f"{format_cell_measure(cell, 'gap')} in the {format_arm_name(cell.arm)} net"
                    for cell in better_cells
                ]
            )
            sentences.append(
                f"Over-fitting: the gap between test and training error of {format_arm_name(arm)} "
                f"nets grows {gap_rise.from_to_text}; at {overfitted_cell.depth:,} layers it is "
                f"only {better_text}."
            )
    return sentences

"""Optimisation or over-fitting, by a rule: each statement with the numbers that it rests on.

- A training error that rises with depth is a failure to optimise: degradation (He et al. 2015, section 1).
- A training error that does not, beside a larger gap to the test error, is over-fitting.
- Both can be true: a training error that rises, and a gap that grows by more (our choice: that of a net that fits nothing
  means little).  A gap that grows by less is told, where it is a tenth of that.
- A start that gets slower with depth is a failure to optimise too, even where it is made up for in the end; what is changed in
  the nets that do not have it at that depth, and end with half of the training error, cures it (He et al. 2016, section 3.1).
"""

from collections.abc import Sequence
from itertools import pairwise

from residua.report.significance import (
    CellComparison,
    describe_measure_by_depth,
    find_largest_rise,
    format_arm_name,
    format_cell_measure,
    format_point_difference,
    join_with_and,
    rules_out_degradation,
)
from residua.report.tables import LEARNED_CHANCE_SHARE, StudyCell

MIN_GAP_GROWTH_SHARE = (
    0.1  # of the rise of training error, below which the growth of a gap is not told
)


def describe_depth_trend(arm_cells: Sequence[StudyCell]) -> str:
    """One arm over depth: training error, then what test error adds to it, and what the two make of it."""
    train_rise = find_largest_rise(arm_cells, "train")
    if train_rise.is_significant:
        test_comparison = find_largest_rise(arm_cells, "test")
        test_comparison = (
            test_comparison
            if test_comparison.is_significant
            else CellComparison(train_rise.from_cell, train_rise.to_cell, "test")
        )
        gap_comparison = CellComparison(test_comparison.from_cell, test_comparison.to_cell, "gap")
        rises_steadily = all(
            b.comparable_train_error >= a.comparable_train_error for a, b in pairwise(arm_cells)
        )
        text = f"training error rises with depth{'' if rises_steadily else ', though not steadily'}: {describe_measure_by_depth(arm_cells, 'train')}. "
        if (
            test_comparison.rises_significantly
            and gap_comparison.rises_significantly
            and gap_comparison.difference > train_rise.difference
        ):
            return f"{text}Test error rises more, {test_comparison.from_to_text}: degradation, a failure to optimise, and over-fitting as well."
        if test_comparison.rises_significantly:
            gap_grows = (
                gap_comparison.rises_significantly
                and gap_comparison.difference > MIN_GAP_GROWTH_SHARE * train_rise.difference
            )
            gap_text = (
                f"; the gap to training error grows too, {gap_comparison.from_to_text}."
                if gap_grows
                else ", not over-fitting."
            )
            return f"{text}Test error rises too, {test_comparison.from_to_text}: degradation, a failure to optimise{gap_text}"
        if test_comparison.falls_significantly:
            return f"{text}Test error falls, {test_comparison.from_to_text}: a worse fit of the training images, at no cost on new ones."
        return f"{text}Test error goes {test_comparison.from_to_text}: {format_point_difference(test_comparison)}, {test_comparison.inconclusive_reason}."
    train_comparison = CellComparison(arm_cells[0], arm_cells[-1], "train")
    if train_comparison.falls_significantly:
        text = f"training error falls with depth: {describe_measure_by_depth(arm_cells, 'train')}"
    else:
        text = f"training error does not clearly change with depth: {describe_measure_by_depth(arm_cells, 'train')}, {train_comparison.inconclusive_reason}"
    test_rise, test_comparison = (
        find_largest_rise(arm_cells, "test"),
        CellComparison(arm_cells[0], arm_cells[-1], "test"),
    )
    if test_rise.is_significant:
        gap_comparison = CellComparison(test_rise.from_cell, test_rise.to_cell, "gap")
        text = f"{text}. Test error rises, {test_rise.from_to_text}, and the gap to training error {gap_comparison.from_to_text}"
        if gap_comparison.rises_significantly and rules_out_degradation(arm_cells):
            return f"{text}: over-fitting, not a failure to optimise."
        text = (
            text
            if gap_comparison.rises_significantly
            else f"{text}, {gap_comparison.inconclusive_reason}"
        )
        return f"{text}: over-fitting or a failure to optimise, these seeds cannot tell."
    if test_comparison.falls_significantly:
        return f"{text}. Test error falls, {test_comparison.from_to_text}: depth helps."
    return f"{text}. Test error goes {test_comparison.from_to_text}: {format_point_difference(test_comparison)}, {test_comparison.inconclusive_reason}."


def describe_slow_starts(cells_by_arm: dict[str, list[StudyCell]], num_classes: int) -> list[str]:
    """Which arms begin to learn later when deeper, and which do not at the same depth; nothing where none does."""
    measured_by_arm = {
        arm: [cell for cell in group if cell.first_learned_step is not None]
        for arm, group in cells_by_arm.items()
    }
    slow_by_arm = {
        arm: group
        for arm, group in measured_by_arm.items()
        if len(group) > 1 and find_largest_rise(group, "start").is_significant
    }
    if not slow_by_arm:
        return []
    learned_below, measured_every = (
        f"{100 * LEARNED_CHANCE_SHARE * (1 - 1 / num_classes):.0f} %",
        max(group[0].measured_every or 1 for group in slow_by_arm.values()),
    )
    slow_series = "; ".join(
        describe_measure_by_depth(group, "start")
        + (f" ({format_arm_name(arm)})" if len(slow_by_arm) > 1 else "")
        for arm, group in slow_by_arm.items()
    )
    text = f"Slow start: deeper {join_with_and([format_arm_name(arm) for arm in slow_by_arm])} nets need more steps until their training error is below {learned_below}"
    return [
        " ".join(
            [
                f"{text}: {slow_series}, read every {measured_every} steps.",
                *describe_slow_start_cures(slow_by_arm, measured_by_arm),
            ]
        )
    ]


def describe_slow_start_cures(
    slow_by_arm: dict[str, list[StudyCell]], cells_by_arm: dict[str, list[StudyCell]]
) -> list[str]:
    """At the depth where the slow arms are slowest: the arms that are not, and end with half of the error, and what they need."""
    slowest_cell = max(
        (find_largest_rise(group, "start").to_cell for group in slow_by_arm.values()),
        key=lambda cell: (cell.depth, cell.first_learned_step),
    )
    other_cells = [
        cell
        for arm, group in cells_by_arm.items()
        if arm not in slow_by_arm
        for cell in group
        if cell.depth == slowest_cell.depth
    ]
    better_cells = [
        cell
        for cell in other_cells
        if cell.comparable_train_error < slowest_cell.comparable_train_error / 2
        and CellComparison(cell, slowest_cell, "train").rises_significantly
    ]
    quick_cells = [
        cell
        for cell in better_cells
        if CellComparison(cell, slowest_cell, "start").rises_significantly
    ]
    if not quick_cells:
        return []
    first, *more = quick_cells
    quick_text = join_with_and(
        [
            f"the {format_arm_name(first.arm)} net needs {format_cell_measure(first, 'start')}",
            *(f"the {format_arm_name(c.arm)} one {format_cell_measure(c, 'start')}" for c in more),
        ]
    )
    return [f"At {slowest_cell.depth} layers {quick_text}: what they change cures it."]


def describe_smaller_gaps(cells_by_arm: dict[str, list[StudyCell]]) -> list[str]:
    """For each arm that over-fits when deeper: the arms whose gap is smaller at that depth, and that fit the images as well."""
    lines = []
    for arm, group in cells_by_arm.items():
        gap_rise = find_largest_rise(group, "gap")
        if (
            len(group) < 2
            or not gap_rise.is_significant
            or find_largest_rise(group, "train").is_significant
        ):
            continue
        other_cells = [
            cell
            for cells in cells_by_arm.values()
            for cell in cells
            if cell.depth == gap_rise.to_cell.depth and cell.arm != arm
        ]
        better_cells = [
            cell
            for cell in other_cells
            if CellComparison(cell, gap_rise.to_cell, "gap").rises_significantly
            and not CellComparison(gap_rise.to_cell, cell, "train").rises_significantly
        ]
        if better_cells:
            better_text = join_with_and(
                [
                    f"{format_cell_measure(cell, 'gap')} in the {format_arm_name(cell.arm)} one"
                    for cell in better_cells
                ]
            )
            text = f"Over-fitting: the gap between test and training error of {format_arm_name(arm)} nets grows {gap_rise.from_to_text}"
            lines.append(f"{text}; at {gap_rise.to_cell.depth} layers it is {better_text}.")
    return lines

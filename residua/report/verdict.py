"""What a study's numbers say, in plain words: every sentence follows from the cells."""

from collections.abc import Sequence

from residua.report.significance import (
    MIN_WELCH_SEEDS,
    CellComparison,
    capitalize_first,
    describe_measure_by_depth,
    find_largest_rise,
    format_arm_name,
    format_percent,
    format_point_difference,
    group_cells_by_arm,
    is_at_chance,
    join_with_and,
    rules_out_degradation,
)
from residua.report.tables import StudyCell
from residua.report.trend import describe_depth_trend, describe_slow_starts, describe_smaller_gaps

SLIGHT_RISE = 0.02  # a smaller rise is told, and called slight


def describe_study_verdict(cells: Sequence[StudyCell], num_classes: int) -> list[str]:
    """A sentence or two a line: the answer first, then each arm over depth, then arms at equal depth, then doubts."""
    if len(cells) == 1:
        return [describe_single_cell(cells[0], num_classes)]
    cells_by_arm = group_cells_by_arm(cells)
    lines = [answer_depth_question(cells_by_arm, num_classes)]
    lines += [
        describe_arm_over_depths(arm, group, num_classes)
        for arm, group in cells_by_arm.items()
        if len(group) > 1
    ]
    lines += describe_slow_starts(cells_by_arm, num_classes)
    lines += describe_smaller_gaps(cells_by_arm)
    lines += compare_arms_per_depth(cells)
    return [*lines, describe_seed_uncertainty(cells)]


def describe_single_cell(cell: StudyCell, num_classes: int) -> str:
    text = f"One network was trained, so there is nothing to compare: the {cell.depth}-layer {format_arm_name(cell.arm)} net gets "
    text += f"{format_percent(cell.test_error)} test error and {format_percent(cell.comparable_train_error)} training error"
    return text + (
        f", which is chance among {num_classes} classes."
        if is_at_chance(cell, num_classes)
        else "."
    )


def answer_depth_question(cells_by_arm: dict[str, list[StudyCell]], num_classes: int) -> str:
    """The question's answer: which arms train as well when deeper, or, at one depth, how they compare."""
    deepened_arms = {arm: group for arm, group in cells_by_arm.items() if len(group) > 1}
    if not deepened_arms and len({group[0].depth for group in cells_by_arm.values()}) > 1:
        return "Each family was trained at one depth only, so nothing can be said about depth."
    if not deepened_arms:
        return describe_best_and_worst([group[0] for group in cells_by_arm.values()])
    arms_at_chance = [
        arm
        for arm, group in deepened_arms.items()
        if all(is_at_chance(cell, num_classes) for cell in group)
    ]
    degraded_arms = [
        arm
        for arm, group in deepened_arms.items()
        if arm not in arms_at_chance and find_largest_rise(group, "train").is_significant
    ]
    healthy_arms = [
        arm
        for arm in deepened_arms
        if arm not in (*arms_at_chance, *degraded_arms)
        and rules_out_degradation(deepened_arms[arm])
    ]
    inconclusive_arms = [
        arm for arm in deepened_arms if arm not in (*arms_at_chance, *degraded_arms, *healthy_arms)
    ]
    sentences = []
    for arm in degraded_arms:
        rise = find_largest_rise(deepened_arms[arm], "train")
        slightly = "slightly " if rise.difference < SLIGHT_RISE else ""
        sentences.append(
            f"Deeper {format_arm_name(arm)} nets train {slightly}worse: training error rises {rise.from_to_text}."
        )
    if healthy_arms:
        other = ", unlike them" if degraded_arms else ""
        sentences.append(
            f"Deeper {join_with_and([format_arm_name(arm) for arm in healthy_arms])} nets do not train worse{other}."
        )
    if inconclusive_arms:
        sentences.append(
            f"Whether deeper {join_with_and([format_arm_name(arm) for arm in inconclusive_arms])} nets train worse, these seeds cannot tell."
        )
    if arms_at_chance:
        sentences.append(
            f"At every depth, {join_with_and([format_arm_name(arm) for arm in arms_at_chance])} nets do no better than guessing."
        )
    return " ".join(sentences)


def describe_best_and_worst(cells: Sequence[StudyCell]) -> str:
    """Of arms at one depth, those of the lowest and the highest test error, and whether seeds can tell them apart."""
    best, worst = (choose(cells, key=lambda cell: cell.test_error) for choose in (min, max))
    comparison = CellComparison(best, worst, "test")
    text = f"At {best.depth} layers the {format_arm_name(best.arm)} net does best, {format_percent(best.test_error)} test error, "
    text += f"and the {format_arm_name(worst.arm)} one worst, {format_percent(worst.test_error)}"
    return f"{text}." if comparison.is_significant else f"{text}: {comparison.inconclusive_reason}."


def describe_arm_over_depths(arm: str, arm_cells: list[StudyCell], num_classes: int) -> str:
    """One arm: training error over depth, then what test error adds to it, then which depths are at chance."""
    cells_at_chance = [cell for cell in arm_cells if is_at_chance(cell, num_classes)]
    text = f"{capitalize_first(format_arm_name(arm))}: "
    guessing_text = (
        f"guessing among {num_classes} classes gives {format_percent(1 - 1 / num_classes)}"
    )
    if len(cells_at_chance) == len(arm_cells):
        return f"{text}every depth is at chance, {describe_measure_by_depth(arm_cells, 'test')} test error, where {guessing_text}: nothing was learned to compare."
    text += describe_depth_trend(arm_cells)
    if cells_at_chance:
        text += f" At {join_with_and([str(cell.depth) for cell in cells_at_chance])} layers it is at chance: {guessing_text}."
    return text


def compare_arms_per_depth(cells: Sequence[StudyCell]) -> list[str]:
    """At each depth that several arms share: their test errors, from worst to best."""
    lines = []
    for depth in sorted({cell.depth for cell in cells}):
        cells_at_depth = sorted(
            (cell for cell in cells if cell.depth == depth), key=lambda cell: -cell.test_error
        )
        if len(cells_at_depth) > 1:
            lines.append(describe_arms_at_depth(depth, cells_at_depth))
    return lines


def describe_arms_at_depth(depth: int, cells_at_depth: list[StudyCell]) -> str:
    first, *others = cells_at_depth
    text = f"At {depth} layers the {format_arm_name(first.arm)} net gets {format_percent(first.test_error)} test error, "
    text += join_with_and(
        [
            f"the {format_arm_name(cell.arm)} one {format_percent(cell.test_error)}"
            for cell in others
        ]
    )
    worst_to_best = CellComparison(first, cells_at_depth[-1], "test")
    text += f": {format_point_difference(worst_to_best)}" + (
        " from worst to best" if len(cells_at_depth) > 2 else ""
    )
    indistinguishable = find_indistinguishable_arms(cells_at_depth)
    if any(len(names) == len(cells_at_depth) for names, _ in indistinguishable):
        return f"{text}, {worst_to_best.inconclusive_reason}."
    return (
        ". ".join(
            [
                text,
                *(
                    f"The {join_with_and(names)} nets are {doubt}"
                    for names, doubt in indistinguishable
                ),
            ]
        )
        + "."
    )


def find_indistinguishable_arms(cells_at_depth: list[StudyCell]) -> list[tuple[list[str], str]]:
    """Names of neighbours in order of test error of which no two can be told apart, and why."""
    groups = []
    start = 0
    for end in range(1, len(cells_at_depth) + 1):
        if end == len(cells_at_depth) or any(
            CellComparison(cell, cells_at_depth[end], "test").is_significant
            for cell in cells_at_depth[start:end]
        ):
            if end - start > 1:
                doubt = CellComparison(
                    cells_at_depth[start], cells_at_depth[end - 1], "test"
                ).inconclusive_reason
                groups.append(
                    ([format_arm_name(cell.arm) for cell in cells_at_depth[start:end]], doubt)
                )
            start = end
    return groups


def describe_seed_uncertainty(cells: Sequence[StudyCell]) -> str:
    """How far the numbers can be trusted."""
    fewest, most = min(cell.seeds for cell in cells), max(cell.seeds for cell in cells)
    if most == 1:
        return "Each network was trained with one seed: differences below 1 point cannot be told apart from chance."
    text = f"Errors are means over {fewest if fewest == most else f'{fewest} to {most}'} seeds; "
    text += "two errors differ when a t-test over seeds says so at the 5 % level"
    return text + (
        ", and by at least 1 point: so few seeds cannot tell more."
        if fewest < MIN_WELCH_SEEDS
        else "."
    )

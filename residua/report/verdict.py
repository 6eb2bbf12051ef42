"""The verdict of a study as text; each sentence follows from the numbers of the study's cells."""

from collections.abc import Sequence
from typing import Literal

from residua.report.format import capitalize_first, format_percent, join_with_and
from residua.report.significance import (
    MIN_WELCH_SEEDS,
    CellComparison,
    describe_measure_by_depth,
    describe_too_few_seeds,
    find_largest_significant_rise,
    format_arm_name,
    format_points_apart,
    format_seed_range,
    group_cells_by_arm,
    is_at_chance,
    note_single_seeds,
    rules_out_degradation,
)
from residua.report.tables import StudyCell
from residua.report.trend import describe_depth_trend, describe_slow_starts, describe_smaller_gaps

SLIGHT_RISE = 0.02
"""A rise of training error below this, as a share in [0, 1], is called slight."""

DepthEffect = Literal["guessing", "degradation", "no degradation", "inconclusive"]
"""What an arm's training errors show about depth; a net that only guesses shows nothing."""


def describe_study_verdict(cells: Sequence[StudyCell], num_classes: int) -> list[str]:
    """Describe the findings of a study, each a text of one or a few sentences.

    The first finding says which arms train worse when deeper.  The others describe each arm over
    depth, slow starts, smaller gaps, the arms at each depth, and how large a difference must be to
    be significant.
    """
    if len(cells) == 1:
        return [describe_single_cell(cells[0], num_classes)]
    cells_by_arm = group_cells_by_arm(cells)
    findings = [answer_depth_question(cells_by_arm, num_classes)]
    findings += [
        describe_arm_over_depths(arm, arm_cells, num_classes)
        for arm, arm_cells in cells_by_arm.items()
        if len(arm_cells) > 1
    ]
    findings += describe_slow_starts(cells_by_arm, num_classes)
    findings += describe_smaller_gaps(cells_by_arm)
    findings += compare_arms_per_depth(cells)
    return [*findings, describe_significance_threshold(cells)]


def describe_single_cell(cell: StudyCell, num_classes: int) -> str:
    """Write a sentence with the errors of a study's only network."""
    chance_text = ""
    if is_at_chance(cell, num_classes):
        chance_text = f", which is chance among {num_classes} classes"
    train_text = f"{format_percent(cell.train_error)} training error"
    reestimated = format_percent(cell.comparable_train_error)
    if reestimated != format_percent(cell.train_error):
        train_text += f" ({reestimated} with re-estimated BN statistics)"
    return (
        f"The {cell.depth:,}-layer {format_arm_name(cell.arm)} net gets "
        f"{format_percent(cell.test_error)} test error and {train_text}{chance_text}."
    )


def judge_depth_effect(arm_cells: Sequence[StudyCell], num_classes: int) -> DepthEffect:
    """Judge what depth does to an arm's training error; `arm_cells` must be sorted by depth."""
    if all(is_at_chance(cell, num_classes) for cell in arm_cells):
        return "guessing"
    if find_largest_significant_rise(arm_cells, "train").is_significant:
        return "degradation"
    return "no degradation" if rules_out_degradation(arm_cells) else "inconclusive"


def group_arms_by_depth_effect(
    cells_by_arm: dict[str, list[StudyCell]], num_classes: int
) -> dict[DepthEffect, list[str]]:
    """Group the arms that have several depths by the effect of depth, in their order."""
    arms_by_effect: dict[DepthEffect, list[str]] = {}
    for arm, cells in cells_by_arm.items():
        if len(cells) > 1:
            arms_by_effect.setdefault(judge_depth_effect(cells, num_classes), []).append(arm)
    return arms_by_effect


def answer_depth_question(cells_by_arm: dict[str, list[StudyCell]], num_classes: int) -> str:
    """Say which arms train worse when deeper, and which do not.

    If all arms have one depth, name the best and the worst of them instead.
    """
    arms_by_effect = group_arms_by_depth_effect(cells_by_arm, num_classes)
    if not arms_by_effect and len({cells[0].depth for cells in cells_by_arm.values()}) > 1:
        return "Each family was trained at one depth only, so nothing can be said about depth."
    if not arms_by_effect:
        return describe_best_and_worst([cells[0] for cells in cells_by_arm.values()])
    degradation_sentences = [
        describe_degraded_arm(arm, find_largest_significant_rise(cells_by_arm[arm], "train"))
        for arm in arms_by_effect.get("degradation", ())
    ]
    return " ".join([*degradation_sentences, *describe_other_effects(arms_by_effect, cells_by_arm)])


def describe_other_effects(
    arms_by_effect: dict[DepthEffect, list[str]], cells_by_arm: dict[str, list[StudyCell]]
) -> list[str]:
    """Write a sentence each on the arms without degradation, the unclear ones, and those at chance.

    A sentence is left out if there is no such arm.
    """
    sentences = []
    if healthy := arms_by_effect.get("no degradation"):
        seeds = note_single_seeds([c for arm in healthy for c in cells_by_arm[arm]])
        sentences.append(
            f"{capitalize_first(join_arm_names(healthy))} nets show no degradation{seeds}."
        )
    if inconclusive := arms_by_effect.get("inconclusive"):
        too_few = describe_too_few_seeds([c for arm in inconclusive for c in cells_by_arm[arm]])
        sentences.append(
            f"Inconclusive for {join_arm_names(inconclusive)} nets: {too_few} to tell whether "
            "deeper ones train worse."
        )
    if guessing := arms_by_effect.get("guessing"):
        sentences.append(
            f"At every depth, {join_arm_names(guessing)} nets do no better than guessing."
        )
    return sentences


def describe_degraded_arm(arm: str, train_rise: CellComparison) -> str:
    """Write a sentence on an arm whose training error rises significantly with depth."""
    slightly = "slightly " if train_rise.difference < SLIGHT_RISE else ""
    seeds = note_single_seeds((train_rise.from_cell, train_rise.to_cell))
    return (
        f"Deeper {format_arm_name(arm)} nets train {slightly}worse{seeds}: "
        f"training error rises {train_rise.from_to_text}."
    )


def join_arm_names(arms: Sequence[str]) -> str:
    """Join the arms' names as in a sentence: `plain, residual and pre-activation`."""
    return join_with_and([format_arm_name(arm) for arm in arms])


def describe_best_and_worst(cells: Sequence[StudyCell]) -> str:
    """Write a sentence on the arms with the lowest and the highest test error at one depth."""
    best, worst = (choose(cells, key=lambda cell: cell.test_error) for choose in (min, max))
    comparison = CellComparison(best, worst, "test")
    text = (
        f"At {best.depth:,} layers the {format_arm_name(best.arm)} net does best, "
        f"{format_percent(best.test_error)} test error, "
        f"and the {format_arm_name(worst.arm)} one worst, {format_percent(worst.test_error)}"
    )
    return f"{text}." if comparison.is_significant else f"{text}: {comparison.inconclusive_reason}."


def describe_arm_over_depths(arm: str, arm_cells: list[StudyCell], num_classes: int) -> str:
    """Describe an arm: its errors by depth, and the depths where its error is at chance level."""
    cells_at_chance = [cell for cell in arm_cells if is_at_chance(cell, num_classes)]
    heading = capitalize_first(format_arm_name(arm))
    guessing_text = (
        f"guessing among {num_classes} classes gives {format_percent(1 - 1 / num_classes)}"
    )
    if len(cells_at_chance) == len(arm_cells):
        return (
            f"{heading}: test error is at chance at every depth, "
            f"{describe_measure_by_depth(arm_cells, 'test')}, and {guessing_text}: "
            "nothing was learned that could be compared."
        )
    text = f"{heading}: {describe_depth_trend(arm_cells)}"
    if cells_at_chance:
        depths = join_with_and([f"{cell.depth:,}" for cell in cells_at_chance])
        text += f" At {depths} layers it is at chance: {guessing_text}."
    return text


def compare_arms_per_depth(cells: Sequence[StudyCell]) -> list[str]:
    """Compare, for each depth that several arms share, their test errors from worst to best."""
    findings = []
    for depth in sorted({cell.depth for cell in cells}):
        cells_at_depth = [cell for cell in cells if cell.depth == depth]
        if len(cells_at_depth) > 1:
            worst_first = sorted(cells_at_depth, key=lambda cell: -cell.test_error)
            findings.append(describe_arms_at_depth(depth, worst_first))
    return findings


def describe_arms_at_depth(depth: int, cells_at_depth: list[StudyCell]) -> str:
    """Describe the test errors at one depth, and say which arms do not differ significantly.

    `cells_at_depth` are at least two cells, sorted from the highest to the lowest test error.
    """
    first, *others = cells_at_depth
    other_texts = [
        f"the {format_arm_name(cell.arm)} one {format_percent(cell.test_error)}" for cell in others
    ]
    worst_to_best = CellComparison(first, cells_at_depth[-1], "test")
    text = (
        f"At {depth:,} layers the {format_arm_name(first.arm)} net gets "
        f"{format_percent(first.test_error)} test error, {join_with_and(other_texts)}: "
        f"{format_points_apart(worst_to_best)}"
    )
    if len(cells_at_depth) > 2:
        text += " from worst to best"
    groups = group_indistinguishable_cells(cells_at_depth)
    if any(len(group) == len(cells_at_depth) for group in groups):
        return f"{text}, {worst_to_best.inconclusive_reason}."
    return ". ".join([text, *map(describe_indistinguishable_arms, groups)]) + "."


def group_indistinguishable_cells(cells_at_depth: list[StudyCell]) -> list[list[StudyCell]]:
    """Group cells of neighboring test errors if no two cells of a group differ significantly.

    `cells_at_depth` must be sorted by test error.  Groups of one cell are omitted.
    """
    groups = []
    start = 0
    for end in range(1, len(cells_at_depth) + 1):
        group = cells_at_depth[start:end]
        if end == len(cells_at_depth) or any(
            CellComparison(cell, cells_at_depth[end], "test").is_significant for cell in group
        ):
            if len(group) > 1:
                groups.append(group)
            start = end
    return groups


def describe_indistinguishable_arms(group: list[StudyCell]) -> str:
    """Name, in a sentence without its full stop, the arms that do not differ significantly."""
    arm_names = join_arm_names([cell.arm for cell in group])
    if CellComparison(group[0], group[-1], "test").min_seeds > 1:
        return f"The {arm_names} nets differ by no more than the spread over seeds"
    return f"The {arm_names} nets are too close to tell apart with one seed"


def describe_significance_threshold(cells: Sequence[StudyCell]) -> str:
    """Say how large a difference must be to count as significant with this number of seeds."""
    if all(cell.seeds == 1 for cell in cells):
        return (
            "Each network was trained with one seed, so the spread over seeds is unknown: "
            "differences below 1 point are called unclear, and larger ones may still be chance."
        )
    text = (
        f"Errors are means over {format_seed_range(cells)}. Two errors count as different "
        "if a t-test over seeds is significant at the 5 % level"
    )
    if all(cell.seeds >= MIN_WELCH_SEEDS for cell in cells):
        return f"{text}."
    return f"{text} and, with fewer than {MIN_WELCH_SEEDS} seeds, they are at least 1 point apart."

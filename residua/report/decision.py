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

from residua.report.compare import Change, harmless, largest_rise, listed, name, points, series, told
from residua.report.tables import SET_OUT, Cell

PART = 0.1  # of the rise of training error, below which the growth of a gap is not told


def trend(group: Sequence[Cell]) -> str:
    """One arm over depth: training error, then what test error adds to it, and what the two make of it."""
    train = largest_rise(group, "train")
    if train.clear:
        test = largest_rise(group, "test")
        test = test if test.clear else Change(train.start, train.end, "test")
        gap = Change(test.start, test.end, "gap")
        steadily = all(b.fit >= a.fit for a, b in pairwise(group))
        text = f"training error rises with depth{'' if steadily else ', though not steadily'}: {series(group, 'train')}. "
        if test.rises and gap.rises and gap.rise > train.rise:
            return f"{text}Test error rises more, {test.words}: degradation, a failure to optimise, and over-fitting as well."
        if test.rises:
            grows = gap.rises and gap.rise > PART * train.rise
            also = f"; the gap to training error grows too, {gap.words}." if grows else ", not over-fitting."
            return f"{text}Test error rises too, {test.words}: degradation, a failure to optimise{also}"
        if test.falls:
            return f"{text}Test error falls, {test.words}: a worse fit of the training images, at no cost on new ones."
        return f"{text}Test error goes {test.words}: {points(test)}, {test.doubt}."
    whole = Change(group[0], group[-1], "train")
    if whole.falls:
        text = f"training error falls with depth: {series(group, 'train')}"
    else:
        text = f"training error does not clearly change with depth: {series(group, 'train')}, {whole.doubt}"
    rise, test = largest_rise(group, "test"), Change(group[0], group[-1], "test")
    if rise.clear:
        gap = Change(rise.start, rise.end, "gap")
        text = f"{text}. Test error rises, {rise.words}, and the gap to training error {gap.words}"
        if gap.rises and harmless(group):
            return f"{text}: over-fitting, not a failure to optimise."
        text = text if gap.rises else f"{text}, {gap.doubt}"
        return f"{text}: over-fitting or a failure to optimise, these seeds cannot tell."
    if test.falls:
        return f"{text}. Test error falls, {test.words}: depth helps."
    return f"{text}. Test error goes {test.words}: {points(test)}, {test.doubt}."


def slow_starts(arms: dict[str, list[Cell]], classes: int) -> list[str]:
    """Which arms begin to learn later when deeper, and which do not at the same depth; nothing where none does."""
    measured = {arm: [cell for cell in group if cell.set_out_step is not None] for arm, group in arms.items()}
    slow = {arm: group for arm, group in measured.items() if len(group) > 1 and largest_rise(group, "start").clear}
    if not slow:
        return []
    below, every = f"{100 * SET_OUT * (1 - 1 / classes):.0f} %", max(group[0].line_every or 1 for group in slow.values())
    told = "; ".join(series(group, "start") + (f" ({name(arm)})" if len(slow) > 1 else "") for arm, group in slow.items())
    text = (
        f"Slow start: deeper {listed([name(arm) for arm in slow])} nets need more steps until their training error is below {below}"
    )
    return [" ".join([f"{text}: {told}, read every {every} steps.", *cured(slow, measured)])]


def cured(slow: dict[str, list[Cell]], measured: dict[str, list[Cell]]) -> list[str]:
    """At the depth where the slow arms are slowest: the arms that are not, and end with half of the error, and what they need."""
    worst = max((largest_rise(group, "start").end for group in slow.values()), key=lambda cell: (cell.depth, cell.set_out_step))
    others = [cell for arm, group in measured.items() if arm not in slow for cell in group if cell.depth == worst.depth]
    better = [cell for cell in others if cell.fit < worst.fit / 2 and Change(cell, worst, "train").rises]
    quick = [cell for cell in better if Change(cell, worst, "start").rises]
    if not quick:
        return []
    first, *more = quick
    found = listed(
        [f"the {name(first.arm)} net needs {told(first, 'start')}", *(f"the {name(c.arm)} one {told(c, 'start')}" for c in more)]
    )
    return [f"At {worst.depth} layers {found}: what they change cures it."]


def smaller_gaps(arms: dict[str, list[Cell]]) -> list[str]:
    """For each arm that over-fits when deeper: the arms whose gap is smaller at that depth, and that fit the images as well."""
    lines = []
    for arm, group in arms.items():
        rise = largest_rise(group, "gap")
        if len(group) < 2 or not rise.clear or largest_rise(group, "train").clear:
            continue
        others = [cell for cells in arms.values() for cell in cells if cell.depth == rise.end.depth and cell.arm != arm]
        better = [cell for cell in others if Change(cell, rise.end, "gap").rises and not Change(rise.end, cell, "train").rises]
        if better:
            found = listed([f"{told(cell, 'gap')} in the {name(cell.arm)} one" for cell in better])
            text = f"Over-fitting: the gap between test and training error of {name(arm)} nets grows {rise.words}"
            lines.append(f"{text}; at {rise.end.depth} layers it is {found}.")
    return lines

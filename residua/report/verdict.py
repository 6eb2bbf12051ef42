"""What a study's numbers say, in plain words: every sentence follows from the cells."""

from collections.abc import Sequence

from residua.report.compare import (
    FEW,
    Change,
    at_chance,
    by_arm,
    capital,
    harmless,
    largest_rise,
    listed,
    name,
    percent,
    points,
    series,
)  # fmt: skip
from residua.report.decision import slow_starts, smaller_gaps, trend
from residua.report.tables import Cell

SLIGHT = 0.02  # a smaller rise is told, and called slight


def verdict(cells: Sequence[Cell], classes: int) -> list[str]:
    """A sentence or two a line: the answer first, then each arm over depth, then arms at equal depth, then doubts."""
    if len(cells) == 1:
        return [alone(cells[0], classes)]
    arms = by_arm(cells)
    lines = [answer(arms, classes)]
    lines += [over_depths(arm, group, classes) for arm, group in arms.items() if len(group) > 1]
    lines += slow_starts(arms, classes)
    lines += smaller_gaps(arms)
    lines += side_by_side(cells)
    return [*lines, doubts(cells)]


def alone(cell: Cell, classes: int) -> str:
    text = f"One network was trained, so there is nothing to compare: the {cell.depth}-layer {name(cell.arm)} net gets "
    text += f"{percent(cell.test_error)} test error and {percent(cell.fit)} training error"
    return text + (f", which is chance among {classes} classes." if at_chance(cell, classes) else ".")


def answer(arms: dict[str, list[Cell]], classes: int) -> str:
    """The question's answer: which arms train as well when deeper, or, at one depth, how they compare."""
    several = {arm: group for arm, group in arms.items() if len(group) > 1}
    if not several and len({group[0].depth for group in arms.values()}) > 1:
        return "Each family was trained at one depth only, so nothing can be said about depth."
    if not several:
        return best_and_worst([group[0] for group in arms.values()])
    stuck = [arm for arm, group in several.items() if all(at_chance(cell, classes) for cell in group)]
    worse = [arm for arm, group in several.items() if arm not in stuck and largest_rise(group, "train").clear]
    well = [arm for arm in several if arm not in (*stuck, *worse) and harmless(several[arm])]
    unclear = [arm for arm in several if arm not in (*stuck, *worse, *well)]
    parts = []
    for arm in worse:
        rise = largest_rise(several[arm], "train")
        slightly = "slightly " if rise.rise < SLIGHT else ""
        parts.append(f"Deeper {name(arm)} nets train {slightly}worse: training error rises {rise.words}.")
    if well:
        other = ", unlike them" if worse else ""
        parts.append(f"Deeper {listed([name(arm) for arm in well])} nets do not train worse{other}.")
    if unclear:
        parts.append(f"Whether deeper {listed([name(arm) for arm in unclear])} nets train worse, these seeds cannot tell.")
    if stuck:
        parts.append(f"At every depth, {listed([name(arm) for arm in stuck])} nets do no better than guessing.")
    return " ".join(parts)


def best_and_worst(cells: Sequence[Cell]) -> str:
    """Of arms at one depth, those of the lowest and the highest test error, and whether seeds can tell them apart."""
    best, worst = (choose(cells, key=lambda cell: cell.test_error) for choose in (min, max))
    whole = Change(best, worst, "test")
    text = f"At {best.depth} layers the {name(best.arm)} net does best, {percent(best.test_error)} test error, "
    text += f"and the {name(worst.arm)} one worst, {percent(worst.test_error)}"
    return f"{text}." if whole.clear else f"{text}: {whole.doubt}."


def over_depths(arm: str, group: list[Cell], classes: int) -> str:
    """One arm: training error over depth, then what test error adds to it, then which depths are at chance."""
    lost = [cell for cell in group if at_chance(cell, classes)]
    text = f"{capital(name(arm))}: "
    guess = f"guessing among {classes} classes gives {percent(1 - 1 / classes)}"
    if len(lost) == len(group):
        return f"{text}every depth is at chance, {series(group, 'test')} test error, where {guess}: nothing was learned to compare."
    text += trend(group)
    if lost:
        text += f" At {listed([str(cell.depth) for cell in lost])} layers it is at chance: {guess}."
    return text


def side_by_side(cells: Sequence[Cell]) -> list[str]:
    """At each depth that several arms share: their test errors, from worst to best."""
    lines = []
    for depth in sorted({cell.depth for cell in cells}):
        group = sorted((cell for cell in cells if cell.depth == depth), key=lambda cell: -cell.test_error)
        if len(group) > 1:
            lines.append(compared(depth, group))
    return lines


def compared(depth: int, group: list[Cell]) -> str:
    first, *others = group
    text = f"At {depth} layers the {name(first.arm)} net gets {percent(first.test_error)} test error, "
    text += listed([f"the {name(cell.arm)} one {percent(cell.test_error)}" for cell in others])
    whole = Change(first, group[-1], "test")
    text += f": {points(whole)}" + (" from worst to best" if len(group) > 2 else "")
    close = alike(group)
    if any(len(names) == len(group) for names, _ in close):
        return f"{text}, {whole.doubt}."
    return ". ".join([text, *(f"The {listed(names)} nets are {doubt}" for names, doubt in close)]) + "."


def alike(group: list[Cell]) -> list[tuple[list[str], str]]:
    """Names of neighbours in order of test error of which no two can be told apart, and why."""
    found = []
    start = 0
    for end in range(1, len(group) + 1):
        if end == len(group) or any(Change(cell, group[end], "test").clear for cell in group[start:end]):
            if end - start > 1:
                doubt = Change(group[start], group[end - 1], "test").doubt
                found.append(([name(cell.arm) for cell in group[start:end]], doubt))
            start = end
    return found


def doubts(cells: Sequence[Cell]) -> str:
    """How far the numbers can be trusted."""
    fewest, most = min(cell.seeds for cell in cells), max(cell.seeds for cell in cells)
    if most == 1:
        return "Each network was trained with one seed: differences below 1 point cannot be told apart from chance."
    text = f"Errors are means over {fewest if fewest == most else f'{fewest} to {most}'} seeds; "
    text += "two errors differ when a t-test over seeds says so at the 5 % level"
    return text + (", and by at least 1 point: so few seeds cannot tell more." if fewest < FEW else ".")

"""What a study's numbers say, in plain words: every sentence follows from the cells.

A rising *training* error is a failure to optimise: degradation (He et al. 2015, section 1).  A rising test error beside a
training error that does not rise is over-fitting.  Two errors differ when a t-test of their means over seeds says so
at the 5 % level, and by a whole point at least where fewer than three seeds were run (our choice).
"""

from dataclasses import dataclass
from itertools import combinations, pairwise
from math import sqrt
from typing import Literal

from residua.report.tables import Cell

Split = Literal["train", "test"]

LEVEL = 0.05  # of the two-sided t-test between means over seeds
FEW = 3  # with fewer seeds the spread is itself a guess, and
FEW_SEEDS = 0.01  # a smaller difference says nothing
SLIGHT = 0.02  # a smaller rise is told, and called slight
LEAST = 0.001  # a smaller one is never called a difference: tables print tenths of a point
NAMES = {
    "plain": "plain",
    "resnet": "residual",
    "preresnet": "pre-activation",
    "imagenet resnet": "ImageNet residual",
    "highway": "highway",
}


@dataclass(frozen=True, slots=True)
class Change:
    """An error of one cell and of another, in [0, 1], and the smallest difference that means something."""

    start: Cell
    end: Cell
    split: Split

    @property
    def rise(self) -> float:
        return error(self.end, self.split) - error(self.start, self.split)

    @property
    def spreads(self) -> list[tuple[int, float]]:
        """Degrees of freedom and sd of each of the two that has repeated seeds."""
        pairs = [(cell.seeds - 1, getattr(cell, f"{self.split}_error_sd")) for cell in (self.start, self.end)]
        return [(freedom, sd) for freedom, sd in pairs if sd is not None]

    @property
    def threshold(self) -> float:
        if not self.spreads:
            return FEW_SEEDS
        from scipy.stats import t  # slow to import, and not needed for a single seed

        least = LEAST if min(self.start.seeds, self.end.seeds) >= FEW else FEW_SEEDS
        freedom = sum(n for n, _ in self.spreads)
        pooled = sqrt(sum(n * sd**2 for n, sd in self.spreads) / freedom)
        return max(float(t.ppf(1 - LEVEL / 2, freedom)) * pooled * sqrt(1 / self.start.seeds + 1 / self.end.seeds), least)

    @property
    def clear(self) -> bool:
        return abs(self.rise) >= self.threshold - 1e-12

    @property
    def doubt(self) -> str:
        return "within the spread of seeds" if self.spreads else "too close to tell apart with one seed"

    @property
    def words(self) -> str:
        return f"from {at(self.start, self.split)} layers to {at(self.end, self.split)}"


def verdict(cells: list[Cell], classes: int) -> list[str]:
    """A sentence or two a line: the answer first, then each family over depth, then families at equal depth, then doubts."""
    families: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.depth):
        families.setdefault(cell.family, []).append(cell)
    families = {family: families[family] for family in dict.fromkeys(cell.family for cell in cells)}
    if len(cells) == 1:
        return [alone(cells[0], classes)]
    lines = [answer(families, classes)]
    lines += [over_depths(family, group, classes) for family, group in families.items() if len(group) > 1]
    lines += side_by_side(cells)
    return [*lines, doubts(cells)]


def alone(cell: Cell, classes: int) -> str:
    text = f"One network was trained, so there is nothing to compare: the {cell.depth}-layer {name(cell.family)} net gets "
    text += f"{percent(cell.test_error)} test error and {percent(cell.train_error)} training error"
    return text + (f", which is chance among {classes} classes." if at_chance(cell, classes) else ".")


def answer(families: dict[str, list[Cell]], classes: int) -> str:
    """The question's answer: which families train as well when deeper."""
    several = {family: group for family, group in families.items() if len(group) > 1}
    if not several:
        return "Each family was trained at one depth only, so nothing can be said about depth."
    stuck = [family for family, group in several.items() if all(at_chance(cell, classes) for cell in group)]
    worse = [family for family, group in several.items() if family not in stuck and largest_rise(group, "train").clear]
    well = [family for family in several if family not in (*stuck, *worse)]
    parts = []
    for family in worse:
        rise = largest_rise(several[family], "train")
        slightly = "slightly " if rise.rise < SLIGHT else ""
        parts.append(f"Deeper {name(family)} nets train {slightly}worse: training error rises {rise.words}.")
    if well:
        other = ", unlike them" if worse else ""
        parts.append(f"Deeper {listed([name(family) for family in well])} nets do not train worse{other}.")
    if stuck:
        parts.append(f"At every depth, {listed([name(family) for family in stuck])} nets do no better than guessing.")
    return " ".join(parts)


def over_depths(family: str, group: list[Cell], classes: int) -> str:
    """One family: training error over depth, then what test error adds to it, then which depths are at chance."""
    lost = [cell for cell in group if at_chance(cell, classes)]
    text = f"{capital(name(family))}: "
    guess = f"guessing among {classes} classes gives {percent(1 - 1 / classes)}"
    if len(lost) == len(group):
        return f"{text}every depth is at chance, {series(group, 'test')} test error, where {guess}: nothing was learned to compare."
    text += trend(group)
    if lost:
        text += f" At {listed([str(cell.depth) for cell in lost])} layers it is at chance: {guess}."
    return text


def trend(group: list[Cell]) -> str:
    train = largest_rise(group, "train")
    if train.clear:
        test = Change(train.start, train.end, "test")
        steadily = all(b.train_error >= a.train_error for a, b in pairwise(group))
        text = f"training error rises with depth{'' if steadily else ', though not steadily'}: {series(group, 'train')}. "
        if test.clear and test.rise > 0:
            return f"{text}Test error rises too, {test.words}: degradation, a failure to optimise, not over-fitting."
        if test.clear:
            return f"{text}Test error falls, {test.words}: a worse fit of the training images, at no cost on new ones."
        return f"{text}Test error goes {test.words}: {points(test)}, {test.doubt}."
    whole = Change(group[0], group[-1], "train")
    if whole.clear:
        text = f"training error falls with depth: {series(group, 'train')}"
    else:
        text = f"training error does not clearly change with depth: {series(group, 'train')}, {whole.doubt}"
    rise, test = largest_rise(group, "test"), Change(group[0], group[-1], "test")
    if rise.clear:
        return f"{text}. Test error rises, {rise.words}: over-fitting, not a failure to optimise."
    if test.clear:
        return f"{text}. Test error falls, {test.words}: depth helps."
    return f"{text}. Test error goes {test.words}: {points(test)}, {test.doubt}."


def side_by_side(cells: list[Cell]) -> list[str]:
    """At each depth that several families share: their test errors, from worst to best."""
    lines = []
    for depth in sorted({cell.depth for cell in cells}):
        group = sorted((cell for cell in cells if cell.depth == depth), key=lambda cell: -cell.test_error)
        if len(group) > 1:
            lines.append(compared(depth, group))
    return lines


def compared(depth: int, group: list[Cell]) -> str:
    first, *others = group
    text = f"At {depth} layers the {name(first.family)} net gets {percent(first.test_error)} test error, "
    text += listed([f"the {name(cell.family)} one {percent(cell.test_error)}" for cell in others])
    whole = Change(first, group[-1], "test")
    text += f": {points(whole)}" + (" from worst to best" if len(group) > 2 else "")
    if not whole.clear:
        return f"{text}, {whole.doubt}."
    return ". ".join([text, *(f"The {listed(close)} nets are {doubt}" for close, doubt in alike(group))]) + "."


def alike(group: list[Cell]) -> list[tuple[list[str], str]]:
    """Names of neighbours in order of test error that cannot be told apart, and why."""
    found = []
    start = 0
    for end in range(1, len(group) + 1):
        if end == len(group) or Change(group[start], group[end], "test").clear:
            if end - start > 1:
                doubt = Change(group[start], group[end - 1], "test").doubt
                found.append(([name(cell.family) for cell in group[start:end]], doubt))
            start = end
    return found


def largest_rise(group: list[Cell], split: Split) -> Change:
    """The largest rise from a shallower net to a deeper one; not `clear` where there is none."""
    changes = [Change(a, b, split) for a, b in combinations(group, 2)]
    rises = [change for change in changes if change.clear and change.rise > 0]
    flat = Change(group[0], group[0], split)
    return max(rises, key=lambda change: change.rise, default=flat)


def at_chance(cell: Cell, classes: int) -> bool:
    """Whether the test error is at least nine tenths of what guessing gives."""
    return classes > 1 and cell.test_error >= 0.9 * (1 - 1 / classes)


def error(cell: Cell, split: Split) -> float:
    return cell.train_error if split == "train" else cell.test_error


def doubts(cells: list[Cell]) -> str:
    """How far the numbers can be trusted."""
    fewest, most = min(cell.seeds for cell in cells), max(cell.seeds for cell in cells)
    if most == 1:
        return "Each network was trained with one seed: differences below 1 point cannot be told apart from chance."
    text = f"Errors are means over {fewest if fewest == most else f'{fewest} to {most}'} seeds; "
    text += "two errors differ when a t-test over seeds says so at the 5 % level"
    return text + (", and by at least 1 point: so few seeds cannot tell more." if fewest < FEW else ".")


def series(group: list[Cell], split: Split) -> str:
    """`2.6 % at 20 layers, 71.0 % at 56 and 89.9 % at 110`."""
    first, *others = group
    return listed([f"{at(first, split)} layers", *(at(cell, split) for cell in others)])


def at(cell: Cell, split: Split) -> str:
    return f"{percent(error(cell, split))} at {cell.depth}"


def percent(share: float) -> str:
    """A share in [0, 1] to a tenth of a percent."""
    return "below 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def points(change: Change) -> str:
    """The difference of the two errors as they are printed, so that a reader can subtract them."""
    start, end = (round(100 * error(cell, change.split), 1) for cell in (change.start, change.end))
    return f"{abs(end - start):.1f} points"


def name(family: str) -> str:
    kind, comma, changes = family.partition(",")
    return NAMES.get(kind, kind) + (f" ({changes.replace(',', ', ')})" if comma else "")


def listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]

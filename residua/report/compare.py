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

from residua.report.tables import Cell

What = Literal["train", "test", "gap", "start"]
"""Training error, test error, test minus training error, and the steps until a run has begun to learn."""

LEVEL = 0.05  # of the two-sided t-test between means over seeds
HARMLESS = 0.05  # a rise of an error that does not come near it, with all that chance may hide, is none; our choice
FEW = 3  # with fewer seeds the spread is itself a guess, and
FEW_SEEDS = 0.01  # a smaller difference says nothing
LEAST = 0.001  # a smaller one is never called a difference: tables print tenths of a point
NAMES = {
    "plain": "plain",
    "resnet": "residual",
    "preresnet": "pre-activation",
    "imagenet resnet": "ImageNet residual",
    "highway": "highway",
}


def value(cell: Cell, what: What) -> float:
    """That number of a cell; steps for a start, and a share in [0, 1] otherwise."""
    match what:
        case "train":
            return cell.fit
        case "test":
            return cell.test_error
        case "gap":
            return cell.gap if cell.gap is not None else cell.test_error - cell.fit
        case "start":
            return cell.set_out_step or 0.0


def sd(cell: Cell, what: What) -> float | None:
    return {"train": cell.fit_sd, "test": cell.test_error_sd, "gap": cell.gap_sd, "start": cell.set_out_step_sd}[what]


@dataclass(frozen=True, slots=True)
class Change:
    """A number of one cell and of another, and the smallest difference that means something, chosen `among` so many."""

    start: Cell
    end: Cell
    what: What
    among: int = 1

    @property
    def rise(self) -> float:
        return value(self.end, self.what) - value(self.start, self.what)

    @property
    def seeds(self) -> int:
        """Of the one that has fewer."""
        return min(self.start.seeds, self.end.seeds)

    @property
    def least(self) -> float:
        """What is no difference whatever the spread: a start is known to a line of the record, and twice that for few seeds."""
        if self.what == "start":
            return (2 if self.seeds < FEW else 1) * max(self.start.line_every or 1, self.end.line_every or 1)
        return FEW_SEEDS if self.seeds < FEW else LEAST

    @property
    def threshold(self) -> float:
        spreads = [(cell.seeds, spread) for cell in (self.start, self.end) if (spread := sd(cell, self.what)) is not None]
        if not spreads:
            return self.least
        from scipy.stats import t  # slow to import, and not needed for a single seed

        if self.seeds < FEW:
            freedom: float = sum(n - 1 for n, _ in spreads)
            pooled = sum((n - 1) * spread**2 for n, spread in spreads) / freedom
            variance = pooled * (1 / self.start.seeds + 1 / self.end.seeds)
        else:
            parts = [(n - 1, spread**2 / n) for n, spread in spreads]
            variance = sum(part for _, part in parts)
            freedom = variance**2 / sum(part**2 / n for n, part in parts) if variance else 1
        tests = self.among if abs(self.rise) < HARMLESS else 1
        return max(float(t.ppf(1 - LEVEL / (2 * tests), freedom)) * sqrt(variance), self.least)

    @property
    def clear(self) -> bool:
        return abs(self.rise) >= self.threshold - 1e-12

    @property
    def rises(self) -> bool:
        return self.clear and self.rise > 0

    @property
    def falls(self) -> bool:
        return self.clear and self.rise < 0

    @property
    def doubt(self) -> str:
        return "within the spread of seeds" if self.seeds > 1 else "too close to tell apart with one seed"

    @property
    def words(self) -> str:
        return f"from {at(self.start, self.what)} layers to {at(self.end, self.what)}"


def largest_rise(group: Sequence[Cell], what: What) -> Change:
    """The largest rise from a shallower net to a deeper one; not `clear` where there is none."""
    pairs = list(combinations(group, 2))
    changes = [Change(a, b, what, among=len(pairs)) for a, b in pairs]
    flat = Change(group[0], group[0], what)
    return max((change for change in changes if change.rises), key=lambda change: change.rise, default=flat)


def harmless(group: Sequence[Cell]) -> bool:
    """Whether, as far as seeds tell, no deeper net's training error is higher by HARMLESS; or the deepest one's is lower."""
    if Change(group[0], group[-1], "train").falls:
        return True
    changes = [Change(a, b, "train") for a, b in combinations(group, 2)]
    return all(change.rise + change.threshold < HARMLESS for change in changes)


def at_chance(cell: Cell, classes: int) -> bool:
    """Whether the test error, less its spread, is at least nine tenths of what guessing gives."""
    return classes > 1 and cell.test_error - (cell.test_error_sd or 0) >= 0.9 * (1 - 1 / classes)


def by_arm(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each arm by depth; arms in the order in which they come."""
    arms: dict[str, list[Cell]] = {cell.arm: [] for cell in cells}
    for cell in sorted(cells, key=lambda cell: cell.depth):
        arms[cell.arm].append(cell)
    return arms


def series(group: Sequence[Cell], what: What) -> str:
    """`2.6 % at 20 layers, 71.0 % at 56 and 89.9 % at 110`."""
    first, *others = group
    return listed([f"{at(first, what)} layers", *(at(cell, what) for cell in others)])


def at(cell: Cell, what: What) -> str:
    return f"{told(cell, what)} at {cell.depth}"


def told(cell: Cell, what: What) -> str:
    """The number in words: percent, points, or steps."""
    if what == "gap":
        return f"{100 * value(cell, what):.1f} points"
    if what != "start":
        return percent(value(cell, what))
    if cell.set_out == 0:
        return f"more than {cell.steps:,}"
    return ("over " if cell.set_out != cell.seeds else "") + f"{value(cell, what):,.0f}"


def percent(share: float) -> str:
    """A share in [0, 1] to a tenth of a percent."""
    return "below 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def points(change: Change) -> str:
    """The difference of the two errors as they are printed, so that a reader can subtract them."""
    start, end = (round(100 * value(cell, change.what), 1) for cell in (change.start, change.end))
    return f"{abs(end - start):.1f} points"


def name(arm: str) -> str:
    """An arm in words: a family's name in the papers, with what is changed in it; a label of its own as it is."""
    kind, comma, changes = arm.partition(",")
    if not all("=" in change for change in changes.split(",") if comma):
        return arm
    return NAMES.get(kind, kind) + (f" ({changes.replace(',', ', ')})" if comma else "")


def listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]

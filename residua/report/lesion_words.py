"""What a lesion study's numbers say, in plain words and in lines for a terminal."""

from collections.abc import Iterable
from itertools import groupby
from statistics import median
from textwrap import fill

from residua.spec.lesion import Lesions, Net, binomial, middle

SMALL = 0.01  # a rise that hardly counts: our choice, one point
WIDTH = 100  # columns of a terminal
KEPT_TOGETHER = "\N{NO-BREAK SPACE}"


def verdict(found: Lesions) -> list[str]:
    """A sentence or two a line: first what the loss of one unit costs, then each net."""
    lead = "; ".join(loss(net) for net in found.nets)
    return [f"Without one of its units {lead}.", *(finding for net in found.nets for finding in findings(net))]


def loss(net: Net) -> str:
    return f"{net.label} is wrong about {points(net.typical)} % of the images in the median, and about {points(net.error)} % whole"


def findings(net: Net) -> list[str]:
    """Single deletions, deletions at random, swaps, paths: a line each, where there are any."""
    lines = [" ".join(filter(None, (single(net), shapes(net), left_out(net))))]
    if few := [f"{told(many.error, many.error_sd)} without {many.deleted}" for many in net.thinned if many.deleted in (2, 4, 8)]:
        lines.append(f"{net.label}, several units deleted at random: {', '.join(few)}.")
    swaps = [many for many in net.swapped if many.swaps in (1, 4)]
    if swaps:
        words = [f"{told(many.error, many.error_sd)} after {counted(many.swaps, 'swap')} (tau {many.tau:.2f})" for many in swaps]
        lines.append(f"{net.label}, its units in another order: {', '.join(words)}.")
    if net.paths:
        low, high = middle(net.paths)
        share = 100 * sum(binomial(len(net.units))[low : high + 1])
        lines.append(
            f"{net.label}: nine tenths of the gradient come by paths through {low} to {high} of the {len(net.units)} units; "
            f"{share:.2g} % of all paths are of these lengths."
        )
    return lines


def single(net: Net) -> str:
    small = sum(error - net.error <= SMALL for error in net.errors)
    return (
        f"{net.label}: {small} of {counted(len(net.errors), 'deletion')} {'cost' if small != 1 else 'costs'} at most one point; "
        f"the worst, that of {net.worst.name}, leaves an error of {points(net.worst.error or 0)} %."
    )


def shapes(net: Net) -> str:
    changed = changing(net)
    return f"Of those that change the shape: {points(median(changed))} % in the median." if changed else ""


def left_out(net: Net) -> str:
    count = len(net.units) - len(net.errors)
    which = "its other unit changes the shape, and nothing can stand in for it" if count == 1 else (
        f"its other {count} units change the shape, and nothing can stand in for them"
    )  # fmt: skip
    return f"{which[0].upper()}{which[1:]}." if count else ""


def changing(net: Net) -> list[float]:
    """The errors without each of the units that change the shape."""
    return [unit.error for unit in net.units if unit.changes and unit.error is not None]


def lines(found: Lesions) -> list[str]:
    """For a terminal: the errors in percent without each unit, stage by stage, after random choices, and the verdict."""
    told_lines = [f"{found.images:,} {found.split} images of {found.dataset}; errors in percent, * where a unit changes the shape"]
    for net in found.nets:
        told_lines += ["", f"{net.label}: {points(net.error)} whole; without one unit:"]
        for stage, units in groupby(net.units, key=lambda unit: unit.stage):
            cells = [("–" if u.error is None else points(u.error)) + ("*" if u.changes else "") for u in units]
            told_lines.append(wrapped(f"stage{stage}", " ".join(cells)))
        told_lines.append(wrapped("deleted", row((many.deleted, many.error, many.error_sd) for many in net.thinned)))
        if net.swapped:
            told_lines.append(wrapped("swaps", row((many.swaps, many.error, many.error_sd) for many in net.swapped)))
    return [*told_lines, "", *verdict(found)]


def row(cells: Iterable[tuple[int, float, float | None]]) -> str:
    together = (f"{count}: {told(error, sd)}".removesuffix(" %").replace(" ", KEPT_TOGETHER) for count, error, sd in cells)
    return ", ".join(together)


def wrapped(name: str, text: str) -> str:
    return fill(text, WIDTH, initial_indent=f"  {name:9}", subsequent_indent=" " * 11).replace(KEPT_TOGETHER, " ")


def told(error: float, sd: float | None) -> str:
    """`17.3 ± 2.1 %`."""
    return points(error) + (f" ± {points(sd)} %" if sd is not None else " %")


def points(error: float) -> str:
    """In percent, without the sign."""
    return f"{100 * error:.1f}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"

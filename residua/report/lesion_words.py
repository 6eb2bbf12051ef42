"""What a lesion study's numbers say, in plain words and in lines for a terminal."""

from collections.abc import Iterable
from itertools import groupby
from math import sqrt
from statistics import median
from textwrap import fill

from residua.spec.lesion import Lesions, Net, binomial, middle

SMALL = 0.01  # a rise that hardly counts: our choice, one point
WIDTH = 100  # columns of a terminal
KEPT_TOGETHER = "\N{NO-BREAK SPACE}"


def verdict(found: Lesions) -> list[str]:
    """A sentence or two a line: first what the loss of one unit costs, then each net, then how sure that is."""
    lead = ", ".join(loss(net, i == 0) for i, net in enumerate(found.nets))
    told_of_nets = [f"{net.label}: {finding}" for net in found.nets for finding in findings(net)]
    first = found.nets[0].error
    return [
        f"Without one of its units, {lead}.",
        *told_of_nets,
        f"An error of {points(first)} % of {found.images:,} images has a standard error of "
        f"{points(sqrt(first * (1 - first) / found.images))} points.",
    ]


def loss(net: Net, first: bool) -> str:
    wrong, of_what = ("is wrong about", " of the images") if first else ("about", "")
    return f"{net.label} {wrong} {points(net.typical)} %{of_what} in the median ({points(net.error)} % whole)"


def findings(net: Net) -> list[str]:
    """Of single deletions, deletions at random, swaps, paths, where there are any."""
    told_first = " ".join(filter(None, (single(net), shapes(net), left_out(net))))
    several = [f"{told(many.error, many.error_sd)} without {many.deleted}" for many in net.thinned if many.deleted in (2, 4, 8)]
    swaps = [
        f"{told(many.error, many.error_sd)} after {counted(many.swaps, 'swap')} (tau {many.tau:.2f})"
        for many in net.swapped
        if many.swaps in (1, 4)
    ]
    return [
        told_first,
        *([f"with several units deleted at random, {', '.join(several)}."] if several else []),
        *([f"with units in each other's places, {', '.join(swaps)}."] if swaps else []),
        *([gradient(net)] if net.paths else []),
    ]


def single(net: Net) -> str:
    small, worst = sum(error - net.error <= SMALL + 1e-9 for error in net.errors), net.worst
    cost = "costs" if small == 1 else "cost"
    return (
        f"{small} of {counted(len(net.errors), 'deletion')} {cost} at most one point; "
        f"the worst, of {worst.name}, leaves {points(worst.error or 0)} %."
    )


def shapes(net: Net) -> str:
    changed = changing(net)
    return f"Without a unit that changes the shape: {points(median(changed))} % in the median." if changed else ""


def left_out(net: Net) -> str:
    count = len(net.units) - len(net.errors)
    if not count:
        return ""
    change, them = ("change", "them") if count > 1 else ("changes", "it")
    return f"{counted(count, 'unit')} {change} the shape, and nothing can stand in for {them}."


def gradient(net: Net) -> str:
    (low, high), units = middle(net.paths), len(net.units)
    share = 100 * sum(binomial(units)[low : high + 1])
    of_all = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    return (
        f"nine tenths of the gradient come by paths through {low} to {high} of the {units} units; "
        f"{of_all} % of all paths are of these lengths."
    )


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

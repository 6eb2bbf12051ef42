"""The three figures of a lesion study, as SVG text: each unit deleted, many units deleted or swapped, paths by length.

Each point tells its value: it stands in a group of the class `tip` with a title.  Errors in [0, 1] come in, percent is drawn.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from math import log2
from typing import TYPE_CHECKING

from residua.report.figures import (
    GRID,
    INK,
    QUIET,
    WIDE,
    blank,
    family_ink,
    key,
    saved,
    scale_errors,
    styled,
)  # fmt: skip
from residua.report.lesion_words import told
from residua.spec.lesion import Deleted, Lesions, Net, binomial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Point = tuple[float, float, float | None, str]  # where, an error, its sd, what a reader is told there


def units_figure(found: Lesions, width: float = WIDE) -> str:
    """SVG `width` inches wide: the error without each unit, a panel a net; hollow where the unit changes the shape."""
    side_by_side = width == WIDE and len(found.nets) <= 3
    counts = [len(net.units) for net in found.nets]
    shares = [max(count, max(counts) / 2.5) for count in counts]
    rows, columns = (1, len(counts)) if side_by_side else (len(counts), 1)
    errors = [100 * error for net in found.nets for error in (net.error, *net.errors)]
    with styled(f"units {width}"):
        figure = blank(width, 3.4 if side_by_side else 2.5 * rows + 0.5)
        bottom, top = margins(figure, 0.45, 0.62)
        grid = figure.add_gridspec(
            rows, columns, left=0.62 / width, right=1 - 0.12 / width, wspace=0.09, hspace=0.5,
            width_ratios=shares if side_by_side else None, bottom=bottom, top=top,
        )  # fmt: skip
        for i, (net, ink) in enumerate(zip(found.nets, inks_of(found.nets), strict=True)):
            axes = figure.add_subplot(grid[(0, i) if side_by_side else (i, 0)], sharey=figure.axes[0] if i else None)
            axes.set_title(net.label, loc="left", fontsize=9.5, fontweight="bold", color=ink)
            axes.set_xlim(-0.6, len(net.units) - 0.4)
            if i == 0:
                scale_errors(axes, errors, chance(found))
            axes.set_ylabel("error without the unit (%)" if i == 0 or not side_by_side else "")
            axes.tick_params(labelleft=i == 0 or not side_by_side)
            draw_units(axes, net, ink)
        marks = [marker("o", "keeps the shape"), marker("o", "changes it", hollow=True), key("--", "the whole net", 1.1)]
        if any(unit.error is None for net in found.nets for unit in net.units):
            marks.append(marker("x", "nothing can stand in"))
        figure.legend(handles=marks, loc="upper left", bbox_to_anchor=(0.5 / width, 1), ncols=4 if width == WIDE else 2,
                      columnspacing=1.2, handletextpad=0.5)  # fmt: skip
        return tipped(saved(figure))


def draw_units(axes: "Axes", net: Net, ink: str) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    small = len(net.units) > 120
    axes.axhline(100 * net.error, color=ink, lw=1.1, ls=(0, (4, 2)), zorder=1)
    for i, unit in enumerate(net.units):
        if unit.error is None:
            axes.plot(i, 100 * net.error, color=QUIET, marker="x", ms=5, ls="none", zorder=3)
            tip(axes, i, 100 * net.error, f"{unit.name}: nothing can stand in for it, as it changes the shape")
            continue
        error = 100 * unit.error
        axes.plot([i, i], [100 * net.error, error], color=ink, lw=0.6 if small else 1.4, alpha=0.55, solid_capstyle="butt")
        face = "none" if unit.changes else ink
        axes.plot(i, error, color=ink, marker="o", ms=2.2 if small else 5, mfc=face, mew=1.3, ls="none", zorder=3, clip_on=False)
        tip(axes, i, error, f"without {unit.name}: {error:.1f} %")
    middles, first = [], 0
    for _, units in groupby(net.units, key=stage):
        count = len(list(units))
        middles.append(first + (count - 1) / 2)
        first += count
        if first < len(net.units):
            axes.axvline(first - 0.5, color=GRID, lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(FixedLocator(middles))
    axes.xaxis.set_minor_locator(NullLocator())
    roomy = len(net.units) > 4 * len(middles)
    axes.set_xticklabels([f"stage {s}" if roomy or s == 1 else str(s) for s, _ in enumerate(middles, 1)])
    axes.tick_params(axis="x", length=0)


def stage(unit: Deleted) -> int:
    return unit.stage


def many_figure(found: Lesions, width: float = WIDE) -> str:
    """SVG `width` inches wide: the error against the number of deletions at random, and against the number of swaps."""
    deletions = [
        [(place(0), 100 * net.error, None, f"{net.label}, whole: {100 * net.error:.1f} %")]
        + [
            (place(many.deleted), 100 * many.error, percent(many.error_sd),
             f"{net.label}, {many.deleted} of {many.deleted + many.kept} deleted: {told(many.error, many.error_sd)}")
            for many in net.thinned
        ]
        for net in found.nets
    ]  # fmt: skip
    swaps = [
        [(place(0), 100 * net.error, None, f"{net.label}, whole: {100 * net.error:.1f} %")]
        + [
            (place(many.swaps), 100 * many.error, percent(many.error_sd),
             f"{net.label}, {many.swaps} swaps (tau {many.tau:.2f}): {told(many.error, many.error_sd)}")
            for many in net.swapped
        ]
        for net in found.nets
    ]  # fmt: skip
    with styled(f"many {width}"):
        figure, panels = two_panels(width, 3.5)
        for axes, lines, label in zip(
            panels, (deletions, swaps), ("units deleted at random", "pairs of units swapped"), strict=True
        ):
            draw_points(axes, found, lines)
            axes.set_xlabel(label)
            counted(axes, lines)
        legend(figure, found.nets, width)
        return tipped(saved(figure))


def paths_figure(found: Lesions, width: float = WIDE) -> str:
    """SVG `width` inches wide: the error with k units kept, and the gradient's share by path length beside the paths' share."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    nets = [net for net in found.nets if net.paths]
    inks = [ink for net, ink in zip(found.nets, inks_of(found.nets), strict=True) if net.paths]
    kept = [
        [(float(many.kept), 100 * many.error, percent(many.error_sd),
          f"{net.label}, {many.kept} units kept: {told(many.error, many.error_sd)}") for many in reversed(net.thinned)]
        + [(float(len(net.units)), 100 * net.error, None, f"{net.label}, whole: {100 * net.error:.1f} %")]
        for net in nets
    ]  # fmt: skip
    with styled(f"paths {width}"):
        figure, (left, right) = two_panels(width, 3.5)
        draw_points(left, found, kept, inks)
        left.set_xlabel("units kept: the longest path")
        for net, ink in zip(nets, inks, strict=True):
            lengths, shares = [path.units for path in net.paths], [100 * path.share for path in net.paths]
            right.fill_between(lengths, shares, color=ink, alpha=0.16, lw=0)
            right.plot(lengths, shares, color=ink, lw=1.8)
            right.plot(lengths, [100 * share for share in binomial(len(net.units))], color=ink, lw=1.2, ls=(0, (4, 2)))
            for length, share in zip(lengths, shares, strict=True):
                tip(right, length, share, f"{net.label}, paths of {length} units: {share:.2g} % of the gradient")
        right.set_xlabel("units on the path")
        right.set_ylabel("share (%)")
        right.set_ylim(bottom=0)
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        for axes in (left, right):
            axes.set_xlim(0, max(len(net.units) for net in nets))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.legend(loc="upper right", handles=[key("-", "of the gradient", 1.8), key("--", "of all paths", 1.2)])
        legend(figure, nets, width, inks)
        return tipped(saved(figure))


def draw_points(axes: "Axes", found: Lesions, lines: Sequence[Sequence[Point]], inks: Sequence[str] | None = None) -> None:
    """A line of points for each net, with bars of one sd; all panels share a scale."""
    errors = [100 * error for net in found.nets for error in (net.error, *net.errors, *(many.error for many in net.thinned))]
    scale_errors(axes, errors)
    for points, ink in zip(lines, inks or inks_of(found.nets), strict=True):
        where, heights = [x for x, *_ in points], [y for _, y, *_ in points]
        axes.plot(where, heights, color=ink, lw=1.6, marker="o", ms=4, clip_on=False)
        for x, y, sd, text in points:
            if sd is not None:
                axes.errorbar(x, y, ([min(sd, y)], [sd]), color=ink, elinewidth=1, capsize=2.5)
            tip(axes, x, y, text)
    axes.set_ylabel("error (%)")


def place(count: int) -> float:
    """Where a count stands on an axis of doublings that begins with 0."""
    return log2(count) + 1 if count else 0.0


def counted(axes: "Axes", lines: Sequence[Sequence[Point]]) -> None:
    """Ticks at 0, 1, 2, 4, ..."""
    from matplotlib.ticker import FixedLocator, NullLocator

    most = max(x for points in lines for x, *_ in points)
    ticks = [0, *(2**i for i in range(int(most)))]
    axes.set_xlim(-0.25, most + 0.25)
    axes.xaxis.set_major_locator(FixedLocator([place(count) for count in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{count:,}" for count in ticks])


def two_panels(width: float, height: float) -> "tuple[Figure, tuple[Axes, Axes]]":
    """Side by side at a desk, one above the other on a phone."""
    figure = blank(width, height if width == WIDE else 2 * height - 0.6)
    shape = (1, 2) if width == WIDE else (2, 1)
    bottom, top = margins(figure, 0.52, 0.4)
    left, right = 0.62 / width, 1 - 0.15 / width
    grid = figure.add_gridspec(*shape, left=left, right=right, bottom=bottom, top=top, wspace=0.26, hspace=0.32)
    return figure, (figure.add_subplot(grid[0]), figure.add_subplot(grid[1]))


def margins(figure: "Figure", below: float, above: float) -> tuple[float, float]:
    """Where panels begin and end that leave so many inches free."""
    return below / figure.get_figheight(), 1 - above / figure.get_figheight()


def legend(figure: "Figure", nets: Sequence[Net], width: float, inks: Sequence[str] | None = None) -> None:
    keys = [key("-", net.label, 1.8) for net in nets]
    for line, ink in zip(keys, inks or inks_of(nets), strict=True):
        line.set_color(ink)
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.5 / width, 1), ncols=3 if width == WIDE else 1)


def marker(shape: str, label: str, hollow: bool = False) -> "Line2D":
    line = key("none", label, marker=shape)
    line.set_markerfacecolor("none" if hollow else INK)
    return line


def tip(axes: "Axes", x: float, y: float, text: str) -> None:
    """An unseen mark, large enough to be met, that tells `text`."""
    axes.plot(x, y, marker="o", ms=11, color=INK, alpha=0, ls="none", gid=f"tip:{text}", zorder=5, clip_on=False)


def tipped(svg: str) -> str:
    """With the text of each `tip` as a title, which browsers show and readers read."""
    return re.sub(r'<g id="tip:([^"]*)">', r'<g class="tip"><title>\1</title>', svg)


def inks_of(nets: Sequence[Net]) -> list[str]:
    """Plain nets have the ink that plain nets have in a study, and residual nets the others."""
    taken, inks = 0, []
    for net in nets:
        taken += net.residual
        inks.append(family_ink(taken if net.residual else 0))
    return inks


def chance(found: Lesions) -> float:
    """The error of guessing, in percent."""
    return 100 * (1 - 1 / found.classes)


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share

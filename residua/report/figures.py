"""The two figures of a study, as SVG text: errors against depth, and errors over steps.

A figure is drawn once in fixed inks.  `inlined` names these by CSS variables, so that the page chooses them for light and
dark; `standalone` puts the figure on white.  Errors in [0, 1] come in, percent is drawn.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import pairwise
from math import asinh
from textwrap import fill
from typing import TYPE_CHECKING

from residua.report.compare import name
from residua.report.runs import Finished
from residua.report.tables import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDE, NARROW = 7.2, 3.9  # inches: for a desk, for a phone

INK, GRID, QUIET = "#101010", "#dcdcd8", "#6a6a68"
GROUND = {INK: "#e9e8e4", GRID: "#34373c", QUIET: "#9c9ea3"}
"""Text, grid and axes, and the same on dark."""

FAMILY_INKS = {
    "#c2410c": "#ff8f52", "#0f62a8": "#62b5f5", "#0b7a5a": "#45cfa4", "#a03c86": "#ea97cf", "#8a6500": "#e3b341",
    "#4c4f57": "#b4b7be",
}  # fmt: skip
"""An ink for each family in turn, and the same on dark; told apart by the colour-blind, and by marker."""

MARKERS = "osD^vP"
TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # percent

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that the layout is the same everywhere
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.4,
    "legend.borderaxespad": 0.2,
}


def depth_figure(cells: Sequence[Cell], classes: int, width: float = WIDE) -> str:
    """SVG `width` inches wide: final training error (dashed) and test error (solid), in percent, against depth; a line a family."""
    from matplotlib.ticker import FixedLocator, NullLocator

    families = list(dict.fromkeys(cell.arm for cell in cells))
    labels = [fill(name(family), 20) for family in families]
    depths = sorted({cell.depth for cell in cells})
    with styled(f"depth {width}"):
        figure = blank(width, 4.0 if width == WIDE else 3.7)
        right = 0.2 + 0.078 * max(len(line) for label in labels for line in label.split("\n"))
        axes = figure.add_axes((0.62 / width, 0.13, 1 - (0.62 + right) / width, 0.77))
        axes.set_xscale("log")  # 20, 56, 110, 1202 layers
        axes.set_xlim(depths[0] / 1.12, depths[-1] * 1.12)
        axes.xaxis.set_major_locator(FixedLocator(depths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(uncrowded(depths))
        axes.set_xlabel("depth (weight layers)")
        errors = [100 * error for cell in cells for error in (cell.train_error, cell.test_error + (cell.test_error_sd or 0))]
        scale_errors(axes, errors, 100 * (1 - 1 / classes))
        axes.set_ylabel("error (%)")
        ends = []
        for i, family in enumerate(families):
            group = sorted((cell for cell in cells if cell.arm == family), key=lambda cell: cell.depth)
            draw_family(axes, group, i)
            ends.append((100 * group[-1].test_error, labels[i], family_ink(i)))
        label_ends(axes, ends, size=9.5)
        keys = [key("-", "test error"), key("--", "training error")]
        axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)
        return saved(figure)


def draw_family(axes: "Axes", group: list[Cell], index: int) -> None:
    ink, marker = family_ink(index), MARKERS[index % len(MARKERS)]
    errors = [(cell.train_error, cell.train_error_sd) for cell in group], [(cell.test_error, cell.test_error_sd) for cell in group]
    styles = ({"ls": "--", "lw": 1.2, "ms": 4, "mfc": "none"}, {"ls": "-", "lw": 2.0, "ms": 5.5})
    for pairs, style in zip(errors, styles, strict=True):
        means = [100 * mean for mean, _ in pairs]
        axes.plot([cell.depth for cell in group], means, color=ink, marker=marker, clip_on=False, **style)  # type: ignore[arg-type]
        for cell, mean, (_, sd) in zip(group, means, pairs, strict=True):
            if sd is not None:
                bar = ([min(100 * sd, mean)], [100 * sd])  # no error is under 0
                axes.errorbar(cell.depth, mean, bar, color=ink, elinewidth=1, capsize=3, clip_on=False)


def curves_figure(runs: Sequence[Finished], width: float = WIDE) -> str:
    """SVG `width` inches wide: training and dev error over steps, in percent, and the final test error; a panel a family."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    families = list(dict.fromkeys(run.arm for run in runs))
    columns = min(3 if width == WIDE else 1, len(families))
    rows = -(-len(families) // columns)
    depths = sorted({run.depth for run in runs})
    ink_of = dict(zip(depths, depth_inks(len(depths)), strict=True))
    errors = [100 * run.result.test_error for run in runs]
    errors += [error for run in runs for split in ("train", "dev") for error in curve(run, f"{split}_error")[1]]
    with styled(f"curves {width}"):
        figure = blank(width, (2.55 if columns > 1 or width == WIDE else 2.2) * rows + 0.75)
        grid = figure.add_gridspec(rows, columns, left=0.62 / width, right=1 - 0.36 / width, wspace=0.26, hspace=0.4,
                                   bottom=0.5 / figure.get_figheight(), top=1 - 0.62 / figure.get_figheight())  # fmt: skip
        for i, family in enumerate(families):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            axes.set_title(fill(name(family), 26 if columns > 1 else 44), loc="left", fontsize=9.5, fontweight="bold")
            axes.set_xlim(0, max(run.result.steps for run in runs))
            axes.xaxis.set_major_locator(MaxNLocator(3 if columns > 1 else 5, steps=(1, 2, 5, 10), integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            scale_errors(axes, errors)
            draw_curves(axes, [run for run in runs if run.arm == family], ink_of)
            axes.tick_params(labelleft=i % columns == 0)
            axes.set_ylabel("error (%)" if i % columns == 0 else "")
            axes.set_xlabel("step" if i + columns >= len(families) else "")
        keys = [key("-", "dev", 1.5), key("--", "training", 0.9), key("none", "test, at the end", marker="o")]
        corner = (0.5 / width, 1)
        figure.legend(handles=keys, loc="upper left", bbox_to_anchor=corner, ncols=3, columnspacing=1.0, handletextpad=0.5)
        return saved(figure)


def draw_curves(axes: "Axes", runs: list[Finished], ink_of: dict[int, str]) -> None:
    ends: dict[int, list[float]] = {}
    for run in runs:
        ink = ink_of[run.depth]
        axes.plot(*curve(run, "train_error"), color=ink, ls=(0, (3, 1.5)), lw=0.9)
        axes.plot(*curve(run, "dev_error"), color=ink, lw=1.5)
        test = 100 * run.result.test_error
        axes.plot(run.result.steps, test, color=ink, marker="o", ms=5, clip_on=False, zorder=4)
        ends.setdefault(run.depth, []).append(test)
    label_ends(axes, [(sum(tests) / len(tests), str(depth), ink_of[depth]) for depth, tests in ends.items()], size=9)


def curve(run: Finished, what: str) -> tuple[list[float], list[float]]:
    """Steps and that error in percent, where it was measured."""
    points = [(line["step"], line.get(what)) for line in run.lines]
    kept = [(step, 100 * error) for step, error in points if step is not None and error is not None]
    if what == "train_error" and len(kept) > 2 and kept[-1][0] - kept[-2][0] < (kept[1][0] - kept[0][0]) / 2:
        kept.pop()  # it is counted since the line before: over a few last steps it is noise
    return [step for step, _ in kept], [error for _, error in kept]


def scale_errors(axes: "Axes", errors: Iterable[float], chance: float = 0.0) -> None:
    """A percent axis that shows 0, 1 and 90 alike: linear below 1, logarithmic above; guessing is marked where errors near it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    errors = list(errors)
    near_chance = chance > 0 and max(errors) > chance / 2
    low, high = min(errors), max(*errors, chance if near_chance else 1.0)
    free = 0.8 * chance if near_chance else high * 1.12  # for ticks
    low = low / 1.5 if low > 4 else 0
    axes.set_yscale("asinh", linear_width=1)
    axes.set_ylim(low, min(high * 1.3, 125))
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= free]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    if near_chance:
        axes.axhline(chance, color=QUIET, lw=1, ls=(0, (1, 2)))
        axes.annotate(f"guessing, {chance:.3g} %", (0, chance), (2, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=QUIET, fontsize=8.5)  # fmt: skip


def label_ends(axes: "Axes", ends: list[tuple[float, str, str]], size: float) -> None:
    """Write each (error in percent, label, ink) right of the axes, at its height or as near as leaves the others readable."""
    bottom, top = (asinh(limit) for limit in axes.get_ylim())
    line = 1.25 * size / (72 * axes.figure.get_figheight() * axes.get_position().height)  # type: ignore[union-attr]
    gap = line * max(label.count("\n") + 1 for _, label, _ in ends)
    heights = apart([(asinh(error) - bottom) / (top - bottom) for error, _, _ in ends], gap)
    for height, (_, label, ink) in zip(heights, ends, strict=True):
        axes.annotate(label, (1, height), (9, 0), xycoords="axes fraction", textcoords="offset points", va="center",
                      color=ink, fontsize=size, annotation_clip=False)  # fmt: skip


def apart(heights: list[float], gap: float) -> list[float]:
    """The heights, moved as little as leaves `gap` between any two."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for _ in range(200):
        for i, j in pairwise(order):
            if (overlap := gap - (moved[j] - moved[i])) > 0:
                moved[i], moved[j] = moved[i] - overlap / 2, moved[j] + overlap / 2
    return moved


def uncrowded(depths: list[int]) -> list[str]:
    """A label for each tick, left out where it would touch the one before."""
    labels = [str(depths[0])]
    last = depths[0]
    for depth in depths[1:]:
        clear = depth / last > max((depths[-1] / depths[0]) ** 0.06, 1.03)
        labels.append(str(depth) if clear else "")
        last = depth if clear else last
    return labels


def key(style: str, label: str, lw: float = 1.5, marker: str = "") -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, ls=style, lw=lw, marker=marker, ms=5, label=label)


def family_ink(index: int) -> str:
    return list(FAMILY_INKS)[index % len(FAMILY_INKS)]


def depth_inks(depths: int) -> dict[str, str]:
    """An ink for each of `depths` depths, from warm to dark, and the same on dark."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shares = [i / max(depths - 1, 1) for i in range(depths)]
    return {to_hex(colormaps["plasma"](0.62 - 0.58 * x)): to_hex(colormaps["plasma"](0.93 - 0.46 * x)) for x in shares}


@contextmanager
def styled(salt: str) -> Iterator[None]:
    """Our style, whatever the user's matplotlibrc says; `salt` fixes the ids of the SVG."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update(STYLE | {"svg.hashsalt": salt})  # type: ignore[arg-type]
        yield


def blank(width: float, height: float) -> "Figure":
    """A figure in inches, drawn without a window or any state of pyplot's."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def saved(figure: "Figure") -> str:
    """The same bytes for the same figure: no date, and ids that depend on what they name."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    shorter = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text.getvalue())  # to 1/100 point
    return shorter.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")


def inks(depths: int) -> dict[str, str]:
    """Every ink that the figures of `depths` depths are drawn in, and the same on dark."""
    return GROUND | FAMILY_INKS | depth_inks(depths)


def inlined(svg: str, prefix: str, title: str, inks: Iterable[str]) -> str:
    """`svg` for use in a page: no XML prologue, ids that begin with `prefix`, each ink as a variable, e.g. `var(--c2410c)`."""
    body = svg[svg.index("<svg") :]
    opening, rest = body.split(">", 1)
    size = opening[opening.index('viewBox="') :].split('"')[1]
    for mark in ('id="', "url(#", 'href="#'):
        rest = rest.replace(mark, f"{mark}{prefix}-")
    for ink in inks:
        rest = rest.replace(ink, f"var(--{ink[1:]})")
    return f'<svg class="{prefix.replace("-", " ")}" viewBox="{size}" role="img" aria-label="{title}">{rest}'


def standalone(svg: str) -> str:
    """`svg` as a file of its own, on white."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="#ffffff"/>{svg[start:]}'

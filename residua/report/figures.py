"""How figures are drawn, as SVG text: their style, their inks, axes of errors, labels at the ends of lines, hover values.

A figure is drawn once in fixed inks.  `inlined` names these by CSS variables, so that the page chooses them for light and
dark; `standalone` puts the figure on white.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import pairwise
from math import asinh, log
from typing import TYPE_CHECKING

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

MARKERS = "osD^vPX"  # one more than inks, so that more lines than these are told apart too
TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # percent
FINER = (0, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)  # where two or fewer of those would be seen

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
    ticks, finer = ([tick for tick in some if low <= tick <= free] for some in (TICKS, FINER))
    axes.yaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 2 else finer))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    if near_chance:
        axes.axhline(chance, color=QUIET, lw=1, ls=(0, (1, 2)))
        axes.annotate(f"guessing, {chance:.3g} %", (0, chance), (2, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=QUIET, fontsize=8.5)  # fmt: skip


def label_ends(axes: "Axes", ends: list[tuple[float, str, str, str]], size: float) -> None:
    """Write each (percent, label, ink, marker) right of the axes, at its height or as near as leaves the others readable."""
    stretched = log if axes.get_yscale() == "log" else asinh
    bottom, top = (stretched(limit) for limit in axes.get_ylim())
    width, high = axes.figure.get_figwidth(), axes.figure.get_figheight()  # type: ignore[union-attr]
    wide, tall = 72 * width * axes.get_position().width, 72 * high * axes.get_position().height  # points
    gap = 1.25 * size / tall * max(label.count("\n") + 1 for _, label, _, _ in ends)
    heights = apart([(stretched(error) - bottom) / (top - bottom) for error, *_ in ends], gap)
    for height, (_, label, ink, shape) in zip(heights, ends, strict=True):
        if shape:
            axes.plot(1 + 13 / wide, height, transform=axes.transAxes, color=ink, marker=shape, ms=5.5, clip_on=False)
        axes.annotate(label, (1, height), (20 if shape else 9, 0), xycoords="axes fraction", textcoords="offset points",
                      va="center", color=ink, fontsize=size, annotation_clip=False)  # fmt: skip


def apart(heights: list[float], gap: float) -> list[float]:
    """The heights, moved as little as leaves `gap` between any two; none ends above the axes, unless it was there."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for _ in range(200):
        for i, j in pairwise(order):
            if (overlap := gap - (moved[j] - moved[i])) > 0:
                moved[i], moved[j] = moved[i] - overlap / 2, moved[j] + overlap / 2
    most = max(1.0, *heights)
    for i in reversed(order):
        moved[i] = min(moved[i], most)
        most = moved[i] - gap
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


def tip(axes: "Axes", x: float, y: float, words: str) -> None:
    """Words to be seen while the pointer rests near a point."""
    axes.plot([x], [y], ls="none", marker="o", ms=13, mew=0, color=INK, alpha=0, clip_on=False, zorder=9, gid=f"tip:{words}")


def key(style: str, label: str, lw: float = 1.5, marker: str = "") -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, ls=style, lw=lw, marker=marker, ms=5, label=label)


def family_ink(index: int) -> str:
    return list(FAMILY_INKS)[index % len(FAMILY_INKS)]


def marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


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
    hover = re.sub(r'<g id="tip:([^"]*)">', r'<g class="tip"><title>\1</title>', text.getvalue())
    shorter = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), hover)  # to 1/100 point
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


def in_page(drawn: Mapping[str, Sequence[str]], titles: Mapping[str, str], inks: Iterable[str]) -> dict[str, list[str]]:
    """Each figure, drawn for a desk and for a phone, `inlined` under its title; a page's style shows the one that fits."""
    inks = list(inks)
    return {
        label: [inlined(svg, f"{label}-{size}", titles[label], inks) for svg, size in zip(svgs, ("wide", "narrow"), strict=True)]
        for label, svgs in drawn.items()
    }


def standalone(svg: str) -> str:
    """`svg` as a file of its own, on white."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="#ffffff"/>{svg[start:]}'

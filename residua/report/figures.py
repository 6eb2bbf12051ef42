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

DESKTOP_WIDTH, PHONE_WIDTH = 7.2, 3.9  # inches: for a desk, for a phone

TEXT_COLOR, GRID_COLOR, MUTED_COLOR = "#101010", "#dcdcd8", "#6a6a68"
BASE_COLORS = {TEXT_COLOR: "#e9e8e4", GRID_COLOR: "#34373c", MUTED_COLOR: "#9c9ea3"}
"""Text, grid and axes, and the same on dark."""

SERIES_COLORS = {
    "#c2410c": "#ff8f52",
    "#0f62a8": "#62b5f5",
    "#0b7a5a": "#45cfa4",
    "#a03c86": "#ea97cf",
    "#8a6500": "#e3b341",
    "#4c4f57": "#b4b7be",
}
"""An ink for each family in turn, and the same on dark; told apart by the colour-blind, and by marker."""

SERIES_MARKERS = "osD^vPX"  # one more than inks, so that more lines than these are told apart too
PERCENT_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # percent
FINE_PERCENT_TICKS = (
    0,
    0.5,
    1,
    1.5,
    2,
    3,
    4,
    5,
    7,
    10,
    15,
    20,
    30,
    40,
    50,
    70,
    100,
)  # where two or fewer of those would be seen

FIGURE_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans"
    ],  # comes with matplotlib, so that the layout is the same everywhere
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR,
    "axes.edgecolor": MUTED_COLOR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": GRID_COLOR,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED_COLOR,
    "xtick.labelcolor": TEXT_COLOR,
    "ytick.color": GRID_COLOR,
    "ytick.labelcolor": TEXT_COLOR,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.4,
    "legend.borderaxespad": 0.2,
}


def set_error_axis(
    axes: "Axes", error_percents: Iterable[float], chance_percent: float = 0.0
) -> None:
    """A percent axis that shows 0, 1 and 90 alike: linear below 1, logarithmic above; guessing is marked where errors near it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    error_percents = list(error_percents)
    near_chance = chance_percent > 0 and max(error_percents) > chance_percent / 2
    low, high = min(error_percents), max(*error_percents, chance_percent if near_chance else 1.0)
    max_tick = 0.8 * chance_percent if near_chance else high * 1.12  # for ticks
    low = low / 1.5 if low > 4 else 0
    axes.set_yscale("asinh", linear_width=1)
    axes.set_ylim(low, min(high * 1.3, 125))
    ticks, fine_ticks = (
        [tick for tick in some if low <= tick <= max_tick]
        for some in (PERCENT_TICKS, FINE_PERCENT_TICKS)
    )
    axes.yaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 2 else fine_ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    if near_chance:
        axes.axhline(chance_percent, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
        axes.annotate(
            f"guessing, {chance_percent:.3g} %",
            (0, chance_percent),
            (2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED_COLOR,
            fontsize=8.5,
        )


def label_line_ends(
    axes: "Axes", line_ends: list[tuple[float, str, str, str]], font_size: float
) -> None:
    """Write each (percent, label, ink, marker) right of the axes, at its height or as near as leaves the others readable."""
    axis_transform = log if axes.get_yscale() == "log" else asinh
    bottom, top = (axis_transform(limit) for limit in axes.get_ylim())
    figure_width, figure_height = axes.figure.get_figwidth(), axes.figure.get_figheight()  # type: ignore[union-attr]
    axes_width_points, axes_height_points = (
        72 * figure_width * axes.get_position().width,
        72 * figure_height * axes.get_position().height,
    )  # points
    min_gap = (
        1.25
        * font_size
        / axes_height_points
        * max(label.count("\n") + 1 for _, label, _, _ in line_ends)
    )
    heights = spread_labels(
        [(axis_transform(error) - bottom) / (top - bottom) for error, *_ in line_ends], min_gap
    )
    for height, (_, label, color, marker) in zip(heights, line_ends, strict=True):
        if marker:
            axes.plot(
                1 + 13 / axes_width_points,
                height,
                transform=axes.transAxes,
                color=color,
                marker=marker,
                ms=5.5,
                clip_on=False,
            )
        axes.annotate(
            label,
            (1, height),
            (20 if marker else 9, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=font_size,
            annotation_clip=False,
        )


def spread_labels(heights: list[float], min_gap: float) -> list[float]:
    """The heights, moved as little as leaves `gap` between any two; none ends above the axes, unless it was there."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    spread_heights = list(heights)
    for _ in range(200):
        for i, j in pairwise(order):
            if (overlap := min_gap - (spread_heights[j] - spread_heights[i])) > 0:
                spread_heights[i], spread_heights[j] = (
                    spread_heights[i] - overlap / 2,
                    spread_heights[j] + overlap / 2,
                )
    upper_limit = max(1.0, *heights)
    for i in reversed(order):
        spread_heights[i] = min(spread_heights[i], upper_limit)
        upper_limit = spread_heights[i] - min_gap
    return spread_heights


def hide_crowded_labels(depths: list[int]) -> list[str]:
    """A label for each tick, left out where it would touch the one before."""
    labels = [str(depths[0])]
    last_labelled = depths[0]
    for depth in depths[1:]:
        is_clear = depth / last_labelled > max((depths[-1] / depths[0]) ** 0.06, 1.03)
        labels.append(str(depth) if is_clear else "")
        last_labelled = depth if is_clear else last_labelled
    return labels


def add_tooltip(axes: "Axes", x: float, y: float, text: str) -> None:
    """Words to be seen while the pointer rests near a point."""
    axes.plot(
        [x],
        [y],
        ls="none",
        marker="o",
        ms=13,
        mew=0,
        color=TEXT_COLOR,
        alpha=0,
        clip_on=False,
        zorder=9,
        gid=f"tip:{text}",
    )


def make_legend_line(
    line_style: str, label: str, line_width: float = 1.5, marker: str = ""
) -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=TEXT_COLOR, ls=line_style, lw=line_width, marker=marker, ms=5, label=label
    )


def pick_series_color(index: int) -> str:
    return list(SERIES_COLORS)[index % len(SERIES_COLORS)]


def pick_series_marker(index: int) -> str:
    return SERIES_MARKERS[index % len(SERIES_MARKERS)]


def make_depth_colors(num_depths: int) -> dict[str, str]:
    """An ink for each of `depths` depths, from warm to dark, and the same on dark."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shares = [i / max(num_depths - 1, 1) for i in range(num_depths)]
    return {
        to_hex(colormaps["plasma"](0.62 - 0.58 * x)): to_hex(colormaps["plasma"](0.93 - 0.46 * x))
        for x in shares
    }


@contextmanager
def use_figure_style(id_salt: str) -> Iterator[None]:
    """Our style, whatever the user's matplotlibrc says; `salt` fixes the ids of the SVG."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update(FIGURE_STYLE | {"svg.hashsalt": id_salt})  # type: ignore[arg-type]
        yield


def make_blank_figure(width_inches: float, height_inches: float) -> "Figure":
    """A figure in inches, drawn without a window or any state of pyplot's."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches))


def figure_to_svg(figure: "Figure") -> str:
    """The same bytes for the same figure: no date, and ids that depend on what they name."""
    text = StringIO()
    figure.savefig(
        text,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    with_tooltips = re.sub(
        r'<g id="tip:([^"]*)">', r'<g class="tip"><title>\1</title>', text.getvalue()
    )
    with_short_paths = re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), with_tooltips
    )  # to 1/100 point
    return with_short_paths.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")


def make_figure_colors(num_depths: int) -> dict[str, str]:
    """Every ink that the figures of `depths` depths are drawn in, and the same on dark."""
    return BASE_COLORS | SERIES_COLORS | make_depth_colors(num_depths)


def inline_svg(svg: str, id_prefix: str, title: str, colors: Iterable[str]) -> str:
    """`svg` for use in a page: no XML prologue, ids that begin with `prefix`, each ink as a variable, e.g. `var(--c2410c)`."""
    body = svg[svg.index("<svg") :]
    opening_tag, rest = body.split(">", 1)
    view_box = opening_tag[opening_tag.index('viewBox="') :].split('"')[1]
    for id_marker in ('id="', "url(#", 'href="#'):
        rest = rest.replace(id_marker, f"{id_marker}{id_prefix}-")
    for color in colors:
        rest = rest.replace(color, f"var(--{color[1:]})")
    return f'<svg class="{id_prefix.replace("-", " ")}" viewBox="{view_box}" role="img" aria-label="{title}">{rest}'


def inline_figures(
    figure_svgs: Mapping[str, Sequence[str]], titles: Mapping[str, str], colors: Iterable[str]
) -> dict[str, list[str]]:
    """Each figure, drawn for a desk and for a phone, `inlined` under its title; a page's style shows the one that fits."""
    colors = list(colors)
    return {
        label: [
            inline_svg(svg, f"{label}-{size}", titles[label], colors)
            for svg, size in zip(svgs, ("wide", "narrow"), strict=True)
        ]
        for label, svgs in figure_svgs.items()
    }


def add_white_background(svg: str) -> str:
    """`svg` as a file of its own, on white."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="#ffffff"/>{svg[start:]}'

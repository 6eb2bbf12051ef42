"""Shared parts of all figures: style, colors, error axes, tooltips and conversion to SVG.

matplotlib draws a figure in fixed colors.  For an HTML page, `inline_svg` replaces them by CSS
variables, so that the page can use other colors in dark mode.  For a separate SVG file,
`add_white_background` adds a background.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DESKTOP_WIDTH, PHONE_WIDTH = 7.2, 3.9
"""Widths in inches of a figure for a wide screen and for a phone."""

TEXT_COLOR, GRID_COLOR, MUTED_COLOR, PAPER_COLOR = "#101010", "#dcdcd8", "#6a6a68", "#fdfdfb"
BASE_COLORS = {
    TEXT_COLOR: "#e9e8e4",
    GRID_COLOR: "#34373c",
    MUTED_COLOR: "#9c9ea3",
    PAPER_COLOR: "#141518",
}
"""The colors of text, grid, axes and open markers, each with its color on a dark screen."""

SERIES_COLORS = {
    "#c2410c": "#ff8f52",
    "#0f62a8": "#62b5f5",
    "#0b7a5a": "#45cfa4",
    "#a03c86": "#ea97cf",
    "#8a6500": "#e3b341",
    "#4c4f57": "#b4b7be",
}
"""The colors of the series in order, each with its color on a dark screen.

Color-blind readers can tell them apart, and every series also has a marker of its own.
"""

SERIES_MARKERS = "osD^vPX"
"""The markers of the series, in order.

There is one marker more than there are colors, so that each of 42 series has its own combination of
color and marker.
"""

BAND_OPACITY = 0.16  # of the spread around a line
PERCENT_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)
FINE_PERCENT_TICKS = (0, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)
"""The ticks of an axis on which only two or fewer of `PERCENT_TICKS` would be visible."""

FIGURE_STYLE = {
    "font.family": "sans-serif",
    # matplotlib ships this font, so the layout is the same on every machine
    "font.sans-serif": ["DejaVu Sans"],
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


def set_asinh_error_y_axis(
    axes: "Axes", error_percents: Iterable[float], chance_percent: float = 0.0
) -> None:
    """Scale the y axis for errors in percent: linear below 1 %, logarithmic above.

    The limits fit `error_percents`.  `chance_percent` is the error of random guessing.  If an error
    exceeds half of it, the limits also include `chance_percent`, and a dotted line marks it.  With
    `chance_percent` 0 there is no such line.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    error_percents = list(error_percents)
    near_chance = chance_percent > 0 and max(error_percents) > chance_percent / 2
    low, high = min(error_percents), max(*error_percents, chance_percent if near_chance else 1.0)
    max_tick = 0.8 * chance_percent if near_chance else high * 1.12
    low = low / 1.5 if low > 4 else 0
    axes.set_yscale("asinh", linear_width=1)
    axes.set_ylim(low, min(high * 1.3, 125))
    ticks: list[float] = [tick for tick in PERCENT_TICKS if low <= tick <= max_tick]
    if len(ticks) <= 2:
        ticks = [tick for tick in FINE_PERCENT_TICKS if low <= tick <= max_tick]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    if near_chance:
        mark_level(axes, chance_percent, f"guessing, {chance_percent:.3g} %")


def mark_level(axes: "Axes", height: float, label: str) -> None:
    """Draw a dotted horizontal line at `height`, in data units, with a label at its left end."""
    axes.axhline(height, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
    axes.annotate(
        label,
        (0, height),
        (2, 4),  # descenders stay clear of the line
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=MUTED_COLOR,
        fontsize=8.5,
    )


def add_tooltip(axes: "Axes", x: float, y: float, text: str) -> None:
    """Show `text` while the pointer is near the point (`x`, `y`), given in data units.

    An invisible marker carries the text in its id.  `figure_to_svg` turns the id into a `<title>`.
    """
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
    """Make a legend entry; with `line_style` "none" it shows only the marker."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=TEXT_COLOR, ls=line_style, lw=line_width, marker=marker, ms=5, label=label
    )


def pick_series_color(index: int) -> str:
    """Pick the color of the series number `index`, from 0; colors repeat after the last one."""
    return list(SERIES_COLORS)[index % len(SERIES_COLORS)]


def pick_series_marker(index: int) -> str:
    """Pick the marker of the series number `index`, from 0; markers repeat after the last one."""
    return SERIES_MARKERS[index % len(SERIES_MARKERS)]


def map_depth_colors_to_dark(num_depths: int) -> dict[str, str]:
    """Choose one color per depth, from warm to dark with increasing depth.

    Returns a dict that maps each color to its replacement on a dark screen.  All can be read as
    text: their contrast to the page is at least 4.5.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    plasma = colormaps["plasma"]
    shares = [i / max(num_depths - 1, 1) for i in range(num_depths)]
    return {
        to_hex(plasma(0.48 - 0.46 * share)): to_hex(plasma(0.93 - 0.38 * share)) for share in shares
    }


def map_figure_colors_to_dark(num_depths: int) -> dict[str, str]:
    """Map each color in a study's figures to its replacement on a dark screen."""
    return BASE_COLORS | SERIES_COLORS | map_depth_colors_to_dark(num_depths)


@contextmanager
def use_figure_style(id_salt: str) -> Iterator[None]:
    """Apply `FIGURE_STYLE` within a `with` block, and ignore the user's matplotlibrc.

    `id_salt` seeds the ids inside the SVG, so that the same figure always gives the same bytes.
    """
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update(FIGURE_STYLE | {"svg.hashsalt": id_salt})  # type: ignore[arg-type]
        yield


def make_blank_figure(width_inches: float, height_inches: float) -> "Figure":
    """Make an empty figure without pyplot: no display is needed and no global state remains."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches))


def figure_to_svg(figure: "Figure") -> str:
    """Convert a figure to SVG without dates or random ids: the same figure gives the same bytes."""
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
    )  # coordinates to 1/100 point
    return with_short_paths.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")


def inline_svg(svg: str, id_prefix: str, title: str, colors: Iterable[str]) -> str:
    """Convert a figure's SVG file to an `<svg>` element for an HTML page.

    The XML prologue is removed.  Ids get the prefix `id_prefix`, so that the figures of a page do
    not clash.  Each of `colors` becomes a CSS variable: `#c2410c` becomes `var(--c2410c)`.  `title`
    is the text for screen readers.
    """
    body = svg[svg.index("<svg") :]
    opening_tag, rest = body.split(">", 1)
    view_box = opening_tag[opening_tag.index('viewBox="') :].split('"')[1]
    for id_marker in ('id="', "url(#", 'href="#'):
        rest = rest.replace(id_marker, f"{id_marker}{id_prefix}-")
    for color in colors:
        rest = rest.replace(color, f"var(--{color[1:]})")
    css_class = id_prefix.replace("-", " ")
    label = escape(title)
    return f'<svg class="{css_class}" viewBox="{view_box}" role="img" aria-label="{label}">{rest}'


def inline_figures(
    figure_svgs: Mapping[str, Sequence[str]], titles: Mapping[str, str], colors: Iterable[str]
) -> dict[str, list[str]]:
    """Convert the (wide, narrow) SVGs of each figure to `<svg>` elements for an HTML page.

    All dicts are keyed by the figure's name.  The page's style sheet shows the version that fits
    the screen.
    """
    colors = list(colors)
    return {
        name: [
            inline_svg(svg, f"{name}-{size}", titles[name], colors)
            for svg, size in zip(svgs, ("wide", "narrow"), strict=True)
        ]
        for name, svgs in figure_svgs.items()
    }


def make_figure_files(figure_svgs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Make the files `figures/NAME.svg` of a report from the (wide, narrow) SVGs of each figure."""
    return {
        f"figures/{name}.svg": add_white_background(svgs[0]) for name, svgs in figure_svgs.items()
    }


def add_white_background(svg: str) -> str:
    """Add a white background to an SVG that is written to a separate file."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="#ffffff"/>{svg[start:]}'

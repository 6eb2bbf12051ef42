"""The figure of a study whose nets share one depth: the errors of each arm, one row per arm."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from residua.report.depth_figures import CHARACTER_INCHES, format_cell_tooltip
from residua.report.figures import (
    DESKTOP_WIDTH,
    MUTED_COLOR,
    PERCENT_TICKS,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    pick_series_color,
    use_figure_style,
)
from residua.report.significance import format_arm_name
from residua.report.tables import StudyCell, spread_half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def render_arms_figure(
    cells: Sequence[StudyCell], num_classes: int, width: float = DESKTOP_WIDTH
) -> str:
    """Render an SVG of the final training error (hollow) and test error (filled) of each arm.

    All `cells` have the same depth.  The arm with the lowest test error is at the top.  A bar shows
    the range of two seeds' test errors, or one standard deviation of more.  `width` is in inches.
    """
    sorted_cells = sorted(cells, key=lambda cell: -cell.test_error)
    arms = [cell.arm for cell in cells]
    label_characters = 26 if width == DESKTOP_WIDTH else 17
    labels = [fill(format_arm_name(cell.arm), label_characters) for cell in sorted_cells]
    with use_figure_style(f"arms {width}"):
        figure, axes = make_arm_axes(labels, width)
        max_error = max(
            max(cell.test_error + (cell.test_error_sd or 0), cell.comparable_train_error)
            for cell in cells
        )
        set_asinh_error_x_axis(axes, max_error)
        axes.set_xlabel(f"error (%), {cells[0].depth} layers")
        for i, cell in enumerate(sorted_cells):
            draw_arm_row(axes, i, cell, pick_series_color(arms.index(cell.arm)))
            if width == DESKTOP_WIDTH:
                add_tooltip(axes, 100 * cell.test_error, i, format_cell_tooltip(cell))
        chance_percent = 100 * (1 - 1 / num_classes)
        if 130 * max_error > chance_percent:
            axes.axvline(chance_percent, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
        test_mark = make_legend_line("none", "test error", marker="o")
        train_mark = make_legend_line("none", "training error", marker="o")
        train_mark.set_markerfacecolor("none")
        axes.legend(
            handles=[test_mark, train_mark], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2
        )
        return figure_to_svg(figure)


def make_arm_axes(labels: list[str], width: float) -> tuple["Figure", "Axes"]:
    """Make a figure, and axes with one row per label; the first label is at the bottom.

    `width` is in inches.
    """
    label_lines = [label.split("\n") for label in labels]
    height = 0.95 + sum(0.2 + 0.15 * len(lines) for lines in label_lines)
    left = 0.25 + CHARACTER_INCHES * max(len(line) for lines in label_lines for line in lines)
    figure = make_blank_figure(width, height)
    axes = figure.add_axes(
        (left / width, 0.5 / height, 1 - (left + 0.2) / width, 1 - 0.85 / height)
    )
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(visible=True, axis="x")
    return figure, axes


def set_asinh_error_x_axis(axes: "Axes", max_error: float) -> None:
    """Scale the x axis for errors in percent: linear below 1 %, logarithmic above.

    This keeps errors of 1 % and of 90 % readable.  `max_error` is in [0, 1].
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("asinh", linear_width=1)
    axes.set_xlim(0, min(max(130 * max_error, 1.3), 125))
    ticks = [tick for tick in PERCENT_TICKS if tick <= max(115 * max_error, 1)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))


def draw_arm_row(axes: "Axes", row: int, cell: StudyCell, color: str) -> None:
    """Draw the training and test errors of one arm; a bar shows the spread of the test error."""
    train_percent, test_percent = 100 * cell.comparable_train_error, 100 * cell.test_error
    axes.plot(
        train_percent, row, color=color, marker="o", ms=5, mfc="none", ls="none", clip_on=False
    )
    axes.plot(test_percent, row, color=color, marker="o", ms=6, ls="none", clip_on=False)
    half_width = spread_half_width(cell.test_error_sd, cell.seeds)
    if half_width is not None:
        axes.errorbar(
            test_percent, row, xerr=100 * half_width, color=color, elinewidth=1, capsize=3
        )

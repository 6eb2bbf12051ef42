"""The figure of errors against depth, one line per arm, and the axes of figures against depth.

Input errors are in [0, 1] and are drawn in percent.  Widths are in inches.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from residua.report.figures import (
    BAND_OPACITY,
    DESKTOP_WIDTH,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    pick_series_color,
    pick_series_marker,
    set_asinh_error_y_axis,
    use_figure_style,
)
from residua.report.format import format_counted_noun, format_error_with_spread
from residua.report.line_labels import (
    LineEnd,
    hide_crowded_labels,
    label_line_ends,
    measure_axes_points,
)
from residua.report.significance import (
    Measure,
    format_arm_name,
    get_cell_measure,
    get_cell_sd,
    group_cells_by_arm,
)
from residua.report.tables import StudyCell, spread_half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM_LABEL_CHARACTERS = 20  # per line of text in an arm's label
MARGIN_INCHES = 0.62  # left of the axes, for the y axis' ticks and label
CHARACTER_INCHES = 0.078  # mean width of a character at 9.5 points
MAX_OVERLAID_ARMS = 4  # more have a panel for each error


class ErrorPanel(NamedTuple):
    """A panel of the depth figure: the line styles of its errors, and whose end is labelled."""

    styles: Mapping[Measure, Mapping[str, Any]]
    labelled: Measure
    title: str = ""


TEST_STYLE = {"ls": "-", "lw": 2.0, "ms": 5.5}
OVERLAID_PANEL = ErrorPanel({"train": {"ls": "--", "lw": 1.2, "ms": 4}, "test": TEST_STYLE}, "test")
PANELS = (
    ErrorPanel({"train": TEST_STYLE}, "train", "training error"),
    ErrorPanel({"test": TEST_STYLE}, "test", "test error"),
)


def render_depth_figure(
    cells: Sequence[StudyCell], num_classes: int, width: float = DESKTOP_WIDTH
) -> str:
    """Render an SVG of the final training error (dashed) and test error (solid) against depth.

    A band shows the range of two seeds, or one standard deviation of more.  With many arms, the two
    errors have a panel each.
    """
    cells_by_arm = group_cells_by_arm(cells)
    panels = PANELS if len(cells_by_arm) > MAX_OVERLAID_ARMS else (OVERLAID_PANEL,)
    with use_figure_style(f"depth {width}"):
        figure, panel_axes = make_depth_axes(cells, width, len(panels))
        train_percents = [100 * cell.comparable_train_error for cell in cells]
        test_percents = [100 * (cell.test_error + (cell.test_error_sd or 0)) for cell in cells]
        for axes, panel in zip(panel_axes, panels, strict=True):
            set_asinh_error_y_axis(
                axes, train_percents + test_percents, 100 * (1 - 1 / num_classes)
            )
            axes.set_ylabel("error (%)")
            for i, arm_cells in enumerate(cells_by_arm.values()):
                for measure, style in panel.styles.items():
                    draw_arm_errors(axes, arm_cells, i, measure, style)
                for cell in arm_cells if width == DESKTOP_WIDTH else ():
                    height = 100 * get_cell_measure(cell, panel.labelled)
                    add_tooltip(axes, cell.depth, height, format_cell_tooltip(cell))
            if panel.title:
                axes.set_title(panel.title, loc="left", fontsize=9.5, fontweight="bold")
            if panel is panels[-1] or width != DESKTOP_WIDTH:
                ends = [
                    make_arm_line_end(arm, i, 100 * get_cell_measure(arm_cells[-1], panel.labelled))
                    for i, (arm, arm_cells) in enumerate(cells_by_arm.items())
                ]
                label_line_ends(axes, ends, font_size=9.5)
        if len(panels) == 1:
            add_error_legend(panel_axes[0])
        return figure_to_svg(figure)


def add_error_legend(axes: "Axes") -> None:
    legend_lines = [make_legend_line("-", "test error"), make_legend_line("--", "training error")]
    axes.legend(handles=legend_lines, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)


def make_depth_axes(
    cells: Sequence[StudyCell], width: float, num_panels: int = 1
) -> tuple["Figure", list["Axes"]]:
    """Make a figure, and axes with a logarithmic depth axis and room for arm names at the right.

    Several panels stand side by side on a wide screen, and one below the other on a phone, each
    with its arm names.
    """
    depths = sorted({cell.depth for cell in cells})
    labels = [wrap_arm_name(arm).split("\n") for arm in dict.fromkeys(cell.arm for cell in cells)]
    panel_height = max(
        4.0 if width == DESKTOP_WIDTH else 3.7,
        1.0 + 0.17 * len(labels) * max(len(lines) for lines in labels),
    )
    longest_line = max(len(line) for lines in labels for line in lines)
    right = 0.35 + CHARACTER_INCHES * longest_line
    columns = num_panels if width == DESKTOP_WIDTH else 1
    rows = num_panels // columns
    figure = make_blank_figure(width, panel_height * rows)
    column_step = (width - right) / columns
    panel_axes = []
    for i in range(num_panels):
        row, column = divmod(i, columns)
        box = (
            (MARGIN_INCHES + column * column_step) / width,
            (0.52 + (rows - 1 - row) * panel_height) / (panel_height * rows),
            (column_step - MARGIN_INCHES) / width,
            (panel_height - 0.92) / (panel_height * rows),
        )
        panel_axes.append(figure.add_axes(box))
        set_depth_axis(panel_axes[-1], depths)
    return figure, panel_axes


def set_depth_axis(axes: "Axes", depths: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")  # depths grow by factors: 20, 56, 110, 1202 layers
    axes.set_xlim(depths[0] / 1.12, depths[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(hide_crowded_labels(depths, measure_axes_points(axes)[0]))
    axes.set_xlabel("depth (weight layers)")


def draw_arm_errors(
    axes: "Axes",
    arm_cells: list[StudyCell],
    arm_index: int,
    measure: Measure,
    style: Mapping[str, Any],
) -> None:
    """Draw the line and the band of one error of one arm."""
    depths = [cell.depth for cell in arm_cells]
    percents = [100 * get_cell_measure(cell, measure) for cell in arm_cells]
    color = pick_series_color(arm_index)
    marker = pick_series_marker(arm_index)
    axes.plot(depths, percents, color=color, marker=marker, clip_on=False, **style)
    half_widths = [
        100 * (spread_half_width(get_cell_sd(cell, measure), cell.seeds) or 0) for cell in arm_cells
    ]
    draw_band(axes, depths, percents, half_widths, color)


def draw_band(
    axes: "Axes",
    depths: Sequence[float],
    percents: Sequence[float],
    half_widths: Sequence[float],
    color: str,
) -> None:
    """Draw the spread around a line; no error is below 0 or above 100 percent."""
    if any(half_widths):
        low = [max(percent - half, 0) for percent, half in zip(percents, half_widths, strict=True)]
        high = [
            min(percent + half, 100) for percent, half in zip(percents, half_widths, strict=True)
        ]
        axes.fill_between(depths, low, high, color=color, alpha=BAND_OPACITY, lw=0)


def format_cell_tooltip(cell: StudyCell) -> str:
    """Format a cell's tooltip: `plain, 56 layers: test error 85.5 ± 0.7 %, ...; 2 seeds`."""
    test_text = format_error_with_spread(cell.test_error, cell.test_error_sd, cell.seeds)
    train_text = format_error_with_spread(
        cell.comparable_train_error, cell.comparable_train_error_sd, cell.seeds
    )
    return (
        f"{format_arm_name(cell.arm)}, {cell.depth:,} layers: test error {test_text}, "
        f"training error {train_text}; {format_counted_noun(cell.seeds, 'seed')}"
    )


def make_arm_line_end(arm: str, arm_index: int, height: float) -> LineEnd:
    """Make the label at the end of an arm's line: the arm's name in the arm's color."""
    color, marker = pick_series_color(arm_index), pick_series_marker(arm_index)
    return LineEnd(height, wrap_arm_name(arm), color, marker)


def wrap_arm_name(arm: str) -> str:
    """Break an arm's name into lines that fit to the right of the axes."""
    return fill(format_arm_name(arm), ARM_LABEL_CHARACTERS)

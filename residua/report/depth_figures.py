"""Figures against depth: errors, and steps until a run starts learning; one line per arm.

Input errors are in [0, 1] and are drawn in percent.  Widths are in inches.
"""

from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from residua.report.figures import (
    DESKTOP_WIDTH,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    mark_level,
    pick_series_color,
    pick_series_marker,
    set_error_axis,
    use_figure_style,
)
from residua.report.format import format_counted_noun, format_percent_with_sd
from residua.report.line_labels import LineEnd, hide_crowded_labels, label_line_ends
from residua.report.significance import (
    format_arm_name,
    format_cell_measure,
    group_cells_by_arm,
)
from residua.report.tables import StudyCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM_LABEL_CHARACTERS = 20  # per line of text in an arm's label
MARGIN_INCHES = 0.62  # left of the axes, for the y axis' ticks and label
CHARACTER_INCHES = 0.078  # mean width of a character at 9.5 points
STEP_TICKS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))


def render_depth_figure(
    cells: Sequence[StudyCell], num_classes: int, width: float = DESKTOP_WIDTH
) -> str:
    """Render an SVG of the final training error (dashed) and test error (solid) against depth.

    Error bars show one standard deviation over seeds.
    """
    with use_figure_style(f"depth {width}"):
        figure, axes = make_depth_axes(cells, width)
        train_percents = [100 * cell.comparable_train_error for cell in cells]
        test_percents = [100 * (cell.test_error + (cell.test_error_sd or 0)) for cell in cells]
        set_error_axis(axes, train_percents + test_percents, 100 * (1 - 1 / num_classes))
        axes.set_ylabel("error (%)")
        line_ends = []
        for i, (arm, arm_cells) in enumerate(group_cells_by_arm(cells).items()):
            draw_arm_errors(axes, arm_cells, i)
            line_ends.append(make_arm_line_end(arm, i, 100 * arm_cells[-1].test_error))
            for cell in arm_cells if width == DESKTOP_WIDTH else ():
                add_tooltip(axes, cell.depth, 100 * cell.test_error, format_cell_tooltip(cell))
        label_line_ends(axes, line_ends, font_size=9.5)
        legend_lines = [
            make_legend_line("-", "test error"),
            make_legend_line("--", "training error"),
        ]
        axes.legend(handles=legend_lines, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)
        return figure_to_svg(figure)


def make_depth_axes(cells: Sequence[StudyCell], width: float) -> tuple["Figure", "Axes"]:
    """Make a figure, and axes with a logarithmic depth axis and room for arm names at the right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    depths = sorted({cell.depth for cell in cells})
    arms = dict.fromkeys(cell.arm for cell in cells)
    labels = [wrap_arm_name(arm).split("\n") for arm in arms]
    height = max(
        4.0 if width == DESKTOP_WIDTH else 3.7,
        1.0 + 0.17 * len(labels) * max(len(lines) for lines in labels),
    )
    longest_line = max(len(line) for lines in labels for line in lines)
    right = 0.35 + CHARACTER_INCHES * longest_line
    figure = make_blank_figure(width, height)
    axes = figure.add_axes(
        (
            MARGIN_INCHES / width,
            0.52 / height,
            1 - (MARGIN_INCHES + right) / width,
            1 - 0.92 / height,
        )
    )
    axes.set_xscale("log")  # depths grow by factors: 20, 56, 110, 1202 layers
    axes.set_xlim(depths[0] / 1.12, depths[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(hide_crowded_labels(depths))
    axes.set_xlabel("depth (weight layers)")
    return figure, axes


def draw_arm_errors(axes: "Axes", arm_cells: list[StudyCell], arm_index: int) -> None:
    """Draw the lines and the error bars of one arm."""
    depths = [cell.depth for cell in arm_cells]
    color = pick_series_color(arm_index)
    train_style: dict[str, Any] = {"ls": "--", "lw": 1.2, "ms": 4, "mfc": "none"}
    test_style: dict[str, Any] = {"ls": "-", "lw": 2.0, "ms": 5.5}
    train = [(cell.comparable_train_error, cell.comparable_train_error_sd) for cell in arm_cells]
    test = [(cell.test_error, cell.test_error_sd) for cell in arm_cells]
    for means_and_sds, style in ((train, train_style), (test, test_style)):
        percents = [100 * mean for mean, _ in means_and_sds]
        marker = pick_series_marker(arm_index)
        axes.plot(depths, percents, color=color, marker=marker, clip_on=False, **style)
        for depth, percent, (_, sd) in zip(depths, percents, means_and_sds, strict=True):
            if sd is not None:
                error_bar = ([min(100 * sd, percent)], [100 * sd])  # no error is below 0
                axes.errorbar(
                    depth, percent, error_bar, color=color, elinewidth=1, capsize=3, clip_on=False
                )


def render_learning_start_figure(cells: Sequence[StudyCell], width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG of the number of steps until runs start learning, against depth.

    A cell in which no run ever started learning is drawn above a dotted line that marks the last
    training step.  Every cell must have a `first_learned_step`.
    """
    with use_figure_style(f"start {width}"):
        figure, axes = make_depth_axes(cells, width)
        max_steps = max(cell.steps or 1 for cell in cells)
        set_step_axis(axes, min(cell.measured_every or 1 for cell in cells), max_steps)
        mark_level(axes, max_steps, f"not in {max_steps:,} steps")
        line_ends = []
        for i, (arm, arm_cells) in enumerate(group_cells_by_arm(cells).items()):
            heights = [get_learning_start_height(cell) for cell in arm_cells]
            axes.plot(
                [cell.depth for cell in arm_cells],
                heights,
                color=pick_series_color(i),
                marker=pick_series_marker(i),
                ms=5.5,
                lw=1.6,
                clip_on=False,
            )
            line_ends.append(make_arm_line_end(arm, i, heights[-1]))
            if width == DESKTOP_WIDTH:
                add_learning_start_tooltips(axes, zip(arm_cells, heights, strict=True))
        label_line_ends(axes, line_ends, font_size=9.5)
        return figure_to_svg(figure)


def set_step_axis(axes: "Axes", measured_every: int, max_steps: int) -> None:
    """Make the y axis logarithmic, from the first measured step to above the last step."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    lowest = measured_every / 1.4
    axes.set_yscale("log")
    axes.set_ylim(lowest, max_steps * 1.45)
    ticks = [tick for tick in STEP_TICKS if lowest <= tick < max_steps / 1.15]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_ylabel("steps")


def get_learning_start_height(cell: StudyCell) -> float:
    """The y value, in steps, at which to draw the start of learning of a cell.

    If no run of the cell started learning, the value is above the dotted line at the last step.
    """
    return (cell.first_learned_step or 1.0) * (1.18 if cell.learned_seeds == 0 else 1)


def add_learning_start_tooltips(
    axes: "Axes", cells_and_heights: Iterable[tuple[StudyCell, float]]
) -> None:
    """Add a tooltip per cell: mean step at which learning starts, and measuring interval."""
    for cell, height in cells_and_heights:
        text = (
            f"{format_arm_name(cell.arm)}, {cell.depth} layers: "
            f"{format_cell_measure(cell, 'start')} steps, measured every {cell.measured_every}"
        )
        add_tooltip(axes, cell.depth, height, text)


def format_cell_tooltip(cell: StudyCell) -> str:
    """Tooltip text for a cell: `plain, 56 layers: test error 85.5 ± 0.7 %, ...; 2 seeds`."""
    test_text = format_percent_with_sd(cell.test_error, cell.test_error_sd)
    train_text = format_percent_with_sd(cell.comparable_train_error, cell.comparable_train_error_sd)
    return (
        f"{format_arm_name(cell.arm)}, {cell.depth} layers: test error {test_text}, "
        f"training error {train_text}; {format_counted_noun(cell.seeds, 'seed')}"
    )


def make_arm_line_end(arm: str, arm_index: int, height: float) -> LineEnd:
    """Make the label at the end of an arm's line: the arm's name in the arm's color."""
    color, marker = pick_series_color(arm_index), pick_series_marker(arm_index)
    return LineEnd(height, wrap_arm_name(arm), color, marker)


def wrap_arm_name(arm: str) -> str:
    """Break an arm's name into lines that fit to the right of the axes."""
    return fill(format_arm_name(arm), ARM_LABEL_CHARACTERS)

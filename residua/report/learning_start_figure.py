"""The figure of the steps until a run starts learning, against depth; one line per arm."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from residua.report.depth_figures import make_arm_line_end, make_depth_axes
from residua.report.figures import (
    DESKTOP_WIDTH,
    PAPER_COLOR,
    add_tooltip,
    figure_to_svg,
    mark_level,
    pick_series_color,
    pick_series_marker,
    use_figure_style,
)
from residua.report.line_labels import label_line_ends
from residua.report.significance import format_arm_name, format_cell_measure, group_cells_by_arm
from residua.report.tables import StudyCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP_TICKS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))


def render_learning_start_figure(cells: Sequence[StudyCell], width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG of the number of steps until runs start learning, against depth.

    An open marker is a lower bound: some run of the cell never started learning.  If none did, it
    is above a dotted line that marks the last training step.  Every cell must have a
    `first_learned_step`.
    """
    with use_figure_style(f"start {width}"):
        figure, [axes] = make_depth_axes(cells, width)
        max_steps = max(cell.steps or 1 for cell in cells)
        set_log_step_y_axis(axes, min(cell.measured_every or 1 for cell in cells), max_steps)
        mark_level(axes, max_steps, f"not in {max_steps:,} steps")
        line_ends = []
        for i, (arm, arm_cells) in enumerate(group_cells_by_arm(cells).items()):
            heights = [get_learning_start_height(cell) for cell in arm_cells]
            draw_learning_starts(axes, arm_cells, heights, i)
            line_ends.append(make_arm_line_end(arm, i, heights[-1]))
            if width == DESKTOP_WIDTH:
                add_learning_start_tooltips(axes, zip(arm_cells, heights, strict=True))
        label_line_ends(axes, line_ends, font_size=9.5)
        return figure_to_svg(figure)


def draw_learning_starts(
    axes: "Axes", arm_cells: list[StudyCell], heights: list[float], arm_index: int
) -> None:
    """Draw the line of one arm, with an open marker and an arrow at each lower bound."""
    color, marker = pick_series_color(arm_index), pick_series_marker(arm_index)
    axes.plot([cell.depth for cell in arm_cells], heights, color=color, lw=1.6, clip_on=False)
    for cell, height in zip(arm_cells, heights, strict=True):
        is_bound = cell.learned_seeds != cell.seeds
        axes.plot(
            cell.depth,
            height,
            color=color,
            marker=marker,
            ms=6.5 if is_bound else 5.5,
            mfc=PAPER_COLOR if is_bound else color,
            mew=1.5 if is_bound else 0,
            clip_on=False,
            zorder=4,
        )
        if is_bound:
            axes.annotate(
                "",
                (cell.depth, height),
                (0, 17),
                textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": color, "lw": 1.2, "shrinkB": 3},
                annotation_clip=False,
            )


def set_log_step_y_axis(axes: "Axes", measured_every: int, max_steps: int) -> None:
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
    """Return the y value, in steps, at which to draw the start of learning of a cell.

    If no run of the cell started learning, the value is above the dotted line at the last step.
    """
    return (cell.first_learned_step or 1.0) * (1.18 if cell.learned_seeds == 0 else 1)


def add_learning_start_tooltips(
    axes: "Axes", cells_and_heights: Iterable[tuple[StudyCell, float]]
) -> None:
    """Add a tooltip per cell: mean step at which learning starts, and measuring interval."""
    for cell, height in cells_and_heights:
        text = (
            f"{format_arm_name(cell.arm)}, {cell.depth:,} layers: "
            f"{format_cell_measure(cell, 'start')} steps, measured every {cell.measured_every}"
        )
        add_tooltip(axes, cell.depth, height, text)

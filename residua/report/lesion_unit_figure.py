"""The figure of single deletions: the error of each net without each of its units."""

from itertools import groupby
from typing import TYPE_CHECKING

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    UnitDeletionResult,
)
from residua.report.figures import (
    DESKTOP_WIDTH,
    GRID_COLOR,
    MUTED_COLOR,
    TEXT_COLOR,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    set_asinh_error_y_axis,
    use_figure_style,
)
from residua.report.format import format_percent_number
from residua.report.lesion_panels import (
    LEFT_MARGIN_INCHES,
    compute_margin_fractions,
    pick_net_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MAX_LARGE_MARKS = 120  # units; with more the marks are small and the lines thin
MIN_PANEL_SHARE = 1 / 2.5  # smallest width of a panel, relative to that of the deepest net


def render_single_deletion_figure(study: LesionStudyResult, width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG of the error without each unit, in one panel per net.

    Up to three panels are side by side at `DESKTOP_WIDTH`; otherwise they are stacked.  `width` is
    in inches.
    """
    is_single_row = width == DESKTOP_WIDTH and len(study.nets) <= 3
    with use_figure_style(f"units {width}"):
        figure, panel_axes = make_net_panels(study, width, is_single_row)
        colors = pick_net_colors(study.nets)
        set_asinh_error_y_axis(
            panel_axes[0], list_deletion_percents(study), compute_chance_percent(study)
        )
        for net, color, axes in zip(study.nets, colors, panel_axes, strict=True):
            has_scale = axes is panel_axes[0] or not is_single_row
            axes.set_title(net.label, loc="left", fontsize=9.5, fontweight="bold", color=color)
            axes.set_xlim(-0.6, len(net.units) - 0.4)
            axes.set_ylabel("error without the unit (%)" if has_scale else "")
            axes.tick_params(labelleft=has_scale)
            draw_single_deletions(axes, net, color)
            label_net_stages(axes, net)
        figure.legend(
            handles=make_deletion_legend(study),
            loc="upper left",
            bbox_to_anchor=(0.5 / width, 1),
            ncols=4 if width == DESKTOP_WIDTH else 2,
            columnspacing=1.2,
            handletextpad=0.5,
        )
        return figure_to_svg(figure)


def make_net_panels(
    study: LesionStudyResult, width: float, is_single_row: bool
) -> "tuple[Figure, list[Axes]]":
    """Make a figure with one panel per net, side by side if `is_single_row`, else stacked.

    All panels share the y axis.  Side by side, a net with more units gets a wider panel.
    """
    unit_counts = [len(net.units) for net in study.nets]
    panel_widths = [max(count, MIN_PANEL_SHARE * max(unit_counts)) for count in unit_counts]
    rows, columns = (1, len(study.nets)) if is_single_row else (len(study.nets), 1)
    figure = make_blank_figure(width, 3.4 if is_single_row else 2.5 * rows + 0.5)
    bottom, top = compute_margin_fractions(figure, 0.45, 0.62 if width == DESKTOP_WIDTH else 0.72)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=LEFT_MARGIN_INCHES / width,
        right=1 - 0.12 / width,
        wspace=0.09,
        hspace=0.5,
        width_ratios=panel_widths if is_single_row else None,
        bottom=bottom,
        top=top,
    )
    first_axes = figure.add_subplot(grid[0])
    other_axes = [figure.add_subplot(grid[i], sharey=first_axes) for i in range(1, len(study.nets))]
    return figure, [first_axes, *other_axes]


def list_deletion_percents(study: LesionStudyResult) -> list[float]:
    """List the errors of all nets in percent, intact and after each single deletion."""
    return [100 * error for net in study.nets for error in (net.error, *net.deletion_errors)]


def compute_chance_percent(study: LesionStudyResult) -> float:
    """Compute the error of guessing one of the classes at random, in percent."""
    return 100 * (1 - 1 / study.classes)


def draw_single_deletions(axes: "Axes", net: NetworkLesionResult, color: str) -> None:
    """Draw a line at the intact error, and from this line a stem to the error without each unit."""
    axes.axhline(100 * net.error, color=color, lw=1.1, ls=(0, (4, 2)), zorder=1)
    small_marks = len(net.units) > MAX_LARGE_MARKS
    for i, unit in enumerate(net.units):
        if unit.error is None:
            draw_undeletable_unit(axes, i, unit, 100 * net.error)
        else:
            draw_deleted_unit(axes, i, unit, net.error, color, small_marks)


def draw_undeletable_unit(
    axes: "Axes", x: int, unit: UnitDeletionResult, intact_percent: float
) -> None:
    axes.plot(x, intact_percent, color=MUTED_COLOR, marker="x", ms=5, ls="none", zorder=3)
    text = f"{unit.name}: cannot be deleted, as it changes the shape"
    add_tooltip(axes, x, intact_percent, text)


def draw_deleted_unit(
    axes: "Axes",
    x: int,
    unit: UnitDeletionResult,
    intact_error: float,
    color: str,
    small_marks: bool,
) -> None:
    """Draw one unit's stem and its mark, which is hollow for a unit that changes the shape."""
    error_percent = 100 * (unit.error or 0)
    axes.plot(
        [x, x],
        [100 * intact_error, error_percent],
        color=color,
        lw=0.6 if small_marks else 1.4,
        alpha=0.55,
        solid_capstyle="butt",
    )
    axes.plot(
        x,
        error_percent,
        color=color,
        marker="o",
        ms=2.2 if small_marks else 5,
        mfc="none" if unit.changes_shape else color,
        mew=1.3,
        ls="none",
        zorder=3,
        clip_on=False,
    )
    text = f"without {unit.name}: {format_percent_number(unit.error)} %"
    add_tooltip(axes, x, error_percent, text)


def label_net_stages(axes: "Axes", net: NetworkLesionResult) -> None:
    """Write the names of the stages below the x axis, and draw lines that separate the stages."""
    from matplotlib.ticker import FixedLocator, NullLocator

    stage_centers, first_unit = [], 0
    for _, units in groupby(net.units, key=lambda unit: unit.stage):
        count = len(list(units))
        stage_centers.append(first_unit + (count - 1) / 2)
        first_unit += count
        if first_unit < len(net.units):
            axes.axvline(first_unit - 0.5, color=GRID_COLOR, lw=0.8, zorder=0)
    has_label_room = len(net.units) > 4 * len(stage_centers)
    axes.xaxis.set_major_locator(FixedLocator(stage_centers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(
        [
            f"stage {stage}" if has_label_room or stage == 1 else str(stage)
            for stage in range(1, len(stage_centers) + 1)
        ]
    )
    axes.tick_params(axis="x", length=0)


def make_deletion_legend(study: LesionStudyResult) -> "list[Line2D]":
    marks = [
        make_legend_marker("o", "keeps the shape"),
        make_legend_marker("o", "changes the shape", hollow=True),
        make_legend_line("--", "intact net", 1.1),
    ]
    if any(unit.error is None for net in study.nets for unit in net.units):
        marks.append(make_legend_marker("x", "cannot be deleted"))
    return marks


def make_legend_marker(marker_shape: str, label: str, hollow: bool = False) -> "Line2D":
    line = make_legend_line("none", label, marker=marker_shape)
    line.set_markerfacecolor("none" if hollow else TEXT_COLOR)
    return line

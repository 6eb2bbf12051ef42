"""The curves of a lesion study: error after deletions and swaps, and gradient by path length.

Input errors are in [0, 1] and are drawn in percent.
"""

from collections.abc import Sequence
from math import log2
from typing import TYPE_CHECKING

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    share_of_paths_by_length,
)
from residua.report.figures import (
    DESKTOP_WIDTH,
    add_tooltip,
    figure_to_svg,
    make_legend_line,
    use_figure_style,
)
from residua.report.format import format_counted_noun
from residua.report.lesion_panels import (
    ErrorPoint,
    add_net_legend,
    compute_legend_inches,
    draw_error_curves,
    make_drawn_point,
    make_intact_point,
    make_two_panels,
    pick_net_colors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARE_LEGEND_INCHES = 0.2  # height of the legend of shares, which lies above the right panel


def render_deletions_swaps_figure(study: LesionStudyResult, width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG with two panels: the error after random deletions and after random swaps.

    `width` is in inches.
    """
    colors = pick_net_colors(study.nets)
    deletion_curves = [make_deletion_curve(net) for net in study.nets]
    swap_curves = [make_swap_curve(net) for net in study.nets]
    with use_figure_style(f"many {width}"):
        figure, (left, right) = make_two_panels(
            width, compute_legend_inches(len(study.nets), width)
        )
        for axes, curves, label in (
            (left, deletion_curves, "random units deleted"),
            (right, swap_curves, "random pairs of units swapped"),
        ):
            draw_error_curves(axes, study, curves, colors)
            axes.set_xlabel(label)
            set_doubling_ticks(axes, max(point.x for points in curves for point in points))
        add_net_legend(figure, study.nets, colors)
        return figure_to_svg(figure)


def make_deletion_curve(net: NetworkLesionResult) -> list[ErrorPoint]:
    """Return the net's error against the number of deletions; x is `doubling_axis_position`."""
    points = [make_intact_point(doubling_axis_position(0), net)]
    for many in net.thinned:
        heading = f"{net.label}, {many.deleted} of {many.deleted + many.kept} deleted"
        points.append(make_drawn_point(doubling_axis_position(many.deleted), many, heading))
    return points


def make_swap_curve(net: NetworkLesionResult) -> list[ErrorPoint]:
    """Return the net's error against the number of swaps; x is the `doubling_axis_position`."""
    points = [make_intact_point(doubling_axis_position(0), net)]
    for many in net.swapped:
        heading = f"{net.label}, {format_counted_noun(many.swaps, 'swap')} (tau {many.tau:.2f})"
        points.append(make_drawn_point(doubling_axis_position(many.swaps), many, heading))
    return points


def doubling_axis_position(count: int) -> float:
    """Return the position of a count on an axis on which 0, 1, 2, 4, 8, ... are equally spaced."""
    return log2(count) + 1 if count else 0.0


def set_doubling_ticks(axes: "Axes", max_position: float) -> None:
    """Set ticks at the counts 0, 1, 2, 4, ... on an axis that ends at `max_position`.

    `max_position` is a `doubling_axis_position`, not a count.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = [0, *(2**i for i in range(int(max_position)))]
    axes.set_xlim(-0.25, max_position + 0.25)
    axes.xaxis.set_major_locator(FixedLocator([doubling_axis_position(count) for count in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{count:,}" for count in ticks])


def render_kept_units_paths_figure(study: LesionStudyResult, width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG with two panels: error by number of kept units, and gradient by path length.

    `width` is in inches.  Only residual nets are drawn, because a plain net has a single path.
    """
    from matplotlib.ticker import MaxNLocator

    colors_of_nets = zip(study.nets, pick_net_colors(study.nets), strict=True)
    drawn = [(net, color) for net, color in colors_of_nets if net.paths]
    residual_nets, colors = [net for net, _ in drawn], [color for _, color in drawn]
    with use_figure_style(f"paths {width}"):
        top_inches = compute_legend_inches(len(drawn), width)
        if width == DESKTOP_WIDTH:
            top_inches += SHARE_LEGEND_INCHES
        figure, (left, right) = make_two_panels(width, top_inches)
        kept_unit_curves = [make_kept_unit_curve(net) for net in residual_nets]
        draw_error_curves(left, study, kept_unit_curves, colors)
        left.set_xlabel("units kept, the length of the longest path")
        draw_path_shares(right, residual_nets, colors)
        for axes in (left, right):
            axes.set_xlim(0, max(len(net.units) for net in residual_nets))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        add_net_legend(figure, residual_nets, colors)
        return figure_to_svg(figure)


def make_kept_unit_curve(net: NetworkLesionResult) -> list[ErrorPoint]:
    """Return the net's error against the number of units that are not deleted."""
    points = []
    for many in reversed(net.thinned):
        heading = f"{net.label}, {format_counted_noun(many.kept, 'unit')} kept"
        points.append(make_drawn_point(many.kept, many, heading))
    return [*points, make_intact_point(len(net.units), net)]


def draw_path_shares(
    axes: "Axes", nets: Sequence[NetworkLesionResult], colors: Sequence[str]
) -> None:
    """Draw each net's gradient share (solid) and share of all paths (dashed) by path length."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for net, color in zip(nets, colors, strict=True):
        lengths = [path.units for path in net.paths]
        gradient_percents = [100 * path.share for path in net.paths]
        path_percents = [100 * share for share in share_of_paths_by_length(len(net.units))]
        axes.fill_between(lengths, gradient_percents, color=color, alpha=0.16, lw=0)
        axes.plot(lengths, gradient_percents, color=color, lw=1.8)
        axes.plot(lengths, path_percents, color=color, lw=1.2, ls=(0, (4, 2)))
        for length, percent in zip(lengths, gradient_percents, strict=True):
            length_text = f"paths of {format_counted_noun(length, 'unit')}"
            text = f"{net.label}, {length_text}: {percent:.2g} % of the gradient"
            add_tooltip(axes, length, percent, text)
    axes.set_xlabel("units on the path")
    axes.set_ylabel("share (%)")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),  # above the panel, where it covers no line
        ncols=2,
        handles=[
            make_legend_line("-", "of the gradient", 1.8),
            make_legend_line("--", "of all paths", 1.2),
        ],
    )

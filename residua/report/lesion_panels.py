"""Code that the figures of a lesion study share: net colors, panels, legends and error curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    RandomDeletionResult,
    RandomSwapResult,
)
from residua.report.figures import (
    DESKTOP_WIDTH,
    add_tooltip,
    make_blank_figure,
    make_legend_line,
    pick_series_color,
    set_asinh_error_y_axis,
)
from residua.report.format import format_percent_number
from residua.report.lesion_summary import compute_error_spread, format_drawn_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_MARGIN_INCHES = 0.62


@dataclass(frozen=True, slots=True)
class ErrorPoint:
    """A point of an error curve; `text` is its tooltip."""

    x: float
    error_percent: float
    spread_percents: tuple[float, float] | None  # lower and upper end; None for a single draw
    text: str


def make_intact_point(x: float, net: NetworkLesionResult) -> ErrorPoint:
    """Make the point of the intact net on an error curve."""
    text = f"{net.label}, intact: {format_percent_number(net.error)} %"
    return ErrorPoint(x, 100 * net.error, None, text)


def make_drawn_point(
    x: float, sample: RandomDeletionResult | RandomSwapResult, heading: str
) -> ErrorPoint:
    """Make the point of an error averaged over random draws; a tooltip shows `heading` and it."""
    spread = compute_error_spread(sample)
    percents = None if spread is None else (100 * spread[0], 100 * spread[1])
    return ErrorPoint(x, 100 * sample.error, percents, f"{heading}: {format_drawn_error(sample)}")


def pick_net_colors(nets: Sequence[NetworkLesionResult]) -> list[str]:
    """Choose the color of each net; all plain nets get the color of plain nets in depth figures."""
    colors, residual_count = [], 0
    for net in nets:
        residual_count += net.is_residual
        colors.append(pick_series_color(residual_count if net.is_residual else 0))
    return colors


def make_two_panels(width: float, top_inches: float) -> "tuple[Figure, tuple[Axes, Axes]]":
    """Make a figure of two panels, side by side if `width` is `DESKTOP_WIDTH`, else stacked.

    The panels have a margin of `top_inches` above them.
    """
    is_wide = width == DESKTOP_WIDTH
    figure = make_blank_figure(width, (3.1 if is_wide else 6.0) + top_inches)
    bottom, top = compute_margin_fractions(figure, 0.52, top_inches)
    grid = figure.add_gridspec(
        *((1, 2) if is_wide else (2, 1)),
        left=LEFT_MARGIN_INCHES / width,
        right=1 - 0.15 / width,
        bottom=bottom,
        top=top,
        wspace=0.26,
        hspace=0.32,
    )
    return figure, (figure.add_subplot(grid[0]), figure.add_subplot(grid[1]))


def compute_legend_inches(net_count: int, width: float) -> float:
    """Compute the height of the legend of `net_count` nets, and of the gap below it, in inches."""
    return 0.2 + 0.19 * -(-net_count // count_legend_columns(width))


def count_legend_columns(width: float) -> int:
    return 3 if width == DESKTOP_WIDTH else 1


def compute_margin_fractions(
    figure: "Figure", bottom_inches: float, top_inches: float
) -> tuple[float, float]:
    """Convert margins in inches to the bottom and top of the panels, as fractions of the height."""
    height = figure.get_figheight()
    return bottom_inches / height, 1 - top_inches / height


def draw_error_curves(
    axes: "Axes",
    study: LesionStudyResult,
    curves: Sequence[Sequence[ErrorPoint]],
    colors: Sequence[str],
) -> None:
    """Draw one error curve per net, with bars from the lower to the upper end of each spread.

    The y axis is scaled to all errors of `study`, so that all panels have the same scale.
    """
    set_asinh_error_y_axis(axes, list_ablation_percents(study))
    for points, color in zip(curves, colors, strict=True):
        x, errors = [point.x for point in points], [point.error_percent for point in points]
        axes.plot(x, errors, color=color, lw=1.6, marker="o", ms=4, clip_on=False)
        for point in points:
            draw_spread_bar(axes, point, color)
            add_tooltip(axes, point.x, point.error_percent, point.text)
    axes.set_ylabel("error (%)")


def list_ablation_percents(study: LesionStudyResult) -> list[float]:
    """List all errors and ends of spreads of a study in percent, to scale the y axis."""
    samples: list[RandomDeletionResult | RandomSwapResult] = []
    errors: list[float] = []
    for net in study.nets:
        samples += [*net.thinned, *net.swapped]
        errors += [net.error, *net.deletion_errors]
    for sample in samples:
        errors += [sample.error, *(compute_error_spread(sample) or ())]
    return [100 * error for error in errors]


def draw_spread_bar(axes: "Axes", point: ErrorPoint, color: str) -> None:
    """Draw an error bar over the spread of a point; draw nothing for a single draw."""
    if point.spread_percents is None:
        return
    low, high = point.spread_percents
    lengths = ([point.error_percent - low], [high - point.error_percent])
    axes.errorbar(point.x, point.error_percent, lengths, color=color, elinewidth=1, capsize=2.5)


def add_net_legend(
    figure: "Figure", nets: Sequence[NetworkLesionResult], colors: Sequence[str]
) -> None:
    """Add a legend of the nets above the panels."""
    lines = [make_legend_line("-", net.label, 1.8) for net in nets]
    for line, color in zip(lines, colors, strict=True):
        line.set_color(color)
    width = figure.get_figwidth()
    figure.legend(
        handles=lines,
        loc="upper left",
        bbox_to_anchor=(0.5 / width, 1),
        ncols=count_legend_columns(width),
    )

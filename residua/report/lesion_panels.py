"""Code that the figures of a lesion study share: net colors, panels, legends and error curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from residua.config.lesion_results import LesionStudyResult, NetworkLesionResult
from residua.report.figures import (
    DESKTOP_WIDTH,
    add_tooltip,
    make_blank_figure,
    make_legend_line,
    pick_series_color,
    set_error_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_MARGIN_INCHES = 0.62


@dataclass(frozen=True, slots=True)
class ErrorPoint:
    """A point of an error curve; `text` is its tooltip."""

    x: float
    error_percent: float
    sd_percent: float | None  # None for a single draw
    text: str


def make_error_point(x: float, error: float, sd: float | None, text: str) -> ErrorPoint:
    """Make a point of an error curve; `error` and `sd` are in [0, 1], `text` is its tooltip."""
    return ErrorPoint(x, 100 * error, None if sd is None else 100 * sd, text)


def pick_net_colors(nets: Sequence[NetworkLesionResult]) -> list[str]:
    """Choose the color of each net; all plain nets get the color of plain nets in depth figures."""
    colors, residual_count = [], 0
    for net in nets:
        residual_count += net.is_residual
        colors.append(pick_series_color(residual_count if net.is_residual else 0))
    return colors


def make_two_panels(width: float) -> "tuple[Figure, tuple[Axes, Axes]]":
    """Make a figure of two panels, side by side if `width` is `DESKTOP_WIDTH`, else stacked."""
    is_wide = width == DESKTOP_WIDTH
    figure = make_blank_figure(width, 3.5 if is_wide else 6.4)
    bottom, top = compute_margin_fractions(figure, 0.52, 0.4)
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
    """Draw one error curve per net, with bars of one standard deviation.

    The y axis follows from all errors of `study`, so that all panels have the same scale.
    """
    set_error_axis(axes, list_ablation_percents(study))
    for points, color in zip(curves, colors, strict=True):
        x, errors = [point.x for point in points], [point.error_percent for point in points]
        axes.plot(x, errors, color=color, lw=1.6, marker="o", ms=4, clip_on=False)
        for point in points:
            draw_sd_bar(axes, point, color)
            add_tooltip(axes, point.x, point.error_percent, point.text)
    axes.set_ylabel("error (%)")


def list_ablation_percents(study: LesionStudyResult) -> list[float]:
    """List the errors of intact nets and after all deletions, in percent, to scale the y axis."""
    return [
        100 * error
        for net in study.nets
        for error in (net.error, *net.deletion_errors, *(many.error for many in net.thinned))
    ]


def draw_sd_bar(axes: "Axes", point: ErrorPoint, color: str) -> None:
    """Draw an error bar of one sd, cut off at 0; draw nothing for a point without sd."""
    if point.sd_percent is None:
        return
    below = min(point.sd_percent, point.error_percent)
    lengths = ([below], [point.sd_percent])
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
        ncols=3 if width == DESKTOP_WIDTH else 1,
    )

"""The reliability figure, as SVG text: how often a network is right against how sure it is."""

from typing import TYPE_CHECKING

from residua.config.evaluation_results import CalibrationResult
from residua.report.figures import (
    BASE_COLORS,
    DESKTOP_WIDTH,
    MUTED_COLOR,
    SERIES_COLORS,
    TEXT_COLOR,
    figure_to_svg,
    make_blank_figure,
    use_figure_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP_COLOR, ACCURACY_COLOR = list(SERIES_COLORS)[:2]
CALIBRATION_COLORS = BASE_COLORS | {ink: SERIES_COLORS[ink] for ink in (GAP_COLOR, ACCURACY_COLOR)}


def render_reliability_figure(
    calibrations: dict[str, CalibrationResult], width: float = DESKTOP_WIDTH
) -> str:
    """SVG `width` inches wide: for each range of confidence the accuracy, its gap to the confidence, and the share of images."""
    columns = len(calibrations) if width == DESKTOP_WIDTH else 1
    rows = -(-len(calibrations) // columns)
    square_inches = (width - 0.62 - 0.2 - 0.5 * (columns - 1)) / columns  # of a square, inches
    panel_inches = square_inches + 0.75 + 1.05  # with the shares of images below, titles and labels
    with use_figure_style(f"reliability {width}"):
        figure = make_blank_figure(width, rows * panel_inches)
        height = figure.get_figheight()
        for i, (title, calibration) in enumerate(calibrations.items()):
            row, column = divmod(i, columns)
            left, top = (
                (0.62 + column * (square_inches + 0.5)) / width,
                1 - (row * panel_inches + 0.5) / height,
            )
            accuracy_axes = figure.add_axes(
                (left, top - square_inches / height, square_inches / width, square_inches / height)
            )
            share_axes = figure.add_axes(
                (left, top - (square_inches + 0.65) / height, square_inches / width, 0.55 / height)
            )
            accuracy_axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=16)
            accuracy_axes.annotate(
                f"ECE {100 * calibration.ece:.1f} %",
                (0, 1),
                (0, 4),
                xycoords="axes fraction",
                textcoords="offset points",
                color=MUTED_COLOR,
                fontsize=9,
            )
            draw_bin_accuracies(accuracy_axes, calibration)
            draw_bin_shares(share_axes, calibration)
            if column == 0:
                accuracy_axes.set_ylabel("right (%)")
                share_axes.set_ylabel("images (%)")
        return figure_to_svg(figure)


def draw_bin_accuracies(axes: "Axes", calibration: CalibrationResult) -> None:
    """A line at each bin's accuracy, and between it and the confidence the gap."""
    num_bins = len(calibration.bins)
    axes.plot([0, 100], [0, 100], color=MUTED_COLOR, lw=1, ls=(0, (1, 2)), zorder=3)
    for i, b in enumerate(calibration.bins):
        if b.count:
            left, right = 100 * (i + 0.06) / num_bins, 100 * (i + 0.94) / num_bins
            low, high = sorted((100 * b.accuracy, 100 * b.confidence))
            axes.fill_between([left, right], 0, low, color=ACCURACY_COLOR, lw=0)
            axes.fill_between([left, right], low, high, color=GAP_COLOR, lw=0, alpha=0.6)
            axes.plot([left, right], [100 * b.accuracy] * 2, color=TEXT_COLOR, lw=1.3, zorder=4)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    axes.tick_params(labelbottom=False)


def draw_bin_shares(axes: "Axes", calibration: CalibrationResult) -> None:
    """A bar for each bin's share of the images."""
    num_bins, total = len(calibration.bins), sum(b.count for b in calibration.bins)
    bin_centers = [100 * (i + 0.5) / num_bins for i in range(num_bins)]
    axes.bar(
        bin_centers,
        [100 * b.count / total for b in calibration.bins],
        width=88 / num_bins,
        color=MUTED_COLOR,
        lw=0,
    )
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=(0, 50))
    axes.set_xlabel("probability of the most probable class (%)")

"""Reliability diagrams as SVG: accuracy against confidence (Guo et al. 2017)."""

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
    from matplotlib.figure import Figure

GAP_COLOR, ACCURACY_COLOR = list(SERIES_COLORS)[:2]
CALIBRATION_COLORS = BASE_COLORS | {
    color: SERIES_COLORS[color] for color in (GAP_COLOR, ACCURACY_COLOR)
}
LEFT_INCHES, RIGHT_INCHES, COLUMN_GAP_INCHES = 0.62, 0.2, 0.5
TITLE_INCHES, BELOW_SQUARE_INCHES = 0.5, 1.3  # below the square: bin sizes and labels
BAR_PANEL_INCHES = 0.55


def render_reliability_figure(
    calibrations: dict[str, CalibrationResult], width: float = DESKTOP_WIDTH
) -> str:
    """Render an SVG with one reliability diagram per calibration.

    `calibrations` maps the title of each diagram to its data.  A diagram is a square that plots
    accuracy against confidence, and below it the percentage of images in each bin.  `width` is in
    inches.
    """
    columns = len(calibrations) if width == DESKTOP_WIDTH else 1
    rows = -(-len(calibrations) // columns)
    gaps_inches = COLUMN_GAP_INCHES * (columns - 1)
    square_inches = (width - LEFT_INCHES - RIGHT_INCHES - gaps_inches) / columns
    row_inches = TITLE_INCHES + square_inches + BELOW_SQUARE_INCHES
    with use_figure_style(f"reliability {width}"):
        figure = make_blank_figure(width, rows * row_inches)
        for i, (title, calibration) in enumerate(calibrations.items()):
            row, column = divmod(i, columns)
            left_inches = LEFT_INCHES + column * (square_inches + COLUMN_GAP_INCHES)
            top_inches = row * row_inches + TITLE_INCHES
            accuracy_axes, share_axes = add_reliability_axes(
                figure, left_inches, top_inches, square_inches
            )
            label_reliability_axes(accuracy_axes, title, calibration)
            draw_bin_accuracies(accuracy_axes, calibration)
            draw_bin_shares(share_axes, calibration)
            if column == 0:
                accuracy_axes.set_ylabel("accuracy (%)")
                share_axes.set_ylabel("images (%)")
        return figure_to_svg(figure)


def add_reliability_axes(
    figure: "Figure", left_inches: float, top_inches: float, square_inches: float
) -> "tuple[Axes, Axes]":
    """Add a diagram's square accuracy axes and, below, its flat axes for bin sizes; return both.

    The square's upper left corner is `left_inches` from the left and `top_inches` from the top of
    the figure.  Its sides are `square_inches` long.
    """
    figure_width, figure_height = figure.get_figwidth(), figure.get_figheight()
    left, width = left_inches / figure_width, square_inches / figure_width
    square_bottom = 1 - (top_inches + square_inches) / figure_height
    bars_bottom = square_bottom - (BAR_PANEL_INCHES + 0.1) / figure_height
    return (
        figure.add_axes((left, square_bottom, width, square_inches / figure_height)),
        figure.add_axes((left, bars_bottom, width, BAR_PANEL_INCHES / figure_height)),
    )


def label_reliability_axes(axes: "Axes", title: str, calibration: CalibrationResult) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=16)
    axes.annotate(
        f"ECE {100 * calibration.ece:.1f} %",
        (0, 1),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED_COLOR,
        fontsize=9,
    )


def draw_bin_accuracies(axes: "Axes", calibration: CalibrationResult) -> None:
    """Draw each bin's accuracy as a bar, and shade the gap between accuracy and mean confidence."""
    num_bins = len(calibration.bins)
    axes.plot([0, 100], [0, 100], color=MUTED_COLOR, lw=1, ls=(0, (1, 2)), zorder=3)
    for i, b in enumerate(calibration.bins):
        if not b.count:
            continue
        edges = [100 * (i + 0.06) / num_bins, 100 * (i + 0.94) / num_bins]
        low, high = sorted((100 * b.accuracy, 100 * b.confidence))
        axes.fill_between(edges, 0, low, color=ACCURACY_COLOR, lw=0)
        axes.fill_between(edges, low, high, color=GAP_COLOR, lw=0, alpha=0.6)
        axes.plot(edges, [100 * b.accuracy] * 2, color=TEXT_COLOR, lw=1.3, zorder=4)
    ticks = range(0, 101, 20)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=ticks, yticks=ticks)
    axes.tick_params(labelbottom=False)


def draw_bin_shares(axes: "Axes", calibration: CalibrationResult) -> None:
    """Draw the percentage of all images in each bin, as a bar chart."""
    num_bins, image_count = len(calibration.bins), sum(b.count for b in calibration.bins)
    bin_centers = [100 * (i + 0.5) / num_bins for i in range(num_bins)]
    shares = [100 * b.count / image_count for b in calibration.bins]
    axes.bar(bin_centers, shares, width=88 / num_bins, color=MUTED_COLOR, lw=0)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=(0, 50))
    axes.set_xlabel("confidence (%)")

"""Place labels at the ends of lines and at ticks so that they do not overlap."""

from itertools import pairwise
from math import asinh, log
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_HEIGHT = 1.25  # from one line of text to the next, in font sizes
MARKER_OFFSET_POINTS = 13  # from the axes to the marker before a label
CHARACTER_POINTS = 5.6  # mean width of a digit at 9.5 points
NUM_SPREAD_ROUNDS = 200  # enough for the labels of a dozen lines to settle


class LineEnd(NamedTuple):
    """A label for the right end of a line.

    `value` is the y value of the line's end, in data units.  If `marker` is empty, none is drawn.
    """

    value: float
    label: str
    color: str
    marker: str = ""


def label_line_ends(axes: "Axes", line_ends: list[LineEnd], font_size: float) -> None:
    """Write each label to the right of the axes, near its line's end but without overlaps.

    The y axis must be logarithmic or asinh with a linear width of 1.  `font_size` is in points.
    """
    scale_value = log if axes.get_yscale() == "log" else asinh
    bottom, top = (scale_value(limit) for limit in axes.get_ylim())
    width_points, height_points = measure_axes_points(axes)
    max_lines = max(end.label.count("\n") + 1 for end in line_ends)
    min_gap = LINE_HEIGHT * font_size / height_points * max_lines
    heights = spread_labels(
        [(scale_value(end.value) - bottom) / (top - bottom) for end in line_ends], min_gap
    )
    for height, end in zip(heights, line_ends, strict=True):
        if end.marker:
            axes.plot(
                1 + MARKER_OFFSET_POINTS / width_points,
                height,
                transform=axes.transAxes,
                color=end.color,
                marker=end.marker,
                ms=5.5,
                clip_on=False,
            )
        axes.annotate(
            end.label,
            (1, height),
            (20 if end.marker else 9, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=end.color,
            fontsize=font_size,
            annotation_clip=False,
        )


def measure_axes_points(axes: "Axes") -> tuple[float, float]:
    """Measure the width and height of the axes in points (1/72 inch)."""
    figure: Any = axes.figure  # matplotlib types it as possibly None
    position = axes.get_position()
    width_inches, height_inches = figure.get_figwidth(), figure.get_figheight()
    return 72 * width_inches * position.width, 72 * height_inches * position.height


def spread_labels(heights: list[float], min_gap: float) -> list[float]:
    """Move the heights apart, as little as possible, until they are at least `min_gap` apart.

    Their order is kept.  Heights and gap are fractions of the axes' height.  No label moves above
    the axes, where the legend is, unless a label starts there.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    spread_heights = list(heights)
    for _ in range(NUM_SPREAD_ROUNDS):
        for i, j in pairwise(order):
            overlap = min_gap - (spread_heights[j] - spread_heights[i])
            if overlap > 0:
                spread_heights[i] -= overlap / 2
                spread_heights[j] += overlap / 2
    upper_limit = max(1.0, *heights)
    for i in reversed(order):
        spread_heights[i] = min(spread_heights[i], upper_limit)
        upper_limit = spread_heights[i] - min_gap
    return spread_heights


def hide_crowded_labels(depths: list[int], width_points: float = 380.0) -> list[str]:
    """Return the tick label of each depth on a logarithmic axis `width_points` (1/72 inch) wide.

    The first and the last depth are labelled.  The label of another is empty if it would touch the
    label before it or the last one.
    """
    if len(depths) == 1:
        return [f"{depths[0]:,}"]
    scale = width_points / log(depths[-1] / depths[0])

    def touches(depth: int, other: int) -> bool:
        characters = (len(str(depth)) + len(str(other))) / 2 + 1
        return abs(log(depth / other)) * scale < characters * CHARACTER_POINTS

    labelled = [depths[0]]
    for depth in depths[1:-1]:
        if not touches(depth, labelled[-1]) and not touches(depth, depths[-1]):
            labelled.append(depth)
    labelled.append(depths[-1])
    return [f"{depth:,}" if depth in labelled else "" for depth in depths]

"""Draw the errors of a run over its training as text."""

from collections.abc import Sequence
from math import asinh, sinh
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residua.record import MetricsRow

Curve = list[tuple[float, float]]
"""Points (epoch, error in percent) in order of the epoch."""

CHART_ROWS = 8
LABEL_COLUMNS = 7  # to the left of the axis
MAX_CHART_COLUMNS, MIN_CHART_COLUMNS = 72, 24
FINE_MARKS = ("●", "·", "│", "└", "─")  # dev error, training error, axis, corner, base
ASCII_MARKS = ("*", ".", "|", "+", "-")


def draw_error_chart(rows: Sequence["MetricsRow"], columns: int, encoding: str) -> list[str]:
    """Draw dev and training error against epochs: at most 11 lines of at most `columns` characters.

    `rows` are those of metrics.jsonl.  The error axis is linear below 1 % and logarithmic above, as
    in the figures.  Returns [] if fewer than two dev errors were measured.  Characters that
    `encoding` lacks are replaced by ASCII.
    """
    curves = {name: read_error_curve(rows, name) for name in ("dev_error", "train_error")}
    if len(curves["dev_error"]) < 2:
        return []
    dev_mark, train_mark, axis, corner, base = choose_marks(encoding)
    columns = max(MIN_CHART_COLUMNS, min(columns, MAX_CHART_COLUMNS)) - LABEL_COLUMNS - 1
    heights = [asinh(error) for curve in curves.values() for _, error in curve]
    low, high = min(heights), max(heights)
    first_epoch = min(curve[0][0] for curve in curves.values() if curve)
    last_epoch = max(curve[-1][0] for curve in curves.values() if curve)
    grid = [[" "] * columns for _ in range(CHART_ROWS)]
    for name, mark in (("train_error", train_mark), ("dev_error", dev_mark)):
        for column in range(columns):
            share = column / (columns - 1)
            epoch = first_epoch + share * (last_epoch - first_epoch)
            error = interpolate_curve(curves[name], epoch)
            if error is not None:
                depth = (high - asinh(error)) / (high - low or 1.0)
                grid[round(depth * (CHART_ROWS - 1))][column] = mark
    row_errors = [sinh(high - (high - low) * i / (CHART_ROWS - 1)) for i in range(CHART_ROWS)]
    first_label, last_label = f"epoch {first_epoch:.1f}", f"{last_epoch:.1f}"
    gap = " " * (columns - len(first_label) - len(last_label))
    return [
        f"Error in %, log-like axis: dev {dev_mark} training {train_mark}",
        *(
            f"{format_axis_error(error):>{LABEL_COLUMNS - 1}} {axis}{''.join(line).rstrip()}"
            for error, line in zip(row_errors, grid, strict=True)
        ),
        " " * LABEL_COLUMNS + corner + base * columns,
        " " * (LABEL_COLUMNS + 1) + first_label + gap + last_label,
    ]


def choose_marks(encoding: str) -> tuple[str, ...]:
    """Choose the marks of the chart: `FINE_MARKS`, or `ASCII_MARKS` if `encoding` lacks one."""
    try:
        "".join(FINE_MARKS).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII_MARKS
    return FINE_MARKS


def read_error_curve(rows: Sequence["MetricsRow"], name: str) -> Curve:
    """Read the points of one error, `dev_error` or `train_error`; rows without it are left out."""
    points = [(row.get("epoch", row.get("step")), row.get(name)) for row in rows]
    curve = [(x, 100 * error) for x, error in points if x is not None and error is not None]
    return sorted(curve, key=lambda point: point[0])


def interpolate_curve(curve: Curve, epoch: float) -> float | None:
    """Interpolate the error at `epoch` linearly; None before the first and after the last point."""
    for i, (x, error) in enumerate(curve):
        if x >= epoch - 1e-9:
            if i == 0:
                return error if x <= epoch + 1e-9 else None
            earlier_x, earlier_error = curve[i - 1]
            if x == earlier_x:
                return error
            return earlier_error + (error - earlier_error) * (epoch - earlier_x) / (x - earlier_x)
    return None


def format_axis_error(percent: float) -> str:
    """Format an error for the axis, e.g. `90` or `9.8`."""
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}"

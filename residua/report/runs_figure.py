"""The figure of the learning curves of many runs, one panel per data set."""

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import shorten
from typing import NamedTuple

from residua.errors import RecordError
from residua.report.figures import (
    DESKTOP_WIDTH,
    MUTED_COLOR,
    SERIES_COLORS,
    add_tooltip,
    figure_to_svg,
    pick_series_color,
    set_asinh_error_y_axis,
    use_figure_style,
)
from residua.report.format import format_percent
from residua.report.learning_curves import make_panel_grid, set_training_axis
from residua.report.line_labels import LineEnd, label_line_ends
from residua.report.listed_runs import ListedRun

MAX_DRAWN_RUNS = 100  # of one data set, the newest; more are a grey area
MAX_PANELS = 8  # data sets with the most runs
NUM_COLORED_RUNS = len(SERIES_COLORS)


class DevCurve(NamedTuple):
    """The dev error of a run: epochs, and the error in percent at each; at least two points."""

    run: ListedRun
    number: int  # of the run in the table
    epochs: list[float]
    percents: list[float]


def read_curves_by_data(numbered_runs: Mapping[int, ListedRun]) -> dict[str, list[DevCurve]]:
    """Read the dev errors of runs for at most `MAX_PANELS` data sets, those with most runs first.

    `numbered_runs` are in the order of time; the newest runs of each data set are kept.  Runs with
    fewer than two measurements, or with damaged ones, are left out.
    """
    runs_by_data: dict[str, list[tuple[int, ListedRun]]] = {}
    for number, run in numbered_runs.items():
        runs_by_data.setdefault(run.data, []).append((number, run))
    names = sorted(runs_by_data, key=lambda name: (-len(runs_by_data[name]), name))
    curves_by_data: dict[str, list[DevCurve]] = {}
    for name in names:
        newest = runs_by_data[name][-MAX_DRAWN_RUNS:]
        curves = [curve for number, run in newest if (curve := read_dev_curve(run, number))]
        if curves and len(curves_by_data) < MAX_PANELS:
            curves_by_data[name] = curves
    return curves_by_data


def read_dev_curve(run: ListedRun, number: int) -> DevCurve | None:
    """Read the dev errors of a run over epochs; None if there are fewer than two in its metrics."""
    is_finished = run.state == "finished"
    try:
        rows = run.record.read_metrics() if is_finished else run.record.read_metrics_so_far()
    except RecordError:
        return None
    points = [
        (epoch, 100 * error)
        for row in rows
        if (epoch := row.get("epoch")) is not None
        and (error := row.get("dev_error")) is not None
        and 0 <= error <= 1
    ]
    if len(points) < 2:
        return None
    return DevCurve(run, number, [epoch for epoch, _ in points], [error for _, error in points])


def render_runs_figure(
    curves_by_data: Mapping[str, Sequence[DevCurve]], width: float = DESKTOP_WIDTH
) -> str:
    """Render an SVG of the dev error over epochs, with all runs of a data set in one panel.

    The best runs of each data set have colors, and their numbers stand at the right; all others are
    grey.  `width` is in inches.
    """
    columns = min(2 if width == DESKTOP_WIDTH else 1, len(curves_by_data))
    with use_figure_style(f"runs {width}"):
        figure, grid = make_panel_grid(len(curves_by_data), columns, width)
        for i, (data, curves) in enumerate(curves_by_data.items()):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            title = shorten(data, 40 if columns == 1 else 30, placeholder=" ...")
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            set_training_axis(axes, ceil(max(c.epochs[-1] for c in curves)), 5)
            set_asinh_error_y_axis(
                axes, [percent for curve in curves for percent in curve.percents]
            )
            best = sorted(curves, key=lambda curve: min(curve.percents))[:NUM_COLORED_RUNS]
            colors = {curve.number: pick_series_color(k) for k, curve in enumerate(best)}
            for curve in [c for c in curves if c.number not in colors] + best[::-1]:
                is_colored = curve.number in colors
                axes.plot(
                    curve.epochs,
                    curve.percents,
                    color=colors.get(curve.number, MUTED_COLOR),
                    lw=1.5 if is_colored else 0.6,
                    alpha=1 if is_colored else 0.5,
                    zorder=3 if is_colored else 2,
                )
                if width == DESKTOP_WIDTH:
                    text = format_curve_tooltip(curve)
                    add_tooltip(axes, curve.epochs[-1], curve.percents[-1], text)
            label_line_ends(
                axes,
                [
                    LineEnd(curve.percents[-1], str(curve.number), colors[curve.number])
                    for curve in best
                ],
                font_size=9,
            )
            axes.set_ylabel("dev error (%)" if i % columns == 0 else "")
            axes.set_xlabel("epoch" if i + columns >= len(curves_by_data) else "")
        return figure_to_svg(figure)


def format_curve_tooltip(curve: DevCurve) -> str:
    """Format the tooltip text for a run: `3, digits-wide: dev error 4.2 % after 12 epochs`."""
    error = format_percent(curve.percents[-1] / 100)
    return (
        f"{curve.number}, {curve.run.name}: dev error {error} after {curve.epochs[-1]:.3g} epochs"
    )

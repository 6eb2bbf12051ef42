"""The figure of learning curves: training and dev error over steps, one panel per arm.

A line is the mean over seeds, and the band around it their range.
"""

from collections.abc import Sequence
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from residua.report.figures import (
    BAND_OPACITY,
    DESKTOP_WIDTH,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    map_depth_colors_to_dark,
    set_asinh_error_y_axis,
    use_figure_style,
)
from residua.report.format import format_counted_noun, format_percent
from residua.report.line_labels import LineEnd, label_line_ends
from residua.report.recorded_run import FinishedRun
from residua.report.significance import format_arm_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

MAX_COLUMNS = 3  # panels next to each other on a wide screen


def render_learning_curves(runs: Sequence[FinishedRun], width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG of training and dev error over steps, with final test errors as dots.

    Errors are in percent: means over seeds, with the range of the dev error as a band.  There is
    one panel per arm; within a panel, each depth has its own color.  `width` is in inches.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    columns = min(MAX_COLUMNS if width == DESKTOP_WIDTH else 1, len(arms))
    depths = sorted({run.depth for run in runs})
    color_by_depth = dict(zip(depths, map_depth_colors_to_dark(len(depths)), strict=True))
    error_percents = list_error_percents(runs)
    with use_figure_style(f"curves {width}"):
        figure, grid = make_panel_grid(len(arms), columns, width)
        for i, arm in enumerate(arms):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            title = fill(format_arm_name(arm), 26 if columns > 1 else 44)
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            set_training_axis(axes, max(run.result.steps for run in runs), 3 if columns > 1 else 5)
            set_asinh_error_y_axis(axes, error_percents)
            arm_runs = [run for run in runs if run.arm == arm]
            draw_run_curves(axes, arm_runs, color_by_depth, width == DESKTOP_WIDTH)
            is_first_column, is_lowest_panel = i % columns == 0, i + columns >= len(arms)
            axes.tick_params(labelleft=is_first_column)
            axes.set_ylabel("error (%)" if is_first_column else "")
            axes.set_xlabel("step" if is_lowest_panel else "")
        add_curves_legend(figure, width)
        return figure_to_svg(figure)


def list_error_percents(runs: Sequence[FinishedRun]) -> list[float]:
    """List all errors that the figure shows, in percent."""
    error_percents = [100 * run.result.test_error for run in runs]
    for run in runs:
        for error_name in ("train_error", "dev_error"):
            error_percents += get_error_curve(run, error_name)[1]
    return error_percents


def make_panel_grid(num_panels: int, columns: int, width: float) -> tuple["Figure", "GridSpec"]:
    """Make a figure and a grid for its panels, which the caller fills row by row."""
    rows = -(-num_panels // columns)
    row_height = 2.55 if columns > 1 or width == DESKTOP_WIDTH else 2.2
    height = row_height * rows + 0.75
    figure = make_blank_figure(width, height)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.62 / width,
        right=1 - 0.36 / width,
        wspace=0.26,
        hspace=0.4,
        bottom=0.5 / height,
        top=1 - 0.62 / height,
    )
    return figure, grid


def set_training_axis(axes: "Axes", max_steps: int, num_ticks: int) -> None:
    """Make the x axis show training steps from 0 to `max_steps`."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max_steps)
    axes.xaxis.set_major_locator(MaxNLocator(num_ticks, steps=(1, 2, 5, 10), integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


class AverageCurve(NamedTuple):
    """The mean of an error over seeds at each step, and its range; errors are in percent."""

    steps: list[float]
    means: list[float]
    lowest: list[float]
    highest: list[float]


def draw_run_curves(
    axes: "Axes", runs: list[FinishedRun], color_by_depth: dict[int, str], show_tooltips: bool
) -> None:
    """Draw the average curves of one arm's runs.

    Each depth's label is to the right of the axes, at the mean final test error of its runs.
    """
    line_ends = []
    for depth in sorted({run.depth for run in runs}):
        color = color_by_depth[depth]
        depth_runs = [run for run in runs if run.depth == depth]
        train, dev = (
            average_error_curves(depth_runs, name) for name in ("train_error", "dev_error")
        )
        axes.plot(train.steps, train.means, color=color, ls=(0, (3, 1.5)), lw=0.9)
        axes.plot(dev.steps, dev.means, color=color, lw=1.5)
        if len(depth_runs) > 1:
            axes.fill_between(
                dev.steps, dev.lowest, dev.highest, color=color, alpha=BAND_OPACITY, lw=0
            )
        steps = max(run.result.steps for run in depth_runs)
        test_percent = 100 * fmean(run.result.test_error for run in depth_runs)
        axes.plot(steps, test_percent, color=color, marker="o", ms=5, clip_on=False, zorder=4)
        if show_tooltips:
            add_tooltip(axes, steps, test_percent, format_curve_end(depth_runs, test_percent))
        line_ends.append(LineEnd(test_percent, str(depth), color))
    label_line_ends(axes, line_ends, font_size=9)


def average_error_curves(runs: Sequence[FinishedRun], error_name: str) -> AverageCurve:
    """Average the curves of an error over runs, at the steps at which all of them measured it."""
    curves = [dict(zip(*get_error_curve(run, error_name), strict=True)) for run in runs]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    values = [[curve[step] for curve in curves] for step in steps]
    return AverageCurve(steps, [fmean(v) for v in values], [*map(min, values)], [*map(max, values)])


def format_curve_end(runs: Sequence[FinishedRun], test_percent: float) -> str:
    """Format the tooltip for runs of one depth: `plain, 20 layers: test error 6.0 %; 2 seeds`."""
    first = runs[0]
    seeds = format_counted_noun(len(runs), "seed")
    return (
        f"{format_arm_name(first.arm)}, {first.depth} layers: test error "
        f"{format_percent(test_percent / 100)} at the end; {seeds}"
    )


def get_error_curve(run: FinishedRun, error_name: str) -> tuple[list[float], list[float]]:
    """Return the curve of one error over a run: its steps, and the errors there in percent.

    `error_name` is a column of metrics.jsonl, e.g. `dev_error`.  The last training error is left
    out if it is an average over less than half the usual number of steps, because it is then too
    noisy.
    """
    points = [(row["step"], row.get(error_name)) for row in run.metric_lines]
    curve = [
        (step, 100 * error) for step, error in points if step is not None and error is not None
    ]
    if error_name == "train_error" and len(curve) > 2:
        usual_steps, last_steps = curve[1][0] - curve[0][0], curve[-1][0] - curve[-2][0]
        if last_steps < usual_steps / 2:
            curve.pop()
    return [step for step, _ in curve], [percent for _, percent in curve]


def add_curves_legend(figure: "Figure", width: float) -> None:
    """Add a legend above the panels that explains the lines and the dots."""
    legend_lines = [
        make_legend_line("-", "dev", 1.5),
        make_legend_line("--", "training", 0.9),
        make_legend_line("none", "test, at the end", marker="o"),
    ]
    figure.legend(
        handles=legend_lines,
        loc="upper left",
        bbox_to_anchor=(0.5 / width, 1),
        ncols=3,
        columnspacing=1.0,
        handletextpad=0.5,
    )

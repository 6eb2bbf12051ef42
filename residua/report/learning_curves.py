"""The figure of learning curves: training and dev error over steps, one panel per arm."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from residua.report.figures import (
    DESKTOP_WIDTH,
    add_tooltip,
    figure_to_svg,
    make_blank_figure,
    make_depth_colors,
    make_legend_line,
    set_error_axis,
    use_figure_style,
)
from residua.report.format import format_percent
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

    Errors are in percent.  There is one panel per arm; within a panel, each depth has its own
    color.  `width` is in inches.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    columns = min(MAX_COLUMNS if width == DESKTOP_WIDTH else 1, len(arms))
    depths = sorted({run.depth for run in runs})
    color_by_depth = dict(zip(depths, make_depth_colors(len(depths)), strict=True))
    error_percents = list_error_percents(runs)
    with use_figure_style(f"curves {width}"):
        figure, grid = make_panel_grid(len(arms), columns, width)
        for i, arm in enumerate(arms):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            title = fill(format_arm_name(arm), 26 if columns > 1 else 44)
            axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
            set_training_axis(axes, max(run.result.steps for run in runs), 3 if columns > 1 else 5)
            set_error_axis(axes, error_percents)
            arm_runs = [run for run in runs if run.arm == arm]
            draw_run_curves(axes, arm_runs, color_by_depth, width == DESKTOP_WIDTH)
            is_first_column, is_lowest_panel = i % columns == 0, i + columns >= len(arms)
            axes.tick_params(labelleft=is_first_column)
            axes.set_ylabel("error (%)" if is_first_column else "")
            axes.set_xlabel("step" if is_lowest_panel else "")
        add_curves_legend(figure, width)
        return figure_to_svg(figure)


def list_error_percents(runs: Sequence[FinishedRun]) -> list[float]:
    """All errors that the figure shows, in percent."""
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


def draw_run_curves(
    axes: "Axes", runs: list[FinishedRun], color_by_depth: dict[int, str], show_tooltips: bool
) -> None:
    """Draw the curves of one arm's runs.

    Each depth's label is to the right of the axes, at the mean final test error of its runs.
    """
    test_percents_by_depth: dict[int, list[float]] = {}
    for run in runs:
        color = color_by_depth[run.depth]
        axes.plot(*get_error_curve(run, "train_error"), color=color, ls=(0, (3, 1.5)), lw=0.9)
        axes.plot(*get_error_curve(run, "dev_error"), color=color, lw=1.5)
        test_percent = 100 * run.result.test_error
        axes.plot(
            run.result.steps, test_percent, color=color, marker="o", ms=5, clip_on=False, zorder=4
        )
        if show_tooltips:
            add_tooltip(axes, run.result.steps, test_percent, format_run_tooltip(run))
        test_percents_by_depth.setdefault(run.depth, []).append(test_percent)
    line_ends = [
        LineEnd(sum(percents) / len(percents), str(depth), color_by_depth[depth])
        for depth, percents in test_percents_by_depth.items()
    ]
    label_line_ends(axes, line_ends, font_size=9)


def format_run_tooltip(run: FinishedRun) -> str:
    """Tooltip text for a run: `plain, 20 layers, seed 0: test error 6.0 %`."""
    run_title = f"{format_arm_name(run.arm)}, {run.depth} layers, seed {run.seed}"
    return f"{run_title}: test error {format_percent(run.result.test_error)}"


def get_error_curve(run: FinishedRun, error_name: str) -> tuple[list[float], list[float]]:
    """The curve of one error over a run: its steps, and the errors at these steps in percent.

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

"""The figures of a study: errors against depth or by arm, errors over steps, and how late runs begin to learn.

Errors in [0, 1] come in, percent is drawn.
"""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from residua.report.figures import (
    DESKTOP_WIDTH,
    MUTED_COLOR,
    PERCENT_TICKS,
    PHONE_WIDTH,
    add_tooltip,
    figure_to_svg,
    hide_crowded_labels,
    label_line_ends,
    make_blank_figure,
    make_depth_colors,
    make_legend_line,
    pick_series_color,
    pick_series_marker,
    set_error_axis,
    use_figure_style,
)
from residua.report.runs import FinishedRun, StudyRuns
from residua.report.significance import (
    format_arm_name,
    format_cell_measure,
    format_percent,
    group_cells_by_arm,
)
from residua.report.tables import StudyCell, average_runs_over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FigureRenderer = Callable[[float], str]
"""A figure as SVG text, by its width in inches."""


def render_study_figures(runs: StudyRuns) -> dict[str, tuple[str, str]]:
    """Each figure of a study or a run, for a desk and for a phone; those that there is something to draw in."""
    cells, num_classes = average_runs_over_seeds(runs), runs.finished[0].num_classes
    has_several_depths = len({cell.depth for cell in cells}) > 1
    renderers: dict[str, FigureRenderer] = {}
    if has_several_depths:
        renderers["depth"] = lambda width: render_depth_figure(cells, num_classes, width)
    elif len(cells) > 1:
        renderers["arms"] = lambda width: render_arms_figure(cells, num_classes, width)
    if has_several_depths and any(cell.first_learned_step is not None for cell in cells):
        renderers["start"] = lambda width: render_learning_start_figure(
            [cell for cell in cells if cell.first_learned_step is not None], width
        )
    if any(run.metric_lines for run in runs.finished):
        renderers["curves"] = lambda width: render_learning_curves(runs.finished, width)
    return {label: (draw(DESKTOP_WIDTH), draw(PHONE_WIDTH)) for label, draw in renderers.items()}


def render_depth_figure(
    cells: Sequence[StudyCell], num_classes: int, width: float = DESKTOP_WIDTH
) -> str:
    """SVG `width` inches wide: final training error (dashed) and test error (solid), in percent, against depth; a line an arm."""
    with use_figure_style(f"depth {width}"):
        figure, axes = make_depth_axes(cells, width)
        error_percents = [
            100 * error
            for cell in cells
            for error in (cell.comparable_train_error, cell.test_error + (cell.test_error_sd or 0))
        ]
        set_error_axis(axes, error_percents, 100 * (1 - 1 / num_classes))
        axes.set_ylabel("error (%)")
        line_ends = []
        for i, (arm, group) in enumerate(group_cells_by_arm(cells).items()):
            draw_arm_errors(axes, group, i)
            line_ends.append(
                (
                    100 * group[-1].test_error,
                    fill(format_arm_name(arm), 20),
                    pick_series_color(i),
                    pick_series_marker(i),
                )
            )
            for cell in group if width == DESKTOP_WIDTH else ():
                add_tooltip(axes, cell.depth, 100 * cell.test_error, format_cell_tooltip(cell))
        label_line_ends(axes, line_ends, font_size=9.5)
        keys = [make_legend_line("-", "test error"), make_legend_line("--", "training error")]
        axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)
        return figure_to_svg(figure)


def make_depth_axes(cells: Sequence[StudyCell], width: float) -> tuple["Figure", "Axes"]:
    """A figure, and axes over the depths of `cells` with room for the arms' names at the right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    depths = sorted({cell.depth for cell in cells})
    labels = [
        fill(format_arm_name(arm), 20).split("\n")
        for arm in dict.fromkeys(cell.arm for cell in cells)
    ]
    height = max(
        4.0 if width == DESKTOP_WIDTH else 3.7,
        1.0 + 0.17 * len(labels) * max(len(lines) for lines in labels),
    )
    right = 0.35 + 0.078 * max(len(line) for lines in labels for line in lines)
    figure = make_blank_figure(width, height)
    axes = figure.add_axes(
        (0.62 / width, 0.52 / height, 1 - (0.62 + right) / width, 1 - 0.92 / height)
    )
    axes.set_xscale("log")  # 20, 56, 110, 1202 layers
    axes.set_xlim(depths[0] / 1.12, depths[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(hide_crowded_labels(depths))
    axes.set_xlabel("depth (weight layers)")
    return figure, axes


def draw_arm_errors(axes: "Axes", arm_cells: list[StudyCell], arm_index: int) -> None:
    color = pick_series_color(arm_index)
    error_pairs = (
        [(cell.comparable_train_error, cell.comparable_train_error_sd) for cell in arm_cells],
        [(cell.test_error, cell.test_error_sd) for cell in arm_cells],
    )
    styles: tuple[dict[str, Any], ...] = ({"ls": "--", "lw": 1.2, "ms": 4, "mfc": "none"}, {"ls": "-", "lw": 2.0, "ms": 5.5})
    for pairs, style in zip(error_pairs, styles, strict=True):
        means = [100 * mean for mean, _ in pairs]
        axes.plot(
            [cell.depth for cell in arm_cells],
            means,
            color=color,
            marker=pick_series_marker(arm_index),
            clip_on=False,
            **style,
        )
        for cell, mean, (_, sd) in zip(arm_cells, means, pairs, strict=True):
            if sd is not None:
                error_bar = ([min(100 * sd, mean)], [100 * sd])  # no error is under 0
                axes.errorbar(
                    cell.depth, mean, error_bar, color=color, elinewidth=1, capsize=3, clip_on=False
                )


def format_cell_tooltip(cell: StudyCell) -> str:
    """What a point shows to the pointer."""
    errors = f"test error {format_percent_with_sd(cell.test_error, cell.test_error_sd)}, training error {format_percent_with_sd(cell.comparable_train_error, cell.comparable_train_error_sd)}"
    return f"{format_arm_name(cell.arm)}, {cell.depth} layers: {errors}; {cell.seeds} seed{'s' if cell.seeds > 1 else ''}"


def format_percent_with_sd(mean: float, sd: float | None) -> str:
    return format_percent(mean) if sd is None else f"{format_percent(mean)} ± {100 * sd:.1f}"


def render_arms_figure(
    cells: Sequence[StudyCell], num_classes: int, width: float = DESKTOP_WIDTH
) -> str:
    """SVG `width` inches wide: final training (hollow) and test error (filled), in percent, of each arm at one depth."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sorted_cells = sorted(cells, key=lambda cell: -cell.test_error)
    labels = [
        fill(format_arm_name(cell.arm), 26 if width == DESKTOP_WIDTH else 17)
        for cell in sorted_cells
    ]
    with use_figure_style(f"arms {width}"):
        height = 0.95 + sum(0.2 + 0.15 * (label.count("\n") + 1) for label in labels)
        left = 0.25 + 0.078 * max(len(line) for label in labels for line in label.split("\n"))
        figure = make_blank_figure(width, height)
        axes = figure.add_axes(
            (left / width, 0.5 / height, 1 - (left + 0.2) / width, 1 - 0.85 / height)
        )
        max_error = max(
            [cell.test_error + (cell.test_error_sd or 0) for cell in sorted_cells]
            + [cell.comparable_train_error for cell in sorted_cells]
        )
        axes.set_xscale("asinh", linear_width=1)  # 1 % and 90 % can be read alike
        axes.set_xlim(0, min(max(130 * max_error, 1.3), 125))
        axes.xaxis.set_major_locator(
            FixedLocator([tick for tick in PERCENT_TICKS if tick <= max(115 * max_error, 1)])
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
        axes.set_ylim(-0.6, len(sorted_cells) - 0.4)
        axes.set_yticks(range(len(sorted_cells)), labels)
        axes.set_xlabel(f"error (%), {sorted_cells[0].depth} layers")
        axes.grid(visible=True, axis="x")
        for i, cell in enumerate(sorted_cells):
            color = pick_series_color([other.arm for other in cells].index(cell.arm))
            axes.plot(
                100 * cell.comparable_train_error,
                i,
                color=color,
                marker="o",
                ms=5,
                mfc="none",
                ls="none",
                clip_on=False,
            )
            axes.plot(
                100 * cell.test_error, i, color=color, marker="o", ms=6, ls="none", clip_on=False
            )
            if cell.test_error_sd is not None:
                axes.errorbar(
                    100 * cell.test_error,
                    i,
                    xerr=100 * cell.test_error_sd,
                    color=color,
                    elinewidth=1,
                    capsize=3,
                )
            if width == DESKTOP_WIDTH:
                add_tooltip(axes, 100 * cell.test_error, i, format_cell_tooltip(cell))
        chance_percent = 100 * (1 - 1 / num_classes)
        if 130 * max_error > chance_percent:
            axes.axvline(chance_percent, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
        legend_marks = [
            make_legend_line("none", "test error", marker="o"),
            make_legend_line("none", "training error", marker="o"),
        ]
        legend_marks[1].set_markerfacecolor("none")
        axes.legend(handles=legend_marks, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        return figure_to_svg(figure)


def render_learning_start_figure(cells: Sequence[StudyCell], width: float = DESKTOP_WIDTH) -> str:
    """SVG `width` inches wide: steps until a run has begun to learn against depth; above the line, not in all its steps."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    measured_every, max_steps = (
        min(cell.measured_every or 1 for cell in cells),
        max(cell.steps or 1 for cell in cells),
    )
    with use_figure_style(f"start {width}"):
        figure, axes = make_depth_axes(cells, width)
        axes.set_yscale("log")
        axes.set_ylim(measured_every / 1.4, max_steps * 1.45)
        ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
        axes.yaxis.set_major_locator(
            FixedLocator(
                [tick for tick in ticks if measured_every / 1.4 <= tick < max_steps / 1.15]
            )
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.set_ylabel("steps")
        axes.axhline(max_steps, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
        axes.annotate(
            f"not in {max_steps:,} steps",
            (0, max_steps),
            (2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED_COLOR,
            fontsize=8.5,
        )
        line_ends = []
        for i, (arm, group) in enumerate(group_cells_by_arm(cells).items()):
            heights = [get_learning_start_height(cell) for cell in group]
            axes.plot(
                [cell.depth for cell in group],
                heights,
                color=pick_series_color(i),
                marker=pick_series_marker(i),
                ms=5.5,
                lw=1.6,
                clip_on=False,
            )
            line_ends.append(
                (
                    heights[-1],
                    fill(format_arm_name(arm), 20),
                    pick_series_color(i),
                    pick_series_marker(i),
                )
            )
            for cell, start_height in (
                zip(group, heights, strict=True) if width == DESKTOP_WIDTH else ()
            ):
                add_tooltip(
                    axes,
                    cell.depth,
                    start_height,
                    f"{format_arm_name(arm)}, {cell.depth} layers: {format_cell_measure(cell, 'start')} steps, to within {measured_every}",
                )
        label_line_ends(axes, line_ends, font_size=9.5)
        return figure_to_svg(figure)


def get_learning_start_height(cell: StudyCell) -> float:
    """Where a start is drawn: above the line of all steps, where no seed made one."""
    return (cell.first_learned_step or 1.0) * (1.18 if cell.learned_seeds == 0 else 1)


def render_learning_curves(runs: Sequence[FinishedRun], width: float = DESKTOP_WIDTH) -> str:
    """SVG `width` inches wide: training and dev error over steps, in percent, and the final test error; a panel an arm."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    arms = list(dict.fromkeys(run.arm for run in runs))
    columns = min(3 if width == DESKTOP_WIDTH else 1, len(arms))
    rows = -(-len(arms) // columns)
    depths = sorted({run.depth for run in runs})
    color_by_depth = dict(zip(depths, make_depth_colors(len(depths)), strict=True))
    error_percents = [100 * run.result.test_error for run in runs]
    error_percents += [
        error
        for run in runs
        for split in ("train", "dev")
        for error in get_error_curve(run, f"{split}_error")[1]
    ]
    with use_figure_style(f"curves {width}"):
        figure = make_blank_figure(
            width, (2.55 if columns > 1 or width == DESKTOP_WIDTH else 2.2) * rows + 0.75
        )
        grid = figure.add_gridspec(
            rows,
            columns,
            left=0.62 / width,
            right=1 - 0.36 / width,
            wspace=0.26,
            hspace=0.4,
            bottom=0.5 / figure.get_figheight(),
            top=1 - 0.62 / figure.get_figheight(),
        )
        for i, arm in enumerate(arms):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            axes.set_title(
                fill(format_arm_name(arm), 26 if columns > 1 else 44),
                loc="left",
                fontsize=9.5,
                fontweight="bold",
            )
            axes.set_xlim(0, max(run.result.steps for run in runs))
            axes.xaxis.set_major_locator(
                MaxNLocator(3 if columns > 1 else 5, steps=(1, 2, 5, 10), integer=True)
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            set_error_axis(axes, error_percents)
            draw_run_curves(
                axes,
                [run for run in runs if run.arm == arm],
                color_by_depth,
                width == DESKTOP_WIDTH,
            )
            axes.tick_params(labelleft=i % columns == 0)
            axes.set_ylabel("error (%)" if i % columns == 0 else "")
            axes.set_xlabel("step" if i + columns >= len(arms) else "")
        legend_lines = [
            make_legend_line("-", "dev", 1.5),
            make_legend_line("--", "training", 0.9),
            make_legend_line("none", "test, at the end", marker="o"),
        ]
        legend_corner = (0.5 / width, 1)
        figure.legend(
            handles=legend_lines,
            loc="upper left",
            bbox_to_anchor=legend_corner,
            ncols=3,
            columnspacing=1.0,
            handletextpad=0.5,
        )
        return figure_to_svg(figure)


def draw_run_curves(
    axes: "Axes", runs: list[FinishedRun], color_by_depth: dict[int, str], show_tooltips: bool
) -> None:
    test_errors_by_depth: dict[int, list[float]] = {}
    for run in runs:
        color = color_by_depth[run.depth]
        axes.plot(*get_error_curve(run, "train_error"), color=color, ls=(0, (3, 1.5)), lw=0.9)
        axes.plot(*get_error_curve(run, "dev_error"), color=color, lw=1.5)
        test_percent = 100 * run.result.test_error
        axes.plot(
            run.result.steps, test_percent, color=color, marker="o", ms=5, clip_on=False, zorder=4
        )
        if show_tooltips:
            tooltip = f"{format_arm_name(run.arm)}, {run.depth} layers, seed {run.seed}: test error {format_percent(run.result.test_error)}"
            add_tooltip(axes, run.result.steps, test_percent, tooltip)
        test_errors_by_depth.setdefault(run.depth, []).append(test_percent)
    label_line_ends(
        axes,
        [
            (sum(tests) / len(tests), str(depth), color_by_depth[depth], "")
            for depth, tests in test_errors_by_depth.items()
        ],
        font_size=9,
    )


def get_error_curve(run: FinishedRun, error_name: str) -> tuple[list[float], list[float]]:
    """Steps and that error in percent, where it was measured."""
    points = [(line["step"], line.get(error_name)) for line in run.metric_lines]
    measured_points = [
        (step, 100 * error) for step, error in points if step is not None and error is not None
    ]
    if (
        error_name == "train_error"
        and len(measured_points) > 2
        and measured_points[-1][0] - measured_points[-2][0]
        < (measured_points[1][0] - measured_points[0][0]) / 2
    ):
        measured_points.pop()  # it is counted since the line before: over a few last steps it is noise
    return [step for step, _ in measured_points], [error for _, error in measured_points]

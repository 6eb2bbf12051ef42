"""The figure of one run: error, loss and learning rate over the epochs of its training."""

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from residua.report.figures import (
    BASE_COLORS,
    DESKTOP_WIDTH,
    MUTED_COLOR,
    SERIES_COLORS,
    TEXT_COLOR,
    figure_to_svg,
    make_blank_figure,
    set_asinh_error_y_axis,
    use_figure_style,
)
from residua.report.learning_curves import get_error_curve, set_training_axis
from residua.report.line_labels import LineEnd, label_line_ends
from residua.report.recorded_run import FinishedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN_COLOR, DEV_COLOR = list(SERIES_COLORS)[:2]
RUN_CURVE_COLORS = BASE_COLORS | {color: SERIES_COLORS[color] for color in (TRAIN_COLOR, DEV_COLOR)}
PANEL_INCHES = {"error": 1.6, "loss": 1.05, "lr": 0.45}
MIN_DRAWN_LOSS = 1e-6  # nats; a logarithmic axis has no zero
MAX_DRAWN_VALUE = 1e12  # of a damaged record, in which any number may stand
PANEL_TITLES = {"error": "Error, %", "loss": "Loss, nats", "lr": "Learning rate"}
LEFT_INCHES, RIGHT_INCHES, TITLE_INCHES, BOTTOM_INCHES = 0.62, 0.72, 0.36, 0.45


@dataclass(frozen=True, slots=True)
class MetricCurve:
    """The values of one column of metrics.jsonl over training, without those that are missing."""

    positions: list[float]  # epochs or steps
    values: list[float]


def render_run_curves(run: FinishedRun, width: float = DESKTOP_WIDTH) -> str:
    """Render an SVG with a panel each for error, loss and learning rate; `width` is in inches.

    A panel is left out if the run has no values for it.
    """
    curves = collect_run_curves(run)
    panels = [name for name in PANEL_INCHES if any(part in curves for part in PANEL_PARTS[name])]
    height = sum(PANEL_INCHES[name] + TITLE_INCHES for name in panels) + BOTTOM_INCHES
    with use_figure_style(f"run {width}"):
        figure = make_blank_figure(width, height)
        top = height
        for name in panels:
            top -= TITLE_INCHES + PANEL_INCHES[name]
            axes = add_panel(figure, top, PANEL_INCHES[name])
            axes.set_title(PANEL_TITLES[name], loc="left", fontsize=9.5, fontweight="bold")
            drawn = {part: curves[part] for part in PANEL_PARTS[name] if part in curves}
            draw_panel(axes, name, drawn, run)
            set_training_axis(axes, ceil(get_end_position(run)), 5)
            axes.tick_params(labelbottom=name == panels[-1])
        axes.set_xlabel("epoch" if counts_epochs(run) else "step")
        return figure_to_svg(figure)


PANEL_PARTS = {
    "error": {"train_error": "training", "dev_error": "dev"},
    "loss": {"loss": "training", "dev_loss": "dev"},
    "lr": {"lr": ""},
}
"""The columns of metrics.jsonl that each panel shows, and their labels."""


def collect_run_curves(run: FinishedRun) -> dict[str, MetricCurve]:
    """Collect the curves of a run by the column of metrics.jsonl; errors are in percent."""
    column = "epoch" if counts_epochs(run) else "step"
    curves = {}
    for name in ("train_error", "dev_error", "loss", "dev_loss", "lr"):
        if name.endswith("_error"):
            steps, values = get_error_curve(run, name)
            position_by_step = {row["step"]: row.get(column) for row in run.metric_lines}
            points = [
                (position_by_step[step], value) for step, value in zip(steps, values, strict=True)
            ]
        else:
            points = [
                (row.get(column), value)
                for row in run.metric_lines
                if (value := row.get(name)) is not None
            ]
        known = [(x, y) for x, y in points if x is not None and abs(y) < MAX_DRAWN_VALUE]
        if known:
            curves[name] = MetricCurve([x for x, _ in known], [y for _, y in known])
    return curves


def counts_epochs(run: FinishedRun) -> bool:
    """Return whether the x axis counts epochs: all rows have one, and there are two or more."""
    epochs = [row.get("epoch") for row in run.metric_lines]
    return bool(epochs) and None not in epochs and 2 <= (epochs[-1] or 0) < MAX_DRAWN_VALUE


def get_end_position(run: FinishedRun) -> float:
    """Return the right end of the x axis: the epochs or steps of the whole run."""
    if counts_epochs(run):
        return float(run.metric_lines[-1]["epoch"] or 0)
    return run.result.steps


def add_panel(figure: "Figure", bottom_inches: float, panel_inches: float) -> "Axes":
    """Add axes over the width of the figure, `bottom_inches` above its lower edge."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes(
        (
            LEFT_INCHES / width,
            bottom_inches / height,
            1 - (LEFT_INCHES + RIGHT_INCHES) / width,
            panel_inches / height,
        )
    )


def set_loss_axis(axes: "Axes", losses: list[float]) -> None:
    """Make the y axis logarithmic, with limits and a few ticks that fit losses in nats."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    high = max(max(losses), MIN_DRAWN_LOSS)
    low = max(min(losses), MIN_DRAWN_LOSS, high / 1e4)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.15, high * 1.15)
    axes.yaxis.set_major_locator(FixedLocator(choose_log_ticks(low / 1.15, high * 1.15)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))


def choose_log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high] for a logarithmic axis: the fewest that are at least three."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(ticks) >= 3:
            break
    return ticks


def draw_panel(axes: "Axes", name: str, curves: dict[str, MetricCurve], run: FinishedRun) -> None:
    """Draw the curves of one panel, each with its label at its right end."""
    if name == "error":
        test_percent = 100 * run.result.test_error
        set_asinh_error_y_axis(
            axes, [test_percent, *(y for c in curves.values() for y in c.values)]
        )
        axes.plot(
            get_end_position(run),
            test_percent,
            color=TEXT_COLOR,
            marker="o",
            ms=5,
            clip_on=False,
            zorder=4,
        )
    elif name == "loss":
        set_loss_axis(axes, [y for curve in curves.values() for y in curve.values])
    else:
        axes.set_ylim(0, 1.15 * max(0, *curves["lr"].values) or 1)
    line_ends = []
    for part, curve in curves.items():
        is_train = part in ("train_error", "loss")
        color = MUTED_COLOR if name == "lr" else TRAIN_COLOR if is_train else DEV_COLOR
        style = (0, (3, 1.5)) if is_train else "-"
        axes.plot(curve.positions, curve.values, color=color, ls=style, lw=1.1 if is_train else 1.5)
        last_value = max(curve.values[-1], MIN_DRAWN_LOSS)
        line_ends.append(LineEnd(last_value, PANEL_PARTS[name][part], color))
    if name == "error":
        line_ends.append(LineEnd(test_percent, "test", TEXT_COLOR))
    if name != "lr":
        label_line_ends(axes, line_ends, font_size=9)

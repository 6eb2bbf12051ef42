"""The figures of a network's signals, as SVG.

Each figure is a stack of panels, with the units along the horizontal axis.  A panel shows one
signal: a solid line for the measured values, and a dashed line for those that the random-walk model
predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING

from residua.report.figures import (
    BASE_COLORS,
    DESKTOP_WIDTH,
    MUTED_COLOR,
    SERIES_COLORS,
    figure_to_svg,
    make_blank_figure,
    use_figure_style,
)
from residua.report.signals_record import SignalsRecord, SignalValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PANEL_LEFT_INCHES, PANEL_RIGHT_INCHES = 0.62, 0.12  # margins left and right of the panels
MEASURED_COLOR, PREDICTED_COLOR = list(SERIES_COLORS)[:2]
PREDICTED_DASHES = (0, (3, 1.6))
SIGNALS_COLORS = BASE_COLORS | {
    color: SERIES_COLORS[color] for color in (MEASURED_COLOR, PREDICTED_COLOR)
}
LOG_SCALE_RATIO = 100  # largest to smallest positive value from which an axis is logarithmic
FLAT_TOLERANCE = 0.01  # a series that varies by less, relative to its size, is not drawn
MAX_MARKED_UNITS = 60  # in a wide figure; with more units the lines have no markers


@dataclass(frozen=True, slots=True)
class SignalPanel:
    """The signal that a panel shows, the panel's title, and the scale of its vertical axis."""

    signal: str
    title: str
    is_percent: bool = False
    log_scale: bool = False


SIGNALS_FIGURES: dict[str, tuple[SignalPanel, ...]] = {
    "path": (
        SignalPanel("clip_fraction", "values zeroed by the unit's final ReLU (%)", is_percent=True),
        SignalPanel("survival", "identity paths unclipped so far (%)", is_percent=True),
    ),
    "branch": (
        SignalPanel("response_std", "standard deviation of the branch's output F"),
        SignalPanel("residual_ratio", "branch relative to shortcut, |F| / |x|"),
    ),
    "gradients": (
        SignalPanel("gradient_norm", "gradient norm of the unit's weights", log_scale=True),
        SignalPanel(
            "activation_gradient_norm", "gradient norm of the unit's output", log_scale=True
        ),
    ),
    "activations": (
        SignalPanel("mean", "mean of the unit's output x"),
        SignalPanel("variance", "variance of x"),
    ),
    "agreement": (
        SignalPanel("gradient_cosine", "cosine of dL/dx with that at the stage's end"),
        SignalPanel("gradient_correlation", "mean cosine of dL/dx between two images"),
    ),
}
"""The panels of each figure, by the figure's file name."""


def list_drawn_panels(signals: SignalsRecord) -> dict[str, tuple[SignalPanel, ...]]:
    """List the panels of each figure that are not flat, without figures that have none."""
    drawn_panels = {
        name: tuple(panel for panel in panels if not is_flat(signals, panel.signal))
        for name, panels in SIGNALS_FIGURES.items()
    }
    return {name: panels for name, panels in drawn_panels.items() if panels}


def is_flat(signals: SignalsRecord, signal: str) -> bool:
    """Return whether each series of a signal, measured or predicted, is the same at every unit.

    Values that differ by at most `FLAT_TOLERANCE` of the largest are the same, and a series without
    finite values is flat.
    """
    for series in (signals.measured[signal], signals.predicted.get(signal, ())):
        values = [value for value in series if value is not None]
        if values and max(values) - min(values) > FLAT_TOLERANCE * max(map(abs, values)):
            return False
    return True


def render_signals_figure(
    panels: Sequence[SignalPanel], signals: SignalsRecord, width: float
) -> str:
    """Render the panels as one SVG figure; `width` is in inches."""
    has_prediction = any(is_predicted(signals, panel.signal) for panel in panels)
    with use_figure_style(f"{panels[0].signal} {width}"):
        figure, panel_axes = make_stacked_panels(
            len(panels), width, 0.68 if has_prediction else 0.4
        )
        for i, (panel, axes) in enumerate(zip(panels, panel_axes, strict=True), 1):
            axes.patch.set_gid(f"panel-{i}")  # the page finds the panel's extent by this id
            draw_signal_panel(axes, panel, signals, width)
            mark_stage_starts(axes, signals.unit_stages, show_names=axes is panel_axes[0])
            axes.tick_params(labelbottom=axes is panel_axes[-1])
        panel_axes[-1].set_xlabel("unit, from input to output")
        if has_prediction:
            figure.legend(
                handles=make_signals_legend(),
                loc="upper left",
                bbox_to_anchor=(PANEL_LEFT_INCHES / width - 0.01, 1),
                ncols=2,
                handletextpad=0.5,
            )
        return figure_to_svg(figure)


def is_predicted(signals: SignalsRecord, signal: str) -> bool:
    """Return whether the random-walk model predicts this signal for at least one unit."""
    return any(value is not None for value in signals.predicted.get(signal, ()))


def make_stacked_panels(count: int, width: float, top_inches: float) -> "tuple[Figure, list[Axes]]":
    """Make a figure of `count` stacked panels, with a margin of `top_inches` above them."""
    height = 1.62 * count + 0.85
    figure = make_blank_figure(width, height)
    grid = figure.add_gridspec(
        count,
        1,
        left=PANEL_LEFT_INCHES / width,
        right=1 - PANEL_RIGHT_INCHES / width,
        hspace=0.42,
        bottom=0.45 / height,
        top=1 - top_inches / height,
    )
    return figure, [figure.add_subplot(grid[i]) for i in range(count)]


def draw_signal_panel(
    axes: "Axes", panel: SignalPanel, signals: SignalsRecord, figure_width: float
) -> None:
    """Draw a panel's measured and predicted values, and set the title and the axes."""
    unit_count = len(signals.unit_stages)
    factor = 100 if panel.is_percent else 1
    measured = scale_none_to_nan(signals.measured[panel.signal], factor)
    predicted = (
        scale_none_to_nan(signals.predicted[panel.signal], factor)
        if is_predicted(signals, panel.signal)
        else []
    )
    axes.set_title(panel.title, loc="left", fontsize=9.5, pad=5)
    axes.set_xlim(0.5, unit_count + 0.5)
    set_signal_axis(axes, panel, [*measured, *predicted])
    show_markers = unit_count <= MAX_MARKED_UNITS * figure_width / DESKTOP_WIDTH
    for first, end in find_stage_ranges(signals.unit_stages):
        units = range(first + 1, end + 1)
        axes.plot(
            units,
            measured[first:end],
            color=MEASURED_COLOR,
            lw=1.3,
            marker="o" if show_markers else "",
            ms=3.2,
            zorder=2,
        )
        if predicted:
            axes.plot(
                units,
                predicted[first:end],
                color=PREDICTED_COLOR,
                ls=PREDICTED_DASHES,
                lw=1.3,
                zorder=3,
            )


def find_stage_ranges(unit_stages: Sequence[int]) -> list[tuple[int, int]]:
    """List for each stage the index of its first unit and the index after its last unit.

    Lines are drawn stage by stage, because the random-walk model starts anew at each stage.
    """
    ranges = []
    for stage in dict.fromkeys(unit_stages):
        first = unit_stages.index(stage)
        ranges.append((first, first + unit_stages.count(stage)))
    return ranges


def make_signals_legend() -> "list[Line2D]":
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=MEASURED_COLOR, lw=1.5, label="measured"),
        Line2D(
            [], [], color=PREDICTED_COLOR, lw=1.5, ls=PREDICTED_DASHES, label="random-walk model"
        ),
    ]


def scale_none_to_nan(values: SignalValues, factor: float) -> list[float]:
    """Multiply the values by `factor`; None becomes NaN, at which matplotlib leaves a gap."""
    return [nan if value is None else factor * value for value in values]


def set_signal_axis(axes: "Axes", panel: SignalPanel, values: Sequence[float]) -> None:
    """Scale the vertical axis: logarithmic for positive values of a wide range, else linear.

    `panel.log_scale` makes it logarithmic for any positive values.  A linear axis includes 0.
    """
    finite_values = [value for value in values if not isnan(value)]
    low, high = min(finite_values), max(finite_values)
    if low > 0 and (panel.log_scale or high / low > LOG_SCALE_RATIO):
        set_log_axis(axes, low, high)
    else:
        set_linear_axis(axes, low, high)


def set_log_axis(axes: "Axes", low: float, high: float) -> None:
    """Make the vertical axis logarithmic, with ticks at powers of 10.

    If `high / low` is at most 100, there are also ticks at 2 and 5 times these powers.  The axis
    covers at least one decade.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    tick_multiples = (1.0,) if high / low > LOG_SCALE_RATIO else (1.0, 2.0, 5.0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=tick_multiples, numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    if high / low < 10:
        margin = (10 * low / high) ** 0.5
        axes.set_ylim(low / margin, high * margin)


def set_linear_axis(axes: "Axes", low: float, high: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(min(0, low * 1.08), max(high * 1.08, 0) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))


def mark_stage_starts(axes: "Axes", unit_stages: Sequence[int], show_names: bool) -> None:
    """Draw a dotted line between adjacent stages, and write the stages' names if `show_names`."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
    for stage in dict.fromkeys(unit_stages):
        first_unit = unit_stages.index(stage)
        if first_unit:
            axes.axvline(first_unit + 0.5, color=MUTED_COLOR, lw=0.8, ls=(0, (1, 2)))
        if show_names:
            axes.annotate(
                f"stage {stage}",
                (first_unit + 0.5, 1),
                (0, 19),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="bottom",
                color=MUTED_COLOR,
                fontsize=8.5,
            )

"""The figures of a network's signals: panels one above the other over its units, measured values and the null model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PANEL_LEFT_INCHES, PANEL_RIGHT_INCHES = 0.62, 0.12  # inches beside the panels
MEASURED_COLOR, PREDICTED_COLOR = list(SERIES_COLORS)[:2]
SIGNALS_COLORS = BASE_COLORS | {
    ink: SERIES_COLORS[ink] for ink in (MEASURED_COLOR, PREDICTED_COLOR)
}
LOG_SCALE_RATIO = 100  # of positive values: from here on they are drawn on a logarithmic axis
MAX_MARKED_UNITS = 60  # units that get a marker each

SignalValues = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class SignalPanel:
    """What is drawn of one signal."""

    signal: str
    title: str
    is_percent: bool = False
    log_scale: bool = False


SIGNALS_FIGURES: dict[str, tuple[SignalPanel, ...]] = {
    "path": (
        SignalPanel("clip_fraction", "sums cut by the unit's ReLU (%)", is_percent=True),
        SignalPanel("survival", "paths that survive the stage so far (%)", is_percent=True),
    ),
    "branch": (
        SignalPanel("response_std", "standard deviation of the branch's response"),
        SignalPanel("residual_ratio", "size of the branch beside the shortcut, |F| / |x|"),
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
        SignalPanel("gradient_cosine", "cosine of dL/dx and that at the stage's end"),
        SignalPanel("gradient_correlation", "cosine of dL/dx between two images"),
    ),
}


def render_signals_figure(
    panels: Sequence[SignalPanel],
    measured: dict[str, SignalValues],
    predicted: dict[str, SignalValues],
    unit_stages: list[int],
    width: float,
) -> str:
    """SVG `width` inches wide; `stages` is each unit's."""
    predicted_panels = [
        panel
        for panel in panels
        if any(value is not None for value in predicted.get(panel.signal, ()))
    ]
    with use_figure_style(f"{panels[0].signal} {width}"):
        height, top = 1.62 * len(panels) + 0.85, 0.68 if predicted_panels else 0.4
        figure = make_blank_figure(width, height)
        grid = figure.add_gridspec(
            len(panels),
            1,
            left=PANEL_LEFT_INCHES / width,
            right=1 - PANEL_RIGHT_INCHES / width,
            hspace=0.42,
            bottom=0.45 / height,
            top=1 - top / height,
        )
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(grid[i])
            axes.set_title(panel.title, loc="left", fontsize=9.5, pad=5)
            axes.set_xlim(0.5, len(unit_stages) + 0.5)
            factor = 100 if panel.is_percent else 1
            lines = [scale_none_to_nan(measured[panel.signal], factor)]
            lines += (
                [scale_none_to_nan(predicted[panel.signal], factor)]
                if panel in predicted_panels
                else []
            )
            set_signal_axis(axes, panel, lines)
            for values, color, style in zip(
                lines, (MEASURED_COLOR, PREDICTED_COLOR), ("-", (0, (3, 1.6))), strict=False
            ):
                show_markers = (
                    len(unit_stages) <= MAX_MARKED_UNITS * width / DESKTOP_WIDTH
                    and color == MEASURED_COLOR
                )
                for stage in dict.fromkeys(unit_stages):  # a walk begins anew in each
                    stage_units = [i for i, other in enumerate(unit_stages) if other == stage]
                    axes.plot(
                        [i + 1 for i in stage_units],
                        [values[i] for i in stage_units],
                        color=color,
                        ls=style,
                        lw=1.3,
                        marker="o" if show_markers else "",
                        ms=3.2,
                        zorder=3 if color == PREDICTED_COLOR else 2,
                    )
            mark_stage_starts(axes, unit_stages, show_names=i == 0)
            axes.tick_params(labelbottom=i == len(panels) - 1)
            axes.set_xlabel("unit, from input to output" if i == len(panels) - 1 else "")
        if predicted_panels:
            figure.legend(
                handles=make_signals_legend(),
                loc="upper left",
                bbox_to_anchor=(PANEL_LEFT_INCHES / width - 0.01, 1),
                ncols=2,
                handletextpad=0.5,
            )
        return figure_to_svg(figure)


def make_signals_legend() -> "list[Line2D]":
    from matplotlib.lines import Line2D

    measured = Line2D([], [], color=MEASURED_COLOR, lw=1.5, label="measured")
    return [
        measured,
        Line2D([], [], color=PREDICTED_COLOR, lw=1.5, ls=(0, (3, 1.6)), label="null model"),
    ]


def scale_none_to_nan(values: SignalValues, factor: float) -> list[float]:
    return [nan if value is None else factor * value for value in values]


def set_signal_axis(axes: "Axes", panel: SignalPanel, lines: list[list[float]]) -> None:
    """A logarithmic axis where values are positive and of several magnitudes; shares from 0 on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    values = [value for line in lines for value in line if value == value]
    if not values:
        axes.set_ylim(0, 1)
        axes.annotate(
            "nothing finite to draw",
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            color=MUTED_COLOR,
        )
        return
    low, high = min(values), max(values)
    if low > 0 and (panel.log_scale or high / low > LOG_SCALE_RATIO):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high / low > LOG_SCALE_RATIO else (1.0, 2.0, 5.0), numticks=5)
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        if high / low < 10:
            axes.set_ylim(low / (10 * low / high) ** 0.5, high * (10 * low / high) ** 0.5)
        return
    axes.set_ylim(min(0, low * 1.08), max(high * 1.08, 0) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))


def mark_stage_starts(axes: "Axes", unit_stages: list[int], show_names: bool) -> None:
    """A line where a stage begins, and its name in the first panel."""
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

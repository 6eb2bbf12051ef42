"""The figures of a network's signals: panels one above the other over its units, measured values and the null model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from residua.report.figures import FAMILY_INKS, GROUND, QUIET, WIDE, blank, saved, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LEFT, RIGHT = 0.62, 0.12  # inches beside the panels
MEASURED, FORESEEN = list(FAMILY_INKS)[:2]
INKS = GROUND | {ink: FAMILY_INKS[ink] for ink in (MEASURED, FORESEEN)}
SPAN = 100  # of positive values: from here on they are drawn on a logarithmic axis
FEW = 60  # units that get a marker each

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn of one signal."""

    key: str
    title: str
    percent: bool = False
    log: bool = False


FIGURES: dict[str, tuple[Panel, ...]] = {
    "path": (
        Panel("clip_fraction", "sums cut by the unit's ReLU (%)", percent=True),
        Panel("survival", "paths that survive the stage so far (%)", percent=True),
    ),
    "branch": (
        Panel("response_std", "standard deviation of the branch's response"),
        Panel("residual_ratio", "size of the branch beside the shortcut, |F| / |x|"),
    ),
    "gradients": (
        Panel("gradient_norm", "gradient norm of the unit's weights", log=True),
        Panel("activation_gradient_norm", "gradient norm of the unit's output", log=True),
    ),
    "activations": (Panel("mean", "mean of the unit's output x"), Panel("variance", "variance of x")),
    "agreement": (
        Panel("gradient_cosine", "cosine of dL/dx and that at the stage's end"),
        Panel("gradient_correlation", "cosine of dL/dx between two images"),
    ),
}


def draw(panels: Sequence[Panel], measured: dict[str, Values], foreseen: dict[str, Values], stages: list[int], width: float) -> str:
    """SVG `width` inches wide; `stages` is each unit's."""
    known = [panel for panel in panels if any(value is not None for value in foreseen.get(panel.key, ()))]
    with styled(f"{panels[0].key} {width}"):
        height, top = 1.62 * len(panels) + 0.85, 0.68 if known else 0.4
        figure = blank(width, height)
        grid = figure.add_gridspec(len(panels), 1, left=LEFT / width, right=1 - RIGHT / width, hspace=0.42,
                                   bottom=0.45 / height, top=1 - top / height)  # fmt: skip
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(grid[i])
            axes.set_title(panel.title, loc="left", fontsize=9.5, pad=5)
            axes.set_xlim(0.5, len(stages) + 0.5)
            factor = 100 if panel.percent else 1
            lines = [gaps(measured[panel.key], factor)]
            lines += [gaps(foreseen[panel.key], factor)] if panel in known else []
            scale(axes, panel, lines)
            for values, ink, style in zip(lines, (MEASURED, FORESEEN), ("-", (0, (3, 1.6))), strict=False):
                few = len(stages) <= FEW * width / WIDE and ink == MEASURED
                for stage in dict.fromkeys(stages):  # a walk begins anew in each
                    here = [i for i, other in enumerate(stages) if other == stage]
                    axes.plot([i + 1 for i in here], [values[i] for i in here], color=ink, ls=style, lw=1.3,
                              marker="o" if few else "", ms=3.2, zorder=3 if ink == FORESEEN else 2)  # fmt: skip
            mark_stages(axes, stages, named=i == 0)
            axes.tick_params(labelbottom=i == len(panels) - 1)
            axes.set_xlabel("unit, from input to output" if i == len(panels) - 1 else "")
        if known:
            figure.legend(handles=keys(), loc="upper left", bbox_to_anchor=(LEFT / width - 0.01, 1), ncols=2, handletextpad=0.5)
        return saved(figure)


def keys() -> "list[Line2D]":
    from matplotlib.lines import Line2D

    measured = Line2D([], [], color=MEASURED, lw=1.5, label="measured")
    return [measured, Line2D([], [], color=FORESEEN, lw=1.5, ls=(0, (3, 1.6)), label="null model")]


def gaps(values: Values, factor: float) -> list[float]:
    return [nan if value is None else factor * value for value in values]


def scale(axes: "Axes", panel: Panel, lines: list[list[float]]) -> None:
    """A logarithmic axis where values are positive and of several magnitudes; shares from 0 on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    values = [value for line in lines for value in line if value == value]
    if not values:
        axes.set_ylim(0, 1)
        axes.annotate("nothing finite to draw", (0.5, 0.5), xycoords="axes fraction", ha="center", color=QUIET)
        return
    low, high = min(values), max(values)
    if low > 0 and (panel.log or high / low > SPAN):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > SPAN else (1.0, 2.0, 5.0), numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        if high / low < 10:
            axes.set_ylim(low / (10 * low / high) ** 0.5, high * (10 * low / high) ** 0.5)
        return
    axes.set_ylim(min(0, low * 1.08), max(high * 1.08, 0) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))


def mark_stages(axes: "Axes", stages: list[int], named: bool) -> None:
    """A line where a stage begins, and its name in the first panel."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
    for stage in dict.fromkeys(stages):
        first = stages.index(stage)
        if first:
            axes.axvline(first + 0.5, color=QUIET, lw=0.8, ls=(0, (1, 2)))
        if named:
            axes.annotate(f"stage {stage}", (first + 0.5, 1), (0, 19), xycoords=("data", "axes fraction"),
                          textcoords="offset points", va="bottom", color=QUIET, fontsize=8.5)  # fmt: skip

"""The report of a network's signals: an HTML page and figures, made from `signals.json` alone."""

import json
from pathlib import Path

from residua.config.serialize import Json
from residua.errors import UsageError
from residua.files import write_text
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, add_white_background, inline_figures
from residua.report.format import format_three_digits, make_percent_nonbreaking
from residua.report.html import REPORT_PAGE, render_template
from residua.report.method import describe_recorded_machine, describe_recorded_versions
from residua.report.signals_figures import (
    PANEL_LEFT_INCHES,
    PANEL_RIGHT_INCHES,
    SIGNALS_COLORS,
    SIGNALS_FIGURES,
    SignalPanel,
    render_signals_figure,
)
from residua.report.signals_record import SIGNALS_RECORD, SignalsRecord, read_signals_record
from residua.report.signals_summary import (
    describe_signals_answer,
    describe_signals_findings,
    format_signal_percent,
)
from residua.study_records import folder_for_name

SIGNALS_FIGURE_TITLES = {
    "path": "Values zeroed and identity paths left, by unit",
    "branch": "Size of the branch, by unit",
    "gradients": "Gradient norms, by unit",
    "activations": "Mean and variance of activations, by unit",
    "agreement": "Directions of gradients, by unit",
}
SIGNAL_SHORT_NAMES = {
    "clip_fraction": "zeroed",
    "survival": "paths unclipped so far",
    "response_std": "standard deviation of F",
    "residual_ratio": "|F| / |x|",
    "gradient_norm": "weights",
    "activation_gradient_norm": "output",
    "mean": "mean",
    "variance": "variance",
    "gradient_cosine": "with the stage's end",
    "gradient_correlation": "between images",
}
"""Maps each signal to the short name that the page shows next to the value under the pointer."""


def choose_signals_folder(out_folder: Path | None, model: str) -> Path:
    """The folder to write to: `out_folder`, or signals/NAME by default.

    Raises UsageError if this is a file, or a folder that is not empty and holds no `signals.json`.
    """
    folder = out_folder or folder_for_name(Path("signals"), name_signals_folder(model))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SIGNALS_RECORD).exists():
        raise UsageError(f"{folder} is not empty and has no {SIGNALS_RECORD}: choose another --out")
    return folder


def name_signals_folder(model: str) -> str:
    """The network's name, or the last part of its folder: `resnet56`, `resnet56-best`."""
    if "/" not in model and not Path(model).is_dir():
        return model
    folder = Path(model).resolve()
    if folder.name in ("last", "best"):
        return f"{folder.parent.name}-{folder.name}"
    return folder.name


def write_signals_report(folder: Path) -> list[str]:
    """Write `report.html` and `figures/` from `signals.json`; return the sentences of the page."""
    signals = read_signals_record(folder / SIGNALS_RECORD)
    figure_svgs = {
        name: tuple(
            render_signals_figure(panels, signals, width) for width in (DESKTOP_WIDTH, PHONE_WIDTH)
        )
        for name, panels in SIGNALS_FIGURES.items()
    }
    for name, (wide_svg, _) in figure_svgs.items():
        write_text(folder / "figures" / f"{name}.svg", add_white_background(wide_svg))
    sentences = [describe_signals_answer(signals), *describe_signals_findings(signals)]
    write_text(folder / REPORT_PAGE, render_signals_page(signals, sentences, figure_svgs))
    return sentences


def write_and_summarize_signals(folder: Path) -> tuple[list[str], dict[str, Json]]:
    """Write the report; return its sentences, and the content of `signals.json`.

    The keys `findings` and `page` are added to the content.
    """
    sentences = write_signals_report(folder)
    content: dict[str, Json] = json.loads((folder / SIGNALS_RECORD).read_text(encoding="utf-8"))
    return sentences, content | {"findings": list(sentences), "page": str(folder / REPORT_PAGE)}


def render_signals_page(
    signals: SignalsRecord, sentences: list[str], figure_svgs: dict[str, tuple[str, ...]]
) -> str:
    """The page as HTML; style, script and figures are inside."""
    state = "trained" if signals.trained else "at initialisation"
    lead, *findings = map(make_percent_nonbreaking, sentences)
    return render_template(
        "signals.html.j2",
        title="Signals and gradients, unit by unit",
        subject=f"{signals.model}, {state}, on {signals.images} images of {signals.data}",
        lead=lead,
        findings=findings,
        figures=inline_figures(figure_svgs, SIGNALS_FIGURE_TITLES, SIGNALS_COLORS),
        inks=SIGNALS_COLORS,
        panel_extents={
            "wide": compute_panel_extent(DESKTOP_WIDTH),
            "narrow": compute_panel_extent(PHONE_WIDTH),
        },
        hover_values=make_hover_values(signals),
        rows=[make_stage_row(signals, stage) for stage in dict.fromkeys(signals.unit_stages)],
        has_prediction=bool(signals.predicted),
        signals=signals,
        method=describe_signals_method(signals),
    )


def describe_signals_method(signals: SignalsRecord) -> dict[str, str]:
    """What was measured, on which images and machine, by heading."""
    weights = "trained weights" if signals.trained else f"initial weights from seed {signals.seed}"
    return {
        "Network": f"{signals.model}, {signals.depth:,} layers, "
        f"{len(signals.names)} units, {weights}",
        "Images": f"the first {signals.images} training images of {signals.data}, "
        "as one batch, without augmentation",
        "Machine": describe_recorded_machine(signals.environment),
        "Versions": describe_recorded_versions(signals.environment),
    }


def compute_panel_extent(figure_width: float) -> tuple[float, float]:
    """The left and right edges of the panels, in percent of the figure's width (inches)."""
    return 100 * PANEL_LEFT_INCHES / figure_width, 100 - 100 * PANEL_RIGHT_INCHES / figure_width


def make_hover_values(signals: SignalsRecord) -> dict[str, Json]:
    """Make the values that the page shows for the unit under the pointer, as JSON.

    `names` lists the units.  `figures` holds, for each figure, a list of its panels.  A panel is
    (short name, measured values, predicted values or None); its values are texts, one per unit.
    """
    figures: dict[str, Json] = {
        name: [format_panel_values(signals, panel) for panel in panels]
        for name, panels in SIGNALS_FIGURES.items()
    }
    return {"names": list(signals.names), "figures": figures}


def format_panel_values(signals: SignalsRecord, panel: SignalPanel) -> Json:
    """A panel as (short name, measured values, predicted values or None if there are none)."""
    format_value = format_signal_percent if panel.is_percent else format_three_digits
    predicted = signals.predicted.get(panel.signal, ())
    has_prediction = any(value is not None for value in predicted)
    return [
        SIGNAL_SHORT_NAMES[panel.signal],
        [format_value(value) for value in signals.measured[panel.signal]],
        [format_value(value) for value in predicted] if has_prediction else None,
    ]


def make_stage_row(signals: SignalsRecord, stage: int) -> list[str]:
    """Make the cells of a stage's row in the page's table.

    They are: stage; number of units; share of values clipped by the first and by the last unit;
    share of identity paths left at the stage's end; |F| / |x|, mean and variance there; and the
    gradient norm of the first and of the last unit's weights.
    """
    first_unit, last_unit = signals.unit_stages.index(stage), signals.last_unit_index(stage)
    measured = signals.measured
    first_norm, last_norm = (
        format_three_digits(measured["gradient_norm"][unit]) for unit in (first_unit, last_unit)
    )
    return [
        str(stage),
        str(last_unit - first_unit + 1),
        format_measured_and_predicted(signals, "clip_fraction", first_unit),
        format_measured_and_predicted(signals, "clip_fraction", last_unit),
        format_measured_and_predicted(signals, "survival", last_unit),
        format_three_digits(measured["residual_ratio"][last_unit]),
        format_three_digits(measured["mean"][last_unit]),
        format_three_digits(measured["variance"][last_unit]),
        f"{first_norm} → {last_norm}",
    ]


def format_measured_and_predicted(signals: SignalsRecord, signal: str, unit: int) -> str:
    """A unit's share in percent, without the sign, and the predicted one in brackets: `31 (28)`."""
    measured, predicted = (
        values[signal][unit] if signal in values else None
        for values in (signals.measured, signals.predicted)
    )
    measured_text = format_three_digits(None if measured is None else 100 * measured)
    if predicted is None:
        return measured_text
    return f"{measured_text} ({format_three_digits(100 * predicted)})"

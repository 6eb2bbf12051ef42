"""The report of a network's signals: an HTML page and figures, made from `signals.json` alone."""

from pathlib import Path

from residua.config.serialize import Json
from residua.errors import UsageError
from residua.files import holds_visible_entries, write_text_files
from residua.record_checks import read_json_record
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
    """Choose the folder to write to: `out_folder`, or signals/NAME if it is None.

    Raises UsageError if this path is a file, or a non-empty folder without `signals.json`.
    """
    folder = out_folder or folder_for_name(Path("signals"), name_signals_folder(model))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --out")
    if folder.is_dir() and holds_visible_entries(folder) and not (folder / SIGNALS_RECORD).exists():
        raise UsageError(f"{folder} is not empty and has no {SIGNALS_RECORD}: choose another --out")
    return folder


def name_signals_folder(model: str) -> str:
    """A folder name for a model: `resnet56` for a network, `resnet56-best` for resnet56/best."""
    if "/" not in model and not Path(model).is_dir():
        return model
    folder = Path(model).resolve()
    if folder.name in ("last", "best"):
        return f"{folder.parent.name}-{folder.name}"
    return folder.name


def write_signals_report(folder: Path) -> list[str]:
    """Write `report.html` and `figures/` from `signals.json`; return the text of the findings."""
    signals = read_signals_record(folder / SIGNALS_RECORD)
    figure_svgs = {
        name: tuple(
            render_signals_figure(panels, signals, width) for width in (DESKTOP_WIDTH, PHONE_WIDTH)
        )
        for name, panels in SIGNALS_FIGURES.items()
    }
    figures = {
        f"figures/{name}.svg": add_white_background(wide) for name, (wide, _) in figure_svgs.items()
    }
    sentences = [describe_signals_answer(signals), *describe_signals_findings(signals)]
    page = render_signals_page(signals, sentences, figure_svgs)
    write_text_files(folder, figures | {REPORT_PAGE: page})
    return sentences


def write_and_summarize_signals(folder: Path) -> tuple[list[str], dict[str, Json]]:
    """Write the report; return its findings as text, and the content of `signals.json`.

    The returned content has two additional keys: `findings`, and `page`, the path of the page.
    """
    sentences = write_signals_report(folder)
    content = read_json_record(folder / SIGNALS_RECORD, "the signals of a network")
    return sentences, content | {"findings": list(sentences), "page": str(folder / REPORT_PAGE)}


def render_signals_page(
    signals: SignalsRecord, sentences: list[str], figure_svgs: dict[str, tuple[str, ...]]
) -> str:
    """Render the page of a network's signals as HTML, with style, script and figures embedded."""
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
    """The network, images, machine and versions of the measurement, as {heading: text}."""
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
    """The left and right edges of the panels, in percent of `figure_width`, which is in inches."""
    return 100 * PANEL_LEFT_INCHES / figure_width, 100 - 100 * PANEL_RIGHT_INCHES / figure_width


def make_hover_values(signals: SignalsRecord) -> dict[str, Json]:
    """Make the values that the page shows for the unit under the pointer, as JSON.

    `names` lists the units.  `figures` maps the name of each figure to a list of its panels.  A
    panel is (short name, measured values, predicted values or None); its values are texts, one per
    unit.
    """
    figures: dict[str, Json] = {
        name: [format_panel_values(signals, panel) for panel in panels]
        for name, panels in SIGNALS_FIGURES.items()
    }
    return {"names": list(signals.names), "figures": figures}


def format_panel_values(signals: SignalsRecord, panel: SignalPanel) -> Json:
    """A panel's texts for the page: (short name, measured values, predicted values or None)."""
    format_value = format_signal_percent if panel.is_percent else format_three_digits
    predicted = signals.predicted.get(panel.signal, ())
    has_prediction = any(value is not None for value in predicted)
    return [
        SIGNAL_SHORT_NAMES[panel.signal],
        [format_value(value) for value in signals.measured[panel.signal]],
        [format_value(value) for value in predicted] if has_prediction else None,
    ]


def make_stage_row(signals: SignalsRecord, stage: int) -> list[str]:
    """A stage's row in the page's table, as the text of each cell.

    The cells are: stage; number of units; share of values clipped by the first unit; share of
    values clipped by the last unit; share of identity paths that no unit of the stage clips;
    |F| / |x|, mean and variance at the last unit; gradient norms of the first and the last unit's
    weights.
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
    """A unit's measured share and, in brackets, the predicted one, as percentages: `31 (28)`."""
    measured, predicted = (
        values[signal][unit] if signal in values else None
        for values in (signals.measured, signals.predicted)
    )
    measured_text = format_three_digits(None if measured is None else 100 * measured)
    if predicted is None:
        return measured_text
    return f"{measured_text} ({format_three_digits(100 * predicted)})"

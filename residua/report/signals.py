"""The report of a network's signals: an HTML page and figures, made from `signals.json` alone."""

from pathlib import Path

from residua.config.dataset import DATASETS
from residua.config.serialize import Json
from residua.errors import UsageError
from residua.files import holds_visible_entries, write_text_files
from residua.record_checks import read_json_record
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, inline_figures, make_figure_files
from residua.report.format import (
    NO_VALUE,
    format_three_digits,
    join_with_and,
    make_percent_nonbreaking,
)
from residua.report.html import (
    REPORT_PAGE,
    make_download,
    make_figure_downloads,
    render_template,
)
from residua.report.method import describe_recorded_machine, describe_recorded_versions
from residua.report.signals_figures import (
    SIGNALS_COLORS,
    SIGNALS_FIGURES,
    SignalPanel,
    is_predicted,
    list_drawn_panels,
    render_signals_figure,
)
from residua.report.signals_record import (
    SIGNAL_NAMES,
    SIGNALS_RECORD,
    SignalsRecord,
    read_signals_record,
)
from residua.report.signals_summary import describe_signals_findings
from residua.report.signals_verdict import (
    ENDED_PATH_SHARE,
    EXTREME_FACTOR,
    choose_main_figure,
    describe_signals_lead,
    find_path_ends,
    format_signal_percent,
    get_stage_end_values,
)
from residua.spreadsheet_cells import format_csv
from residua.study_records import folder_for_name

SIGNALS_FIGURE_TITLES = {
    "path": "Values zeroed and identity paths left, by unit",
    "branch": "Size of the branch, by unit",
    "gradients": "Gradient norms, by unit",
    "activations": "Mean and variance of activations, by unit",
    "agreement": "Directions of gradients, by unit",
}
SIGNALS_TABLE = "signals.csv"
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
    """Name a model's folder: `resnet56` for a network, `resnet56-best` for resnet56/best."""
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
        for name, panels in list_drawn_panels(signals).items()
    }
    page = render_signals_page(signals, figure_svgs)
    write_text_files(folder, make_figure_files(figure_svgs) | {REPORT_PAGE: page})
    findings = describe_signals_findings(signals).values()
    return [describe_signals_lead(signals), *filter(None, findings)]


def write_signals_report_with_data(folder: Path) -> tuple[list[str], dict[str, Json]]:
    """Write the report; return its findings as text, and the content of `signals.json`.

    The returned content has two additional keys: `findings`, and `page`, the path of the page.
    """
    sentences = write_signals_report(folder)
    content = read_json_record(folder / SIGNALS_RECORD, "the signals of a network")
    return sentences, content | {"findings": list(sentences), "page": str(folder / REPORT_PAGE)}


def render_signals_page(signals: SignalsRecord, figure_svgs: dict[str, tuple[str, ...]]) -> str:
    """Render the page of a network's signals as HTML, with style, script and figures embedded."""
    state = "trained" if signals.trained else "at initialisation"
    findings = describe_signals_findings(signals)
    return render_template(
        "signals.html.j2",
        title="Signals and gradients, unit by unit",
        subject=f"{signals.model}, {state}, on {signals.images} images of {signals.data}",
        lead=make_percent_nonbreaking(describe_signals_lead(signals)),
        findings={name: make_percent_nonbreaking(text) for name, text in findings.items()},
        main_figure=choose_main_figure(signals),
        figures=inline_figures(figure_svgs, SIGNALS_FIGURE_TITLES, SIGNALS_COLORS),
        figure_files=make_figure_downloads(figure_svgs),
        flat=make_percent_nonbreaking(describe_flat_panels(signals)),
        inks=SIGNALS_COLORS,
        hover_values=make_hover_values(signals),
        table=make_download(SIGNALS_TABLE, make_signals_table(signals)),
        survival_rows=list_survival_rows(signals),
        start_unit=min(find_path_ends(signals).values(), default=0) + 1,
        rows=[make_stage_row(signals, stage) for stage in dict.fromkeys(signals.unit_stages)],
        has_prediction=any(is_predicted(signals, signal) for signal in SIGNAL_NAMES),
        signals=signals,
        method=describe_signals_method(signals),
        extreme_factor=EXTREME_FACTOR,
        ended_share=make_percent_nonbreaking(format_signal_percent(ENDED_PATH_SHARE)),
    )


def describe_flat_panels(signals: SignalsRecord) -> str:
    """Write a sentence that names the signals that are the same at every unit, with their values.

    The text is empty if there is none.
    """
    drawn = [panel for panels in list_drawn_panels(signals).values() for panel in panels]
    flat_texts = []
    for panel in (panel for panels in SIGNALS_FIGURES.values() for panel in panels):
        if panel not in drawn:
            _, measured, predicted = format_panel_values(signals, panel)
            value = next((text for text in measured if text != NO_VALUE), "not finite")
            model_texts = [text for text in predicted or () if text not in (NO_VALUE, value)]
            model = f", model {model_texts[0]}" if model_texts else ""
            flat_texts.append(f"{panel.title.removesuffix(' (%)')} ({value}{model})")
    if not flat_texts:
        return ""
    return f"The same at every unit, so without a figure: {join_with_and(flat_texts)}."


def make_signals_table(signals: SignalsRecord) -> str:
    """Format all values of a record as CSV, one line per unit."""
    predicted = [name for name in SIGNAL_NAMES if is_predicted(signals, name)]
    head = ("unit", "stage", *SIGNAL_NAMES, *(f"model_{name}" for name in predicted))
    columns = (
        signals.names,
        signals.unit_stages,
        *(signals.measured[signal] for signal in SIGNAL_NAMES),
        *(signals.predicted[signal] for signal in predicted),
    )
    return format_csv([head, *zip(*columns, strict=True)])


def describe_signals_method(signals: SignalsRecord) -> dict[str, str]:
    """Describe the network, images, machine and versions of the measurement, as {heading: text}."""
    weights = "trained weights" if signals.trained else f"initial weights from seed {signals.seed}"
    return {
        "Network": f"{signals.model}, {signals.depth:,} layers, "
        f"{len(signals.names)} units, {weights}",
        "Images": f"{describe_signals_images(signals)}, as one batch, without augmentation",
        "Machine": describe_recorded_machine(signals.environment),
        "Versions": describe_recorded_versions(signals.environment),
    }


def describe_signals_images(signals: SignalsRecord) -> str:
    """Say which images were measured: those of a named data set are the first ones."""
    if signals.data in DATASETS:
        return f"the first {signals.images} training images of {signals.data}"
    return f"{signals.images} images of {signals.data}"


def make_hover_values(signals: SignalsRecord) -> dict[str, Json]:
    """Make the values that the page shows for the unit under the pointer, as JSON.

    `names` lists the units.  `figures` maps the name of each figure to a list of its panels.  A
    panel is (short name, measured values, predicted values or None); its values are texts, one per
    unit.
    """
    figures: dict[str, Json] = {}
    for name, panels in list_drawn_panels(signals).items():
        texts = [format_panel_values(signals, panel) for panel in panels]
        figures[name] = [
            [label, [*measured], [*predicted] if predicted else None]
            for label, measured, predicted in texts
        ]
    return {"names": list(signals.names), "figures": figures}


def format_panel_values(
    signals: SignalsRecord, panel: SignalPanel
) -> tuple[str, list[str], list[str] | None]:
    """Format a panel's texts: (short name, measured values, predicted values or None)."""
    format_value = format_signal_percent if panel.is_percent else format_three_digits
    predicted = signals.predicted.get(panel.signal, ())
    return (
        SIGNAL_SHORT_NAMES[panel.signal],
        [format_value(value) for value in signals.measured[panel.signal]],
        [format_value(value) for value in predicted]
        if is_predicted(signals, panel.signal)
        else None,
    )


def list_survival_rows(signals: SignalsRecord) -> list[tuple[int, str, str]]:
    """List each stage's share of identity paths that pass it unclipped: measured, predicted.

    The list is empty for a plain net, and for a net that clips no path.
    """
    if signals.plain or not any(signals.measured["clip_fraction"]):
        return []
    measured = get_stage_end_values(signals, signals.measured["survival"])
    predicted = {}
    if signals.predicted:
        predicted = get_stage_end_values(signals, signals.predicted["survival"])
    return [
        (stage, format_signal_percent(share), format_signal_percent(predicted.get(stage)))
        for stage, share in measured.items()
    ]


def make_stage_row(signals: SignalsRecord, stage: int) -> list[str]:
    """Make a stage's row in the page's table, as the text of each cell.

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
    """Format a unit's measured and, in brackets, predicted share as percentages: `31 (28)`."""
    measured, predicted = (
        values[signal][unit] if signal in values else None
        for values in (signals.measured, signals.predicted)
    )
    measured_text = format_three_digits(None if measured is None else 100 * measured)
    if predicted is None:
        return measured_text
    return f"{measured_text} ({format_three_digits(100 * predicted)})"

"""The page of a network's signals: the answer in words, figures over units, a table by stage, from `signals.json` alone."""

import json
from pathlib import Path

from residua.config.serialize import Json
from residua.errors import UsageError
from residua.files import write_json, write_text
from residua.report import signals_figures
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, add_white_background, inline_figures
from residua.report.html import render_template
from residua.report.method import describe_recorded_machine, describe_recorded_versions
from residua.report.signals_record import SIGNALS_RECORD, SignalsRecord, read_signals_record
from residua.report.signals_summary import (
    describe_signals_answer,
    describe_signals_findings,
    format_signal_percent,
    format_three_digits,
)
from residua.report.study import STUDY_PAGE, make_percent_nonbreaking

SIGNALS_FIGURE_TITLES = {
    "path": "Sums cut, and paths left, over units",
    "branch": "The branch's response over units",
    "gradients": "Gradient norms over units",
    "activations": "Mean and variance over units",
    "agreement": "Directions of gradients over units",
}


def choose_signals_folder(out_folder: Path | None, model: str) -> Path:
    """The folder to write to, by default signals/NAME; UsageError where it holds something else."""
    parts = Path(model).resolve().parts[-2:] if "/" in model or Path(model).is_dir() else (model,)
    folder = out_folder or Path("signals") / (
        "-".join(parts) if parts[-1] in ("last", "best") else parts[-1]
    )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SIGNALS_RECORD).exists():
        raise UsageError(f"{folder} is not empty and holds no signals: choose another --out")
    return folder


def write_signals_record(signals_json: dict[str, Json], folder: Path) -> None:
    write_json(folder / SIGNALS_RECORD, signals_json)


def write_signals_report(folder: Path) -> list[str]:
    """Write `report.html` and `figures/` from `signals.json`, and return the findings, the answer first."""
    signals_record = read_signals_record(folder / SIGNALS_RECORD)
    figure_svgs = {
        name: tuple(
            signals_figures.render_signals_figure(
                shown,
                signals_record.measured,
                signals_record.predicted,
                signals_record.unit_stages,
                width,
            )
            for width in (DESKTOP_WIDTH, PHONE_WIDTH)
        )
        for name, shown in signals_figures.SIGNALS_FIGURES.items()
    }
    for name, (wide, _) in figure_svgs.items():
        write_text(folder / "figures" / f"{name}.svg", add_white_background(wide))
    findings = [describe_signals_answer(signals_record), *describe_signals_findings(signals_record)]
    write_text(folder / STUDY_PAGE, render_signals_page(signals_record, findings, figure_svgs))
    return findings


def write_and_summarize_signals(folder: Path) -> tuple[list[str], dict[str, Json]]:
    """Write the page; its findings, and `signals.json` with `findings` and `page`."""
    findings = write_signals_report(folder)
    content: dict[str, Json] = json.loads((folder / SIGNALS_RECORD).read_text(encoding="utf-8"))
    return findings, content | {"findings": list(findings), "page": str(folder / STUDY_PAGE)}


def render_signals_page(
    signals_record: SignalsRecord, findings: list[str], figure_svgs: dict[str, tuple[str, ...]]
) -> str:
    state = "trained" if signals_record.trained else "as it starts"
    return render_template(
        "signals.html.j2",
        title="What passes through, and what comes back?",
        subject=f"{signals_record.model}, {state}, unit by unit on {signals_record.images} images of {signals_record.data}",
        lead=make_percent_nonbreaking(findings[0]),
        findings=[make_percent_nonbreaking(line) for line in findings[1:]],
        figures=inline_figures(figure_svgs, SIGNALS_FIGURE_TITLES, signals_figures.SIGNALS_COLORS),
        inks=signals_figures.SIGNALS_COLORS,
        frame={
            size: compute_panel_extent(width)
            for size, width in (("wide", DESKTOP_WIDTH), ("narrow", PHONE_WIDTH))
        },
        values=make_hover_values(signals_record),
        rows=[
            make_stage_row(signals_record, stage)
            for stage in dict.fromkeys(signals_record.unit_stages)
        ],
        foreseen=bool(signals_record.predicted),
        signals=signals_record,
        measured={
            "Network": f"{signals_record.model}, {signals_record.depth:,} layers, {len(signals_record.names)} units, "
            + (
                "trained weights"
                if signals_record.trained
                else f"initial weights from seed {signals_record.seed}"
            ),
            "Images": f"the first {signals_record.images} training images of {signals_record.data}, one batch, without augmentation",
            "Machine": describe_recorded_machine(signals_record.environment),
            "Versions": describe_recorded_versions(signals_record.environment),
        },
    )


def compute_panel_extent(figure_width: float) -> tuple[float, float]:
    """Where the panels begin and end, in percent of the figure's width."""
    return (
        100 * signals_figures.PANEL_LEFT_INCHES / figure_width,
        100 - 100 * signals_figures.PANEL_RIGHT_INCHES / figure_width,
    )


def make_hover_values(signals_record: SignalsRecord) -> dict[str, Json]:
    """What a reader can point at: for each figure its panels' numbers, as text, a unit each."""
    hover_values: dict[str, Json] = {}
    for name, figure in signals_figures.SIGNALS_FIGURES.items():
        panel_rows: list[Json] = []
        for panel in figure:
            format_value = format_signal_percent if panel.is_percent else format_three_digits
            predicted = signals_record.predicted.get(panel.signal) or [None] * len(
                signals_record.names
            )
            panel_rows.append(
                [
                    SIGNAL_SHORT_NAMES[panel.signal],
                    [format_value(value) for value in signals_record.measured[panel.signal]],
                    [format_value(value) for value in predicted]
                    if any(value is not None for value in predicted)
                    else None,
                ]
            )
        hover_values[name] = panel_rows
    return {"names": list(signals_record.names), "figures": hover_values}


SIGNAL_SHORT_NAMES = {
    "clip_fraction": "cut",
    "survival": "uncut so far",
    "response_std": "response",
    "residual_ratio": "|F| / |x|",
    "gradient_norm": "weights",
    "activation_gradient_norm": "output",
    "mean": "mean",
    "variance": "variance",
    "gradient_cosine": "with the stage's end",
    "gradient_correlation": "between images",
}


def make_stage_row(signals_record: SignalsRecord, stage: int) -> list[str]:
    """Of the table: units, cut by the first and the last; at the end paths left, |F| / |x|, mean and variance; gradient norms."""
    first_unit, last_unit = (
        signals_record.unit_stages.index(stage),
        signals_record.last_unit_index(stage),
    )
    measured = signals_record.measured
    return [
        str(stage),
        str(last_unit - first_unit + 1),
        format_measured_and_predicted(signals_record, "clip_fraction", first_unit),
        format_measured_and_predicted(signals_record, "clip_fraction", last_unit),
        format_measured_and_predicted(signals_record, "survival", last_unit),
        format_three_digits(measured["residual_ratio"][last_unit]),
        format_three_digits(measured["mean"][last_unit]),
        format_three_digits(measured["variance"][last_unit]),
        f"{format_three_digits(measured['gradient_norm'][first_unit])} → {format_three_digits(measured['gradient_norm'][last_unit])}",
    ]


def format_measured_and_predicted(
    signals_record: SignalsRecord, signal: str, unit_index: int
) -> str:
    """Measured, and what the null model foresees, in percent."""
    value, predicted = (
        signals_record.measured[signal][unit_index],
        signals_record.predicted.get(signal),
    )
    measured_text = format_three_digits(None if value is None else 100 * value)
    predicted_value = predicted[unit_index] if predicted else None
    return measured_text + (
        f" ({format_three_digits(100 * predicted_value)})" if predicted_value is not None else ""
    )

"""The page of an evaluation: the answer in words, calibration, classes, confusions and the most confident mistakes."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from residua.config.evaluation_results import EvaluationResult
from residua.config.serialize import Json, from_json, to_json
from residua.errors import RecordError, ResiduaError
from residua.files import write_json, write_text
from residua.report.calibration_figure import CALIBRATION_COLORS, render_reliability_figure
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, add_white_background, inline_figures
from residua.report.html import render_template
from residua.report.method import describe_recorded_machine, describe_recorded_versions
from residua.report.study import make_percent_nonbreaking

EVALUATION_PAGE, EVALUATION_RECORD = "evaluation.html", "evaluation.json"
MAX_MATRIX_CLASSES = 25  # classes, in a matrix on a page
MAX_LISTED_CONFUSIONS = 12  # confusions


def write_evaluation_report(evaluation: EvaluationResult, folder: Path) -> Path:
    """Write `evaluation.html`, `evaluation.json`, `classes.csv`, `confusion.csv` and the figure; return the page's path."""
    reliability_svgs = render_evaluation_figures(evaluation)
    write_json(folder / EVALUATION_RECORD, to_json(evaluation))
    class_names = evaluation.classes
    class_rows = [
        (
            name,
            evaluation.count_images_of_class(k),
            evaluation.count_predictions_of_class(k),
            evaluation.class_precision(k),
            evaluation.class_recall(k),
        )
        for k, name in enumerate(class_names)
    ]
    confusion_rows = [
        (name, *row) for name, row in zip(class_names, evaluation.confusion, strict=True)
    ]
    write_text(
        folder / "classes.csv",
        format_csv([("class", "images", "taken for it", "precision", "recall"), *class_rows]),
    )
    write_text(folder / "confusion.csv", format_csv([("", *class_names), *confusion_rows]))
    write_text(folder / "reliability.svg", add_white_background(reliability_svgs[0]))
    write_text(folder / EVALUATION_PAGE, render_evaluation_page(evaluation, reliability_svgs))
    return folder / EVALUATION_PAGE


def read_evaluation(folder: Path) -> EvaluationResult:
    """The evaluation that `write` left in a folder; RecordError where there is none, or one that cannot be read."""
    path = folder / EVALUATION_RECORD
    try:
        return from_json(EvaluationResult, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no evaluation: it has no {EVALUATION_RECORD}") from None
    except (ValueError, ResiduaError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error


def collect_evaluation_metrics(evaluation: EvaluationResult) -> dict[str, Json]:
    """An evaluation for scripts: all but its images."""
    class_metrics: list[Json] = [
        {
            "class": name,
            "images": evaluation.count_images_of_class(k),
            "precision": evaluation.class_precision(k),
            "recall": evaluation.class_recall(k),
            "recall_interval": list(evaluation.recall_intervals[k]),
        }
        for k, name in enumerate(evaluation.classes)
    ]
    return {
        "count": evaluation.count,
        "wrong": evaluation.wrong,
        "error": evaluation.error_rate,
        "top5_error": evaluation.top5_error_rate,
        "loss": evaluation.loss,
        "error_interval": list(evaluation.error_interval),
        "top5_error_interval": list(evaluation.top5_error_interval),
        "ece": evaluation.calibration.ece,
        "temperature": evaluation.temperature,
        "temperature_from": evaluation.fitted,
        "scaled_ece": evaluation.scaled.ece,
        "scaled_loss": evaluation.scaled.loss,
        "classes": class_metrics,
        "confusion": to_json(evaluation.confusion),
        "left_out": len(evaluation.left_out),
    }


def describe_evaluation(evaluation: EvaluationResult) -> list[str]:
    """The answer and what is behind it, a sentence each."""
    sentences = [
        f"{evaluation.wrong:,} of {evaluation.count:,} {evaluation.split} images wrong: error {format_percent_digits(evaluation.error_rate)} (with 95 % between "
        f"{format_percent_interval(evaluation.error_interval)})"
        + (
            f", top-5 error {format_percent_digits(evaluation.top5_error_rate)} (between {format_percent_interval(evaluation.top5_error_interval)})."
            if len(evaluation.classes) > 5
            else "."
        ),
        describe_calibration(evaluation),
    ]
    class_recalls = [
        (recall, k)
        for k in range(len(evaluation.classes))
        if (recall := evaluation.class_recall(k)) is not None
    ]
    if len(class_recalls) > 1 and evaluation.wrong:
        (low, hardest), (high, easiest) = min(class_recalls), max(class_recalls)
        names = evaluation.classes[hardest], evaluation.classes[easiest]
        if high > low:
            sentences.append(
                f"It finds {format_percent_digits(high, 1)} of the images of {names[1]}, but only {format_percent_digits(low, 1)} of those of {names[0]}."
            )
    if confusions := evaluation.most_frequent_confusions():
        n, i, j = confusions[0]
        sentences.append(
            f"Most often it takes {evaluation.classes[i]} for {evaluation.classes[j]}: {n:,} of {evaluation.count_images_of_class(i):,} images, and "
            f"{evaluation.confusion[j][i]:,} of {evaluation.count_images_of_class(j):,} the other way round."
        )
    return sentences


def list_skipped_files(evaluation: EvaluationResult, max_files: int = 20) -> list[str]:
    """Which files could not be used, a sentence each."""
    remaining = len(evaluation.left_out) - max_files
    return [f"left out: {name}" for name in evaluation.left_out[:max_files]] + (
        [f"{remaining:,} more were left out"] if remaining > 0 else []
    )


def describe_calibration(evaluation: EvaluationResult) -> str:
    """How true the probabilities are, and what a temperature changes."""
    mean_confidence = (
        sum(b.count * b.confidence for b in evaluation.calibration.bins) / evaluation.count
    )
    accuracy, ece, scaled_ece = (
        1 - evaluation.error_rate,
        evaluation.calibration.ece,
        evaluation.scaled.ece,
    )
    tendency = "over-confident" if mean_confidence > accuracy else "under-confident"
    sentence = (
        f"It is {format_percent_digits(mean_confidence, 1)} sure on average and right in {format_percent_digits(accuracy, 1)}: "
        + (
            f"{tendency}, by an expected calibration error (ECE) of {format_percent_digits(ece, 1)}."
            if ece >= 0.01
            else f"well calibrated, with an expected calibration error (ECE) of {format_percent_digits(ece, 1)}."
        )
    )
    temperature_source = {
        "folder": "that of the model folder",
        "dev": "fitted on the dev split",
        "halves": "for each half of the images fitted on the other half",
    }[evaluation.fitted]
    return f"{sentence} At a temperature of {evaluation.temperature:.2f} ({temperature_source}) it is {format_percent_digits(scaled_ece, 1)}."


def render_evaluation_page(evaluation: EvaluationResult, reliability_svgs: tuple[str, str]) -> str:
    """The page as HTML: style, figures and thumbnails inside, nothing fetched."""
    lead, *findings = map(make_percent_nonbreaking, describe_evaluation(evaluation))
    figure = inline_figures(
        {"reliability": reliability_svgs},
        {"reliability": "How sure, against how often right"},
        CALIBRATION_COLORS,
    )["reliability"]
    class_names = evaluation.classes
    environment: dict[str, Json] = {
        name: int(value) if value.isdigit() else value for name, value in evaluation.environment
    }
    max_confusion_share = max(
        (
            n / evaluation.count_images_of_class(i)
            for n, i, _ in evaluation.most_frequent_confusions()
        ),
        default=1.0,
    )  # of the shares off the diagonal
    return render_template(
        "evaluation.html.j2",
        title=f"How well does {evaluation.model} classify?",
        subject=f"{evaluation.count:,} {evaluation.split} images of {evaluation.dataset}, {len(class_names)} classes",
        lead=lead,
        findings=findings,
        figure=figure,
        inks=CALIBRATION_COLORS,
        classes=sorted(make_class_metric_rows(evaluation), key=lambda row: row[-1]),
        matrix=[
            (name, pair_counts_with_shares(row))
            for name, row in zip(class_names, evaluation.confusion, strict=True)
        ]
        if len(class_names) <= MAX_MATRIX_CLASSES
        else [],
        most=max_confusion_share,
        confusions=[
            (n, class_names[i], class_names[j], evaluation.count_images_of_class(i))
            for n, i, j in evaluation.most_frequent_confusions()[:MAX_LISTED_CONFUSIONS]
        ],
        mistakes=[
            (
                m.thumbnail,
                m.where,
                class_names[m.truth],
                class_names[m.guess],
                make_percent_nonbreaking(format_percent_digits(m.probability, 1)),
            )
            for m in evaluation.mistakes
        ],
        left_out=[
            sentence.removeprefix("left out: ") for sentence in list_skipped_files(evaluation, 100)
        ],
        mirror=evaluation.mirror,
        loss=f"{evaluation.loss:.4f}",
        scaled_loss=f"{evaluation.scaled.loss:.4f}",
        machine=describe_recorded_machine(environment),
        versions=describe_recorded_versions(environment),
    )


def render_evaluation_figures(evaluation: EvaluationResult) -> tuple[str, str]:
    """The reliability figure for a desk and for a phone."""
    calibrations = {
        "as the network says": evaluation.calibration,
        f"at temperature {evaluation.temperature:.2f}": evaluation.scaled,
    }
    return render_reliability_figure(calibrations, DESKTOP_WIDTH), render_reliability_figure(
        calibrations, PHONE_WIDTH
    )


def make_class_metric_rows(
    evaluation: EvaluationResult,
) -> list[tuple[str, str, str, str, str, float]]:
    """Class, images, precision, recall, where that lies, in percent; and the recall to sort by."""
    return [
        (
            name,
            f"{evaluation.count_images_of_class(k):,}",
            format_share_cell(evaluation.class_precision(k)),
            format_share_cell(recall := evaluation.class_recall(k)),
            "–".join(f"{100 * limit:.1f}" for limit in evaluation.recall_intervals[k])
            if recall is not None
            else "",
            2.0 if recall is None else recall,
        )
        for k, name in enumerate(evaluation.classes)
    ]


def pair_counts_with_shares(counts: tuple[int, ...]) -> list[tuple[int, float]]:
    """Each count with its share of the row."""
    return [(n, n / max(sum(counts), 1)) for n in counts]


def format_csv(rows: Sequence[tuple[object, ...]]) -> str:
    """Rows as CSV; empty where a share has no images."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def format_share_cell(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def format_percent_digits(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def format_percent_interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f} and {100 * interval[1]:.2f} %"

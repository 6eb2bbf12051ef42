"""The report of an evaluation: an HTML page, tables as CSV, and `evaluation.json`."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from residua.config.evaluation_results import EvaluationResult
from residua.config.serialize import Json, from_json, to_json
from residua.errors import DamagedRecordError, ResiduaError
from residua.files import render_json, write_text_files
from residua.record_checks import read_json_record
from residua.report.calibration_figure import CALIBRATION_COLORS, render_reliability_figure
from residua.report.evaluation_summary import (
    describe_evaluated_images,
    describe_evaluation,
    list_skipped_files,
)
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, add_white_background, inline_figures
from residua.report.format import format_percent, format_percent_number, make_percent_nonbreaking
from residua.report.html import render_template
from residua.report.method import describe_recorded_machine, describe_recorded_versions
from residua.spreadsheet_cells import escape_formula

EVALUATION_PAGE, EVALUATION_RECORD = "evaluation.html", "evaluation.json"
MAX_MATRIX_CLASSES = 25  # with more classes the page lists the most frequent confusions
MAX_LISTED_CONFUSIONS = 12
MAX_LISTED_FILES = 100  # skipped files on the page


def write_evaluation_report(evaluation: EvaluationResult, folder: Path) -> Path:
    """Write the page, its figure, and the data files; return the path of the page.

    The data files are `evaluation.json`, `classes.csv` and `confusion.csv`.
    """
    reliability_svgs = render_evaluation_figures(evaluation)
    texts = {
        EVALUATION_RECORD: render_json(to_json(evaluation)),
        "classes.csv": format_classes_csv(evaluation),
        "confusion.csv": format_confusion_csv(evaluation),
        "reliability.svg": add_white_background(reliability_svgs[0]),
        EVALUATION_PAGE: render_evaluation_page(evaluation, reliability_svgs),
    }
    write_text_files(folder, texts)
    return folder / EVALUATION_PAGE


def read_evaluation(folder: Path) -> EvaluationResult:
    """Read `evaluation.json`; raise RecordError if it is missing or damaged."""
    path = folder / EVALUATION_RECORD
    content = read_json_record(path, "an evaluation")
    try:
        return from_json(EvaluationResult, content)
    except ResiduaError as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error


def collect_evaluation_metrics(evaluation: EvaluationResult) -> dict[str, Json]:
    """The metrics of an evaluation, for JSON output; rates are in [0, 1]."""
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
        "split": evaluation.split,
        "wrong": evaluation.wrong,
        "error": evaluation.error_rate,
        "top5_error": evaluation.top5_error_rate,
        "loss": evaluation.loss,
        "error_interval": list(evaluation.error_interval),
        "top5_error_interval": list(evaluation.top5_error_interval),
        "ece": evaluation.calibration.ece,
        "temperature": evaluation.temperature,
        "temperature_from": evaluation.fitted,
        "temperature_note": evaluation.temperature_note,
        "scaled_ece": evaluation.scaled.ece,
        "scaled_loss": evaluation.scaled.loss,
        "classes": class_metrics,
        "confusion": to_json(evaluation.confusion),
        "left_out": len(evaluation.left_out),
    }


def format_classes_csv(evaluation: EvaluationResult) -> str:
    """CSV text, one row per class; precision and recall are in [0, 1], or empty if undefined."""
    rows = [
        (
            name,
            evaluation.count_images_of_class(k),
            evaluation.count_predictions_of_class(k),
            evaluation.class_precision(k),
            evaluation.class_recall(k),
        )
        for k, name in enumerate(evaluation.classes)
    ]
    return format_csv([("class", "images", "taken for it", "precision", "recall"), *rows])


def format_confusion_csv(evaluation: EvaluationResult) -> str:
    """CSV text of the confusion matrix: one row per true class, one column per predicted class."""
    class_names = evaluation.classes
    rows = [(name, *row) for name, row in zip(class_names, evaluation.confusion, strict=True)]
    return format_csv([("", *class_names), *rows])


def format_csv(rows: Sequence[tuple[object, ...]]) -> str:
    """The rows as CSV text; None becomes an empty cell."""
    text = io.StringIO()
    escaped_rows = (map(escape_formula, row) for row in rows)
    csv.writer(text, lineterminator="\n").writerows(escaped_rows)
    return text.getvalue()


def render_evaluation_figures(evaluation: EvaluationResult) -> tuple[str, str]:
    """Render the reliability diagrams as two SVGs: one for a desktop and one for a phone."""
    calibrations = {
        "without temperature scaling": evaluation.calibration,
        f"at temperature {evaluation.temperature:.2f}": evaluation.scaled,
    }
    return (
        render_reliability_figure(calibrations, DESKTOP_WIDTH),
        render_reliability_figure(calibrations, PHONE_WIDTH),
    )


def render_evaluation_page(evaluation: EvaluationResult, reliability_svgs: tuple[str, str]) -> str:
    """Render the evaluation page as HTML, with style, figures and thumbnails embedded."""
    lead, *findings = map(make_percent_nonbreaking, describe_evaluation(evaluation))
    figures = inline_figures(
        {"reliability": reliability_svgs},
        {"reliability": "Reliability diagram"},
        CALIBRATION_COLORS,
    )
    images, class_count = describe_evaluated_images(evaluation), len(evaluation.classes)
    environment: dict[str, Json] = {
        name: int(value) if re.fullmatch("[0-9]{1,15}", value) else value
        for name, value in evaluation.environment
    }
    return render_template(
        "evaluation.html.j2",
        title=f"How well does {evaluation.model} classify?",
        subject=f"{images} of {evaluation.dataset}, {class_count} classes",
        lead=lead,
        findings=findings,
        figure=figures["reliability"],
        inks=CALIBRATION_COLORS,
        classes=make_class_rows(evaluation),
        matrix=make_matrix_rows(evaluation) if class_count <= MAX_MATRIX_CLASSES else [],
        max_confusion_share=compute_max_confusion_share(evaluation),
        confusions=make_confusion_rows(evaluation),
        mistakes=make_mistake_rows(evaluation),
        skipped_files=[
            line.removeprefix("skipped: ")
            for line in list_skipped_files(evaluation, MAX_LISTED_FILES)
        ],
        mirror=evaluation.mirror,
        loss=f"{evaluation.loss:.4f}",
        scaled_loss=f"{evaluation.scaled.loss:.4f}",
        machine=describe_recorded_machine(environment),
        versions=describe_recorded_versions(environment),
    )


def make_class_rows(evaluation: EvaluationResult) -> list[tuple[str, str, str, str, str]]:
    """Rows (class, images, precision, recall, interval of the recall), lowest recall first.

    Precision, recall and interval are in percent.  Classes without images have no recall and come
    last.
    """

    def get_sort_key(class_index: int) -> float:
        recall = evaluation.class_recall(class_index)
        return 2.0 if recall is None else recall

    rows = []
    for k in sorted(range(len(evaluation.classes)), key=get_sort_key):
        low, high = map(format_percent_number, evaluation.recall_intervals[k])
        recall = evaluation.class_recall(k)
        rows.append(
            (
                evaluation.classes[k],
                f"{evaluation.count_images_of_class(k):,}",
                format_percent_number(evaluation.class_precision(k)),
                format_percent_number(recall),
                "" if recall is None else f"{low}–{high}",
            )
        )
    return rows


def make_matrix_rows(evaluation: EvaluationResult) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows (class, cells) of the confusion matrix; a cell is (images, fraction of the row)."""
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(evaluation.classes, evaluation.confusion, strict=True)
    ]


def compute_max_confusion_share(evaluation: EvaluationResult) -> float:
    """The largest fraction of a true class that is classified as one other class, in [0, 1].

    The fraction is 1 if there are no mistakes.  The page colors each cell of the confusion matrix
    by the cell's fraction relative to this one.
    """
    shares = [
        count / evaluation.count_images_of_class(truth)
        for count, truth, _ in evaluation.most_frequent_confusions()
    ]
    return max(shares, default=1.0)


def make_confusion_rows(evaluation: EvaluationResult) -> list[tuple[int, str, str, int]]:
    """Rows (images, true class, predicted class, images of the true class), most frequent first.

    There is one row per listed confusion.  The first number counts the confused images.
    """
    return [
        (
            count,
            evaluation.classes[truth],
            evaluation.classes[guess],
            evaluation.count_images_of_class(truth),
        )
        for count, truth, guess in evaluation.most_frequent_confusions()[:MAX_LISTED_CONFUSIONS]
    ]


def make_mistake_rows(evaluation: EvaluationResult) -> list[tuple[str, str, str, str, str]]:
    """A row per mistake: (thumbnail URI, image name, true class, predicted class, confidence)."""
    return [
        (
            mistake.thumbnail,
            mistake.where,
            evaluation.classes[mistake.truth],
            evaluation.classes[mistake.guess],
            make_percent_nonbreaking(format_percent(mistake.probability)),
        )
        for mistake in evaluation.mistakes
    ]

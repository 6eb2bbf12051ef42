"""The report of an evaluation: an HTML page, tables as CSV, and `evaluation.json`."""

import re
from pathlib import Path

from residua.config.evaluation_results import CalibrationResult, EvaluationResult
from residua.config.serialize import Json, from_json, to_json
from residua.errors import DamagedRecordError, ResiduaError
from residua.files import render_json, write_text_files
from residua.record_checks import read_json_record
from residua.report.calibration_figure import CALIBRATION_COLORS, render_reliability_figure
from residua.report.calibration_summary import (
    can_judge_calibration,
    describe_calibration_gain,
    describe_temperature_images,
    is_worth_storing,
)
from residua.report.evaluation_summary import (
    describe_accuracy_interval,
    describe_guessing_level,
    describe_label_check,
    describe_label_rule,
    describe_main_confusion,
    format_evaluated_image_count,
    list_skipped_files,
)
from residua.report.evaluation_tables import (
    MAX_MATRIX_CLASSES,
    compute_max_confusion_share,
    format_classes_csv,
    format_confusion_csv,
    format_doubtful_labels_csv,
    list_pictured_images,
    make_class_rows,
    make_confusion_rows,
    make_doubtful_rows,
    make_matrix_rows,
    make_page_data,
)
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH, add_white_background, inline_figures
from residua.report.format import make_percent_nonbreaking
from residua.report.html import Download, make_download, render_template
from residua.report.method import describe_recorded_machine, describe_recorded_versions

EVALUATION_PAGE, EVALUATION_RECORD = "evaluation.html", "evaluation.json"
LABELS_CSV = "labels-to-check.csv"
MAX_LISTED_FILES = 100  # skipped files on the page


def write_evaluation_report(evaluation: EvaluationResult, folder: Path) -> Path:
    """Write the page, its figure, and the data files; return the path of the page.

    The data files are `evaluation.json`, `classes.csv`, `confusion.csv` and `labels-to-check.csv`.
    """
    reliability_svgs = render_reliability_pair(evaluation)
    texts = {
        EVALUATION_RECORD: render_json(to_json(evaluation)),
        "classes.csv": format_classes_csv(evaluation),
        "confusion.csv": format_confusion_csv(evaluation),
        LABELS_CSV: format_doubtful_labels_csv(evaluation),
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
        evaluation = from_json(EvaluationResult, content)
        check_class_indices(evaluation)
    except (ResiduaError, ValueError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error
    return evaluation


def check_class_indices(evaluation: EvaluationResult) -> None:
    """Raise ValueError if an image or a table of the evaluation does not fit its classes."""
    class_count = len(evaluation.classes)
    rows = {len(evaluation.confusion), len(evaluation.recall_intervals)}
    if rows | set(map(len, evaluation.confusion)) != {class_count}:
        raise ValueError(f"its tables are not those of {class_count} classes")
    images = (*evaluation.mistakes, *evaluation.examples)
    used = {index for image in images for index in (image.truth, image.guess)}
    used |= {index for label in evaluation.doubtful_labels for index in (label.label, label.guess)}
    if used and not 0 <= min(used) <= max(used) < class_count:
        raise ValueError(f"one of its images is of a class that is not one of {class_count}")
    if evaluation.count < 1:
        raise ValueError("it has no images")


def collect_evaluation_metrics(evaluation: EvaluationResult) -> dict[str, Json]:
    """Collect the metrics of an evaluation, for JSON output; rates are in [0, 1]."""
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
        "views": evaluation.views,
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
        "half_temperatures": list(evaluation.half_temperatures),
        "scaled_ece": evaluation.scaled.ece,
        "scaled_loss": evaluation.scaled.loss,
        "classes": class_metrics,
        "confusion": to_json(evaluation.confusion),
        "left_out": len(evaluation.left_out),
        "doubtful_labels": evaluation.labels_to_check_count,
    }


def choose_calibrations(evaluation: EvaluationResult) -> dict[str, CalibrationResult]:
    """Choose what reliability diagrams show, by title: too few images get no fitted temperature."""
    calibrations = {"without temperature scaling": evaluation.calibration}
    if evaluation.fitted != "halves":
        calibrations[f"at temperature {evaluation.temperature:.2f}"] = evaluation.scaled
    elif can_judge_calibration(evaluation):
        calibrations["each half at the other's temperature"] = evaluation.scaled
    return calibrations


def render_reliability_pair(evaluation: EvaluationResult) -> tuple[str, str]:
    """Render the reliability diagrams as two SVGs: one for a desktop and one for a phone."""
    calibrations = choose_calibrations(evaluation)
    return (
        render_reliability_figure(calibrations, DESKTOP_WIDTH),
        render_reliability_figure(calibrations, PHONE_WIDTH),
    )


def render_evaluation_page(evaluation: EvaluationResult, reliability_svgs: tuple[str, str]) -> str:
    """Render the evaluation page as HTML, with style, figures and thumbnails embedded."""
    number, label = describe_accuracy_interval(evaluation)
    figures = inline_figures(
        {"reliability": reliability_svgs},
        {"reliability": "Reliability diagram"},
        CALIBRATION_COLORS,
    )
    images, class_count = list_pictured_images(evaluation), len(evaluation.classes)
    mistakes = images[: len(evaluation.mistakes)]
    doubtful = make_doubtful_rows(evaluation, images)
    embedded = {image.number for image in mistakes}
    embedded |= {row.image.number for row in doubtful if row.image}
    has_matrix = class_count <= MAX_MATRIX_CLASSES
    environment: dict[str, Json] = {
        name: int(value) if re.fullmatch("[0-9]{1,15}", value) else value
        for name, value in evaluation.environment
    }
    return render_template(
        "evaluation.html.j2",
        title=f"How well does {evaluation.model} classify?",
        subject=f"{format_evaluated_image_count(evaluation)} of {evaluation.dataset}, "
        f"{class_count} classes",
        number=make_percent_nonbreaking(number),
        label=make_percent_nonbreaking(label),
        lead=make_percent_nonbreaking(
            describe_guessing_level(evaluation)
            or describe_main_confusion(evaluation)
            or "No image is classified wrongly."
        ),
        figure_svgs=figures["reliability"],
        has_one_diagram=len(choose_calibrations(evaluation)) == 1,
        inks=CALIBRATION_COLORS,
        classes=make_class_rows(evaluation),
        matrix=make_matrix_rows(evaluation) if has_matrix else [],
        max_confusion_share=compute_max_confusion_share(evaluation),
        confusions=[] if has_matrix else make_confusion_rows(evaluation),
        mistakes=mistakes,
        wrong=evaluation.wrong,
        doubtful=doubtful,
        doubtful_count=evaluation.labels_to_check_count,
        recorded_count=len(evaluation.labels_to_check),
        label_check=describe_label_check(evaluation),
        label_rule=make_percent_nonbreaking(describe_label_rule(evaluation)),
        calibration=make_percent_nonbreaking(describe_calibration_gain(evaluation)),
        is_worth_storing=is_worth_storing(evaluation),
        temperature_images=describe_temperature_images(evaluation),
        data=make_page_data(evaluation, images, embedded),
        files=list_downloads(evaluation, reliability_svgs[0]),
        skipped_files=[
            line.removeprefix("skipped: ")
            for line in list_skipped_files(evaluation, MAX_LISTED_FILES)
        ],
        views=evaluation.views,
        machine=describe_recorded_machine(environment),
        versions=describe_recorded_versions(environment),
    )


def list_downloads(evaluation: EvaluationResult, reliability_svg: str) -> dict[str, Download]:
    """List the files inside the page, by what they hold."""
    return {
        "classes": make_download("classes.csv", format_classes_csv(evaluation)),
        "labels": make_download(LABELS_CSV, format_doubtful_labels_csv(evaluation)),
        "figure": make_download("reliability.svg", add_white_background(reliability_svg)),
    }

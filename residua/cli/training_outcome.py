"""The end of `residua train`: the pages of the run, its accuracy, its curve, the next commands."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from residua import data, report, training
from residua.cli.unexpected_error import save_traceback_and_describe
from residua.config.dataset import Dataset
from residua.config.serialize import Json
from residua.console.error_chart import draw_error_chart
from residua.console.output import print_note
from residua.deploy.image_files import find_image_files
from residua.errors import RecordError, ResiduaError, describe_os_error
from residua.record import MetricsRow, RunRecord
from residua.report.accuracy import format_accuracy
from residua.report.evaluation_page import EVALUATION_PAGE
from residua.report.format import quote_path
from residua.report.html import REPORT_PAGE
from residua.report.run_page import EVALUATION_FOLDER
from residua.training.stored_temperature import MIN_CALIBRATION_IMAGES


def write_run_pages(
    folder: Path,
    dataset: Dataset,
    machine: "training.Machine",
    data_dir: Path | None,
    *,
    was_finished: bool,
) -> dict[str, Json]:
    """Write the report and the evaluation of the finished run in `folder`.

    Returns the paths of the two pages, or None for a page that could not be written; a note then
    says why, and no error is raised.  VLAD has no report, because it is not trained in steps.
    Pages of a run that `was_finished` before are written only if they are missing.
    """
    report_page = folder / REPORT_PAGE
    evaluation_page = folder / EVALUATION_FOLDER / EVALUATION_PAGE

    def write_report() -> None:
        report.write_run_report(report.read_study_summary(folder), folder)

    def write_evaluation() -> None:
        evaluation = training.evaluate_finished_run(folder, dataset, machine, data_dir)
        report.write_evaluation_report(evaluation, evaluation_page.parent)

    has_evaluation = (was_finished and evaluation_page.exists()) or write_or_explain(
        write_evaluation, f"the evaluation of the run in {folder}"
    )
    has_report = (was_finished and report_page.exists()) or (  # which shows mistakes of the first
        RunRecord(folder).read_run().recipe is not None
        and write_or_explain(write_report, f"the report of the run in {folder}")
    )
    return {
        "page": str(report_page) if has_report else None,
        "evaluation_page": str(evaluation_page) if has_evaluation else None,
    }


def write_or_explain(write: Callable[[], None], what: str) -> bool:
    """Call `write` and return True; if it fails or is interrupted, print a note and return False.

    By then the run is finished and stored, so a failure here must not end the command.
    """
    try:
        write()
    except KeyboardInterrupt:
        reason = "it was interrupted"
    except ResiduaError as error:
        reason = str(error)
    except OSError as error:
        reason = describe_os_error(error)
    except Exception as error:
        reason = save_traceback_and_describe(error)
    else:
        return True
    print_note(f"{what} was not written (the run itself is complete): {reason}")
    return False


def describe_training_outcome(
    result: dict[str, Json], folder: Path, dataset: Dataset, arguments: Namespace
) -> list[str]:
    """Describe what was achieved: the accuracy, the learning curve, and the next commands."""
    is_vlad = result["steps"] == 0
    chart = draw_error_chart(
        read_metrics_if_intact(folder),
        shutil.get_terminal_size().columns,
        sys.stdout.encoding or "ascii",
    )
    commands = suggest_next_commands(result, folder, dataset, arguments, has_report=not is_vlad)
    return [
        "",
        describe_accuracy(result, dataset),
        *(["", *chart] if chart else []),
        "",
        "Next:",
        *(f"  {command}" for command in commands),
    ]


def read_metrics_if_intact(folder: Path) -> list[MetricsRow]:
    """Read the rows of a run's metrics.jsonl for a chart; [] if they are damaged."""
    try:
        return RunRecord(folder).read_metrics()
    except RecordError:
        return []


def describe_accuracy(result: dict[str, Json], dataset: Dataset) -> str:
    """Describe the accuracy: `58.6 % right on 500 test photos, 95 % interval 54.2 to 62.8`.

    Records of version 0.1 have no number of images, and so no interval.
    """
    error, count = result["test_error"], result.get("test_images")
    assert isinstance(error, int | float)
    images = "photos" if isinstance(dataset, data.PhotoDataset) else "images"
    if not isinstance(count, int) or count < 1:
        return f"{format_accuracy(error, None).right} % right on the test {images}"
    right, low, high = format_accuracy(error, count)
    noun = report.format_counted_noun(count, f"test {images[:-1]}")
    return f"{right} % right on {noun}, 95 % interval {low} to {high}"


def suggest_next_commands(
    result: dict[str, Json],
    folder: Path,
    dataset: Dataset,
    arguments: Namespace,
    *,
    has_report: bool,
) -> list[str]:
    """Suggest three next commands after a run, with its paths quoted for a shell."""
    run_folder, location = quote_path(folder), quote_path(arguments.data)
    options = [
        f"--{name} {quote_path(value)}"
        for name, value in (
            ("data-dir", arguments.data_dir),
            ("max-pixels", arguments.max_pixels),
        )
        if value is not None
    ]
    dev_images = result.get("dev_images")
    if isinstance(dev_images, int) and dev_images >= MIN_CALIBRATION_IMAGES:
        options.append("--calibrate")
    options.append(f"--out {quote_path(folder / EVALUATION_FOLDER)}")
    others = f"residua runs {quote_path(folder.parent)}"
    last_command = f"residua report {run_folder}" if has_report else others
    if isinstance(dataset, data.PhotoDataset) and holds_image_files(arguments.data):
        last_command = f"residua predict {run_folder} {location}"
    return [
        f"residua evaluate {run_folder} {location} {' '.join(options)}",
        f"residua serve {run_folder}",
        last_command,
    ]


def holds_image_files(location: str) -> bool:
    """Return whether `location` is a folder with image files that `residua predict` finds."""
    folder = Path(os.path.expanduser(location))
    return folder.is_dir() and next(find_image_files(folder), None) is not None

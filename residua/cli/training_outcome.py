"""The end of `residua train`: its accuracy, its curve, the next commands."""

import os
import shutil
import sys
from pathlib import Path

from jsonargparse import Namespace

from residua import data, report
from residua.config.dataset import Dataset
from residua.config.evaluation_results import MIN_CALIBRATION_IMAGES
from residua.config.image_views import describe_views
from residua.config.serialize import Json
from residua.console.data_wait import describe_data_wait
from residua.console.error_chart import draw_error_chart
from residua.deploy.image_files import find_image_files
from residua.errors import RecordError
from residua.record import MetricsRow, RunRecord
from residua.report.accuracy import format_accuracy
from residua.report.format import quote_path
from residua.report.run_page import EVALUATION_FOLDER


def describe_training_outcome(
    result: dict[str, Json], folder: Path, dataset: Dataset, arguments: Namespace
) -> list[str]:
    """Describe what was achieved: the accuracy, the learning curve, and the next commands."""
    is_vlad = result["steps"] == 0
    wait = result.get("data_wait")
    note = describe_data_wait(
        wait if isinstance(wait, float) else 0.0, getattr(dataset, "storage", "")
    )
    chart = draw_error_chart(
        read_metrics_if_intact(folder),
        shutil.get_terminal_size().columns,
        sys.stdout.encoding or "ascii",
    )
    commands = suggest_next_commands(result, folder, dataset, arguments, has_report=not is_vlad)
    return [
        "",
        describe_accuracy(result, dataset),
        *([note] if note else []),
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
    views = describe_views(result.get("test_views"))
    if not isinstance(count, int) or count < 1:
        return f"{format_accuracy(error, None).right} % right on the test {images}{views}"
    right, low, high = format_accuracy(error, count)
    noun = report.format_counted_noun(count, f"test {images[:-1]}")
    return f"{right} % right on {noun}{views}, 95 % interval {low} to {high}"


def suggest_next_commands(
    result: dict[str, Json],
    folder: Path,
    dataset: Dataset,
    arguments: Namespace,
    *,
    has_report: bool,
) -> list[str]:
    """Suggest the next commands after a run, with its paths quoted for a shell.

    `evaluate` is one of them only if the evaluation of the run was not written.
    """
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
    evaluate_command = f"residua evaluate {run_folder} {location} {' '.join(options)}"
    has_evaluation = result.get("evaluation_page") is not None
    return [
        *([] if has_evaluation else [evaluate_command]),
        f"residua serve {run_folder}",
        last_command,
    ]


def holds_image_files(location: str) -> bool:
    """Return whether `location` is a folder with image files that `residua predict` finds."""
    folder = Path(os.path.expanduser(location))
    return folder.is_dir() and next(find_image_files(folder), None) is not None

"""Classify images: top classes and probabilities."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jsonargparse import Namespace

from residua import deploy, net
from residua.cli.options import add_engine_option, add_model_argument
from residua.cli.output import print_json
from residua.cli.parser import CommandParser
from residua.cli.progress import ProgressBar
from residua.config.serialize import Json
from residua.errors import DataError, UsageError
from residua.report.format import format_percent_number

if TYPE_CHECKING:
    from torch import nn

    from residua.config.model import ModelConfig
    from residua.deploy import Prediction

CLASS_COLUMN_WIDTH = 24  # characters of a class name in the table
TopClasses: TypeAlias = list[tuple[str, float]]  # classes and probabilities, the likeliest first
PredictionPrinter: TypeAlias = Callable[[Path, TopClasses, str, str], None]
"""Prints an image's path, its top classes, its error and the path of its explanation.

The last two are "" if there is no error or no explanation.
"""


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, folders of them, or - to read paths from standard input, one per line",
    )
    parser.add_argument(
        "--top", type=int, default=3, help="the number of classes to print for each image"
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="paths on standard input end with a NUL byte, as find -print0 writes them",
    )
    add_engine_option(parser)
    parser.add_argument("--batch", type=int, default=32, help="images that are computed together")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="write pictures to this folder that highlight the pixels that speak for the top "
        "class (Grad-CAM)",
    )
    parser.add_argument("--json", action="store_true", help="print only one JSON object per image")
    parser.add_argument("--csv", action="store_true", help="print a CSV table")


def run(arguments: Namespace) -> None:
    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv cannot be combined: give one of them")
    for option in ("top", "batch"):
        if arguments[option] < 1:
            raise UsageError(f"--{option} {arguments[option]} is invalid: give 1 or more")
    network, config = net.load_model_folder(net.find_model_folder(arguments.model))
    draw_explanation = make_explanation_drawer(network, config, arguments.explain)
    engine = deploy.build_engine(network, config, arguments.engine)
    paths: Iterable[Path] = expand_image_arguments(arguments.images, arguments.null)
    total = None
    if "-" not in arguments.images:
        paths = list(paths)  # so that the remaining time is known
        total = len(paths)
    print_prediction = choose_printer(arguments, config.classes)
    count = failed = 0
    with ProgressBar("image", hidden=sys.stdout.isatty()) as bar:
        for prediction in deploy.predict_files(paths, engine, config, arguments.batch):
            count, failed = count + 1, failed + bool(prediction.error)
            top = [(config.classes[k], p) for k, p in prediction.top_classes(arguments.top)]
            picture = draw_explanation(prediction, count)
            print_prediction(prediction.path, top, prediction.error, picture)
            bar.update("predict", count, total)
    if not count:
        places = ", ".join(map(format_printable_path, arguments.images))
        raise DataError(f"no image in {places}: give image files, or folders of them")
    if failed:
        raise DataError(f"{failed:,} of {count:,} files could not be read")


def expand_image_arguments(image_arguments: list[str], nul_separated: bool) -> Iterator[Path]:
    """The files, with folders replaced by their image files and `-` by the paths on stdin."""
    for name in image_arguments:
        for path in read_stdin_paths(nul_separated) if name == "-" else [Path(name)]:
            yield from deploy.find_image_files(path) if path.is_dir() else [path]


def read_stdin_paths(nul_separated: bool) -> Iterator[Path]:
    """The paths on standard input, which may contain bytes that are not UTF-8."""
    separator, rest = (b"\0" if nul_separated else b"\n"), b""
    for line in sys.stdin.buffer:
        *complete, rest = (rest + line).split(separator)
        yield from (Path(os.fsdecode(path)) for path in complete if path)
    if rest:
        yield Path(os.fsdecode(rest))


def make_explanation_drawer(
    network: "nn.Module", config: "ModelConfig", out: Path | None
) -> "Callable[[Prediction, int], str]":
    """Make the function that writes the Grad-CAM picture of the n-th image and returns its path.

    It writes nothing and returns "" if `out` is None, or if the image could not be read.
    """
    if out is None:
        return lambda prediction, n: ""
    explainer = deploy.GradCamExplainer(network, config)

    def draw_explanation(prediction: "Prediction", n: int) -> str:
        if prediction.pixels is None:
            return ""
        path = out / f"{n:05}-{prediction.path.stem}.png"
        top_class, _ = prediction.top_classes(1)[0]
        explainer.save_overlay(prediction.pixels, top_class, path)
        return str(path)

    return draw_explanation


def choose_printer(arguments: Namespace, classes: tuple[str, ...]) -> PredictionPrinter:
    if arguments.json:
        return print_prediction_json
    return make_csv_printer(arguments.top) if arguments.csv else make_table_printer(classes)


def print_prediction_json(path: Path, top: TopClasses, error: str, explanation_path: str) -> None:
    record: dict[str, Json] = {"path": str(path)}
    if error:
        record["error"] = error
    else:
        record |= deploy.make_prediction_json(top)
    if explanation_path:
        record["explanation"] = explanation_path
    print_json(record)


def make_csv_printer(top_k: int) -> PredictionPrinter:
    """Print the CSV header, and make the function that prints a row: path, top_k classes, error."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    next_columns = [f"{name}{i}" for i in range(2, top_k + 1) for name in ("class", "probability")]
    rows.writerow(["path", "class", "probability", *next_columns, "error"])

    def print_csv_row(path: Path, top: TopClasses, error: str, explanation_path: str) -> None:
        cells = [value for class_and_probability in top for value in class_and_probability]
        empty_cells = [""] * (2 * top_k - len(cells))
        rows.writerow([format_printable_path(path), *cells, *empty_cells, error])

    return print_csv_row


def make_table_printer(classes: tuple[str, ...]) -> PredictionPrinter:
    """Make the function that prints one line per image: the classes in columns, the path last.

    The path is last because it may be long.
    """
    width = min(CLASS_COLUMN_WIDTH, max(map(len, classes)))

    def print_table_row(path: Path, top: TopClasses, error: str, explanation_path: str) -> None:
        if not top:
            print(f"not read: {format_printable_path(path)} {error}")
            return
        columns = [
            f"{format_percent_number(p, digits=2):>6} % {truncate_name(name, width):{width}}"
            for name, p in top
        ]
        print("  ".join([*columns, format_printable_path(path)]))

    return print_table_row


def truncate_name(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def format_printable_path(path: str | Path) -> str:
    r"""The path as text; bytes that are not UTF-8 are shown as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

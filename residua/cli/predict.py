"""Classify images: top classes and probabilities."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from jsonargparse import Namespace

from residua import data, deploy, net
from residua.cli.image_options import (
    add_max_pixels_option,
    add_white_level_option,
    check_image_options,
)
from residua.cli.options import add_engine_option, add_model_argument
from residua.cli.output import print_json, print_notes
from residua.cli.parser import CommandParser
from residua.cli.progress import ProgressBar
from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.serialize import Json
from residua.errors import DataError, UsageError
from residua.file_names import decode_file_name, encode_utf8
from residua.report.format import format_percent_number
from residua.spreadsheet_cells import escape_formula

if TYPE_CHECKING:
    from io import BufferedReader

    from torch import nn

    from residua.config.model import ModelConfig
    from residua.deploy import PassedOverFiles, Prediction

CLASS_COLUMN_WIDTH = 24  # characters of a class name in the table
MAX_TOP = MAX_BATCH = 10_000  # no more classes have been trained, and no more images fit in memory
MAX_PATH_BYTES = 2**16  # of one path on standard input; Linux allows 4,096
MAX_EMPTY_PATHS = 10**6  # in a row, after which no path is expected any more
TopClasses: TypeAlias = list[tuple[str, float]]  # (class, probability), most probable first
PredictionPrinter: TypeAlias = Callable[[Path, TopClasses, str, str], None]
"""Prints an image's path, its top classes, its error and the path of its Grad-CAM picture.

The error is "" if the image was read.  The picture's path is "" if no picture was written.
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
    add_max_pixels_option(parser)
    add_white_level_option(parser, "the model's")
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
    for option, limit in (("top", MAX_TOP), ("batch", MAX_BATCH)):
        if arguments[option] < 1:
            raise UsageError(f"--{option} {arguments[option]} is invalid: give 1 or more")
        if arguments[option] > limit:
            raise UsageError(f"--{option} {arguments[option]} is too large: give at most {limit:,}")
    check_image_options(arguments)
    refuse_misplaced_arguments(arguments.model, arguments.images)
    network, config = net.load_model_folder(net.find_model_folder(arguments.model))
    draw_explanation = make_explanation_drawer(network, config, arguments.explain)
    passed_over = deploy.PassedOverFiles()
    paths: Iterable[Path] = expand_image_arguments(arguments.images, arguments.null, passed_over)
    total = None
    if "-" not in arguments.images:
        paths = list(paths)  # so that the remaining time is known
        total = len(paths)
    engine = deploy.build_engine(network, config, arguments.engine, total)
    print_prediction = choose_printer(arguments, config.classes)
    preprocessing = replace(config, white_level=arguments.white_level or config.white_level)
    count = failed = 0
    highest_levels: list[int] = []
    with ProgressBar("image", hidden=sys.stdout.isatty()) as bar:
        for prediction in deploy.predict_files(
            paths,
            engine,
            preprocessing,
            arguments.batch,
            arguments.max_pixels or MAX_IMAGE_PIXELS,
        ):
            count, failed = count + 1, failed + bool(prediction.error)
            if prediction.brightest_level:
                highest_levels.append(prediction.brightest_level)
            top = [(config.classes[k], p) for k, p in prediction.top_classes(arguments.top)]
            picture = draw_explanation(prediction, count)
            print_prediction(prediction.path, top, prediction.error, picture)
            bar.update("predict", count, total)
    notes = (passed_over.describe(), data.summarize_unused_levels(highest_levels))
    print_notes(filter(None, notes))
    if not count:
        places = ", ".join(map(format_printable_path, arguments.images))
        raise DataError(f"no image in {places}: give image files, or folders of them")
    if failed:
        raise DataError(f"{failed:,} of {count:,} files could not be read")


def refuse_misplaced_arguments(model: Path, images: list[str]) -> None:
    """Raise UsageError if an image is an address, or if the model stands among the images."""
    for image in images:
        if not image:
            raise UsageError(
                "one of the images is an empty string: give image files, or folders of them"
            )
        if "://" in image:
            raise UsageError(f"{image} is a URL: download the image, and give the file")
        is_model = is_run_or_model(model) or str(model).startswith("hf:")
        if not is_model and is_run_or_model(Path(image)):
            raise UsageError(
                f"{model} is not a model, but {image} is: give the model first, "
                f"as in residua predict {image} {model}"
            )


def is_run_or_model(path: Path) -> bool:
    """Whether a path is a run's folder or a model folder."""
    return any(os.path.isfile(path / name) for name in ("run.json", "config.json"))


def expand_image_arguments(
    image_arguments: list[str], nul_separated: bool, passed_over: "PassedOverFiles"
) -> Iterator[Path]:
    """Yield the paths of the images that the arguments name.

    A folder stands for the image files in it; its other files are counted in `passed_over`.  `-`
    stands for the paths on standard input.
    """
    for name in image_arguments:
        for path in read_stdin_paths(nul_separated) if name == "-" else [Path(name)]:
            yield from deploy.find_image_files(path, passed_over) if path.is_dir() else [path]


def read_stdin_paths(nul_separated: bool) -> Iterator[Path]:
    """Yield the paths on standard input, separated by newlines or by NUL bytes (`nul_separated`).

    The paths may contain bytes that are not UTF-8.
    """
    if sys.stdin is None:
        raise DataError(
            "standard input is closed: give image files, or pipe paths into the command"
        )
    separator, rest, empty_count = (b"\0" if nul_separated else b"\n"), b"", 0
    stream = cast("BufferedReader", sys.stdin.buffer)
    while chunk := stream.read1(MAX_PATH_BYTES):
        *complete, rest = (rest + chunk).split(separator)
        paths = [path for path in complete if path]
        empty_count = 0 if paths else empty_count + len(complete)
        if len(rest) > MAX_PATH_BYTES or empty_count > MAX_EMPTY_PATHS:
            ending = "a NUL byte" if nul_separated else "a line break"
            raise DataError(f"standard input is not a list of paths: end each path with {ending}")
        yield from (Path(os.fsdecode(path)) for path in paths)
    if rest:
        yield Path(os.fsdecode(rest))


def make_explanation_drawer(
    network: "nn.Module", config: "ModelConfig", out: Path | None
) -> "Callable[[Prediction, int], str]":
    """Make a function that writes a prediction's Grad-CAM picture and returns the picture's path.

    The function's second argument is the number of the image, with which the file name begins.  If
    `out` is None, or if the image could not be read, the function writes nothing and returns "".
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
    record: dict[str, Json] = {"path": decode_file_name(path)}
    if error:
        record["error"] = error
    else:
        record |= deploy.make_prediction_json(top)
    if explanation_path:
        record["explanation"] = explanation_path
    print_json(record)


def make_csv_printer(top_k: int) -> PredictionPrinter:
    """Print the header of a CSV table, and return the function that prints one row per image.

    A row has the path, then `top_k` classes with their probabilities, then the error.
    """
    rows = csv.writer(sys.stdout, lineterminator="\n")
    next_columns = [f"{name}{i}" for i in range(2, top_k + 1) for name in ("class", "probability")]
    rows.writerow(["path", "class", "probability", *next_columns, "error"])

    def print_csv_row(path: Path, top: TopClasses, error: str, explanation_path: str) -> None:
        cells = [value for class_and_probability in top for value in class_and_probability]
        empty_cells = [""] * (2 * top_k - len(cells))
        row = [format_printable_path(path), *cells, *empty_cells, error]
        rows.writerow(map(escape_formula, row))

    return print_csv_row


def make_table_printer(classes: tuple[str, ...]) -> PredictionPrinter:
    """Make the function that prints one line per image: the top classes in columns, then the path.

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
    r"""Format a path as text; each byte that is not UTF-8 is shown as an escape such as `\xff`."""
    return encode_utf8(decode_file_name(path)).decode("utf-8")

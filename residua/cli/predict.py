"""Say what is on images: the class, its probability and the next likeliest ones."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, print_json
from residua.config.serialize import Json
from residua.errors import DataError, UsageError

if TYPE_CHECKING:
    from residua.deploy.predict import Prediction

CLASS_COLUMN_WIDTH = 24  # characters of a class in a table
TopClasses = list[tuple[str, float]]  # classes and their probabilities, the likeliest first
PredictionPrinter = Callable[[Path, TopClasses, str, str], None]  # path, top, error, picture


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        help="a run's folder (its last network) or a model folder, such as RUN/best",
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders of them, or - for paths on standard input, one a line",
    )
    parser.add_argument(
        "--top", type=int, default=3, help="how many classes to name for each image (default: 3)"
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="paths on standard input end in NUL, as those of find -print0",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        help="what computes: auto, torch, onnx or openvino (default: auto)",
    )
    parser.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="a folder for pictures of where the network looks (Grad-CAM)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each image, and nothing else"
    )
    parser.add_argument("--csv", action="store_true", help="print a table that spreadsheets read")


def run(arguments: Namespace) -> None:
    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv both say how to print: give one of them")
    for option in ("top", "batch"):
        if arguments[option] < 1:
            raise UsageError(f"--{option} {arguments[option]} is impossible: give 1 or more")

    from tqdm import tqdm

    from residua.deploy.engine import load_engine
    from residua.deploy.predict import predict_files
    from residua.net.model_folder import read_model_config
    from residua.training.evaluate import find_model_folder

    folder = find_model_folder(arguments.model)
    config = read_model_config(folder)
    draw_explanation = make_explanation_drawer(folder, arguments.explain)
    paths: Iterable[Path] = expand_image_arguments(arguments.images, arguments.null)
    if "-" not in arguments.images:
        paths = list(paths)  # so that the time left is known
    print_prediction = (
        print_prediction_json
        if arguments.json
        else make_csv_printer(arguments.top)
        if arguments.csv
        else make_table_printer(config.classes)
    )
    results = predict_files(paths, load_engine(folder, arguments.engine), config, arguments.batch)
    total = len(paths) if isinstance(paths, list) else None
    count = failed = 0
    for prediction in tqdm(
        results,
        "predict",
        total=total,
        unit="image",
        dynamic_ncols=True,
        disable=sys.stdout.isatty(),
    ):
        count, failed = count + 1, failed + bool(prediction.error)
        top = [(config.classes[k], p) for k, p in prediction.top_classes(arguments.top)]
        print_prediction(
            prediction.path, top, prediction.error, draw_explanation(prediction, count)
        )
    if not count:
        raise DataError(
            f"no image in {', '.join(map(format_printable_path, arguments.images))}: give image files, or folders of them"
        )
    if failed:
        raise DataError(f"{failed:,} of {count:,} files could not be read")


def expand_image_arguments(image_arguments: list[str], nul_separated: bool) -> Iterator[Path]:
    """The files that the arguments name, and standard input in place of `-`; those of folders in the order of their names."""
    from residua.deploy.predict import find_image_files

    for name in image_arguments:
        for path in read_stdin_paths(nul_separated) if name == "-" else [Path(name)]:
            yield from find_image_files(path) if path.is_dir() else [path]


def read_stdin_paths(nul_separated: bool) -> Iterator[Path]:
    """The paths on standard input, whatever bytes they are of."""
    separator, rest = (b"\0" if nul_separated else b"\n"), b""
    for line in sys.stdin.buffer:
        *whole, rest = (rest + line).split(separator)
        yield from (Path(os.fsdecode(path)) for path in whole if path)
    if rest:
        yield Path(os.fsdecode(rest))


def make_explanation_drawer(folder: Path, out: Path | None) -> "Callable[[Prediction, int], str]":
    """Draws where the network looks at the n-th image into `out`, and says the file; where no `out` is asked for, nothing."""
    if out is None:
        return lambda one, n: ""

    from residua.deploy.explain import GradCamExplainer
    from residua.net.model_folder import from_pretrained, read_model_config

    explainer = GradCamExplainer(from_pretrained(folder), read_model_config(folder))

    def draw_explanation(one: "Prediction", n: int) -> str:
        if one.pixels is None:
            return ""
        path = out / f"{n:05}-{one.path.stem}.png"
        explainer.save_overlay(one.pixels, one.top_classes(1)[0][0], path)
        return str(path)

    return draw_explanation


def print_prediction_json(path: Path, top: TopClasses, error: str, explanation_path: str) -> None:
    record: dict[str, Json] = {"path": str(path)}
    if error:
        record["error"] = error
    else:
        record |= {
            "class": top[0][0],
            "probability": top[0][1],
            "top": [{"class": name, "probability": p} for name, p in top],
        }
    print_json(record | ({"explanation": explanation_path} if explanation_path else {}))


def make_csv_printer(top_k: int) -> PredictionPrinter:
    """path, class, probability, then those of the next likeliest classes, and the error."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    next_columns = [f"{what}{i}" for i in range(2, top_k + 1) for what in ("class", "probability")]
    rows.writerow(["path", "class", "probability", *next_columns, "error"])

    def print_csv_row(path: Path, top: TopClasses, error: str, picture: str) -> None:
        said = [value for pair in top for value in pair]
        rows.writerow([format_printable_path(path), *said, *[""] * (2 * top_k - len(said)), error])

    return print_csv_row


def make_table_printer(classes: tuple[str, ...]) -> PredictionPrinter:
    """A line for each image: its classes in columns, the path last, for it may be long."""
    width = min(CLASS_COLUMN_WIDTH, max(map(len, classes)))

    def print_table_row(path: Path, top: TopClasses, error: str, picture: str) -> None:
        columns = [f"{100 * p:6.2f} % {truncate_name(name, width):{width}}" for name, p in top]
        print(
            "  ".join([*columns, format_printable_path(path)])
            if top
            else f"not read: {format_printable_path(path)} {error}"
        )

    return print_table_row


def truncate_name(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def format_printable_path(path: str | Path) -> str:
    """A path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

"""Classify images: top classes and probabilities."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jsonargparse import Namespace

from residua import data, deploy, net
from residua.cli.image_options import (
    add_max_pixels_option,
    add_views_options,
    add_white_level_option,
    check_image_options,
)
from residua.cli.options import (
    add_engine_option,
    add_model_argument,
    add_offline_option,
)
from residua.cli.parser import CommandParser
from residua.cli.prediction_printers import (
    ImageResult,
    ResultPrinter,
    begin_csv_table,
    make_table_printer,
    print_result_json,
)
from residua.cli.sort_options import (
    add_sort_options,
    check_sort_options,
    open_sorting,
    require_sortable_classes,
)
from residua.config.image_views import choose_views, name_views_option
from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.weight_registry import is_model_name
from residua.console.output import print_notes
from residua.console.progress import ProgressBar
from residua.errors import DataError, UsageError
from residua.file_names import format_printable_path

if TYPE_CHECKING:
    from io import BufferedReader

    from torch import nn

    from residua.config.model import ModelConfig
    from residua.deploy import PassedOverFiles, Prediction

MAX_TOP = MAX_BATCH = 10_000  # no more classes have been trained, and no more images fit in memory
MAX_NAMED_IMAGES = 3  # that do not exist
MAX_PATH_BYTES = 2**16  # of one path on standard input; Linux allows 4,096
MAX_EMPTY_PATHS = 10**6  # in a row, after which no path is expected any more


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
    add_views_options(parser)
    add_offline_option(parser)
    parser.add_argument("--batch", type=int, default=32, help="images that are computed together")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="write pictures to this folder that highlight the pixels that speak for the top "
        "class (Grad-CAM)",
    )
    parser.add_argument(
        "--explain-class",
        metavar="NAME",
        help="with --explain, highlight the pixels that speak for this class of the model instead",
    )
    add_sort_options(parser)
    parser.add_argument("--json", action="store_true", help="print only one JSON object per image")
    parser.add_argument("--csv", action="store_true", help="print a CSV table")


def run(arguments: Namespace) -> None:
    check_options(arguments)
    views = choose_views(arguments.views, mirror=arguments.mirror)
    check_positional_arguments(arguments.model, arguments.images)
    require_existing_image(arguments.images)
    network, config = net.load_model_folder(net.find_model_folder(arguments.model))
    views_option = name_views_option(views, mirror=arguments.mirror)
    data.require_views_for_model(config, views, views_option)
    require_sortable_classes(arguments, config.classes)
    draw_explanation = make_explanation_drawer(
        network, config, arguments.explain, arguments.explain_class
    )
    passed_over = deploy.PassedOverFiles()
    paths = expand_image_arguments(arguments, passed_over)
    total = None
    if "-" not in arguments.images:
        paths = list(paths)  # so that the remaining time is known
        total = len(paths)
    engine = deploy.build_engine(network, config, arguments.engine, total)
    preprocessing = replace(
        data.keep_margin_for_views(config, views),
        white_level=arguments.white_level or config.white_level,
    )
    classify = data.average_over_views(
        engine.compute_scores, views, config.input[1:], config.temperature
    )
    max_pixels = arguments.max_pixels or MAX_IMAGE_PIXELS
    count = failed = 0
    highest_levels: list[int] = []
    with open_sorting(arguments, config.classes) as sort_image:
        print_result = choose_printer(arguments, config.classes)
        with ProgressBar("image", hidden=sys.stdout.isatty()) as bar:
            for prediction in deploy.predict_files(
                paths, classify, preprocessing, arguments.batch, max_pixels
            ):
                count, failed = count + 1, failed + bool(prediction.error)
                if prediction.brightest_level:
                    highest_levels.append(prediction.brightest_level)
                top = [(config.classes[k], p) for k, p in prediction.top_classes(arguments.top)]
                picture = draw_explanation(prediction, count)
                sorted_to = sort_image(prediction.path, top)
                error = prediction.error
                print_result(ImageResult(prediction.path, top, error, picture, sorted_to))
                bar.update("predict", count, total)
        print_notes(
            filter(
                None, (passed_over.describe(), data.summarize_doubtful_white_levels(highest_levels))
            )
        )
        if not count:
            places = ", ".join(map(format_printable_path, arguments.images))
            raise DataError(f"no image was found in {places}: give image files, or folders of them")
        if failed == count:  # inside, so that no empty folder is made
            raise unreadable_files_error(failed, count)
    if failed:
        raise unreadable_files_error(failed, count)


def unreadable_files_error(failed: int, count: int) -> DataError:
    return DataError(f"{failed:,} of {count:,} files could not be read")


def check_options(arguments: Namespace) -> None:
    """Raise UsageError if a value is out of range, or if options contradict each other."""
    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv cannot be combined: give one of them")
    for option, limit in (("top", MAX_TOP), ("batch", MAX_BATCH)):
        if arguments[option] < 1:
            raise UsageError(f"--{option} {arguments[option]} is invalid: give 1 or more")
        if arguments[option] > limit:
            raise UsageError(f"--{option} {arguments[option]} is too large: give at most {limit:,}")
    if arguments.explain is None and arguments.explain_class is not None:
        raise UsageError(
            "--explain-class only applies with --explain: add --explain DIR, or leave "
            "--explain-class out"
        )
    check_image_options(arguments)
    check_sort_options(arguments)


def choose_printer(arguments: Namespace, classes: tuple[str, ...]) -> ResultPrinter:
    if arguments.json:
        return print_result_json
    if arguments.csv:
        return begin_csv_table(arguments.top, with_sorted_to=arguments.sort_into is not None)
    return make_table_printer(classes)


def check_positional_arguments(model: Path, images: list[str]) -> None:
    """Raise UsageError if an image is a URL, or if the model is listed among the images."""
    for image in images:
        if not image:
            raise UsageError(
                "one of the images is an empty string: give image files, or folders of them"
            )
        if "://" in image:
            raise UsageError(f"{image} is a URL: download the image, and give the file")
        if not is_model(model) and is_model(Path(image)):
            raise UsageError(
                f"{model} is not a model, but {image} is: give the model first, "
                f"as in residua predict {image} {model}"
            )


def require_existing_image(images: list[str]) -> None:
    """Raise DataError if none of the images exists; one of several is said in its own line."""
    if not any(image == "-" or os.path.lexists(image) for image in images):
        places = " or ".join(map(format_printable_path, images[:MAX_NAMED_IMAGES]))
        more = f", nor are {len(images) - MAX_NAMED_IMAGES:,} more" * (
            len(images) > MAX_NAMED_IMAGES
        )
        raise DataError(
            f"there is no file or folder {places}{more}: give image files, or folders of them"
        )


def is_model(path: Path) -> bool:
    """Return whether a path is a run's folder or a model folder, or the name of weights."""
    if os.path.lexists(path):
        return any(os.path.isfile(path / name) for name in ("run.json", "config.json"))
    return is_model_name(path)


def expand_image_arguments(arguments: Namespace, passed_over: "PassedOverFiles") -> Iterable[Path]:
    """Yield the paths of the images that the arguments name.

    A folder stands for the image files in it; its other files are counted in `passed_over`.  `-`
    stands for the paths on standard input.  Raises UsageError if images would be sorted into a
    folder that is searched.
    """
    target: Path | None = arguments.sort_into
    for name in arguments.images:
        for path in read_stdin_paths(arguments.null) if name == "-" else [Path(name)]:
            if not path.is_dir():
                yield path
                continue
            found = deploy.find_image_files(path, passed_over)
            yield from deploy.refuse_searched_folder(target, path, found) if target else found


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
    network: "nn.Module", config: "ModelConfig", out: Path | None, class_name: str | None
) -> "Callable[[Prediction, int], str]":
    """Make a function that writes a prediction's Grad-CAM picture and returns the picture's path.

    The picture shows what speaks for the class `class_name`, by default the top class.  The
    function's second argument is the number of the image, with which the file name begins.  If
    `out` is None, or if the image could not be read, the function writes nothing and returns "".
    Raises UsageError if the model has no such class.
    """
    if out is None:
        return lambda prediction, n: ""
    chosen = None if class_name is None else deploy.find_class_index(config.classes, class_name)
    explainer = deploy.GradCamExplainer(network, config)

    def draw_explanation(prediction: "Prediction", n: int) -> str:
        if prediction.pixels is None:
            return ""
        path = out / f"{n:05}-{prediction.path.stem}.png"
        pixels = data.center_crop(prediction.pixels, config.input[1:])  # of views with a margin
        top_class, _ = prediction.top_classes(1)[0]
        explainer.save_overlay(pixels, top_class if chosen is None else chosen, path)
        return str(path)

    return draw_explanation

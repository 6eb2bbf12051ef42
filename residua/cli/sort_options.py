"""The options of `residua predict` that sort the images into folders of their classes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace

from residua import deploy
from residua.cli.parser import CommandParser
from residua.cli.prediction_printers import TopClasses
from residua.console.output import print_note
from residua.errors import UsageError


def add_sort_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--sort-into",
        type=Path,
        metavar="DIR",
        help="copy each image into a subfolder of this new or empty folder, named after its top "
        "class",
    )
    parser.add_argument(
        "--unsure-below",
        type=float,
        metavar="PROBABILITY",
        help="sort images whose top probability is below this one, from 0 to 1, into the folder "
        f"unsure (default: {deploy.DEFAULT_UNSURE_BELOW})",
    )
    parser.add_argument(
        "--link",
        action="store_true",
        help="sort by symbolic links with absolute targets instead of copies; they break when the "
        "images are moved",
    )


def check_sort_options(arguments: Namespace) -> None:
    """Raise UsageError if a value is out of range, or if options contradict each other."""
    if not 0 <= get_unsure_below(arguments) <= 1:
        raise UsageError(
            f"--unsure-below {arguments.unsure_below} is invalid: give a probability from 0 to 1"
        )
    folder, explain = arguments.sort_into, arguments.explain
    if folder is None:
        option = "--link" if arguments.link else "--unsure-below"
        if arguments.link or arguments.unsure_below is not None:
            raise UsageError(
                f"{option} only applies with --sort-into: add --sort-into DIR, or leave {option} "
                "out"
            )
    elif explain and Path(os.path.realpath(explain)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(
            f"--explain {explain} is inside --sort-into {folder}: choose a folder outside of it"
        )


def get_unsure_below(arguments: Namespace) -> float:
    value: float | None = arguments.unsure_below
    return deploy.DEFAULT_UNSURE_BELOW if value is None else value


def require_sortable_classes(arguments: Namespace, classes: tuple[str, ...]) -> None:
    """Raise UsageError if --sort-into is given and cannot get folders for these classes."""
    if arguments.sort_into is not None:
        deploy.check_sort_folder(arguments.sort_into, classes, get_unsure_below(arguments))


@contextmanager
def open_sorting(
    arguments: Namespace, classes: tuple[str, ...]
) -> Iterator[Callable[[Path, TopClasses], str | Path]]:
    """Yield the function that sorts an image by its top classes and returns where it will be.

    The function returns "" for an image without classes, which could not be read, and for all
    images without --sort-into.  At the end, the folder is moved into place, and a note says how
    many images went where.
    """
    if arguments.sort_into is None:
        yield lambda path, top: ""
        return
    with deploy.open_image_sorter(
        arguments.sort_into, classes, get_unsure_below(arguments), arguments.link
    ) as sorter:
        yield lambda path, top: sorter.place_image(path, *top[0]) if top else ""
    print_note(" ".join(sorter.describe().splitlines()))

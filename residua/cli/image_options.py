"""The options that say how image files are decoded, and the data sets that they apply to."""

from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import data
from residua.cli.parser import CommandParser
from residua.config.dataset import Dataset
from residua.config.image_views import VIEWS_NAMES
from residua.config.model import MAX_IMAGE_PIXELS, MAX_WHITE_LEVEL
from residua.errors import UsageError

if TYPE_CHECKING:
    from residua.data import ImageListing

USUAL_WHITE = "65535, or for floating point 1, 255 or 65535"


def add_max_pixels_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--max-pixels",
        type=int,
        help=f"the largest image that is decoded, in pixels (default: {MAX_IMAGE_PIXELS})",
    )


def add_white_level_option(parser: CommandParser, default: str = USUAL_WHITE) -> None:
    """Add `--white-level`; `default` is the help text for the level that is used without it."""
    parser.add_argument(
        "--white-level",
        type=int,
        help="the level of white in grey images of more than 8 bits, e.g. 4095 if 12 of 16 bits "
        f"are used (default: {default})",
    )


def add_views_options(parser: CommandParser) -> None:
    """Add `--views`, and `--mirror`, which is short for one of its values."""
    parser.add_argument(
        "--views",
        completions=VIEWS_NAMES,
        metavar=f"{{{','.join(VIEWS_NAMES)}}}",
        help="views of each image whose predictions are averaged: mirror adds its mirror image; 10 "
        "are ten crops of a photograph, its corners and center with their mirror images; six are "
        "the image and two shifts by a pixel with their mirror images (default: none)",
    )
    parser.add_argument("--mirror", action="store_true", help="the same as --views mirror")


def check_image_options(arguments: Namespace) -> None:
    """Raise UsageError if `--max-pixels` or `--white-level` is out of range."""
    if arguments.max_pixels is not None and arguments.max_pixels < 1:
        raise UsageError(f"--max-pixels {arguments.max_pixels} is invalid: give 1 or more")
    level = arguments.get("white_level")
    if level is not None and not 1 <= level <= MAX_WHITE_LEVEL:
        raise UsageError(
            f"--white-level {level} is invalid: give the pixel value of white, "
            "e.g. 4095 for 12-bit images"
        )


def apply_to_listing(listing: "ImageListing", arguments: Namespace) -> "ImageListing":
    """Return the listing with the values of `--max-pixels` and `--white-level`."""
    return replace(
        listing,
        max_pixels=arguments.max_pixels or listing.max_pixels,
        white_level=arguments.white_level or listing.white_level,
    )


def resolve_data_argument(arguments: Namespace) -> Dataset:
    """Find the data set of the arguments `data` and `--data-dir`; see `apply_to_dataset`."""
    dataset = data.resolve_dataset(arguments.data, data_dir=arguments.data_dir)
    return apply_to_dataset(dataset, arguments)


def apply_to_dataset(dataset: Dataset, arguments: Namespace) -> Dataset:
    """Return the data set with the options applied to its photographs; see `apply_to_listing`.

    Raises UsageError if an option is given but the images are not photographs.
    """
    if isinstance(dataset, data.PhotoDataset):
        return replace(dataset, listing=apply_to_listing(dataset.listing, arguments))
    for option in ("max_pixels", "white_level"):
        if arguments[option] is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} applies only to photographs: "
                f"leave it out for {dataset.name}"
            )
    return dataset

"""Resolve a data set's name to a published data set, and a location to its photos.

This is the only module that knows every kind of source; it calls the module for a location's kind
to list the location.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path

from residua.config.dataset import DATASETS, Dataset
from residua.data.sources.huggingface import (
    HUB_PREFIX,
    has_image_column,
    is_saved_dataset,
    list_huggingface_dataset,
)
from residua.data.sources.image_folder import list_image_folder
from residua.data.sources.listing import DEV_SHARE, TEST_SHARE, DataProblem, ImageListing
from residua.data.sources.table import TABLE_SUFFIXES, list_image_table
from residua.data.sources.webdataset import SHARD_SUFFIX, find_shards, list_webdataset
from residua.errors import DataError, UsageError, unknown_name_error

# ImageNet's statistics for all photos, because published pretrained weights expect them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_GREY_MEAN, IMAGENET_GREY_STD = (0.449,), (0.226,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoDataset(Dataset):
    """A data set of photos that keeps the listing of its files, so that it is made only once."""

    listing: ImageListing = field(compare=False, repr=False)


def resolve_dataset(name_or_location: str, input_shape: tuple[int, ...] = ()) -> Dataset:
    """Find a data set by name, or photos by location, for a network of the given input shape.

    Photos are prepared for `input_shape`, by default (3, 224, 224).  Raises UsageError for an
    unknown name, and DataError for a location that holds no data set.
    """
    if name_or_location in DATASETS:
        return DATASETS[name_or_location]
    path = Path(name_or_location).expanduser()
    is_location = (
        name_or_location.startswith(HUB_PREFIX)
        or path.exists()
        or os.sep in name_or_location
        or path.suffix in (*TABLE_SUFFIXES, SHARD_SUFFIX)
    )
    if not is_location:
        raise unknown_name_error("data set", name_or_location, DATASETS)
    return dataset_from_listing(list_image_dataset(name_or_location), input_shape or (3, 224, 224))


def dataset_from_listing(listing: ImageListing, input_shape: tuple[int, ...]) -> PhotoDataset:
    """The photos of a listing as a data set for a network of the given input shape.

    The numbers of training and dev images are estimates if the splits are chosen by the SHA-256
    sums of the images, which are known only once the files are read.  Raises UsageError if the
    input is not square.
    """
    channels, height, width = square_input_shape(input_shape)
    is_colour = channels == 3
    split_counts = Counter(entry.split for entry in listing.entries)
    undecided_train_count = round((1 - TEST_SHARE) * split_counts[""])
    train_count = split_counts["train"] + split_counts["dev"] + undecided_train_count
    return PhotoDataset(
        name=listing.name,
        input=(channels, height, width),
        classes=listing.classes,
        mean=IMAGENET_MEAN if is_colour else IMAGENET_GREY_MEAN,
        std=IMAGENET_STD if is_colour else IMAGENET_GREY_STD,
        num_images=train_count,
        num_dev_images=split_counts["dev"] or max(round(DEV_SHARE * train_count), 1),
        kind="folder",
        folder=listing.location,
        resize=cached_image_side(height),
        listing=listing,
    )


def square_input_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape (channels, side, side) of the square images that a network's input holds.

    The input (n,) of a fully connected net holds a square RGB image if n is 3 times a square
    number, and a square grey image otherwise.  Raises UsageError if no square image fits.
    """
    if len(input_shape) == 1:
        colour_side, grey_side = isqrt(input_shape[0] // 3), isqrt(input_shape[0])
        is_colour = 3 * colour_side**2 == input_shape[0]
        input_shape = (3, colour_side, colour_side) if is_colour else (1, grey_side, grey_side)
    channels, height, width = input_shape
    if height != width or channels not in (1, 3):
        raise UsageError(
            f"photos cannot be cropped to {input_shape}: "
            "the input must be square, with 1 channel (grey) or 3 (colour)"
        )
    return channels, height, width


def cached_image_side(input_side: int) -> int:
    """The side, in pixels, of the decoded squares from which random crops are taken.

    It is about 8/7 of the side of the network's input, for example 256 for 224.  It exceeds the
    input's side by a multiple of 4, so that the square's center crop starts at a whole pixel and is
    also the center crop of the photo.
    """
    return input_side + 4 * max(round(input_side / 28), 1)


def largest_side_that_fits(image_count: int, channels: int, max_bytes: int) -> int:
    """The largest input side for which the decoded photos fit in `max_bytes`.

    It is between 16 and 1024 pixels, or 0 if not even 16 fits.
    """
    return next(
        (
            side
            for side in range(1024, 15, -1)
            if image_count * channels * cached_image_side(side) ** 2 <= max_bytes
        ),
        0,
    )


def list_image_dataset(location: str | Path) -> ImageListing:
    """List the photos at a location, without the classes that have no training images.

    Raises DataError if there is no data set, or fewer than two classes to train on.
    """
    if str(location) == HUB_PREFIX:
        raise UsageError(f"{HUB_PREFIX} names no data set: give {HUB_PREFIX}OWNER/NAME")
    listing = (
        list_huggingface_dataset(str(location))
        if str(location).startswith(HUB_PREFIX)
        else list_local_dataset(Path(location).expanduser())
    )
    location = listing.location
    if not listing.classes:
        raise DataError(
            f"{location} contains no image folders: put the images of each class into a folder of "
            f"their own, e.g. {Path(location) / 'CLASS' / 'image.jpg'}"
        )
    if not listing.entries:
        raise DataError(
            f"{location} contains no images: put the images of each class into the folder of that "
            f"class"
        )
    trainable_labels = {entry.label for entry in listing.entries if entry.split in ("train", "")}
    trainable_classes = [
        name for label, name in enumerate(listing.classes) if label in trainable_labels
    ]
    if len(trainable_classes) < 2:
        found = (
            f"only one class, {trainable_classes[0]}"
            if trainable_classes
            else "no class with images to train on"
        )
        raise DataError(
            f"{location} holds {found}: give at least two classes, each a folder of its images"
        )
    return keep_only_classes(listing, trainable_classes)


def list_local_dataset(path: Path) -> ImageListing:
    """List the photos of a folder or file of a supported kind.

    Raises DataError if the kind is not supported.
    """
    if not path.exists():
        raise DataError(f"there is no folder or table {path}")
    if path.is_file() and path.suffix.lower() not in (*TABLE_SUFFIXES, SHARD_SUFFIX):
        raise DataError(
            f"{path} is a file: give a folder of classes, or a table that ends in "
            f"{', '.join(TABLE_SUFFIXES)}"
        )
    path = path.resolve()
    is_parquet = path.suffix.lower() == ".parquet" and path.is_file()
    if is_saved_dataset(path) or (is_parquet and has_image_column(path)):
        return list_huggingface_dataset(str(path))
    if shards := find_shards(path):
        return list_webdataset(path, shards)
    return list_image_table(path) if path.is_file() else list_image_folder(path)


def keep_only_classes(listing: ImageListing, class_names: list[str]) -> ImageListing:
    """The listing with only the given classes; each other class is reported as a problem."""
    new_labels = {listing.classes.index(name): i for i, name in enumerate(class_names)}
    dropped_counts = Counter(
        entry.label for entry in listing.entries if entry.label not in new_labels
    )
    problems = []
    for label, name in enumerate(listing.classes):
        if count := dropped_counts[label]:
            detail = f"has images to test, {count}, but none to train on, and is skipped"
            problems.append(DataProblem(name, "unknown class", detail))
        elif label not in new_labels:
            detail = "has no file to train on, and is skipped"
            problems.append(DataProblem(name, "empty class", detail))
    entries = tuple(
        replace(entry, label=new_labels[entry.label])
        for entry in listing.entries
        if entry.label in new_labels
    )
    all_problems = tuple(sorted([*listing.problems, *problems]))
    return ImageListing(listing.location, tuple(class_names), entries, all_problems)

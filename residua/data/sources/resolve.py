"""Resolve a name to a published data set, and a location to a data set of its photos.

This is the only module that knows every kind of source.  To list a location, it calls the module
for the kind of source that it finds there.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path

from residua.config.dataset import DATASETS, Dataset, DatasetT
from residua.config.hub_name import HUB_PREFIX, is_hub_name
from residua.config.imagenet_classes import IMAGENET
from residua.config.photo_storage import PhotoStorage
from residua.config.recipe import Recipe
from residua.data.sources.classes import keep_trainable_classes, match_model_classes
from residua.data.sources.huggingface import list_huggingface_dataset
from residua.data.sources.huggingface_files import (
    find_parquet_files,
    has_image_column,
    is_saved_dataset,
)
from residua.data.sources.image_folder import list_image_folder
from residua.data.sources.imagenet import is_imagenet_name, list_imagenet
from residua.data.sources.listing import ImageListing
from residua.data.sources.packed import is_packed_folder, list_packed_folder
from residua.data.sources.remote_dataset import list_remote_dataset
from residua.data.sources.remote_urls import is_remote_url
from residua.data.sources.table import TABLE_SUFFIXES, list_image_table
from residua.data.sources.webdataset import (
    SHARD_SUFFIX,
    explain_packed_archives,
    find_shards,
    is_packed_archive,
    list_webdataset,
)
from residua.data.splits import TEST_SHARE, choose_dev_share
from residua.errors import DataError, UsageError, unknown_name_error

# ImageNet's statistics for all photos, because published pretrained weights expect them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_GREY_MEAN, IMAGENET_GREY_STD = (0.449,), (0.226,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoDataset(Dataset):
    """A data set of photos, with their listing, so that the photos are listed only once.

    storage      how photos are kept for training: `squares` of `resize` pixels, whole photos as
                 `raw` pixels or as `jpeg` bytes, or not at all (`files`, decoded for each batch)
    stored_side  shorter side of whole photos, in pixels; 0 stands for `resize`
    """

    listing: ImageListing = field(compare=False, repr=False)
    storage: PhotoStorage = "squares"
    stored_side: int = 0

    @property
    def is_streamed(self) -> bool:
        """Whether photos are decoded when they are needed, and not kept in memory."""
        return self.storage != "squares"


def resolve_dataset(
    name_or_location: str,
    input_shape: tuple[int, ...] = (),
    model_classes: tuple[str, ...] = (),
    *,
    skip_unknown: bool = False,
    data_dir: Path | None = None,
) -> Dataset:
    """Find a data set by name, or photos by location, for a network of the given input shape.

    Photos are prepared for `input_shape`, by default (3, 224, 224).  `model_classes`,
    `skip_unknown` and `data_dir` are as in `list_image_dataset`.  Raises UsageError for an unknown
    name, and DataError for a location that holds no data set.
    """
    if name_or_location in DATASETS:
        return DATASETS[name_or_location]
    if not name_or_location:
        raise UsageError(
            "the data set is an empty string: give its name, or the path of photographs"
        )
    path = Path(os.path.expanduser(name_or_location))  # Path.expanduser fails for unknown users
    is_location = (
        is_hub_name(name_or_location)
        or name_or_location == IMAGENET
        or path.exists()
        or os.sep in name_or_location
        or path.suffix in (*TABLE_SUFFIXES, SHARD_SUFFIX)
    )
    if not is_location:
        raise unknown_name_error("data set", name_or_location, (*DATASETS, IMAGENET))
    listing = list_image_dataset(
        name_or_location, model_classes, skip_unknown=skip_unknown, data_dir=data_dir
    )
    return dataset_from_listing(listing, input_shape or (3, 224, 224))


def dataset_from_listing(listing: ImageListing, input_shape: tuple[int, ...]) -> PhotoDataset:
    """Make a data set of the photos in a listing, for a network of the given input shape.

    If the splits are chosen by the SHA-256 sums of the images, the numbers of training and dev
    images are estimates, because the files have not been read.  Raises UsageError if the input is
    not square.
    """
    channels, height, width = square_input_shape(input_shape)
    is_colour = channels == 3
    split_counts = Counter(entry.split for entry in listing.entries)
    undecided_train_count = round((1 - TEST_SHARE) * split_counts[""])
    train_count = split_counts["train"] + split_counts["dev"] + undecided_train_count
    dev_share = listing.dev_share or choose_dev_share(len(listing.entries))
    return PhotoDataset(
        name=listing.name,
        input=(channels, height, width),
        classes=listing.classes,
        mean=IMAGENET_MEAN if is_colour else IMAGENET_GREY_MEAN,
        std=IMAGENET_STD if is_colour else IMAGENET_GREY_STD,
        num_images=train_count,
        num_dev_images=split_counts["dev"] or max(round(dev_share * train_count), 1),
        kind="folder",
        folder=listing.location,
        resize=cached_image_side(height),
        model_classes=listing.model_classes,
        listing=listing,
    )


def resize_for_recipe(data: DatasetT, recipe: Recipe | None) -> DatasetT:
    """Return photographs of the sizes that a recipe asks for; other data sets as they are.

    These are the shorter sides for evaluation and, where photographs are kept whole, for training:
    the recipe's own, or the largest one to which a random crop resizes them.
    """
    if recipe is None or not isinstance(data, PhotoDataset):
        return data
    resize = recipe.test_resize or data.resize
    sides = (recipe.stored_side, *recipe.augment.shorter_side)
    stored_side = max(*sides, resize) if any(sides) else data.stored_side
    return replace(data, resize=resize, stored_side=stored_side)


def square_input_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape (channels, side, side) of the square images that a network takes as input.

    For a fully connected net with input (n,), the images are RGB if n is 3 times a square number,
    and grey otherwise.  Raises UsageError if the input is not square, grey or RGB.
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
    """Return the side, in pixels, of the decoded squares from which random crops are taken.

    The result is about 8/7 of `input_side`, for example 256 for 224.  The difference is a multiple
    of 4, so that the center crop of the square starts at a whole pixel, and is also the center crop
    of the resized photo.
    """
    return input_side + 4 * max(round(input_side / 28), 1)


def largest_side_that_fits(image_count: int, channels: int, max_bytes: int) -> int:
    """Return the largest input side, in pixels, for which the decoded photos fit in `max_bytes`.

    The result is between 16 and 1024, or 0 if the photos do not fit even at 16.
    """
    return next(
        (
            side
            for side in range(1024, 15, -1)
            if image_count * channels * cached_image_side(side) ** 2 <= max_bytes
        ),
        0,
    )


def list_image_dataset(
    location: str | Path,
    model_classes: tuple[str, ...] = (),
    *,
    skip_unknown: bool = False,
    data_dir: Path | None = None,
) -> ImageListing:
    """List the photos at a location, to train on or, with `model_classes`, for a trained model.

    For training, the classes are those with training images; each other class becomes a problem.
    For a model, the classes are the model's, in its order: images are matched to them by name, and
    classes that the model does not know are refused or, with `skip_unknown`, left out.  `data_dir`
    is where ImageNet is, if `location` is its name.  Raises
    DataError if there is no data set at the location, or if fewer than two classes have training
    images, and UsageError for unknown classes.
    """
    if not str(location):
        raise UsageError(
            "the data set is an empty string: give its name, or the path of photographs"
        )
    if str(location) == HUB_PREFIX:
        raise UsageError(f"{HUB_PREFIX} names no data set: give {HUB_PREFIX}OWNER/NAME")
    if is_imagenet_name(str(location), data_dir):
        listing = list_imagenet(data_dir)
    elif is_remote_url(str(location)):
        listing = list_remote_dataset(str(location))
    elif is_hub_name(location):
        listing = list_huggingface_dataset(str(location))
    else:
        listing = list_local_dataset(Path(os.path.expanduser(location)))
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
    if model_classes:
        return match_model_classes(listing, model_classes, skip_unknown=skip_unknown)
    return keep_trainable_classes(listing)


def list_local_dataset(path: Path) -> ImageListing:
    """List the photos of a folder or file of a supported kind.

    Raises DataError if the kind is not supported.
    """
    if not path.exists():
        raise DataError(f"there is no folder or table {path}: check the path")
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is a pipe or a device: give a folder of classes, or a table")
    if path.is_file() and is_packed_archive(path):
        raise DataError(explain_packed_archives(path, [path]))
    if path.is_file() and path.suffix.lower() not in (*TABLE_SUFFIXES, SHARD_SUFFIX):
        raise DataError(
            f"{path} is a file: give a folder of classes, or a table whose name ends in "
            f"{', '.join(TABLE_SUFFIXES)}"
        )
    path = path.resolve()
    if is_packed_folder(path):
        return list_packed_folder(path)
    is_parquet = path.suffix.lower() == ".parquet" and path.is_file()
    if (
        is_saved_dataset(path)
        or (is_parquet and has_image_column(path))
        or (not is_parquet and find_parquet_files(path))
    ):
        return list_huggingface_dataset(str(path))
    if shards := find_shards(path):
        return list_webdataset(path, shards)
    return list_image_table(path) if path.is_file() else list_image_folder(path)

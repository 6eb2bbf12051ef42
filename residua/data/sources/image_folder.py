"""Which data set a name means; and what lies in a folder of photographs: classes, files and splits, nothing decoded yet.

DIR/train/CLASS/...  and DIR/test/CLASS/... or DIR/val/CLASS/..., or DIR/CLASS/... alone, which is split by content.  Where there
are val and test, val is the dev split.  Classes are sorted by name.  Hidden files are no part of it, and links are not followed
outside.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import isqrt
from pathlib import Path

from residua.config.dataset import DATASETS, Dataset
from residua.data.sources.huggingface import (
    HUB_PREFIX,
    has_image_column,
    is_saved_dataset,
    list_huggingface_dataset,
)
from residua.data.sources.listing import (
    DEV_SHARE,
    SPLIT_NAMES,
    TEST_SHARE,
    DataProblem,
    ImageListing,
    OptionalSplit,
    escape_unprintable,
    printable_relative_path,
)
from residua.data.sources.table import TABLE_SUFFIXES, list_image_table, make_file_entry
from residua.data.sources.webdataset import SHARD_SUFFIX, find_shards, list_webdataset
from residua.errors import DataError, UsageError, unknown_name_error

IGNORED_NAMES = ("Thumbs.db", "desktop.ini", "__MACOSX")
IMAGENET_MEAN, IMAGENET_STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of ImageNet's photographs, as every project's weights want them
IMAGENET_GREY_MEAN_STD = (0.449,), (0.226,)


def resolve_dataset(name_or_location: str, input_shape: tuple[int, ...] = ()) -> Dataset:
    """A named data set, or that of photographs at a place of the user's, as a network of `input` sees it.

    Raises UsageError for what is neither, DataError for a place that holds no data set.
    """
    if name_or_location in DATASETS:
        return DATASETS[name_or_location]
    path = Path(name_or_location).expanduser()
    if (
        name_or_location.startswith(HUB_PREFIX)
        or path.exists()
        or os.sep in name_or_location
        or path.suffix in (*TABLE_SUFFIXES, SHARD_SUFFIX)
    ):
        return dataset_from_listing(
            list_image_dataset(name_or_location), input_shape or (3, 224, 224)
        )
    raise unknown_name_error("data set", name_or_location, DATASETS)


def dataset_from_listing(listing: ImageListing, input_shape: tuple[int, ...]) -> Dataset:
    """The listing as a value; how many images are held out is known only once they are read, and here a guess."""
    if len(input_shape) == 1:  # of a fully connected net
        side = isqrt(input_shape[0] // 3)
        input_shape = (
            (3, side, side)
            if 3 * side * side == input_shape[0]
            else (1, isqrt(input_shape[0]), isqrt(input_shape[0]))
        )
    channels, height, width = input_shape
    if height != width or channels not in (1, 3):
        raise UsageError(
            f"photographs are cut to squares in grey or in colour, not to {input_shape}"
        )
    split_counts = Counter(entry.split for entry in listing.entries)
    train_count = (
        split_counts["train"] + split_counts["dev"] + round((1 - TEST_SHARE) * split_counts[""])
    )
    return Dataset(
        name=listing.name,
        input=(channels, height, width),
        classes=listing.classes,
        mean=IMAGENET_MEAN if channels == 3 else IMAGENET_GREY_MEAN_STD[0],
        std=IMAGENET_STD if channels == 3 else IMAGENET_GREY_MEAN_STD[1],
        num_images=train_count,
        num_dev_images=split_counts["dev"] or max(round(DEV_SHARE * train_count), 1),
        kind="folder",
        folder=listing.location,
        resize=cached_image_side(height),
    )


def cached_image_side(input_side: int) -> int:
    """About 8/7 of a network's side, as 256 is of 224: the squares that crops are cut from.

    By a multiple of 4 more, so that the middle of a square is the middle of its photograph, to the pixel.
    """
    return input_side + 4 * max(round(input_side / 28), 1)


def largest_side_that_fits(image_count: int, channels: int, max_bytes: int) -> int:
    """The largest side for which so many photographs are kept in so many bytes; 0 where not even one of 16 pixels is."""
    return next(
        (
            side
            for side in range(1024, 15, -1)
            if image_count * channels * cached_image_side(side) ** 2 <= max_bytes
        ),
        0,
    )


def list_image_dataset(location: str | Path) -> ImageListing:
    """All that should be an image at a place; DataError where that is nothing, or where there is one class."""
    if str(location) == HUB_PREFIX:
        raise UsageError(f"{HUB_PREFIX} names no data set: give {HUB_PREFIX}OWNER/NAME")
    listing = (
        list_huggingface_dataset(str(location))
        if str(location).startswith(HUB_PREFIX)
        else list_local_dataset(Path(location).expanduser())
    )
    location = listing.location
    trainable_labels = {entry.label for entry in listing.entries if entry.split in ("train", "")}
    if not listing.classes:
        raise DataError(
            f"{location} holds no folder of images: a class is a folder of its images, as in {Path(location) / 'CLASS' / 'image.jpg'}"
        )
    if not listing.entries:
        raise DataError(f"{location} holds no images: put those of each class into its folder")
    trainable_classes = [
        name for label, name in enumerate(listing.classes) if label in trainable_labels
    ]
    if len(trainable_classes) < 2:
        only = (
            f"one class, {trainable_classes[0]}"
            if trainable_classes
            else "no class with images to train on"
        )
        raise DataError(
            f"{location} holds {only}: there must be two at least, each a folder of its images"
        )
    return keep_only_classes(listing, trainable_classes)


def list_local_dataset(path: Path) -> ImageListing:
    """The listing of a folder or a file, by what that is."""
    if not path.exists():
        raise DataError(f"there is no folder or table {path}")
    if path.is_file() and path.suffix.lower() not in (*TABLE_SUFFIXES, SHARD_SUFFIX):
        raise DataError(
            f"{path} is a file: give a folder of classes, or a table that ends in {', '.join(TABLE_SUFFIXES)}"
        )
    path = path.resolve()
    if is_saved_dataset(path) or (
        path.suffix.lower() == ".parquet" and path.is_file() and has_image_column(path)
    ):
        return list_huggingface_dataset(str(path))
    if shards := find_shards(path):
        return list_webdataset(path, shards)
    return list_image_table(path) if path.is_file() else list_image_folder(path)


def keep_only_classes(listing: ImageListing, class_names: list[str]) -> ImageListing:
    """The listing with the classes of `kept` alone: what holds nothing to train on is a problem, and no class."""
    new_labels = {listing.classes.index(name): i for i, name in enumerate(class_names)}
    dropped_counts = Counter(
        entry.label for entry in listing.entries if entry.label not in new_labels
    )
    problems = [
        DataProblem(
            name,
            "unknown class" if dropped_counts[label] else "empty class",
            f"has images to test, {dropped_counts[label]}, and none to train on, and is left out"
            if dropped_counts[label]
            else "holds no file to train on, and is left out",
        )
        for label, name in enumerate(listing.classes)
        if label not in new_labels
    ]
    entries = tuple(
        replace(entry, label=new_labels[entry.label])
        for entry in listing.entries
        if entry.label in new_labels
    )
    return ImageListing(
        listing.location, tuple(class_names), entries, tuple(sorted([*listing.problems, *problems]))
    )


def list_image_folder(root: Path) -> ImageListing:
    """The listing of a folder of splits, or of classes."""
    problems: list[DataProblem] = []
    folders = {
        child.name.lower(): child
        for child in iter_valid_children(root, root, problems)
        if child.is_dir()
    }
    split_folders = {
        part: next((folders[name] for name in names if name in folders), None)
        for part, names in SPLIT_NAMES.items()
    }
    if split_folders["train"] is None:
        roots_by_split: dict[OptionalSplit, Path] = {"": root}
    elif split_folders["test"] is None and split_folders["dev"] is None:
        roots_by_split = {"": split_folders["train"]}
    elif (
        split_folders["test"] is None or split_folders["dev"] is None
    ):  # the only one beside the training images is the test part
        roots_by_split = {
            "train": split_folders["train"],
            "test": split_folders["test"] or split_folders["dev"] or root,
        }
    else:
        roots_by_split = {part: place for part, place in split_folders.items() if place is not None}
    files_by_class: dict[str, list[tuple[OptionalSplit, Path]]] = {}
    problems = [] if split_folders["train"] else problems  # beside the splits anything may lie
    for part, place in roots_by_split.items():
        for child in iter_valid_children(place, root, problems if place != root else []):
            if child.is_dir():
                files = [(part, path) for path in walk_files(child, root, problems)]
                files_by_class.setdefault(escape_unprintable(child.name), []).extend(files)
            else:
                problems.append(
                    DataProblem(
                        printable_relative_path(root, child),
                        "no class",
                        "lies beside the folders of classes, and is left out",
                    )
                )
    classes = tuple(sorted(files_by_class))
    entries = [
        make_file_entry(path, printable_relative_path(root, path), label, part)
        for label, name in enumerate(classes)
        for part, path in files_by_class[name]
    ]
    return ImageListing(
        str(root), classes, tuple(sorted(entries, key=lambda e: e.name)), tuple(problems)
    )


def iter_valid_children(folder: Path, root: Path, problems: list[DataProblem]) -> Iterator[Path]:
    """Files and folders in a folder, by name, without hidden ones; what is neither, or a link that leads away, is a problem."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        problems.append(
            DataProblem(
                printable_relative_path(root, folder),
                "unreadable",
                f"cannot be read: {error.strerror}",
            )
        )
        return
    for path in [
        folder / name for name in names if not name.startswith(".") and name not in IGNORED_NAMES
    ]:
        if why := find_path_problem(path, root):
            problems.append(DataProblem(printable_relative_path(root, path), *why))
        else:
            yield path


def find_path_problem(path: Path, root: Path) -> tuple[str, str] | None:
    """Why a path is neither a file nor a folder of the data set's; None where it is."""
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.exists():
            return "broken link", "is a link to nothing"
        if target.is_dir() or not target.is_relative_to(root):
            destination = "to a folder" if target.is_relative_to(root) else "to another place"
            return "link outside", f"is a link {destination}, which is not followed"
    if not (path.is_dir() or path.is_file()):
        return "no file", "is neither a file nor a folder"
    return None


def walk_files(folder: Path, root: Path, problems: list[DataProblem]) -> Iterator[Path]:
    """Every file under a folder."""
    for path in iter_valid_children(folder, root, problems):
        if path.is_dir():
            yield from walk_files(path, root, problems)
        else:
            yield path

"""The data that a Python program gives: a name, a path, arrays, or a library's data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.data.convert_arrays import (
    MapStyleDataset,
    convert_labels,
    convert_pair,
    read_map_style_dataset,
)
from residua.data.images import Images
from residua.data.in_memory import (
    InMemoryDataset,
    make_evaluation_dataset,
    make_in_memory_dataset,
)
from residua.data.sources.listing import OptionalSplit, describe_split_names, parse_split_name
from residua.data.sources.resolve import resolve_dataset
from residua.errors import DataError, UsageError

ImagesAndLabels: TypeAlias = tuple[Any, Any] | MapStyleDataset
"""Arrays (images, labels), or a map-style data set of pairs (image, label)."""
UserData: TypeAlias = str | Path | ImagesAndLabels | Mapping[str, Any]
"""A name, a path, images with labels, or a dict of them by split."""


def resolve_user_data(
    data: UserData,
    test: ImagesAndLabels | None = None,
    dev: ImagesAndLabels | None = None,
    classes: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
) -> Dataset:
    """Turn what a user gives as data into a data set.

    A text or a path is a data set's name, or the place of photographs.  All else is read into
    memory: arrays (images, labels) as `convert_images` and `convert_labels` take them, a data set
    whose items are (image, label), a data set of the library `datasets`, or a dict of these by
    split.  `test` and `dev` are held-out images in any of these forms; without them, some are held
    out.  `classes` are the names of the classes, by label.  Raises DataError for data that cannot
    be understood, and UsageError if `test`, `dev` or `classes` are given for photographs.
    """
    if isinstance(data, str | Path):
        for name, value in (("test", test), ("dev", dev), ("classes", classes)):
            if value is not None:
                raise UsageError(
                    f"{name} applies only to images in memory: leave it out, because {data} has "
                    "its own"
                )
        return resolve_dataset(os.fspath(data), data_dir=Path(data_dir) if data_dir else None)
    parts = group_parts_by_split(data)
    for split, part in (("test", test), ("dev", dev)):
        if part is not None and split in parts:
            raise UsageError(
                f"the split {split} is given twice, in the data and as {split}=: leave one out"
            )
        if part is not None:
            parts[split] = part  # type: ignore[index]
    return read_parts(parts, classes)


def resolve_evaluation_data(
    data: UserData,
    config: ModelConfig,
    *,
    skip_unknown: bool = False,
    data_dir: Path | None = None,
) -> Dataset:
    """Turn what a user gives as data into a data set to evaluate a model on.

    A text or a path is resolved as `residua evaluate` does.  Images in memory that no dict splits
    are all in the split test; labels are numbers or names of the model's classes.
    """
    if isinstance(data, str | Path):
        return resolve_dataset(
            os.fspath(data),
            config.network.input,
            config.classes,
            skip_unknown=skip_unknown,
            data_dir=data_dir,
        )
    images_by_split, _ = read_images_by_split(group_parts_by_split(data), config.classes)
    return make_evaluation_dataset(images_by_split, config)


def group_parts_by_split(data: Any) -> dict[OptionalSplit, Any]:
    """Name the parts of the data by split; a single part is under ""."""
    if not isinstance(data, Mapping):
        return {"": data}
    parts: dict[OptionalSplit, Any] = {}
    for name, part in data.items():
        split = parse_split_name(str(name))
        if not split:
            raise DataError(f"{name!r} is not the name of a split: use {describe_split_names()}")
        if split in parts:
            raise DataError(f"the data has two splits that are called {split}: give one of them")
        parts[split] = part
    if not parts:
        raise DataError('the data is an empty dict: give splits, e.g. {"train": (images, labels)}')
    return parts


def read_parts(
    parts: Mapping[OptionalSplit, Any], classes: Sequence[str] | None
) -> InMemoryDataset:
    """Read the images of each split into a data set to train on."""
    images_by_split, names = read_images_by_split(parts, classes)
    return make_in_memory_dataset(images_by_split, names)


def read_images_by_split(
    parts: Mapping[OptionalSplit, Any], classes: Sequence[str] | None
) -> tuple[dict[OptionalSplit, Images], tuple[str, ...]]:
    """Read the images of each split; all have the classes of the first one, which are returned."""
    images_by_split: dict[OptionalSplit, Images] = {}
    names: Sequence[str] | None = classes
    for split, part in parts.items():
        try:
            images_by_split[split], names = read_part(part, names)
        except DataError as error:
            if not split:
                raise
            raise DataError(f"in the split {split}, {error}") from error
    assert names is not None
    return images_by_split, tuple(names)


def read_part(part: Any, classes: Sequence[str] | None) -> tuple[Images, tuple[str, ...]]:
    """Read the images and labels of one split; return them with the classes' names."""
    if isinstance(part, tuple | list):
        if len(part) != 2:
            raise DataError(f"{len(part)} values cannot be read as data: give (images, labels)")
        return convert_pair(part[0], part[1], classes)
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__"):
        raise DataError(
            f"{type(part).__name__} cannot be read as data: give a name, a path, (images, labels), "
            "or a data set with __len__ and __getitem__"
        )
    if hasattr(part, "features") and hasattr(part, "column_names"):
        part, classes = wrap_table(part, classes)
    elif classes is None:
        own_classes = getattr(part, "classes", None)
        if isinstance(own_classes, list | tuple) and all(isinstance(n, str) for n in own_classes):
            classes = tuple(own_classes)  # as torchvision's data sets have
    pixels, labels = read_map_style_dataset(part)
    converted, names = convert_labels(labels, len(pixels), classes)
    return Images(pixels, converted), names


class TableItems:
    """The rows of a table of the library `datasets` as pairs (image, label)."""

    def __init__(self, table: Any, image_column: str, label_column: str) -> None:
        self.table, self.image_column, self.label_column = table, image_column, label_column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.table[index]
        return row[self.image_column], row[self.label_column]


def wrap_table(
    table: Any, classes: Sequence[str] | None
) -> tuple[TableItems, Sequence[str] | None]:
    """Find the columns of images and classes by their types; return the rows and class names."""
    images = [n for n, kind in table.features.items() if type(kind).__name__ == "Image"]
    labels = [n for n, kind in table.features.items() if type(kind).__name__ == "ClassLabel"]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"the data set has the columns {', '.join(table.column_names)}, with "
            f"{len(images)} of the type Image and {len(labels)} of the type ClassLabel: give one "
            "of each"
        )
    names = classes if classes is not None else tuple(table.features[labels[0]].names)
    return TableItems(table, images[0], labels[0]), names

"""Hugging Face data sets, on the hub, in a folder written by `save_to_disk` or in a parquet file.

Each row is an image and its label.  The datasets library memory-maps its tables, so that a row is
read only when it is needed.  No code of a data set is run: since its version 4 the library has no
loading scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from residua.data.sources.download import get_cache_dir
from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    parse_split_name,
    sort_class_names,
)
from residua.errors import DataError
from residua.extras import require_extra

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import DataType

HUB_PREFIX = "hf:"
# `save_to_disk` writes the first for several splits, the others for a single table.
SAVED_DATASET_FILES = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
IMAGE_COLUMN_NAMES = ("image", "img")


class ImageColumn:
    """A column of encoded images, each of which is read when needed.

    `allowed_folders` are the library's own cache folders: a row may name a file only inside them.
    """

    def __init__(self, table: "Dataset", column: str, allowed_folders: Sequence[Path]) -> None:
        import datasets

        table = table.select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.table, self.column, self.allowed_folders = table, column, allowed_folders

    def read_row_bytes(self, row: int) -> bytes:
        """The encoded image in a row, or in the file that the row names.

        Raises OSError if the row has neither, or if the file is outside `allowed_folders`.
        """
        value = self.table[row][self.column]
        content, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if content is None and path:
            resolved_path = Path(path).resolve()
            if not any(resolved_path.is_relative_to(folder) for folder in self.allowed_folders):
                raise OSError(
                    f"the row refers to the file {escape_unprintable(path)}, "
                    "which is not read because it is outside the library's cache"
                )
            return resolved_path.read_bytes()
        if not isinstance(content, bytes):
            raise OSError("the row contains no image")
        return content


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image inside a table, as an `EmbeddedFile`: a column and a row."""

    column: ImageColumn
    row: int

    def read_bytes(self) -> bytes:
        return self.column.read_row_bytes(self.row)


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """A split to use: its name in the data set, the `Split` it stands for, images and labels."""

    name: str
    split: OptionalSplit
    images: ImageColumn
    label_texts: list[str]  # empty for a row without a label


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk`."""
    return any(all((folder / name).is_file() for name in names) for names in SAVED_DATASET_FILES)


def has_image_column(parquet_path: Path) -> bool:
    """Whether a parquet file has a column of bytes.  Raises DataError if it cannot be read."""
    require_extra("a parquet table")
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(parquet_path)
    except (OSError, ValueError) as error:
        raise DataError(f"{parquet_path} cannot be read as parquet: {error}") from error
    return any(is_binary_type(field.type) for field in schema)


def is_binary_type(arrow_type: "DataType") -> bool:
    """Whether a column's type is bytes, or a structure with bytes in it, as for hub images."""
    from pyarrow import types

    if types.is_struct(arrow_type):
        return any(is_binary_type(field.type) for field in arrow_type if field.name == "bytes")
    return bool(types.is_binary(arrow_type) or types.is_large_binary(arrow_type))


def list_huggingface_dataset(location: str) -> ImageListing:
    """List the images of a data set's splits: train, validation and test, or its only split.

    `location` is hf:OWNER/NAME or hf:OWNER/NAME:CONFIG, a folder of `save_to_disk` or a parquet
    file.
    """
    path = Path(location)
    saved_files = [path / name for names in SAVED_DATASET_FILES for name in names]
    stamped_files = saved_files if path.is_dir() else [path]
    modified_times = tuple(file.stat().st_mtime_ns for file in stamped_files if file.is_file())
    return list_huggingface_cached(location, modified_times)


@lru_cache(maxsize=2)
def list_huggingface_cached(location: str, modified_times: tuple[int, ...]) -> ImageListing:
    """Cached version of `list_huggingface_dataset`.

    `modified_times` is used only as part of the cache key, so that a changed data set on disk is
    listed again.
    """
    tables = load_huggingface_splits(location)
    features = next(iter(tables.values())).features
    image_column, label_column = find_image_and_label_columns(location, features)
    labelled_splits, problems = [], []
    for name, table in tables.items():
        split = parse_split_name(name)
        if split or len(tables) == 1:
            images = ImageColumn(table, image_column, list_huggingface_cache_folders())
            label_texts = read_label_texts(table, label_column)
            labelled_splits.append(LabelledSplit(name, split, images, label_texts))
        else:
            detail = "is not a training, validation or test split, and is skipped"
            problems.append(DataProblem(escape_unprintable(name), "other split", detail))
    class_names = getattr(features[label_column], "names", ())
    classes = tuple(map(escape_unprintable, class_names)) or sort_class_names(
        text for labelled in labelled_splits for text in labelled.label_texts if text
    )
    label_by_name = index_class_names(classes)
    entries: list[ImageEntry] = []
    for labelled in labelled_splits:
        new_entries = make_row_entries(labelled, label_by_name)
        entries.extend(new_entries)
        if unlabelled_count := len(labelled.label_texts) - len(new_entries):
            detail = f"has {unlabelled_count:,} rows without a label, which are skipped"
            problems.append(DataProblem(escape_unprintable(labelled.name), "no class", detail))
    if not entries:
        raise DataError(f"{location} contains no image with a label")
    return ImageListing(location, classes, ensure_test_split(entries), tuple(problems))


def make_row_entries(labelled: LabelledSplit, label_by_name: dict[str, int]) -> list[ImageEntry]:
    """The entries of a split's rows, without those that have no label."""
    return [
        ImageEntry(
            Path(),
            f"{escape_unprintable(labelled.name)}/{row}",
            label_by_name[text],
            labelled.split,
            embedded_file=ImageRow(labelled.images, row),
        )
        for row, text in enumerate(labelled.label_texts)
        if text in label_by_name
    ]


def load_huggingface_splits(location: str) -> dict[str, "Dataset"]:
    """The non-empty tables of a data set by split.  Raises DataError if it cannot be loaded."""
    require_extra("a Hugging Face data set")
    import datasets

    try:
        if location.startswith(HUB_PREFIX):
            name, _, config = location.removeprefix(HUB_PREFIX).partition(":")
            loaded = datasets.load_dataset(name, config or None)
        elif Path(location).is_dir():
            loaded = datasets.load_from_disk(location)
        else:
            loaded = datasets.load_dataset(
                "parquet", data_files=escape(location), cache_dir=str(get_cache_dir() / "datasets")
            )
    except Exception as error:  # the library raises many kinds for network, names and damage
        reason = " ".join(str(error).partition("\nExample")[0].split()) or type(error).__name__
        raise DataError(f"{location} cannot be read: {reason}") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    non_empty_splits = {str(name): table for name, table in splits.items() if len(table)}
    if not non_empty_splits:
        raise DataError(f"{location} is empty: it has no rows")
    return non_empty_splits


def list_huggingface_cache_folders() -> list[Path]:
    """The folders in which the library stores the files it downloads."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(folder).resolve() for folder in (HF_DATASETS_CACHE, HF_HUB_CACHE)]


def find_image_and_label_columns(location: str, features: "Features") -> tuple[str, str]:
    """The names of the columns of images and of labels, found by their types.

    Raises DataError if there is no column of one of the types, or if there are several and none of
    them has the usual name.
    """
    import datasets

    image_columns = [
        name for name, feature in features.items() if isinstance(feature, datasets.Image)
    ] or [field.name for field in features.arrow_schema if is_binary_type(field.type)]
    label_columns = [
        name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ] or [
        name
        for name, feature in features.items()
        if name.lower() in LABEL_COLUMN_NAMES and isinstance(feature, datasets.Value)
    ]
    return (
        pick_single_column(location, "images", image_columns, IMAGE_COLUMN_NAMES, features),
        pick_single_column(location, "labels", label_columns, LABEL_COLUMN_NAMES, features),
    )


def pick_single_column(
    location: str,
    content_kind: str,
    candidates: list[str],
    usual_names: Sequence[str],
    features: "Features",
) -> str:
    """The column to use: the only candidate, or the only candidate with a usual name.

    Raises DataError if there is no such column.
    """
    usually_named = [name for name in candidates if name.lower() in usual_names]
    for choices in (candidates, usually_named):
        if len(choices) == 1:
            return choices[0]
    if not candidates:
        raise DataError(
            f"{location} has the columns {', '.join(features)}, and none of them holds "
            f"{content_kind}"
        )
    raise DataError(
        f"{location} has {len(candidates)} columns of {content_kind}, {', '.join(candidates)}: "
        f"give the right one the name {usual_names[0]!r}, and save the data set by save_to_disk"
    )


def read_label_texts(table: "Dataset", label_column: str) -> list[str]:
    """The label of each row: its class name if the table has names, else as text; "" if missing."""
    feature = table.features[label_column]
    label_table = table.select_columns([label_column]).with_format("arrow")[:]
    values = label_table.column(label_column).to_pylist()
    names = getattr(feature, "names", None)
    if names is None:
        return ["" if value is None else escape_unprintable(str(value)) for value in values]
    return [
        escape_unprintable(names[value]) if value is not None and 0 <= value < len(names) else ""
        for value in values
    ]

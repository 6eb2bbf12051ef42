"""A Hugging Face data set: each row an image and its label; on the hub, in a folder of save_to_disk or in a parquet file.

The library maps its tables into memory, so that a row is read when it is asked for.  Nothing that a data set brings is run: since
its version 4 the library knows no loading scripts.
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
    ensure_test_split,
    escape_unprintable,
    parse_split_name,
    sort_class_names,
)
from residua.errors import DataError
from residua.extras import require_extra

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import DataType

HUB_PREFIX = "hf:"
SAVED_DATASET_FILES = (
    ("dataset_dict.json",),
    ("state.json", "dataset_info.json"),
)  # of which save_to_disk writes the one or the others
IMAGE_COLUMN_NAMES = ("image", "img")  # what a column of images is called


class ImageColumn:
    """A column of images, each read when it is asked for."""

    def __init__(self, table: "Dataset", column: str, allowed_folders: Sequence[Path]) -> None:
        import datasets

        table = table.select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.table, self.column, self.allowed_folders = table, column, allowed_folders

    def read_row_bytes(self, row: int) -> bytes:
        """An image's bytes, or those of the file of the library's own that it names; OSError where there are none."""
        value = self.table[row][self.column]
        content, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if content is None and path:
            resolved_path = Path(path).resolve()
            if not any(resolved_path.is_relative_to(folder) for folder in self.allowed_folders):
                raise OSError(f"the row names {escape_unprintable(path)}, a file of another place")
            return resolved_path.read_bytes()
        if not isinstance(content, bytes):
            raise OSError("the row holds no image")
        return content


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image."""

    column: ImageColumn
    row: int

    def read_bytes(self) -> bytes:
        return self.column.read_row_bytes(self.row)


def is_saved_dataset(folder: Path) -> bool:
    """Whether save_to_disk has written the folder."""
    return any(all((folder / name).is_file() for name in names) for names in SAVED_DATASET_FILES)


def has_image_column(parquet_path: Path) -> bool:
    """Whether a parquet file has a column of bytes; DataError where it is none."""
    require_extra("a parquet table")
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(parquet_path)
    except (OSError, ValueError) as error:
        raise DataError(f"{parquet_path} cannot be read as parquet: {error}") from error
    return any(is_binary_type(field.type) for field in schema)


def is_binary_type(arrow_type: "DataType") -> bool:
    """Bytes, or bytes and path as the hub keeps images."""
    from pyarrow import types

    if types.is_struct(arrow_type):
        return any(is_binary_type(field.type) for field in arrow_type if field.name == "bytes")
    return bool(types.is_binary(arrow_type) or types.is_large_binary(arrow_type))


def list_huggingface_dataset(location: str) -> ImageListing:
    """The listing of a data set's splits: train, and validation or test where it has them, or its only one."""
    path = Path(location)
    stamped_files = (
        [path / name for names in SAVED_DATASET_FILES for name in names]
        if path.is_dir()
        else [path]
    )
    return list_huggingface_cached(
        location, tuple(file.stat().st_mtime_ns for file in stamped_files if file.is_file())
    )


@lru_cache(maxsize=2)
def list_huggingface_cached(location: str, modified_times: tuple[int, ...]) -> ImageListing:
    """The same; `stamp` changes when a data set here does."""
    splits, usable_splits = load_huggingface_splits(location), []
    image_column, label_column = find_image_and_label_columns(
        location, next(iter(splits.values())).features
    )
    entries: list[ImageEntry] = []
    problems: list[DataProblem] = []
    for split, rows in splits.items():
        part = parse_split_name(split)
        if part or len(splits) == 1:
            usable_splits.append(
                (
                    split,
                    part,
                    ImageColumn(rows, image_column, list_huggingface_cache_folders()),
                    read_label_texts(rows, label_column),
                )
            )
        else:
            problems.append(
                DataProblem(
                    escape_unprintable(split),
                    "other split",
                    "is no split to train, validate or test on, and is left out",
                )
            )
    label_feature = next(iter(splits.values())).features[label_column]
    classes = tuple(
        map(escape_unprintable, getattr(label_feature, "names", ()))
    ) or sort_class_names(text for *_, labels in usable_splits for text in labels if text)
    numbers = {name: label for label, name in enumerate(classes)}
    for split, part, images, labels in usable_splits:
        labelled_rows = [(row, numbers[text]) for row, text in enumerate(labels) if text in numbers]
        entries.extend(
            ImageEntry(
                Path(),
                f"{escape_unprintable(split)}/{row}",
                number,
                part,
                embedded_file=ImageRow(images, row),
            )
            for row, number in labelled_rows
        )
        if unlabelled_count := len(labels) - len(labelled_rows):
            problems.append(
                DataProblem(
                    escape_unprintable(split),
                    "no class",
                    f"has {unlabelled_count:,} rows without a label, which are left out",
                )
            )
    if not entries:
        raise DataError(f"{location} holds no image with a label")
    return ImageListing(location, classes, ensure_test_split(entries), tuple(problems))


def load_huggingface_splits(location: str) -> dict[str, "Dataset"]:
    """Its tables by split; DataError where the library cannot make them."""
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
    except (
        Exception
    ) as error:  # no network, no such name, no permission, damage: as many kinds as the library has
        reason = " ".join(str(error).partition("\nExample")[0].split()) or type(error).__name__
        raise DataError(f"{location} cannot be read: {reason}") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    non_empty_splits = {str(name): rows for name, rows in splits.items() if len(rows)}
    if not non_empty_splits:
        raise DataError(f"{location} is empty: it has no rows")
    return non_empty_splits


def list_huggingface_cache_folders() -> list[Path]:
    """Where the library keeps the files of what it has fetched."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(place).resolve() for place in (HF_DATASETS_CACHE, HF_HUB_CACHE)]


def find_image_and_label_columns(location: str, features: "Features") -> tuple[str, str]:
    """The columns of images and of labels, by their types; DataError where it is not clear which they are."""
    import datasets

    image_columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image_columns = image_columns or [
        field.name for field in features.arrow_schema if is_binary_type(field.type)
    ]
    label_columns = [
        name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)
    ]
    label_columns = label_columns or [
        name
        for name, kind in features.items()
        if name.lower() in LABEL_COLUMN_NAMES and isinstance(kind, datasets.Value)
    ]
    return pick_single_column(
        location, "images", image_columns, IMAGE_COLUMN_NAMES, features
    ), pick_single_column(location, "labels", label_columns, LABEL_COLUMN_NAMES, features)


def pick_single_column(
    location: str,
    content_kind: str,
    candidates: list[str],
    usual_names: Sequence[str],
    features: "Features",
) -> str:
    """The only column of a kind, or the only one of them with a usual name."""
    usually_named = [name for name in candidates if name.lower() in usual_names]
    for choices in (candidates, usually_named):
        if len(choices) == 1:
            return choices[0]
    if not candidates:
        raise DataError(
            f"{location} has the columns {', '.join(features)}, of which none is of {content_kind}"
        )
    raise DataError(
        f"{location} has {len(candidates)} columns of {content_kind}, {', '.join(candidates)}: rename the one that is meant {usual_names[0]}, and save_to_disk"
    )


def read_label_texts(table: "Dataset", label_column: str) -> list[str]:
    """The label of each row as text, by name where it has one; empty where there is none."""
    feature = table.features[label_column]
    values = (
        table.select_columns([label_column])
        .with_format("arrow")[:]
        .column(label_column)
        .to_pylist()
    )
    names = getattr(feature, "names", None)
    if names is None:
        return ["" if value is None else escape_unprintable(str(value)) for value in values]
    return [
        escape_unprintable(names[value]) if value is not None and 0 <= value < len(names) else ""
        for value in values
    ]

"""Loads the tables of Hugging Face data sets: from the hub, from a folder or from parquet files."""

import os
from collections.abc import Iterable
from glob import escape
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from residua.config.hub_name import HUB_PREFIX, is_hub_name, require_hub_name
from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.download import get_cache_dir
from residua.data.sources.listing import (
    OptionalSplit,
    describe_split_names,
    is_visible,
    join_first_names,
    list_visible_children,
    parse_split_name,
)
from residua.errors import DataError, UsageError
from residua.extras import require_extra

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import DataType

PARQUET_SUFFIX = ".parquet"
HUB_DATA_FOLDER = "data"  # in which data sets on the hub usually keep their parquet files
FILES_SAMPLED = 100  # of a subfolder, to find out what it holds
# `save_to_disk` writes the first file for several splits, the others for a single table.
SAVED_DATASET_FILES = (("dataset_dict.json",), ("state.json", "dataset_info.json"))


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `folder` was written by `save_to_disk`."""
    return any(all((folder / name).is_file() for name in names) for names in SAVED_DATASET_FILES)


def list_save_marker_paths(folder: Path) -> list[Path]:
    """List the files that identify a folder of `save_to_disk`, whether they exist or not."""
    return [folder / name for names in SAVED_DATASET_FILES for name in names]


def has_image_column(parquet_path: Path) -> bool:
    """Return whether a parquet file has a column of bytes; raises DataError if it is unreadable."""
    require_extra("a parquet table")
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(parquet_path)
    except (OSError, ValueError) as error:
        raise DataError(f"{parquet_path} cannot be read as parquet: {error}") from error
    return any(is_image_bytes_type(field.type) for field in schema)


def is_image_bytes_type(arrow_type: "DataType") -> bool:
    """Return whether a column's type is bytes, or a struct with a field `bytes`, as on the hub."""
    from pyarrow import types

    if types.is_struct(arrow_type):
        return any(is_image_bytes_type(field.type) for field in arrow_type if field.name == "bytes")
    return bool(types.is_binary(arrow_type) or types.is_large_binary(arrow_type))


def find_parquet_files(folder: Path) -> list[Path]:
    """Find the parquet files of images in a folder, e.g. in a data set downloaded from the hub.

    They are in the folder itself, in its subfolder `data`, or in subfolders named like splits.
    Returns [] if there are none, or if other subfolders hold images.  Raises DataError if only
    other subfolders hold parquet files.
    """
    if not folder.is_dir():
        return []
    children = list_visible_children(folder)
    subfolders = [child for child in children if child.is_dir()]
    of_splits = [c for c in subfolders if c.name == HUB_DATA_FOLDER or parse_split_name(c.name)]
    others = [child for child in subfolders if child not in of_splits]
    files = [
        path
        for place in (children, *map(list_visible_children, of_splits))
        for path in place
        if path.suffix.lower() == PARQUET_SUFFIX and path.is_file()
    ]
    suffixes = {child.name: list_suffixes_of_first_files(child) for child in others}
    if any(found & IMAGE_SUFFIXES for found in suffixes.values()):
        return []
    configurations = [name for name, found in suffixes.items() if PARQUET_SUFFIX in found]
    if not files and configurations:
        raise DataError(
            f"{folder} holds parquet files in the folders {join_first_names(configurations)}: "
            f"give one of them, e.g. {folder / configurations[0]}"
        )
    return files if files and has_image_column(files[0]) else []


def list_suffixes_of_first_files(folder: Path) -> set[str]:
    """List the suffixes of the first files in a folder, which may hold millions."""
    try:
        with os.scandir(folder) as children:
            names = [child.name for child in islice(children, FILES_SAMPLED)]
    except OSError:
        return set()
    return {PurePosixPath(name).suffix.lower() for name in names if is_visible(name)}


def group_by_split(location: Path) -> dict[str, list[str]]:
    """Return the parquet files at a location by split, as glob patterns that match only the files.

    Raises DataError if the names of some files state a split, and those of others do not.
    """
    files = [location] if location.is_file() else find_parquet_files(location)
    if not files:
        raise DataError(f"{location} holds no parquet files of images")
    split_by_file = {path: parse_parquet_split(path, location) for path in files}
    unknown = [path.name for path, split in split_by_file.items() if not split]
    if len(files) == 1 or len(unknown) == len(files):
        return {"train": [escape(str(path)) for path in files]}
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(files)} parquet files in {location} have no split in their "
            f"names ({join_first_names(unknown)}): move them elsewhere, or name them after a "
            f"split, {describe_split_names()}"
        )
    return {
        split: [escape(str(path)) for path in files if split_by_file[path] == split]
        for split in dict.fromkeys(split_by_file.values())
    }


def parse_parquet_split(path: Path, root: Path) -> OptionalSplit:
    """Return the split that a parquet file's name, or else its folder's name, states; or ""."""
    pieces: Iterable[str] = (path.stem, path.parent.name) if path.parent != root else (path.stem,)
    return next(filter(None, map(parse_split_name, pieces)), "")


def load_huggingface_splits(location: str) -> dict[str, "Dataset"]:
    """Load the non-empty tables of a data set, by split.

    Raises DataError if that fails, and UsageError for an invalid hub name.
    """
    require_extra("a Hugging Face data set")
    import datasets

    try:
        if is_hub_name(location):
            loaded = datasets.load_dataset(*parse_hub_location(location))
        elif is_saved_dataset(Path(location)):
            loaded = datasets.load_from_disk(location)
        else:
            loaded = datasets.load_dataset(
                "parquet",
                data_files=group_by_split(Path(location)),
                cache_dir=str(get_cache_dir() / "datasets"),
            )
    except (UsageError, DataError):
        raise
    except Exception as error:  # the library raises many kinds for network, names and damage
        reason = " ".join(str(error).partition("\nExample")[0].split()) or type(error).__name__
        raise DataError(f"{location} cannot be read: {reason}") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    non_empty_splits = {str(name): table for name, table in splits.items() if len(table)}
    if not non_empty_splits:
        raise DataError(f"{location} is empty: it has no rows")
    return non_empty_splits


def parse_hub_location(location: str) -> tuple[str, str | None]:
    """Split hf:OWNER/NAME:CONFIG into OWNER/NAME and the configuration, which may be left out.

    Raises UsageError if the location is no name on the hub, or if the library would read a local
    folder.
    """
    source, _, config = location.removeprefix(HUB_PREFIX).partition(":")
    name = require_hub_name(f"{HUB_PREFIX}{source}")
    if Path(name).exists():
        raise UsageError(
            f"{location} names a data set on the Hugging Face hub, but {name} is also on this "
            f"machine: give {name} to read the local one, or start the command in another folder"
        )
    return name, config or None


def stat_table_files(table: "Dataset") -> tuple[int, int]:
    """Return the bytes of the files of a table, and the latest time of their modification.

    With these, the digests of its images are kept between processes.  (0, 0) for a table in memory.
    """
    try:
        stats = [os.stat(file["filename"]) for file in table.cache_files]
    except OSError:
        return 0, 0
    sizes, times = [stat.st_size for stat in stats], [stat.st_mtime_ns for stat in stats]
    return sum(sizes), max(times, default=0)


def find_rows_without_bytes(table: "Dataset", column: str) -> frozenset[int]:
    """Find the rows that name a file instead of holding an image.

    The file may change while the table stays the same.
    """
    from pyarrow import compute, types

    values = table.data.column(column)
    if not types.is_struct(values.type):
        return frozenset()
    are_missing = compute.is_null(compute.struct_field(values, "bytes")).to_numpy()
    if table._indices is not None:  # of a table whose rows were chosen or moved
        are_missing = are_missing[table._indices.column(0).to_numpy()]
    return frozenset(are_missing.nonzero()[0].tolist())

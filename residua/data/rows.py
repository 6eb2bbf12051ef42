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

from residua.data.fetch import cache
from residua.data.listing import LABELS, Entry, Listing, Problem, in_order, part_named, settled, shown
from residua.errors import DataError
from residua.extras import require

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from pyarrow import DataType

HUB = "hf:"
SAVED = (("dataset_dict.json",), ("state.json", "dataset_info.json"))  # of which save_to_disk writes the one or the others
IMAGES = ("image", "img")  # what a column of images is called


class Rows:
    """A column of images, each read when it is asked for."""

    def __init__(self, table: "Dataset", column: str, within: Sequence[Path]) -> None:
        import datasets

        table = table.select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.table, self.column, self.within = table, column, within

    def content(self, row: int) -> bytes:
        """An image's bytes, or those of the file of the library's own that it names; OSError where there are none."""
        value = self.table[row][self.column]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is None and path:
            place = Path(path).resolve()
            if not any(place.is_relative_to(folder) for folder in self.within):
                raise OSError(f"the row names {shown(path)}, a file of another place")
            return place.read_bytes()
        if not isinstance(content, bytes):
            raise OSError("the row holds no image")
        return content


@dataclass(frozen=True, slots=True)
class Row:
    """One image."""

    rows: Rows
    row: int

    def content(self) -> bytes:
        return self.rows.content(self.row)


def is_saved(place: Path) -> bool:
    """Whether save_to_disk has written the folder."""
    return any(all((place / name).is_file() for name in names) for names in SAVED)


def holds_images(table: Path) -> bool:
    """Whether a parquet file has a column of bytes; DataError where it is none."""
    require("a parquet table")
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(table)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read as parquet: {error}") from error
    return any(is_binary(field.type) for field in schema)


def is_binary(type: "DataType") -> bool:
    """Bytes, or bytes and path as the hub keeps images."""
    from pyarrow import types

    if types.is_struct(type):
        return any(is_binary(field.type) for field in type if field.name == "bytes")
    return bool(types.is_binary(type) or types.is_large_binary(type))


def of_rows(place: str) -> Listing:
    """The listing of a data set's splits: train, and validation or test where it has them, or its only one."""
    path = Path(place)
    files = [path / name for names in SAVED for name in names] if path.is_dir() else [path]
    return listing_of(place, tuple(file.stat().st_mtime_ns for file in files if file.is_file()))


@lru_cache(maxsize=2)
def listing_of(place: str, stamp: tuple[int, ...]) -> Listing:
    """The same; `stamp` changes when a data set here does."""
    splits, found = splits_of(place), []
    image, label = columns_of(place, next(iter(splits.values())).features)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for split, rows in splits.items():
        part = part_named(split)
        if part or len(splits) == 1:
            found.append((split, part, Rows(rows, image, places()), texts(rows, label)))
        else:
            problems.append(Problem(shown(split), "other split", "is no split to train, validate or test on, and is left out"))
    kind = next(iter(splits.values())).features[label]
    classes = tuple(map(shown, getattr(kind, "names", ()))) or in_order(text for *_, labels in found for text in labels if text)
    numbers = {name: label for label, name in enumerate(classes)}
    for split, part, images, labels in found:
        known = [(row, numbers[text]) for row, text in enumerate(labels) if text in numbers]
        entries.extend(Entry(Path(), f"{shown(split)}/{row}", number, part, source=Row(images, row)) for row, number in known)
        if lost := len(labels) - len(known):
            problems.append(Problem(shown(split), "no class", f"has {lost:,} rows without a label, which are left out"))
    if not entries:
        raise DataError(f"{place} holds no image with a label")
    return Listing(place, classes, settled(entries), tuple(problems))


def splits_of(place: str) -> dict[str, "Dataset"]:
    """Its tables by split; DataError where the library cannot make them."""
    require("a Hugging Face data set")
    import datasets

    try:
        if place.startswith(HUB):
            name, _, config = place.removeprefix(HUB).partition(":")
            found = datasets.load_dataset(name, config or None)
        elif Path(place).is_dir():
            found = datasets.load_from_disk(place)
        else:
            found = datasets.load_dataset("parquet", data_files=escape(place), cache_dir=str(cache() / "datasets"))
    except Exception as error:  # no network, no such name, no permission, damage: as many kinds as the library has
        reason = " ".join(str(error).partition("\nExample")[0].split()) or type(error).__name__
        raise DataError(f"{place} cannot be read: {reason}") from error
    splits = found if isinstance(found, dict) else {"train": found}
    full = {str(name): rows for name, rows in splits.items() if len(rows)}
    if not full:
        raise DataError(f"{place} is empty: it has no rows")
    return full


def places() -> list[Path]:
    """Where the library keeps the files of what it has fetched."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(place).resolve() for place in (HF_DATASETS_CACHE, HF_HUB_CACHE)]


def columns_of(place: str, features: "Features") -> tuple[str, str]:
    """The columns of images and of labels, by their types; DataError where it is not clear which they are."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    images = images or [field.name for field in features.arrow_schema if is_binary(field.type)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name, kind in features.items() if name.lower() in LABELS and isinstance(kind, datasets.Value)]
    return the_one(place, "images", images, IMAGES, features), the_one(place, "labels", labels, LABELS, features)


def the_one(place: str, what: str, found: list[str], names: Sequence[str], features: "Features") -> str:
    """The only column of a kind, or the only one of them with a usual name."""
    usual = [name for name in found if name.lower() in names]
    for few in (found, usual):
        if len(few) == 1:
            return few[0]
    if not found:
        raise DataError(f"{place} has the columns {', '.join(features)}, of which none is of {what}")
    raise DataError(
        f"{place} has {len(found)} columns of {what}, {', '.join(found)}: rename the one that is meant {names[0]}, and save_to_disk"
    )


def texts(rows: "Dataset", column: str) -> list[str]:
    """The label of each row as text, by name where it has one; empty where there is none."""
    kind = rows.features[column]
    values = rows.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    names = getattr(kind, "names", None)
    if names is None:
        return ["" if value is None else shown(str(value)) for value in values]
    return [shown(names[value]) if value is not None and 0 <= value < len(names) else "" for value in values]

"""What a data set consists of, nothing decoded yet: files or parts of larger ones, classes, and what is wrong with others."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

OptionalSplit = Literal["train", "dev", "test", ""]  # "": which one the content decides
SPLIT_NAMES: dict[OptionalSplit, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
LABEL_COLUMN_NAMES = ("label", "class", "category")  # what a column or a key of labels is called
TEST_SHARE, DEV_SHARE = 0.2, 0.05  # shares that are held out where nothing says which; our choice


@dataclass(frozen=True, slots=True, order=True)
class DataProblem:
    """Something that is wrong with a file, a class or a table; `path` is as it is shown."""

    path: str
    kind: str
    detail: str


class EmbeddedFile(Protocol):
    """A place in a larger file."""

    def read_bytes(self) -> bytes:
        """The bytes there; OSError where they cannot be read."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """What should be an image, its class by number, and its part of the data."""

    path: Path  # of the file, or as if what it lies in were a folder; empty where it has no name of its own
    name: str  # within the data set, as it is shown
    label: int
    split: OptionalSplit
    size_and_mtime: tuple[int, int] = (0, 0)  # bytes, and time of the last change
    embedded_file: EmbeddedFile | None = None  # where it lies; None: it is a file

    def read_bytes(self) -> bytes:
        """Its bytes; OSError where they cannot be read."""
        return self.embedded_file.read_bytes() if self.embedded_file else self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class ImageListing:
    """All of a data set, in an order that does not change, and what is wrong with others."""

    location: str  # a folder, a file, or what is fetched
    classes: tuple[str, ...]
    entries: tuple[ImageEntry, ...]
    problems: tuple[DataProblem, ...]

    @property
    def name(self) -> str:
        """What the data set is called, as a part of other names."""
        path = Path(self.location)
        return slugify_name(path.stem if path.is_file() else path.name)


def parse_split_name(name: str) -> OptionalSplit:
    """The part of the data that a split's usual name says."""
    return next((part for part, names in SPLIT_NAMES.items() if name.lower() in names), "")


def ensure_test_split(entries: Iterable[ImageEntry]) -> tuple[ImageEntry, ...]:
    """Where no images are held out the content decides which are; the only ones beside those to train on are the test part."""
    entries = tuple(entries)
    match {entry.split for entry in entries}:
        case parts if len(parts) == 1:
            return tuple(replace(entry, split="") for entry in entries)
        case parts if parts == {"train", "dev"}:
            return tuple(
                replace(entry, split="test") if entry.split == "dev" else entry for entry in entries
            )
    return entries


def sort_class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Classes by name, or by value where all are whole numbers."""
    unique_labels = set(labels)
    are_numbers = all(label.isascii() and label.isdecimal() for label in unique_labels)

    def numeric_key(
        label: str,
    ) -> tuple[int, str, str]:  # as numbers compare, however long they are
        digits = label.lstrip("0")
        return len(digits), digits, label

    return tuple(sorted(unique_labels, key=numeric_key if are_numbers else None))


def printable_relative_path(root: Path, path: Path) -> str:
    return escape_unprintable(str(path.relative_to(root)) if path != root else path.name)


def escape_unprintable(name: str) -> str:
    """A name as it can be printed in one line: what is no UTF-8, and control characters, as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in unicodedata.normalize("NFC", text)
    )


def slugify_name(name: str) -> str:
    """A name that can be part of a folder's."""
    return (
        "".join(c if c.isalnum() or c in "-_." else "-" for c in escape_unprintable(name))
        or "images"
    )


def join_first_names(names: Iterable[str], limit: int = 3) -> str:
    """`a, b, c and 4 more`."""
    all_names = list(names)
    return ", ".join(all_names[:limit]) + (
        f" and {len(all_names) - limit} more" if all_names[limit:] else ""
    )

"""What a data set consists of, nothing decoded yet: files or parts of larger ones, classes, and what is wrong with others."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

Part = Literal["train", "dev", "test", ""]  # "": which one the content decides
NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"), "dev": ("val", "valid", "validation", "dev"), "test": ("test", "testing"),
}  # fmt: skip
LABELS = ("label", "class", "category")  # what a column or a key of labels is called
TEST, DEV = 0.2, 0.05  # shares that are held out where nothing says which; our choice


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that is wrong with a file, a class or a table; `path` is as it is shown."""

    path: str
    kind: str
    detail: str


class Source(Protocol):
    """A place in a larger file."""

    def content(self) -> bytes:
        """The bytes there; OSError where they cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What should be an image, its class by number, and its part of the data."""

    path: Path  # of the file, or as if what it lies in were a folder; empty where it has no name of its own
    name: str  # within the data set, as it is shown
    label: int
    part: Part
    stamp: tuple[int, int] = (0, 0)  # bytes, and time of the last change
    source: Source | None = None  # where it lies; None: it is a file

    def content(self) -> bytes:
        """Its bytes; OSError where they cannot be read."""
        return self.source.content() if self.source else self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Listing:
    """All of a data set, in an order that does not change, and what is wrong with others."""

    place: str  # a folder, a file, or what is fetched
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """What the data set is called, as a part of other names."""
        path = Path(self.place)
        return plain(path.stem if path.is_file() else path.name)


def part_named(name: str) -> Part:
    """The part of the data that a split's usual name says."""
    return next((part for part, names in NAMES.items() if name.lower() in names), "")


def settled(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Where no images are held out the content decides which are; the only ones beside those to train on are the test part."""
    entries = tuple(entries)
    match {entry.part for entry in entries}:
        case parts if len(parts) == 1:
            return tuple(replace(entry, part="") for entry in entries)
        case parts if parts == {"train", "dev"}:
            return tuple(replace(entry, part="test") if entry.part == "dev" else entry for entry in entries)
    return entries


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Classes by name, or by value where all are whole numbers."""
    found = set(labels)
    numbers = all(label.isascii() and label.isdecimal() for label in found)

    def value(label: str) -> tuple[int, str, str]:  # as numbers compare, however long they are
        digits = label.lstrip("0")
        return len(digits), digits, label

    return tuple(sorted(found, key=value if numbers else None))


def name_in(root: Path, path: Path) -> str:
    return shown(str(path.relative_to(root)) if path != root else path.name)


def shown(name: str) -> str:
    """A name as it can be printed in one line: what is no UTF-8, and control characters, as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in unicodedata.normalize("NFC", text))


def plain(name: str) -> str:
    """A name that can be part of a folder's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in shown(name)) or "images"


def tally(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    first = list(names)
    return ", ".join(first[:most]) + (f" and {len(first) - most} more" if first[most:] else "")

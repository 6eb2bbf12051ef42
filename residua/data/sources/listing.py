"""List data sets: images, classes, splits and the problems found; nothing is decoded.

Every kind of source (a folder, a table, shards, a Hugging Face data set) is listed as an
`ImageListing`, and the code that reads a listing does not depend on the kind.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from residua.config.serialize import Json

Split = Literal["train", "dev", "test"]
OptionalSplit = Literal[Split, ""]  # "": `assign_splits` decides by content
SPLIT_NAMES: dict[OptionalSplit, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
LABEL_COLUMN_NAMES = ("label", "class", "category")  # of table columns and of JSON keys
TEST_SHARE, DEV_SHARE = 0.2, 0.05  # held out of data without splits; our choice
# The file name extensions of each image format, by Pillow's names; MPO is what some cameras call
# JPEG.
SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
}
SYSTEM_FILE_NAMES = ("Thumbs.db", "desktop.ini", "__MACOSX")  # that file managers leave in folders


@dataclass(frozen=True, slots=True, order=True)
class DataProblem:
    """A problem with a file, a class or a table, as `residua data check` reports it."""

    path: str  # printable, relative to the data set; or the name of a class
    kind: str
    detail: str  # continues a sentence that begins with the path


class EmbeddedFile(Protocol):
    """An image file that is stored inside a larger file, such as a shard or a table.

    An implementer holds the location of the image (a file and an offset, or a column and a row),
    and reads its bytes when asked, in any order and from several threads.
    """

    def read_bytes(self) -> bytes:
        """The encoded image; raises OSError if it cannot be read."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a data set, not decoded: where it is, its class and its split."""

    path: Path  # of the file; for an embedded one, its name below the larger file, or empty
    name: str  # within the data set, printable
    label: int
    split: OptionalSplit
    size_and_mtime: tuple[int, int] = (0, 0)  # bytes, and nanoseconds of the last modification
    embedded_file: EmbeddedFile | None = None  # None: the image is a file of its own

    def read_bytes(self) -> bytes:
        """The encoded image; raises OSError if it cannot be read."""
        return self.embedded_file.read_bytes() if self.embedded_file else self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class ImageListing:
    """The images of a data set in a fixed order, its classes, and the problems found."""

    location: str  # a folder, a file or hf:OWNER/NAME
    classes: tuple[str, ...]
    entries: tuple[ImageEntry, ...]
    problems: tuple[DataProblem, ...]

    @property
    def name(self) -> str:
        """A short name for the data set, usable in file names."""
        path = Path(self.location)
        return make_file_name_safe(path.stem if path.is_file() else path.name)


def problems_to_json(problems: Iterable[DataProblem]) -> Json:
    return [dict(asdict(problem)) for problem in problems]


def parse_split_name(name: str) -> OptionalSplit:
    """The split for which `name` is a usual name; "" if there is none."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), "")


def ensure_test_split(entries: Iterable[ImageEntry]) -> tuple[ImageEntry, ...]:
    """Make sure that the entries have a test split, or clear all splits.

    If there are only training and dev images, the dev images become the test split.  If all entries
    are in one split, the split of every entry is cleared, so that it is chosen later by the SHA-256
    sum of the image's file.
    """
    entries = tuple(entries)
    splits = {entry.split for entry in entries}
    if len(splits) == 1:
        return tuple(replace(entry, split="") for entry in entries)
    if splits == {"train", "dev"}:
        return tuple(
            replace(entry, split="test") if entry.split == "dev" else entry for entry in entries
        )
    return entries


def sort_class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, sorted by value if all are whole numbers, otherwise by name."""
    unique_labels = set(labels)
    are_numbers = all(label.isascii() and label.isdecimal() for label in unique_labels)

    # Orders like the numbers, but without `int`, which refuses thousands of digits.
    def numeric_key(label: str) -> tuple[int, str, str]:
        digits = label.lstrip("0")
        return len(digits), digits, label

    return tuple(sorted(unique_labels, key=numeric_key if are_numbers else None))


def index_class_names(classes: Iterable[str]) -> dict[str, int]:
    """The label of each class name: its position in `classes`."""
    return {name: label for label, name in enumerate(classes)}


def list_visible_children(folder: Path) -> list[Path]:
    """Files and folders in `folder`, sorted by name.

    Hidden files and files of file managers are omitted.  Raises OSError if the folder cannot be
    read.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name not in SYSTEM_FILE_NAMES
    )


def printable_relative_path(root: Path, path: Path) -> str:
    return escape_unprintable(str(path.relative_to(root)) if path != root else path.name)


def escape_unprintable(name: str) -> str:
    """Make a name printable on one line: escape control characters and bytes that are not UTF-8."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in unicodedata.normalize("NFC", text)
    )


def make_file_name_safe(name: str) -> str:
    """Make a name usable in file names: other characters become `-`."""
    slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in escape_unprintable(name))
    return slug or "images"


def join_first_names(names: Iterable[str], limit: int = 3) -> str:
    """Join at most `limit` names and count the rest: `a, b, c and 4 more`."""
    all_names = list(names)
    remaining = len(all_names) - limit
    return ", ".join(all_names[:limit]) + (f" and {remaining} more" if remaining > 0 else "")

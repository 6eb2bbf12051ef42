"""Listings of data sets: images, classes, splits and the problems found; nothing is decoded.

Every kind of source (a folder, a table, shards, a Hugging Face data set) is listed as an
`ImageListing`, so that the code that uses a listing does not depend on the kind of source.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.serialize import Json

Split = Literal["train", "dev", "test"]
OptionalSplit = Literal[Split, ""]  # "": `assign_splits` decides by content
# What says which image is in which split: folders, a table's column, the names of shards, the
# splits of a Hugging Face data set, nothing but the images' content, or, for a data set known by
# name, its publication.
SplitSource = Literal["folders", "column", "shards", "dataset", "content", "published", "given"]
SPLIT_NAMES: dict[OptionalSplit, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
HELD_OUT_WORDS = frozenset({"holdout", "heldout", "eval", "evaluation", "unseen"})
# Words that may follow the name of a split without a separator, as in `trainset`.
SPLIT_NOUNS = "set|data|images|imgs|img|photos|pics|split|folder"
LABEL_COLUMN_NAMES = ("label", "class", "category")  # of table columns and of JSON keys
ZERO_WIDTH_CHARACTERS = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
# Files and folders of operating systems, file managers and network drives, in lower case.
SYSTEM_FILE_NAMES = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "found.000"),
    *("network trash folder", "temporary items", "thevolumesettingsfolder"),
)
# Files that residua writes into the folders of its runs and data checks.
OUTPUT_FILE_NAMES = ("run.json", "check.json", "study.json", "signals.json", "model.safetensors")


@dataclass(frozen=True, slots=True, order=True)
class DataProblem:
    """A problem with a file, a class or a table, as `residua data check` reports it."""

    path: str  # printable, relative to the data set; or the name of a class
    kind: str
    detail: str  # continues a sentence that begins with the path
    count: int = 1  # the images or files that the problem concerns


class EmbeddedFile(Protocol):
    """An image file that is stored inside a larger file, such as a shard or a table.

    An implementation stores where the image is (a file and an offset, or a column and a row).
    Images may be read in any order and from several threads.
    """

    def read_bytes(self) -> bytes:
        """Read the encoded image; raises OSError if it cannot be read."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a data set, not decoded: its location, its class and its split."""

    # The path of the file; for an embedded file, a path that ends in its name, or empty.
    # As a text it takes a third of the memory of a `Path`, and a tenth of the time to make.
    location: str | Path
    name: str  # within the data set, printable
    label: int
    split: OptionalSplit
    size_and_mtime: tuple[int, int] = (0, 0)  # bytes, and nanoseconds of the last modification
    embedded_file: EmbeddedFile | None = None  # None: the image is a file of its own
    group: str = ""  # e.g. a patient, whose images stay in one split; "": a group of its own

    @property
    def path(self) -> Path:
        """The path of the file, or what stands for it if the image is embedded in a larger file."""
        return Path(self.location)

    @property
    def known_digest(self) -> str:
        """The SHA-256 sum that the index of a packed data set states; "" elsewhere."""
        return getattr(self.embedded_file, "digest", "")

    def read_bytes(self) -> bytes:
        """Read the encoded image; raises OSError if it cannot be read."""
        return self.embedded_file.read_bytes() if self.embedded_file else self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class ImageListing:
    """The images of a data set in a fixed order, its classes, and the problems found."""

    location: str  # a folder, a file or hf:OWNER/NAME
    classes: tuple[str, ...]
    entries: tuple[ImageEntry, ...]
    problems: tuple[DataProblem, ...]
    split_source: SplitSource = "content"
    dev_share: float = 0.0  # of the training images; 0: `choose_dev_share` decides
    notes: tuple[str, ...] = ()  # sentences on what was guessed, e.g. a table's encoding
    max_pixels: int = MAX_IMAGE_PIXELS  # of one image; larger ones are not decoded
    white_level: int = 0  # as in `ImagePreprocessing`
    model_classes: tuple[str, ...] = ()  # as in `Dataset`

    @property
    def absent_classes(self) -> set[str]:
        """The classes of a model that training goes on from, as far as they have no images here."""
        present = {entry.label for entry in self.entries} if self.model_classes else set()
        return {name for i, name in enumerate(self.model_classes) if i not in present}

    @property
    def name(self) -> str:
        """A short name for the data set, usable in file names."""
        if "://" in self.location:  # an address, perhaps with a query
            path = Path(self.location.partition("?")[0])
            return make_file_name_safe(re.sub(r"\{.*?\}", "", path.stem)).strip("-._") or "images"
        path = Path(self.location)
        return make_file_name_safe(path.stem if path.is_file() else path.name)


def problems_to_json(problems: Iterable[DataProblem]) -> Json:
    """Convert the problems to JSON: a list of objects with path, kind and detail."""
    return [dict(asdict(problem)) for problem in problems]


def parse_split_name(name: str) -> OptionalSplit:
    """Return the split that a word of `name` stands for; "" if no word does, or if words disagree.

    Words are separated by other characters or by capitals: `Training set`, `seg_train`, `TestData`.
    """
    splits: set[OptionalSplit] = {
        split
        for word in split_words(name)
        for split, names in SPLIT_NAMES.items()
        if re.fullmatch(f"({'|'.join(names)})({SPLIT_NOUNS})?", word)
    }
    return splits.pop() if len(splits) == 1 else ""


def split_words(name: str) -> list[str]:
    """Split a name into its words in small letters, e.g. ["test", "data"] for `TestData2`."""
    return re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def is_named_held_out(name: str, words: frozenset[str] = HELD_OUT_WORDS) -> bool:
    """Return whether a word of a name says that images are held out, without naming a split."""
    return bool(words & set(split_words(name)))


def describe_split_names() -> str:
    """List the words for splits, for messages: `train (or training), dev (or val, ...)`."""
    return ", ".join(
        f"{split} (or {', '.join(name for name in names if name != split)})"
        for split, names in SPLIT_NAMES.items()
    )


def ensure_test_split(entries: Iterable[ImageEntry]) -> tuple[ImageEntry, ...]:
    """Make sure that training images come with a test split, or clear all splits.

    If there are only training and dev images, the dev images become the test split.  If all entries
    are training images, the split of every entry is cleared, so that it is chosen later by the
    SHA-256 sum of the image's file.  If all entries are held out, they stay unchanged.
    """
    entries = tuple(entries)
    splits = {entry.split for entry in entries}
    if splits == {"train"}:
        return tuple(replace(entry, split="") for entry in entries)
    if splits == {"train", "dev"}:
        return tuple(
            replace(entry, split="test") if entry.split == "dev" else entry for entry in entries
        )
    return entries


def source_of_splits(entries: Iterable[ImageEntry], declared_by: SplitSource) -> SplitSource:
    """Return `declared_by` if any entry has a split, otherwise "content"."""
    return declared_by if any(entry.split for entry in entries) else "content"


def sort_class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort the distinct labels by value if all are whole numbers, otherwise by name."""
    unique_labels = set(labels)
    are_numbers = all(label.isascii() and label.isdecimal() for label in unique_labels)

    # Orders like the numbers, but without `int`, which refuses thousands of digits.
    def numeric_key(label: str) -> tuple[int, str, str]:
        digits = label.lstrip("0")
        return len(digits), digits, label

    return tuple(sorted(unique_labels, key=numeric_key if are_numbers else None))


def index_class_names(classes: Iterable[str]) -> dict[str, int]:
    """Map each class name to its label, which is its position in `classes`."""
    return {name: label for label, name in enumerate(classes)}


def list_visible_children(folder: Path) -> list[Path]:
    """List files and folders in `folder`, sorted by name.

    Hidden files, and files of file managers such as Thumbs.db, are omitted.  Raises OSError if the
    folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if is_visible(path.name))


def is_visible(name: str) -> bool:
    """Return whether a path is neither hidden nor left behind by a system or a file manager."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FILE_NAMES


def printable_relative_path(root: Path, path: Path) -> str:
    return escape_unprintable(str(path.relative_to(root)) if path != root else path.name)


def escape_unprintable(name: str) -> str:
    """Make a name printable on one line: escape control characters and bytes that are not UTF-8."""
    if name.isascii() and name.isprintable():  # almost always
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in unicodedata.normalize("NFC", text)
    )


def clean_cell(text: str) -> str:
    """Remove blanks and invisible characters from both ends of a label or other table cell.

    Every other run of blanks becomes a single blank.
    """
    if text.isascii():  # almost always, and there may be millions of cells
        return " ".join(text.split())
    return " ".join(strip_unicode_blanks(text).split())


def strip_unicode_blanks(text: str) -> str:
    """Remove blanks, including those of zero width, from both ends of a text."""
    stripped = text.strip().strip(ZERO_WIDTH_CHARACTERS)
    return stripped if stripped == text else strip_unicode_blanks(stripped)


def make_file_name_safe(name: str) -> str:
    """Make a name usable in file names: replace all but letters, digits and `-_.` by `-`."""
    slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in escape_unprintable(name))
    return slug or "images"


def join_first_names(names: Iterable[str], limit: int = 3) -> str:
    """Join at most `limit` names and count the rest: `a, b, c and 4 more`."""
    all_names = list(names)
    remaining = len(all_names) - limit
    return ", ".join(all_names[:limit]) + (f" and {remaining} more" if remaining > 0 else "")

"""What lies in a folder of photographs, or in a table of paths and labels: classes, files and splits, nothing decoded yet.

DIR/train/CLASS/...  and DIR/test/CLASS/... or DIR/val/CLASS/..., or DIR/CLASS/... alone, which is split by content.  Where there
are val and test, val is the dev split.  Classes are sorted by name.  Hidden files are no part of it, and links are not followed
outside.
"""

import csv
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Literal

from residua.errors import DataError, UsageError, unknown
from residua.spec.dataset import DATASETS, Dataset

Part = Literal["train", "dev", "test", ""]  # "": which one the content decides
NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"), "dev": ("val", "valid", "validation", "dev"), "test": ("test", "testing"),
}  # fmt: skip
TABLES = (".csv", ".tsv", ".parquet")
COLUMNS = {"path": ("path", "file", "filename", "image", "filepath"), "label": ("label", "class", "category"), "split": ("split",)}
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs, as every project's weights want them
GREY = (0.449,), (0.226,)
TEST, DEV = 0.2, 0.05  # shares that are held out where no folder says which; our choice


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that is wrong with a file, a class or a table; `path` is as it is shown."""

    path: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that should be an image, its class by number, and its part of the data."""

    path: Path
    name: str  # relative to the data set's folder, as it is shown
    label: int
    part: Part
    stamp: tuple[int, int] = (0, 0)  # bytes, and time of the last change


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a data set, in the order of their names, and what is wrong with others."""

    root: Path
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def data_of(name: str, input: tuple[int, ...] = ()) -> Dataset:
    """A named data set, or that of a folder or table, as a network of `input` sees it.

    Raises UsageError for what is neither, DataError for a folder that is no data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    place = Path(name).expanduser()
    if place.exists():
        return as_dataset(listed(place), input or (3, 224, 224))
    if os.sep in name or place.suffix in TABLES:
        raise DataError(f"there is no folder or table {place}")
    raise unknown("data set", name, DATASETS)


def as_dataset(listing: Listing, input: tuple[int, ...]) -> Dataset:
    """The listing as a value; how many images are held out is known only once they are read, and here a guess."""
    if len(input) == 1:  # of a fully connected net
        side = isqrt(input[0] // 3)
        input = (3, side, side) if 3 * side * side == input[0] else (1, isqrt(input[0]), isqrt(input[0]))
    channels, height, width = input
    if height != width or channels not in (1, 3):
        raise UsageError(f"photographs are cut to squares in grey or in colour, not to {input}")
    counts = Counter(entry.part for entry in listing.entries)
    images = counts["train"] + counts["dev"] + round((1 - TEST) * counts[""])
    return Dataset(
        name=plain(listing.root.stem if listing.root.is_file() else listing.root.name), input=(channels, height, width),
        classes=listing.classes, mean=MEAN if channels == 3 else GREY[0], std=STD if channels == 3 else GREY[1], images=images,
        dev=counts["dev"] or max(round(DEV * images), 1), kind="folder", folder=str(listing.root), resize=side_kept(height),
    )  # fmt: skip


def side_kept(side: int) -> int:
    """About 8/7 of a network's side, as 256 is of 224: the squares that crops are cut from.

    By a multiple of 4 more, so that the middle of a square is the middle of its photograph, to the pixel.
    """
    return side + 4 * max(round(side / 28), 1)


def listed(place: Path) -> Listing:
    """All that should be an image in a folder or a table; DataError where that is nothing, or where there is one class."""
    place = place.expanduser()
    if not place.exists():
        raise DataError(f"there is no folder or table {place}")
    if place.is_file() and place.suffix.lower() not in TABLES:
        raise DataError(f"{place} is a file: give a folder of classes, or a table that ends in {', '.join(TABLES)}")
    place = place.resolve()
    listing = of_table(place) if place.is_file() else of_folder(place)
    trained = {entry.label for entry in listing.entries if entry.part in ("train", "")}
    if not listing.classes:
        raise DataError(
            f"{place} holds no folder of images: a class is a folder of its images, as in {place / 'CLASS' / 'image.jpg'}"
        )
    if not listing.entries:
        raise DataError(f"{place} holds no images: put those of each class into its folder")
    kept = [name for label, name in enumerate(listing.classes) if label in trained]
    if len(kept) < 2:
        only = f"one class, {kept[0]}" if kept else "no class with images to train on"
        raise DataError(f"{place} holds {only}: there must be two at least, each a folder of its images")
    return without(listing, kept)


def without(listing: Listing, kept: list[str]) -> Listing:
    """The listing with the classes of `kept` alone: what holds nothing to train on is a problem, and no class."""
    new = {listing.classes.index(name): i for i, name in enumerate(kept)}
    lost = Counter(entry.label for entry in listing.entries if entry.label not in new)
    problems = [
        Problem(name, "unknown class" if lost[label] else "empty class",
                f"has images to test, {lost[label]}, and none to train on, and is left out" if lost[label]
                else "holds no file to train on, and is left out")
        for label, name in enumerate(listing.classes) if label not in new
    ]  # fmt: skip
    entries = tuple(replace(entry, label=new[entry.label]) for entry in listing.entries if entry.label in new)
    return Listing(listing.root, tuple(kept), entries, tuple(sorted([*listing.problems, *problems])))


def of_folder(root: Path) -> Listing:
    """The listing of a folder of splits, or of classes."""
    problems: list[Problem] = []
    folders = {child.name.lower(): child for child in children(root, root, problems) if child.is_dir()}
    parts = {part: next((folders[name] for name in names if name in folders), None) for part, names in NAMES.items()}
    if parts["train"] is None:
        places: dict[Part, Path] = {"": root}
    elif parts["test"] is None and parts["dev"] is None:
        places = {"": parts["train"]}
    elif parts["test"] is None or parts["dev"] is None:  # the only one beside the training images is the test part
        places = {"train": parts["train"], "test": parts["test"] or parts["dev"] or root}
    else:
        places = {part: place for part, place in parts.items() if place is not None}
    found: dict[str, list[tuple[Part, Path]]] = {}
    problems = [] if parts["train"] else problems  # beside the splits anything may lie
    for part, place in places.items():
        for child in children(place, root, problems if place != root else []):
            if child.is_dir():
                files = [(part, path) for path in walked(child, root, problems)]
                found.setdefault(shown(child.name), []).extend(files)
            else:
                problems.append(Problem(name_in(root, child), "no class", "lies beside the folders of classes, and is left out"))
    classes = tuple(sorted(found))
    entries = [entry(path, name_in(root, path), classes.index(name), part) for name in classes for part, path in found[name]]
    return Listing(root, classes, tuple(sorted(entries, key=lambda e: e.name)), tuple(problems))


def children(folder: Path, root: Path, problems: list[Problem]) -> Iterator[Path]:
    """Files and folders in a folder, by name, without hidden ones; what is neither, or a link that leads away, is a problem."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        problems.append(Problem(name_in(root, folder), "unreadable", f"cannot be read: {error.strerror}"))
        return
    for path in [folder / name for name in names if not name.startswith(".") and name not in LITTER]:
        if why := stray(path, root):
            problems.append(Problem(name_in(root, path), *why))
        else:
            yield path


def stray(path: Path, root: Path) -> tuple[str, str] | None:
    """Why a path is neither a file nor a folder of the data set's; None where it is."""
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.exists():
            return "broken link", "is a link to nothing"
        if target.is_dir() or not target.is_relative_to(root):
            what = "to a folder" if target.is_relative_to(root) else "to another place"
            return "link outside", f"is a link {what}, which is not followed"
    if not (path.is_dir() or path.is_file()):
        return "no file", "is neither a file nor a folder"
    return None


def walked(folder: Path, root: Path, problems: list[Problem]) -> Iterator[Path]:
    """Every file under a folder."""
    for path in children(folder, root, problems):
        if path.is_dir():
            yield from walked(path, root, problems)
        else:
            yield path


def entry(path: Path, name: str, label: int, part: Part) -> Entry:
    facts = path.stat()
    return Entry(path, name, label, part, (facts.st_size, facts.st_mtime_ns))


def of_table(table: Path) -> Listing:
    """The listing of a table with the columns path and label, and perhaps split; paths are relative to its folder."""
    rows = list(rows_of(table))
    classes = tuple(sorted({label for _, label, _ in rows}))
    entries, problems, root = [], [], table.parent
    for path, label, split in rows:
        place = root / path
        part: Part = next((part for part, names in NAMES.items() if split.lower() in names), "")
        if stat.S_ISREG(mode(place)):
            entries.append(entry(place, shown(path), classes.index(label), part))
        else:
            detail = f"is in {shown(table.name)}, but there is no such file"
            problems.append(Problem(shown(path), "missing", detail))
    if rows and not entries:
        raise DataError(f"{table} names {len(rows)} files, and none of them is there: paths are relative to {root}")
    if {e.part for e in entries} == {"train", "dev"}:  # as with folders
        entries = [replace(e, part="test") if e.part == "dev" else e for e in entries]
    return Listing(table, classes, tuple(sorted(entries, key=lambda e: e.name)), tuple(problems))


def mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def rows_of(table: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each row; DataError for a table without these columns."""
    try:
        rows = read_parquet(table) if table.suffix.lower() == ".parquet" else read_text(table)
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is no table of text: {error}") from error
    if not rows:
        raise DataError(f"{table} is empty: it wants a line path,label and a line for each image")
    header = [name.strip().lower() for name in rows[0]]
    where = {column: next((header.index(name) for name in names if name in header), None) for column, names in COLUMNS.items()}
    if where["path"] is None or where["label"] is None:
        raise DataError(f"{table} has the columns {', '.join(rows[0])}: one must be called path and one label")
    for row in rows[1:]:
        if row:
            path, label, split = [row[i] if i is not None and i < len(row) else "" for i in where.values()]
            if path and label:
                yield path, shown(label), split


def read_text(table: Path) -> list[list[str]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ","))


def read_parquet(table: Path) -> list[list[str]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(f"{table} is read by pyarrow, which is not here: pip install pyarrow, or give a .csv") from None
    columns: dict[str, list[object]] = parquet.read_table(table).to_pydict()
    return [list(columns), *([str(value) for value in row] for row in zip(*columns.values(), strict=True))]


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

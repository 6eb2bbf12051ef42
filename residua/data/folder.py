"""Which data set a name means; and what lies in a folder of photographs: classes, files and splits, nothing decoded yet.

DIR/train/CLASS/...  and DIR/test/CLASS/... or DIR/val/CLASS/..., or DIR/CLASS/... alone, which is split by content.  Where there
are val and test, val is the dev split.  Classes are sorted by name.  Hidden files are no part of it, and links are not followed
outside.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import isqrt
from pathlib import Path

from residua.data.listing import DEV, NAMES, TEST, Listing, Part, Problem, name_in, shown
from residua.data.rows import HUB, holds_images, is_saved, of_rows
from residua.data.shards import SHARD, of_shards, shards_of
from residua.data.table import TABLES, entry, of_table
from residua.errors import DataError, UsageError, unknown
from residua.spec.dataset import DATASETS, Dataset

LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs, as every project's weights want them
GREY = (0.449,), (0.226,)


def data_of(name: str, input: tuple[int, ...] = ()) -> Dataset:
    """A named data set, or that of photographs at a place of the user's, as a network of `input` sees it.

    Raises UsageError for what is neither, DataError for a place that holds no data set.
    """
    if name in DATASETS:
        return DATASETS[name]
    place = Path(name).expanduser()
    if name.startswith(HUB) or place.exists() or os.sep in name or place.suffix in (*TABLES, SHARD):
        return as_dataset(listed(name), input or (3, 224, 224))
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
        name=listing.name, input=(channels, height, width),
        classes=listing.classes, mean=MEAN if channels == 3 else GREY[0], std=STD if channels == 3 else GREY[1], images=images,
        dev=counts["dev"] or max(round(DEV * images), 1), kind="folder", folder=listing.place, resize=side_kept(height),
    )  # fmt: skip


def side_kept(side: int) -> int:
    """About 8/7 of a network's side, as 256 is of 224: the squares that crops are cut from.

    By a multiple of 4 more, so that the middle of a square is the middle of its photograph, to the pixel.
    """
    return side + 4 * max(round(side / 28), 1)


def side_within(images: int, channels: int, most: int) -> int:
    """The largest side for which so many photographs are kept in so many bytes; 0 where not even one of 16 pixels is."""
    return next((side for side in range(1024, 15, -1) if images * channels * side_kept(side) ** 2 <= most), 0)


def listed(place: str | Path) -> Listing:
    """All that should be an image at a place; DataError where that is nothing, or where there is one class."""
    if str(place) == HUB:
        raise UsageError(f"{HUB} names no data set: give {HUB}OWNER/NAME")
    listing = of_rows(str(place)) if str(place).startswith(HUB) else found(Path(place).expanduser())
    place = listing.place
    trained = {entry.label for entry in listing.entries if entry.part in ("train", "")}
    if not listing.classes:
        raise DataError(
            f"{place} holds no folder of images: a class is a folder of its images, as in {Path(place) / 'CLASS' / 'image.jpg'}"
        )
    if not listing.entries:
        raise DataError(f"{place} holds no images: put those of each class into its folder")
    kept = [name for label, name in enumerate(listing.classes) if label in trained]
    if len(kept) < 2:
        only = f"one class, {kept[0]}" if kept else "no class with images to train on"
        raise DataError(f"{place} holds {only}: there must be two at least, each a folder of its images")
    return without(listing, kept)


def found(place: Path) -> Listing:
    """The listing of a folder or a file, by what that is."""
    if not place.exists():
        raise DataError(f"there is no folder or table {place}")
    if place.is_file() and place.suffix.lower() not in (*TABLES, SHARD):
        raise DataError(f"{place} is a file: give a folder of classes, or a table that ends in {', '.join(TABLES)}")
    place = place.resolve()
    if is_saved(place) or (place.suffix.lower() == ".parquet" and place.is_file() and holds_images(place)):
        return of_rows(str(place))
    if shards := shards_of(place):
        return of_shards(place, shards)
    return of_table(place) if place.is_file() else of_folder(place)


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
    return Listing(listing.place, tuple(kept), entries, tuple(sorted([*listing.problems, *problems])))


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
    entries = [entry(path, name_in(root, path), label, part) for label, name in enumerate(classes) for part, path in found[name]]
    return Listing(str(root), classes, tuple(sorted(entries, key=lambda e: e.name)), tuple(problems))


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

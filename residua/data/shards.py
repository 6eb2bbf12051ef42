"""Shards as WebDataset lays them out: tar archives of samples, KEY.jpg beside KEY.cls or KEY.json.

The standard library reads where members lie, and after that each is read alone, in any order and by many threads, as a file would
be.  The webdataset library streams members in order, and decodes what it finds, pickles too; nothing of a shard is run here.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from os import SEEK_END
from pathlib import Path, PurePosixPath
from typing import IO

from residua.data.listing import LABELS, NAMES, Entry, Listing, Part, Problem, in_order, name_in, part_named, settled, shown
from residua.errors import DataError

SHARD = ".tar"
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")
CLASSES = ("classes.txt", "classnames.txt")  # a line for each class, where labels are numbers
SPLITS = tuple(name for names in NAMES.values() for name in names)
MOST_TEXT = 2**20  # bytes of a label; our choice
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes of a shard."""

    shard: Path
    start: int
    length: int

    def content(self) -> bytes:
        """Fewer where the shard ends too early."""
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image in a shard, and its label as it is written."""

    name: str
    member: Member
    label: str


def shards_of(place: Path) -> list[Path]:
    """The shards in a folder and its folders of splits; none where it holds other folders, which then are classes."""
    if place.is_file():
        return [place] if place.suffix.lower() == SHARD else []
    found: list[Path] = []
    for child in visible(place):
        if child.is_dir():
            if child.name.lower() not in SPLITS or any(path.is_dir() for path in visible(child)):
                return []
            found.extend(path for path in visible(child) if is_shard(path, place))
        elif is_shard(child, place):
            found.append(child)
    return found


def visible(folder: Path) -> list[Path]:
    """What lies in it, in order, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def is_shard(path: Path, root: Path) -> bool:
    """Whether it is one, and no link that leads away."""
    return path.suffix.lower() == SHARD and path.is_file() and path.resolve().is_relative_to(root)


def of_shards(place: Path, shards: list[Path]) -> Listing:
    """The listing of shards, whose names or folders say what part of the data they are."""
    root = place if place.is_dir() else place.parent
    names = classes_in(root)
    problems: list[Problem] = []
    found: list[tuple[Sample, str, Part, tuple[int, int]]] = []
    for shard in shards:
        facts, title = shard.stat(), name_in(root, shard)
        stamp = facts.st_size, facts.st_mtime_ns
        samples, wrong = samples_in(shard, stamp)
        problems.extend(Problem(f"{title}/{name}" if name else title, kind, detail) for name, kind, detail in wrong)
        found.extend((sample, f"{title}/{shown(sample.name)}", part_of(title), stamp) for sample in samples)
    classes = names or in_order(shown(sample.label) for sample, *_ in found)
    numbers = {name: label for label, name in enumerate(classes)}
    if names:  # where they are written in a file of their own, numbers mean them
        numbers = {str(label): label for label in range(len(names))} | numbers
    entries = []
    for sample, name, part, stamp in found:
        if (label := numbers.get(shown(sample.label))) is None:
            problems.append(Problem(name, "no class", f"is of the class {shown(sample.label)}, which {CLASSES[0]} does not name"))
        else:
            path = sample.member.shard / PurePosixPath(sample.name).name
            entries.append(Entry(path, name, label, part, stamp, sample.member))
    if not entries:
        why = f": {problems[0].path} {problems[0].detail}" if problems else ""
        raise DataError(f"{place} holds shards, but no sample of an image and its class, as in KEY.jpg beside KEY.cls{why}")
    return Listing(str(place), classes, settled(entries), tuple(problems))


def part_of(title: str) -> Part:
    """The part that a word of a shard's name says, or else of its folder's."""
    words = (word for piece in reversed(title.lower().split("/")) for word in re.findall("[a-z]+", piece))
    return next(filter(None, map(part_named, words)), "")


def classes_in(root: Path) -> tuple[str, ...]:
    """The classes that a file beside the shards names, a line each; none where there is no such file."""
    for name in CLASSES:
        if (root / name).is_file():
            try:
                lines = (root / name).read_text(encoding="utf-8-sig").rstrip().splitlines()
            except (OSError, ValueError) as error:
                raise DataError(f"{root / name} cannot be read: {error}") from error
            classes = tuple(shown(line.strip()) for line in lines)
            if wrong := next((i for i, one in enumerate(classes) if not one or one in classes[:i]), None):
                why = f"names {classes[wrong]} again" if classes[wrong] else "is empty"
                raise DataError(f"line {wrong + 1} of {root / name} {why}: give each class a line and a name of its own")
            return classes
    return ()


@lru_cache(maxsize=10_000)
def samples_in(shard: Path, stamp: tuple[int, int]) -> tuple[tuple[Sample, ...], tuple[tuple[str, str, str], ...]]:
    """The samples of a shard, in its order, and what is wrong: member, kind and detail.  `stamp` changes when the shard does."""
    held: dict[str, dict[str, tarfile.TarInfo]] = {}
    samples, wrong = [], []
    try:
        with open(shard, "rb") as file:
            try:
                for member in members_of(file):
                    folder, _, base = member.name.rpartition("/")
                    key, _, kind = base.partition(".")
                    sample = held.setdefault(f"{folder}/{key}" if folder else key, {})
                    if sample.setdefault(kind.lower(), member) is not member:
                        wrong.append((shown(member.name), "doubled", "is there a second time, and is left out"))
            except Exception as error:  # a damaged or forged archive may raise anything
                wrong.append(("", "damaged", f"is damaged, and read as far as that: {' '.join(str(error).split())}"))
            for key, members in held.items():
                image = next((members[kind] for kind in members if kind in IMAGES), None)
                name, label = shown(image.name if image else key), label_of(file, members)
                if image is None:
                    wrong.append((name, "no image", f"has none of {', '.join(IMAGES)} beside it, and is left out"))
                elif not label:
                    wrong.append((name, "no class", "has no label beside it, in .cls or .json, and is left out"))
                else:
                    samples.append(Sample(image.name, Member(shard, image.offset_data, image.size), label))
    except OSError as error:
        wrong.append(("", "unreadable", f"cannot be read: {error.strerror or error}"))
    return tuple(samples), tuple(wrong)


def members_of(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files in an archive, without hidden ones; tarfile.TarError where it does not end as archives do."""
    end = file.seek(0, SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and member.offset_data + member.size > end:
                raise tarfile.ReadError(
                    f"{shown(member.name)} would reach {member.offset_data + member.size - end:,} bytes beyond its end"
                )
            if member.isreg() and not member.issparse() and not PurePosixPath(member.name).name.startswith("."):
                yield member
        file.seek(tar.offset)
        if any(file.read(BLOCK)):
            raise tarfile.ReadError(f"what follows at byte {tar.offset:,} is no member")


def label_of(file: IO[bytes], members: dict[str, tarfile.TarInfo]) -> str:
    """What is written beside an image, as text; empty where that is nothing."""
    for kind in ("cls", "json"):
        if (member := members.get(kind)) and member.size <= MOST_TEXT:
            file.seek(member.offset_data)
            try:
                text = file.read(member.size).decode("utf-8-sig").strip()
                found = json.loads(text) if kind == "json" else text
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                found = next((found[name] for name in LABELS if name in found), None)
            if isinstance(found, str | int) and not isinstance(found, bool) and (label := str(found).strip()):
                return label
    return ""

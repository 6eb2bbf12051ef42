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

from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    SPLIT_NAMES,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    ensure_test_split,
    escape_unprintable,
    parse_split_name,
    printable_relative_path,
    sort_class_names,
)
from residua.errors import DataError

SHARD_SUFFIX = ".tar"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")
CLASS_LIST_FILES = (
    "classes.txt",
    "classnames.txt",
)  # a line for each class, where labels are numbers
ALL_SPLIT_NAMES = tuple(name for names in SPLIT_NAMES.values() for name in names)
MAX_LABEL_BYTES = 2**20  # bytes of a label; our choice
TAR_BLOCK_SIZE = 512


@dataclass(frozen=True, slots=True)
class ShardMember:
    """Bytes of a shard."""

    shard: Path
    offset: int
    length: int

    def read_bytes(self) -> bytes:
        """Fewer where the shard ends too early."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """An image in a shard, and its label as it is written."""

    name: str
    member: ShardMember
    label_text: str


def find_shards(location: Path) -> list[Path]:
    """The shards in a folder and its folders of splits; none where it holds other folders, which then are classes."""
    if location.is_file():
        return [location] if location.suffix.lower() == SHARD_SUFFIX else []
    shards: list[Path] = []
    for child in list_visible_children(location):
        if child.is_dir():
            if child.name.lower() not in ALL_SPLIT_NAMES or any(
                path.is_dir() for path in list_visible_children(child)
            ):
                return []
            shards.extend(
                path for path in list_visible_children(child) if is_shard_inside(path, location)
            )
        elif is_shard_inside(child, location):
            shards.append(child)
    return shards


def list_visible_children(folder: Path) -> list[Path]:
    """What lies in it, in order, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def is_shard_inside(path: Path, root: Path) -> bool:
    """Whether it is one, and no link that leads away."""
    return (
        path.suffix.lower() == SHARD_SUFFIX
        and path.is_file()
        and path.resolve().is_relative_to(root)
    )


def list_webdataset(location: Path, shards: list[Path]) -> ImageListing:
    """The listing of shards, whose names or folders say what part of the data they are."""
    root = location if location.is_dir() else location.parent
    listed_classes = read_class_list(root)
    problems: list[DataProblem] = []
    named_samples: list[tuple[ShardSample, str, OptionalSplit, tuple[int, int]]] = []
    for shard in shards:
        file_stat, shard_name = shard.stat(), printable_relative_path(root, shard)
        size_and_mtime = file_stat.st_size, file_stat.st_mtime_ns
        samples, shard_problems = list_shard_samples(shard, size_and_mtime)
        problems.extend(
            DataProblem(f"{shard_name}/{name}" if name else shard_name, kind, detail)
            for name, kind, detail in shard_problems
        )
        named_samples.extend(
            (
                sample,
                f"{shard_name}/{escape_unprintable(sample.name)}",
                parse_shard_split(shard_name),
                size_and_mtime,
            )
            for sample in samples
        )
    classes = listed_classes or sort_class_names(
        escape_unprintable(sample.label_text) for sample, *_ in named_samples
    )
    label_by_name = {name: label for label, name in enumerate(classes)}
    if listed_classes:  # where they are written in a file of their own, numbers mean them
        label_by_name = {str(label): label for label in range(len(listed_classes))} | label_by_name
    entries = []
    for sample, name, part, size_and_mtime in named_samples:
        if (label := label_by_name.get(escape_unprintable(sample.label_text))) is None:
            problems.append(
                DataProblem(
                    name,
                    "no class",
                    f"is of the class {escape_unprintable(sample.label_text)}, which {CLASS_LIST_FILES[0]} does not name",
                )
            )
        else:
            path = sample.member.shard / PurePosixPath(sample.name).name
            entries.append(ImageEntry(path, name, label, part, size_and_mtime, sample.member))
    if not entries:
        why = f": {problems[0].path} {problems[0].detail}" if problems else ""
        raise DataError(
            f"{location} holds shards, but no sample of an image and its class, as in KEY.jpg beside KEY.cls{why}"
        )
    return ImageListing(str(location), classes, ensure_test_split(entries), tuple(problems))


def parse_shard_split(shard_name: str) -> OptionalSplit:
    """The part that a word of a shard's name says, or else of its folder's."""
    words = (
        word
        for piece in reversed(shard_name.lower().split("/"))
        for word in re.findall("[a-z]+", piece)
    )
    return next(filter(None, map(parse_split_name, words)), "")


def read_class_list(root: Path) -> tuple[str, ...]:
    """The classes that a file beside the shards names, a line each; none where there is no such file."""
    for name in CLASS_LIST_FILES:
        if (root / name).is_file():
            try:
                lines = (root / name).read_text(encoding="utf-8-sig").rstrip().splitlines()
            except (OSError, ValueError) as error:
                raise DataError(f"{root / name} cannot be read: {error}") from error
            classes = tuple(escape_unprintable(line.strip()) for line in lines)
            if bad_line := next(
                (i for i, one in enumerate(classes) if not one or one in classes[:i]), None
            ):
                why = f"names {classes[bad_line]} again" if classes[bad_line] else "is empty"
                raise DataError(
                    f"line {bad_line + 1} of {root / name} {why}: give each class a line and a name of its own"
                )
            return classes
    return ()


@lru_cache(maxsize=10_000)
def list_shard_samples(
    shard: Path, size_and_mtime: tuple[int, int]
) -> tuple[tuple[ShardSample, ...], tuple[tuple[str, str, str], ...]]:
    """The samples of a shard, in its order, and what is wrong: member, kind and detail.  `stamp` changes when the shard does."""
    members_by_key: dict[str, dict[str, tarfile.TarInfo]] = {}
    samples, problems = [], []
    try:
        with open(shard, "rb") as file:
            try:
                for member in iter_tar_members(file):
                    folder, _, base = member.name.rpartition("/")
                    key, _, extension = base.partition(".")
                    sample = members_by_key.setdefault(f"{folder}/{key}" if folder else key, {})
                    if sample.setdefault(extension.lower(), member) is not member:
                        problems.append(
                            (
                                escape_unprintable(member.name),
                                "doubled",
                                "is there a second time, and is left out",
                            )
                        )
            except Exception as error:  # a damaged or forged archive may raise anything
                problems.append(
                    (
                        "",
                        "damaged",
                        f"is damaged, and read as far as that: {' '.join(str(error).split())}",
                    )
                )
            for key, members in members_by_key.items():
                image = next((members[kind] for kind in members if kind in IMAGE_EXTENSIONS), None)
                name, label = (
                    escape_unprintable(image.name if image else key),
                    read_sample_label(file, members),
                )
                if image is None:
                    problems.append(
                        (
                            name,
                            "no image",
                            f"has none of {', '.join(IMAGE_EXTENSIONS)} beside it, and is left out",
                        )
                    )
                elif not label:
                    problems.append(
                        (
                            name,
                            "no class",
                            "has no label beside it, in .cls or .json, and is left out",
                        )
                    )
                else:
                    samples.append(
                        ShardSample(
                            image.name, ShardMember(shard, image.offset_data, image.size), label
                        )
                    )
    except OSError as error:
        problems.append(("", "unreadable", f"cannot be read: {error.strerror or error}"))
    return tuple(samples), tuple(problems)


def iter_tar_members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files in an archive, without hidden ones; tarfile.TarError where it does not end as archives do."""
    end = file.seek(0, SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and member.offset_data + member.size > end:
                raise tarfile.ReadError(
                    f"{escape_unprintable(member.name)} would reach {member.offset_data + member.size - end:,} bytes beyond its end"
                )
            if (
                member.isreg()
                and not member.issparse()
                and not PurePosixPath(member.name).name.startswith(".")
            ):
                yield member
        file.seek(tar.offset)
        if any(file.read(TAR_BLOCK_SIZE)):
            raise tarfile.ReadError(f"what follows at byte {tar.offset:,} is no member")


def read_sample_label(file: IO[bytes], members: dict[str, tarfile.TarInfo]) -> str:
    """What is written beside an image, as text; empty where that is nothing."""
    for extension in ("cls", "json"):
        if (member := members.get(extension)) and member.size <= MAX_LABEL_BYTES:
            file.seek(member.offset_data)
            try:
                text = file.read(member.size).decode("utf-8-sig").strip()
                value = json.loads(text) if extension == "json" else text
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                value = next((value[name] for name in LABEL_COLUMN_NAMES if name in value), None)
            if (
                isinstance(value, str | int)
                and not isinstance(value, bool)
                and (label := str(value).strip())
            ):
                return label
    return ""

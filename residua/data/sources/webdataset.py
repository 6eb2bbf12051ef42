"""Shards in the layout of WebDataset: tar archives of samples, KEY.jpg next to KEY.cls or KEY.json.

The headers of an archive are read once, with the standard library; then each image is read by its
offset, in any order and from many threads, like a file.  The webdataset library is not used: it
streams members in order only, and decodes whatever it finds, pickles included.  Nothing in a
shard is unpickled or run here.
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
    SUFFIXES_BY_FORMAT,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    list_visible_children,
    parse_split_name,
    printable_relative_path,
    sort_class_names,
)
from residua.errors import DataError

SHARD_SUFFIX = ".tar"
# Without repetition, in the order of the formats.
IMAGE_EXTENSIONS = tuple(
    dict.fromkeys(suffix[1:] for suffixes in SUFFIXES_BY_FORMAT.values() for suffix in suffixes)
)
CLASS_LIST_FILES = ("classes.txt", "classnames.txt")  # one class per line, for labels as numbers
ALL_SPLIT_NAMES = tuple(name for names in SPLIT_NAMES.values() for name in names)
MAX_LABEL_BYTES = 2**20  # of a label file; our choice
TAR_BLOCK_SIZE = 512


@dataclass(frozen=True, slots=True)
class ShardMember:
    """An image inside a shard, as an `EmbeddedFile`: the shard, an offset and a length in bytes."""

    shard: Path
    offset: int
    length: int

    def read_bytes(self) -> bytes:
        """The encoded image; fewer bytes if the shard is truncated.  Raises OSError."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """An image in a shard and its label as written: a number or a class name."""

    name: str
    member: ShardMember
    label_text: str


@dataclass(frozen=True, slots=True)
class ShardContents:
    """A shard's name, size and modification time, its samples in their order, and its problems."""

    name: str  # printable, relative to the data set
    size_and_mtime: tuple[int, int]
    samples: tuple[ShardSample, ...]
    problems: tuple[DataProblem, ...]


def find_shards(location: Path) -> list[Path]:
    """Find the shards at a location: one file, or those in a folder and in its split folders.

    Returns nothing if the folder has subfolders that are not named like splits, or split folders
    with subfolders.  Such subfolders are taken for class folders, and archives next to class
    folders are ignored.
    """
    if location.is_file():
        return [location] if location.suffix.lower() == SHARD_SUFFIX else []
    shards: list[Path] = []
    for child in list_visible_children(location):
        if child.is_dir():
            grandchildren = list_visible_children(child)
            is_split = child.name.lower() in ALL_SPLIT_NAMES
            if not is_split or any(path.is_dir() for path in grandchildren):
                return []
            shards.extend(path for path in grandchildren if is_shard_inside(path, location))
        elif is_shard_inside(child, location):
            shards.append(child)
    return shards


def is_shard_inside(path: Path, root: Path) -> bool:
    """Whether `path` is a shard, and not a link to a file outside `root`."""
    return (
        path.suffix.lower() == SHARD_SUFFIX
        and path.is_file()
        and path.resolve().is_relative_to(root)
    )


def list_webdataset(location: Path, shards: list[Path]) -> ImageListing:
    """List the images of shards; the names of shards and folders determine the splits.

    Raises DataError if no image has a label.
    """
    root = location if location.is_dir() else location.parent
    listed_classes = read_class_list(root)
    contents = [read_shard_contents(shard, root) for shard in shards]
    problems = [problem for shard in contents for problem in shard.problems]
    classes = listed_classes or sort_class_names(
        escape_unprintable(sample.label_text) for shard in contents for sample in shard.samples
    )
    label_by_name = index_class_names(classes)
    if listed_classes:  # a label may then be the number of a line, too
        label_by_name = index_class_names(map(str, range(len(listed_classes)))) | label_by_name
    entries = []
    for shard in contents:
        split = parse_shard_split(shard.name)
        for sample in shard.samples:
            name = f"{shard.name}/{escape_unprintable(sample.name)}"
            class_name = escape_unprintable(sample.label_text)
            if (label := label_by_name.get(class_name)) is None:
                detail = f"is of the class {class_name}, which is not in {CLASS_LIST_FILES[0]}"
                problems.append(DataProblem(name, "no class", detail))
                continue
            path = sample.member.shard / PurePosixPath(sample.name).name
            entries.append(
                ImageEntry(path, name, label, split, shard.size_and_mtime, sample.member)
            )
    if not entries:
        first = f": {problems[0].path} {problems[0].detail}" if problems else ""
        raise DataError(
            f"{location} holds shards, but no image with a class: "
            f"samples are stored as KEY.jpg next to KEY.cls{first}"
        )
    return ImageListing(str(location), classes, ensure_test_split(entries), tuple(problems))


def parse_shard_split(shard_name: str) -> OptionalSplit:
    """The split named by a word in the shard's file name or, without one, in its folders' names.

    "" if no word names a split.
    """
    words = (
        word
        for piece in reversed(shard_name.lower().split("/"))
        for word in re.findall("[a-z]+", piece)
    )
    return next(filter(None, map(parse_split_name, words)), "")


def read_class_list(root: Path) -> tuple[str, ...]:
    """The class names that a file next to the shards lists, one per line.

    No names if there is no such file.  Raises DataError for an empty line or a repeated name.
    """
    for file_name in CLASS_LIST_FILES:
        path = root / file_name
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
            except (OSError, ValueError) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
            classes = tuple(escape_unprintable(line.strip()) for line in lines)
            for i, name in enumerate(classes):
                if not name or name in classes[:i]:
                    reason = f"repeats {name}" if name else "is empty"
                    raise DataError(
                        f"line {i + 1} of {path} {reason}: "
                        "put one class name on each line, without repeats"
                    )
            return classes
    return ()


def read_shard_contents(shard: Path, root: Path) -> ShardContents:
    """The contents of a shard; from memory if the shard is unchanged since it was last read."""
    file_stat, shard_name = shard.stat(), printable_relative_path(root, shard)
    size_and_mtime = file_stat.st_size, file_stat.st_mtime_ns
    samples, member_problems = list_shard_samples(shard, size_and_mtime)
    problems = tuple(
        DataProblem(f"{shard_name}/{member}" if member else shard_name, kind, detail)
        for member, kind, detail in member_problems
    )
    return ShardContents(shard_name, size_and_mtime, samples, problems)


@lru_cache(maxsize=10_000)
def list_shard_samples(
    shard: Path, size_and_mtime: tuple[int, int]
) -> tuple[tuple[ShardSample, ...], tuple[tuple[str, str, str], ...]]:
    """The samples of a shard in its order, and its problems as (member or "", kind, detail).

    The result is cached.  `size_and_mtime` is used only as part of the cache key, so that a changed
    shard is read again.
    """
    samples: list[ShardSample] = []
    problems: list[tuple[str, str, str]] = []
    try:
        with open(shard, "rb") as file:
            members_by_key = group_members_by_key(file, problems)
            for key, members in members_by_key.items():
                image = next((members[kind] for kind in members if kind in IMAGE_EXTENSIONS), None)
                name = escape_unprintable(image.name if image else key)
                label = read_sample_label(file, members)
                if image is None:
                    detail = f"has no image next to it ({', '.join(IMAGE_EXTENSIONS)}); skipped"
                    problems.append((name, "no image", detail))
                elif not label:
                    detail = "has no label next to it, in .cls or .json; skipped"
                    problems.append((name, "no class", detail))
                else:
                    member = ShardMember(shard, image.offset_data, image.size)
                    samples.append(ShardSample(image.name, member, label))
    except OSError as error:
        problems.append(("", "unreadable", f"cannot be read: {error.strerror or error}"))
    return tuple(samples), tuple(problems)


def group_members_by_key(
    file: IO[bytes], problems: list[tuple[str, str, str]]
) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Group the members of a shard by sample key and then by extension, both in the shard's order.

    Repeated members are reported in `problems`.  So is damage to the archive; nothing after the
    damaged place is read.
    """
    members_by_key: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        for member in iter_tar_members(file):
            folder, _, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            members = members_by_key.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(extension.lower(), member) is not member:
                name = escape_unprintable(member.name)
                problems.append((name, "doubled", "occurs twice; the second one is skipped"))
    except Exception as error:  # a damaged or forged archive may raise anything
        reason = " ".join(str(error).split())
        problems.append(("", "damaged", f"is damaged, and is read up to the damage: {reason}"))
    return members_by_key


def iter_tar_members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The regular files in an archive, without hidden ones.

    Raises tarfile.TarError if a member extends beyond the end of the archive, or if anything but
    zeros follows the last member.
    """
    end = file.seek(0, SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            excess = member.offset_data + member.size - end
            if member.isreg() and excess > 0:
                raise tarfile.ReadError(
                    f"{escape_unprintable(member.name)} would reach {excess:,} bytes past the end"
                )
            is_hidden = PurePosixPath(member.name).name.startswith(".")
            if member.isreg() and not member.issparse() and not is_hidden:
                yield member
        file.seek(tar.offset)
        if any(file.read(TAR_BLOCK_SIZE)):
            raise tarfile.ReadError(f"no valid file header at byte {tar.offset:,} of the archive")


def read_sample_label(file: IO[bytes], members: dict[str, tarfile.TarInfo]) -> str:
    """The label in a sample's .cls file or, without one, in its .json file; "" if there is none."""
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
            is_label = isinstance(value, str | int) and not isinstance(value, bool)
            if is_label and (label := str(value).strip()):
                return label
    return ""

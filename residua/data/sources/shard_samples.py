"""The samples of a WebDataset shard: images in a tar archive, each with its label next to it."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    DataProblem,
    EmbeddedFile,
    clean_cell,
    escape_unprintable,
    is_visible,
)
from residua.data.sources.tar_archive import TarDamageError, TarMember, iter_tar_members

MAX_LABEL_BYTES = 2**20  # of a label file; our choice
MAX_PROBLEMS_OF_A_KIND = 1000  # of one shard, that are reported one by one
COMPRESSION_SIGNATURES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")
IMAGE_EXTENSIONS = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
EXTENSION_EXAMPLES = "jpg, png, webp"  # in messages


@dataclass(frozen=True, slots=True)
class ShardMember:
    """An `EmbeddedFile` in a shard: an image at an offset, with a length, both in bytes."""

    shard: Path
    offset: int
    length: int

    def read_bytes(self) -> bytes:
        """Read the encoded image, incomplete if the shard is truncated; may raise OSError."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """An image in a shard, with its label as the shard states it: a number or a class name."""

    name: str
    member: EmbeddedFile
    label_text: str
    offset: int = 0  # of the image in the shard, in bytes
    length: int = 0


@dataclass(slots=True)
class ShardProblems:
    """The problems of a shard: the first `MAX_PROBLEMS_OF_A_KIND` of each kind, and a summary."""

    listed: list[DataProblem] = field(default_factory=list)  # path: a member's name, or ""
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, member_name: str, kind: str, detail: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_PROBLEMS_OF_A_KIND:
            self.listed.append(DataProblem(escape_unprintable(member_name), kind, detail))

    def list_with_summaries(self) -> tuple[DataProblem, ...]:
        summaries = [
            DataProblem("", kind, f"has {more:,} more members of this kind ({kind})", more)
            for kind, count in self.counts.items()
            if (more := count - MAX_PROBLEMS_OF_A_KIND) > 0
        ]
        return (*self.listed, *summaries)


@lru_cache(maxsize=10_000)
def list_shard_samples(
    shard: Path, size_and_mtime: tuple[int, int]
) -> tuple[tuple[ShardSample, ...], tuple[DataProblem, ...]]:
    """List the samples of a shard, in its order, and its problems, whose paths are member names.

    The result is cached.  `size_and_mtime` is used only as part of the cache key, so that a changed
    shard is read again.
    """

    def make_file(offset: int, length: int) -> EmbeddedFile:
        return ShardMember(shard, offset, length)

    try:
        with open(shard, "rb") as file:
            return list_samples_in_file(file, make_file)
    except OSError as error:
        detail = f"cannot be read: {error.strerror or error}"
        return (), (DataProblem("", "unreadable", detail),)


def list_samples_in_file(
    file: IO[bytes], make_file: Callable[[int, int], EmbeddedFile]
) -> tuple[tuple[ShardSample, ...], tuple[DataProblem, ...]]:
    """List the samples of an open shard and its problems, whose paths are member names.

    `make_file` makes an image from its offset and its length in the shard.
    """
    samples: list[ShardSample] = []
    problems = ShardProblems()
    for key, members in group_members_by_key(file, problems).items():
        image = next((members[kind] for kind in members if kind in IMAGE_EXTENSIONS), None)
        label = read_sample_label(file, members)
        if image is None:
            detail = f"has no image next to it ({EXTENSION_EXAMPLES}, ...), and is skipped"
            problems.add(key, "no image", detail)
        elif not label:
            detail = "has no label next to it, in .cls or .json; skipped"
            problems.add(image.name, "no class", detail)
        else:
            member = make_file(image.offset, image.size)
            samples.append(ShardSample(image.name, member, label, image.offset, image.size))
    return tuple(samples), problems.list_with_summaries()


def group_members_by_key(
    file: IO[bytes], problems: ShardProblems
) -> dict[str, dict[str, TarMember]]:
    """Group the files in a shard by sample key and then by extension, both in the shard's order.

    Repeated members, members that are not regular files, and damage to the archive are appended to
    `problems`.  Members after the damage are not read.
    """
    members_by_key: dict[str, dict[str, TarMember]] = {}
    if file.read(6).startswith(COMPRESSION_SIGNATURES):
        problems.add("", "damaged", "is compressed, and cannot be read: unpack it to a plain .tar")
        return members_by_key
    try:
        for member in iter_tar_members(file):
            if member.kind == "folder" or not is_member_visible(member.name):
                continue
            if member.kind != "file":
                detail = f"is a {member.kind} inside the archive, and is skipped"
                problems.add(member.name, "no file", detail)
                continue
            folder, _, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            members = members_by_key.setdefault(f"{folder}/{key}" if folder else key, {})
            if members.setdefault(extension.lower(), member) is not member:
                detail = "occurs twice; the second one is skipped"
                problems.add(member.name, "doubled", detail)
    except TarDamageError as error:
        problems.add("", "damaged", f"is damaged, and is read up to the damage: {error}")
    return members_by_key


def is_member_visible(name: str) -> bool:
    """Return whether no part of a member's name is hidden, or left behind by a file manager."""
    return all(is_visible(part) for part in name.split("/") if part not in ("", ".", ".."))


def read_sample_label(file: IO[bytes], members: dict[str, TarMember]) -> str:
    """Read a sample's label from its .cls file or else from its .json file; "" if it has none."""
    for extension in ("cls", "json"):
        if (member := members.get(extension)) and member.size <= MAX_LABEL_BYTES:
            file.seek(member.offset)
            try:
                text = file.read(member.size).decode("utf-8-sig")
                value = json.loads(text) if extension == "json" else text
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                value = next((value[name] for name in LABEL_COLUMN_NAMES if name in value), None)
            is_label = isinstance(value, str | int) and not isinstance(value, bool)
            if is_label and (label := clean_cell(str(value))):
                return label
    return ""

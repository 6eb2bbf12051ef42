"""Photographs in archives as ImageNet's publisher packs them, read in place."""

import os
from collections.abc import Iterator
from os import SEEK_END, SEEK_SET
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from residua.data.sources.listing import DataProblem, ImageEntry, Split, escape_unprintable
from residua.data.sources.shard_samples import ShardMember
from residua.data.sources.tar_archive import TarDamageError, TarMember, iter_tar_members


class LocatedImage(NamedTuple):
    """A photograph in a folder or an archive: its name within the data set, and how it is read."""

    name: str
    location: str
    size_and_mtime: tuple[int, int]  # of the file, or of the archive
    member: ShardMember | None = None  # None: a file of its own

    @property
    def stem(self) -> str:
        """The photograph's name without folders and suffix, e.g. `ILSVRC2012_val_00000001`."""
        return self.name.rpartition("/")[2].partition(".")[0]

    def make_entry(self, label: int, split: Split) -> ImageEntry:
        name = escape_unprintable(self.name)
        return ImageEntry(self.location, name, label, split, self.size_and_mtime, self.member)


def iterate_archive(
    archive: Path, prefix: str, problems: list[DataProblem], part: TarMember | None = None
) -> Iterator[LocatedImage]:
    """Yield the photographs of an archive or, with `part`, of an archive that is stored in it."""
    stat = archive.stat()
    with open(archive, "rb") as file:
        start, length = (part.offset, part.size) if part else (0, stat.st_size)
        window = cast(IO[bytes], FileWindow(file, start, length))
        for member in iterate_members(window, prefix, problems):
            base = PurePosixPath(member.name).name
            yield LocatedImage(
                f"{prefix}/{base}",
                os.path.join(archive, PurePosixPath(part.name).stem if part else "", base),
                (stat.st_size, stat.st_mtime_ns),
                ShardMember(archive, start + member.offset, member.size),
            )


def iterate_members(file: IO[bytes], name: str, problems: list[DataProblem]) -> Iterator[TarMember]:
    """Yield the files of an archive; damage is appended to `problems`, and ends the archive."""
    try:
        for member in iter_tar_members(file):
            if member.kind == "file":
                yield member
    except TarDamageError as error:
        detail = f"is damaged, and is read up to the damage: {error}"
        problems.append(DataProblem(name, "damaged", detail))


class FileWindow:
    """A part of a file, from a position on, that is read like a file of its own."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file, self.start, self.length, self.position = file, start, length, 0

    def seek(self, position: int, whence: int = SEEK_SET) -> int:
        self.position = self.length + position if whence == SEEK_END else position
        return self.position

    def read(self, size: int) -> bytes:
        self.file.seek(self.start + self.position)
        content = self.file.read(max(min(size, self.length - self.position), 0))
        self.position += len(content)
        return content

"""Read files on servers: tried again after errors that may pass, and kept in the local cache."""

import errno
import io
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace

from residua.data.checksums import compute_sha256
from residua.data.sources.remote_cache import get_remote_cache
from residua.data.sources.remote_retries import (
    WholeFileClaim,
    read_patience,
    shared_reads,
    try_again,
)
from residua.data.sources.remote_transport import (
    ChangedRemoteError,
    IgnoredRangeError,
    RemoteObject,
    find_remote_object,
    iter_remote_range,
)
from residua.data.sources.remote_urls import show_url
from residua.errors import DataError

FIRST_PATIENCE = 30.0  # seconds at most, when a server is asked for the first time
CHUNK_BYTES = 2**20  # the unit of reading and of the cache; our choice
READ_ATTEMPTS = 4  # of a photo whose digest is known, while the file on the server changes


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard on a server, and whether it is read and kept in chunks.

    If a data set fits into the cache, each chunk is fetched once; otherwise chunks would bring many
    times the bytes of the photographs that are read, and each photograph is fetched alone.
    """

    file: RemoteObject
    in_chunks: bool


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An `EmbeddedFile` in a shard on a server."""

    shard: RemoteShard
    offset: int
    length: int
    digest: str = ""  # the SHA-256 sum that an index states, if there is one
    is_image: bool | None = None  # as in `PackedFile`; None: there is no index

    def read_bytes(self) -> bytes:
        """Read the encoded image.

        Raises DataError if the server does not give it, and OSError for other bytes than those that
        the index states.
        """
        stop = self.offset + self.length
        file = self.shard.file
        for _ in range(READ_ATTEMPTS):
            try:
                if file is self.shard.file:
                    content = read_shard_range(self.shard, self.offset, stop)
                else:
                    content = read_with_retries(file, self.offset, stop)
            except ChangedRemoteError as error:
                if not self.digest or error.now.size < stop:
                    raise make_changed_error(self.shard.file) from error
                # Perhaps it was only copied there again, or copies on several servers have versions
                # of their own: the digest decides.
                file = replace(error.now, tag="")
                continue
            if not self.digest or compute_sha256(content) == self.digest:
                return content
            forget_shard_range(self.shard, self.offset, stop)
        if file is not self.shard.file:
            raise make_changed_error(self.shard.file)
        raise OSError(
            errno.EBADMSG, "its bytes are not those that its index states: upload its shard again"
        )


def make_changed_error(file: RemoteObject) -> DataError:
    return DataError(
        f"{show_url(file.url)} was changed on the server while it was in use: start again with the "
        "new data, or put the old file back and go on with --resume"
    )


def read_shard_range(shard: RemoteShard, start: int, stop: int) -> bytes:
    """Read bytes of a shard from the cache or the server.  Raises ChangedRemoteError."""
    pieces = [
        read_and_keep(shard, first, last)[max(start - first, 0) : stop - first]
        for first, last in list_fetched_ranges(shard, start, stop)
    ]
    return b"".join(pieces)


def list_fetched_ranges(shard: RemoteShard, start: int, stop: int) -> list[tuple[int, int]]:
    """List the ranges that are fetched and kept as one, and that together hold some bytes."""
    if not shard.in_chunks:
        return [(start, stop)]
    return [
        (first, min(first + CHUNK_BYTES, shard.file.size))
        for first in range(start - start % CHUNK_BYTES, stop, CHUNK_BYTES)
    ]


def forget_shard_range(shard: RemoteShard, start: int, stop: int) -> None:
    """Delete bytes of a shard from the cache."""
    for first, last in list_fetched_ranges(shard, start, stop):
        get_remote_cache().forget(shard.file, first, last)


def read_and_keep(shard: RemoteShard, start: int, stop: int) -> bytes:
    """Read a range from the cache, or from the server and keep it."""
    cache = get_remote_cache()

    def read_missing() -> bytes:
        with closing(WholeFileClaim(shard.file.url)) as claim:

            def takes_whole() -> bool:
                # whoever had the claim since this request was made may have kept the range
                return claim.take() and cache.read(shard.file, start, stop) is None

            while (content := cache.read(shard.file, start, stop)) is None:
                try:
                    content = read_with_retries(
                        shard.file, start, stop, takes_whole if shard.in_chunks else None
                    )
                except IgnoredRangeError:
                    claim.wait()
                    continue
                cache.write(shard.file, start, content)
                break
            return content

    return shared_reads.read((shard.file.url, start, stop), read_missing)


def read_with_retries(
    file: RemoteObject, start: int, stop: int, takes_whole: Callable[[], bool] | None = None
) -> bytes:
    """Read a range from the server; what an interrupted answer brought is not asked for again.

    A server that ignores ranges sends the whole file: with `takes_whole`, all its chunks are kept
    in the cache, and IgnoredRangeError is raised if `takes_whole()` is false.  Raises
    ChangedRemoteError, or DataError if the server refuses, or brings nothing for too long.
    """
    received = bytearray()

    def read_rest() -> bytes:
        if len(received) == stop - start:  # an answer broke off after what was needed
            return bytes(received)
        keeper = ChunkKeeper(file) if takes_whole else None
        takes = takes_whole or (lambda: True)
        for position, block in iter_remote_range(file, start + len(received), stop, takes):
            skipped = start + len(received) - position
            if 0 <= skipped < len(block):
                received.extend(block[skipped:][: stop - start - len(received)])
            if keeper:
                keeper.add(position, block)
            elif len(received) == stop - start:
                break
        return bytes(received)

    return try_again(file.url, read_rest, lambda: len(received)) if start < stop else b""


class ChunkKeeper:
    """Keeps the chunks of a file that a server sends whole, from its beginning."""

    def __init__(self, file: RemoteObject) -> None:
        self.file, self.chunk, self.start = file, bytearray(), 0

    def add(self, position: int, block: bytes) -> None:
        """Add a block; those of a range that does not begin at 0 are not kept here."""
        if position != self.start + len(self.chunk):
            return
        self.chunk.extend(block)
        is_end = position + len(block) == self.file.size
        while len(self.chunk) >= CHUNK_BYTES or (is_end and self.chunk):
            get_remote_cache().write(self.file, self.start, bytes(self.chunk[:CHUNK_BYTES]))
            self.start += min(CHUNK_BYTES, len(self.chunk))
            del self.chunk[:CHUNK_BYTES]


def find_file(url: str) -> RemoteObject | None:
    """Find a file on a server; None if it is not there.  Raises DataError if it is refused."""
    patience = min(read_patience(), FIRST_PATIENCE)
    return try_again(url, lambda: find_remote_object(url), patience=patience)


def require_file(url: str) -> RemoteObject:
    """Find a file on a server; DataError if it is not there."""
    if (file := find_file(url)) is None:
        raise DataError(f"there is no {show_url(url)}: check the address")
    return file


def make_shards(files: Iterable[RemoteObject]) -> list[RemoteShard]:
    """Make shards of files, which are read in chunks if they all fit into the cache."""
    files = list(files)
    in_chunks = sum(file.size for file in files) <= get_remote_cache().limit
    return [RemoteShard(file, in_chunks) for file in files]


def make_stamp(file: RemoteObject) -> tuple[int, int]:
    """Return what stands for a file's size and time of modification; (0, 0) if it has no version.

    It is below the present time in nanoseconds.
    """
    return (file.size, int(compute_sha256(file.tag.encode())[:15], 16)) if file.tag else (0, 0)


class RemoteReader(io.RawIOBase):
    """A shard as a file that can be read anywhere, in chunks."""

    def __init__(self, shard: RemoteShard) -> None:
        self.shard, self.position = shard, 0
        self.chunk_start, self.chunk = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.shard.file.size}
        self.position = origin[whence] + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, fewer only at the end.  Raises ChangedRemoteError."""
        end = self.shard.file.size
        stop = end if size < 0 else min(self.position + size, end)
        pieces = []
        while self.position < stop:
            first = self.position - self.position % CHUNK_BYTES
            if self.chunk_start != first or not self.chunk:
                last = min(first + CHUNK_BYTES, end)
                self.chunk_start, self.chunk = first, read_shard_range(self.shard, first, last)
            pieces.append(self.chunk[self.position - first : stop - first])
            self.position += len(pieces[-1])
        return b"".join(pieces)

"""Fetch photos from servers before they are needed, many at a time.

A photo takes a server several times longer to send than a core to decode, and most of it is
waiting.  What is fetched ahead goes into the local cache; without one, nothing is fetched ahead.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from residua.data.sources.listing import ImageEntry
from residua.data.sources.remote_cache import get_remote_cache
from residua.data.sources.remote_files import RemoteFile, list_fetched_ranges
from residua.data.sources.remote_retries import shared_reads
from residua.data.sources.remote_transport import (
    ChangedRemoteError,
    IgnoredRangeError,
    PassingError,
    RemoteObject,
    iter_remote_range,
)
from residua.errors import DataError

AHEAD_THREADS = 32  # our choice: at 50 ms for an answer, 640 photos a second
AHEAD_PHOTOS = 256  # that are fetched before they are needed
whole_files: set[str] = set()  # addresses of files that their servers send whole


class ReadAhead:
    """Fetches the photos that follow the one that is in use."""

    def __init__(self, files: Sequence[RemoteFile], pool: ThreadPoolExecutor) -> None:
        self.files, self.pool, self.next = files, pool, 0

    def reach(self, position: int) -> None:
        """Begin to fetch what comes soon after the photo at a position; does not wait."""
        stop = min(position + AHEAD_PHOTOS, len(self.files))
        for file in self.files[self.next : stop]:
            self.pool.submit(fetch_into_cache, file)
        self.next = max(self.next, stop)


@contextmanager
def open_read_ahead(entries: Sequence[ImageEntry]) -> Iterator[ReadAhead]:
    """Yield what fetches `entries` ahead, in their order; local ones need nothing."""
    remote = [e.embedded_file for e in entries if isinstance(e.embedded_file, RemoteFile)]
    # entries of one listing are all remote, or none is
    files = remote if len(remote) == len(entries) and remote and get_remote_cache().limit else []
    pool = ThreadPoolExecutor(AHEAD_THREADS)
    try:
        yield ReadAhead(files, pool)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def fetch_into_cache(file: RemoteFile) -> None:
    """Fetch a photo once, if the cache lacks it; errors are left to whoever needs it."""
    cache, shard = get_remote_cache(), file.shard
    with suppress(PassingError, ChangedRemoteError, DataError):
        for first, last in list_fetched_ranges(shard, file.offset, file.offset + file.length):
            if shard.file.url not in whole_files and not cache.holds(shard.file, first, last):
                key = shard.file.url, first, last
                shared_reads.try_reading(key, partial(fetch_range, shard.file, first, last))


def fetch_range(file: RemoteObject, start: int, stop: int) -> bytes:
    """Fetch a range once, and keep it; PassingError if that does not succeed."""
    try:
        blocks = list(iter_remote_range(file, start, stop, lambda: False))
    except IgnoredRangeError as error:
        whole_files.add(file.url)
        raise PassingError("the server ignores ranges") from error
    content = b"".join(block for _, block in blocks)
    get_remote_cache().write(file, start, content)
    return content

"""The SHA-256 sums of a data set's files, kept between processes: each file is read once.

A digest is kept by the file's name, size and time of modification in nanoseconds.  A file that was
modified within `RACY_SECONDS` before it was read is read again by the next process, as by git: it
may have been changed once more within the resolution of the file system's clock.

The digests of one location are one file in $XDG_CACHE_HOME/residua/digests, of 48 bytes for each
file of the data set.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residua.cache_folder import get_cache_dir
from residua.data.checked_arrays import read_checked_arrays, write_checked_arrays
from residua.data.checksums import compute_sha256
from residua.data.sources.listing import ImageEntry
from residua.data.threads import stream_in_threads
from residua.files import clean_up_interrupted_writes, hold_output_lock

RACY_SECONDS = 2.0  # our choice, as coarse as the clock of any file system in use
SAVE_SECONDS = 60.0  # between writes of the index while files are read
MIN_KEPT_RECORDS = 100_000  # of files that are gone or changed
DIGEST_BYTES = 32
NO_TIME = (0, 0)  # the size and time of what is no file of its own
Hasher = Callable[[ImageEntry], str]


@dataclass(frozen=True, slots=True)
class DigestIndex:
    """Digests by key, sorted by the first half of the key."""

    keys: NDArray[np.uint64]  # (n, 2), of `make_digest_keys`
    digests: NDArray[np.uint8]  # (n, 32)

    def look_up(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each key, or -1 for those that are not in the index."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        rows = np.searchsorted(self.keys[:, 0], keys[:, 0]).clip(max=len(self.keys) - 1)
        is_known = (self.keys[rows] == keys).all(axis=1)
        return np.where(is_known, rows, -1).astype(np.int64)

    def add(self, keys: NDArray[np.uint64], digests: NDArray[np.uint8]) -> "DigestIndex":
        """Return an index with more digests; those with a known key replace the old ones."""
        all_keys = np.concatenate([keys, self.keys])
        _, kept = np.unique(all_keys[:, 0], return_index=True)  # the first of equal ones: the new
        return DigestIndex(all_keys[kept], np.concatenate([digests, self.digests])[kept])

    def drop_unused(self, used: NDArray[np.int64]) -> "DigestIndex":
        """Drop the rows that are not used, unless they are few."""
        if len(self.keys) - len(used) <= max(len(used), MIN_KEPT_RECORDS):
            return self
        kept = np.unique(used)
        return DigestIndex(self.keys[kept], self.digests[kept])


def hash_entries(location: str, entries: Sequence[ImageEntry], hash_entry: Hasher) -> list[str]:
    """Return the digest of each entry at a location, "" for those that cannot be read.

    What an earlier call or process has hashed already is not read again.  While this process reads
    files, others that need the digests of the location wait for it.
    """
    if all(stated := [entry.known_digest for entry in entries]):
        return stated  # decoding compares them with the photos' bytes
    keys = make_digest_keys(entries)
    path = find_digest_file(location)
    with suppress(OSError):  # of a cache that cannot be written
        clean_up_interrupted_writes(path.parent)
    digests = take_known_digests(get_index(path), keys, entries)
    if not all(digests):
        with hold_digest_lock(path):
            get_index.cache_clear()  # another process may have written it
            digests = take_known_digests(get_index(path), keys, entries)
            missing = [i for i, digest in enumerate(digests) if not digest]
            for i, digest in read_digests(path, entries, keys, missing, hash_entry):
                digests[i] = digest
    return digests


def make_digest_keys(entries: Sequence[ImageEntry]) -> NDArray[np.uint64]:
    """Hash each entry's name, size and time of modification to 128 bits: (n, 2)."""
    joined = b"".join(
        blake2b(
            f"{entry.size_and_mtime} {entry.name}".encode("utf-8", "surrogateescape"),
            digest_size=16,
        ).digest()
        for entry in entries
    )
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


def find_digest_file(location: str) -> Path:
    """Return the file in the cache that keeps the digests of a location."""
    name = compute_sha256(location.encode("utf-8", "surrogateescape"))[:32]
    return get_cache_dir() / "digests" / name


@lru_cache(maxsize=2)
def get_index(path: Path) -> DigestIndex:
    """Read the digests of a location, or make an empty index; a damaged file is reported."""
    try:
        _, arrays = read_checked_arrays(path)
        keys, digests = arrays["keys"], arrays["digests"]
        if keys.shape != (len(digests), 2) or digests.shape[1:] != (DIGEST_BYTES,):
            raise ValueError("its shapes are damaged")
        return DigestIndex(keys.astype(np.uint64, copy=False), digests.astype(np.uint8, copy=False))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        print(
            f"residua: the digests in {path} cannot be used, and the files are read again: {error}",
            file=sys.stderr,
        )
    return DigestIndex(np.empty((0, 2), np.uint64), np.empty((0, DIGEST_BYTES), np.uint8))


def take_known_digests(
    index: DigestIndex, keys: NDArray[np.uint64], entries: Sequence[ImageEntry]
) -> list[str]:
    """Return the known digest of each entry; "" where there is none."""
    return [
        index.digests[row].tobytes().hex() if row >= 0 and entry.size_and_mtime != NO_TIME else ""
        for row, entry in zip(index.look_up(keys).tolist(), entries, strict=True)
    ]


def read_digests(
    path: Path,
    entries: Sequence[ImageEntry],
    keys: NDArray[np.uint64],
    missing: Sequence[int],
    hash_entry: Hasher,
) -> Iterator[tuple[int, str]]:
    """Hash the entries at the positions `missing` in threads; yield each position and digest.

    What can be trusted by the next process is written to the index every minute, and at the end.
    """
    pending: list[tuple[int, str]] = []
    latest_time = time.time_ns() - int(RACY_SECONDS * 1e9)  # of a file that is trusted
    next_save = time.monotonic() + SAVE_SECONDS
    try:
        with closing(
            stream_in_threads(lambda i: hash_entry(entries[i]), missing, "reading")
        ) as results:
            for i, digest in zip(missing, results, strict=True):
                size_and_mtime = entries[i].size_and_mtime
                if digest and size_and_mtime != NO_TIME and size_and_mtime[1] < latest_time:
                    pending.append((i, digest))
                if time.monotonic() > next_save:
                    save_digests(path, keys, pending)
                    pending, next_save = [], time.monotonic() + SAVE_SECONDS
                yield i, digest
    finally:
        save_digests(path, keys, pending)


def save_digests(path: Path, keys: NDArray[np.uint64], found: list[tuple[int, str]]) -> None:
    """Add digests to the index of a location; says so on stderr if it cannot be written."""
    if not found:
        return
    positions = np.array([i for i, _ in found])
    digests = np.frombuffer(bytes.fromhex("".join(digest for _, digest in found)), np.uint8)
    index = get_index(path).add(keys[positions], digests.reshape(-1, DIGEST_BYTES))
    rows = index.look_up(keys)
    index = index.drop_unused(rows[rows >= 0])
    try:
        write_checked_arrays(path, {}, {"keys": index.keys, "digests": index.digests})
    except OSError as error:
        print(
            f"residua: the digests of the files are not kept in {path.parent}: "
            f"{error.strerror or error}",
            file=sys.stderr,
        )
    get_index.cache_clear()


@contextmanager
def hold_digest_lock(path: Path) -> Iterator[None]:
    """Keep other processes from reading the same files; where no folder can be made, they may."""
    try:
        os.makedirs(path.parent, exist_ok=True)
    except OSError:
        yield
        return
    with hold_output_lock(path):
        yield

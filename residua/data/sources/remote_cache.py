"""A bounded cache of what was read from servers, in $XDG_CACHE_HOME/residua/remote.

What is needed least recently is deleted when the cache is full.  A full disk never ends a run: it
reads from the server then.  Each file of the cache begins with a checksum, so that nothing is
flushed to disk: what a lost machine left half-written is read again.
"""

import errno
import os
import sys
import time
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

from residua.cache_folder import get_cache_dir
from residua.data.checksums import compute_sha256
from residua.data.sources.remote_transport import RemoteObject
from residua.data.sources.remote_urls import identify_url
from residua.data.space import free_disk_bytes
from residua.errors import UsageError

LIMIT_VARIABLE = "RESIDUA_REMOTE_CACHE_GIB"
DEFAULT_SHARE = 0.5  # of the free disk; our choice
CHECKSUM_BYTES = 4
TOUCH_SECONDS = 60.0  # between notes that a file is still in use
KEPT_SHARE = 0.9  # of the limit, when files are deleted, so that this is seldom done
OLD_SECONDS = 3600.0  # after which a temporary file was left by a killed process
PAUSE_SECONDS = 60.0  # without writing, after the disk was full
MEASURED_SHARE = 0.05  # of the limit, after whose writing the folder is measured again
PROCESS_TAG = os.urandom(16).hex()  # in place of the version of a file that has none


class RemoteCache:
    """Ranges of remote files on the local disk, at most `limit` bytes together, or few more."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.lock = Lock()
        self.used = measure_folder(folder) if limit else 0
        self.unmeasured = 0  # bytes that were written since the folder was measured
        self.paused_until = 0.0

    def read(self, file: RemoteObject, start: int, stop: int) -> bytes | None:
        """Return the bytes from `start` to `stop` of a file, if they were written as one range."""
        path = self.find_path(file, start, stop)
        try:
            content = path.read_bytes()
            if time.time() - path.stat().st_mtime > TOUCH_SECONDS:
                os.utime(path)
        except OSError:
            return None
        body = content[CHECKSUM_BYTES:]
        is_intact = zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") == content[:CHECKSUM_BYTES]
        return body if is_intact and len(body) == stop - start else None

    def holds(self, file: RemoteObject, start: int, stop: int) -> bool:
        """Return whether a range of a file was written; it is not compared with its checksum."""
        return self.find_path(file, start, stop).exists()

    def write(self, file: RemoteObject, start: int, content: bytes) -> None:
        """Keep a range of a file, unless the disk is full even without the older ranges."""
        size = len(content) + CHECKSUM_BYTES
        if size > self.limit or time.monotonic() < self.paused_until:
            return
        path = self.find_path(file, start, start + len(content))
        temporary = path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            self.make_room(size)
            path.parent.mkdir(parents=True, exist_ok=True)
            checksum = zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")
            with open(temporary, "xb") as handle:
                handle.write(checksum + content)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.pause(error)

    def forget(self, file: RemoteObject, start: int, stop: int) -> None:
        """Delete a range that turned out to be wrong."""
        with suppress(OSError):
            self.find_path(file, start, stop).unlink()

    def find_path(self, file: RemoteObject, start: int, stop: int) -> Path:
        """Return the path of a range; it depends on the file's version, and on no signature.

        A file without a version may be another one in the next process, which does not find it.
        """
        version = file.tag or PROCESS_TAG
        key = compute_sha256(f"{identify_url(file.url)} {file.size} {version}".encode())[:32]
        return self.folder / key / f"{start}-{stop}"

    def make_room(self, size: int) -> None:
        """Delete the ranges that were used least recently, if the cache is full with `size` more.

        Other processes write to the cache, too, so that it is measured again and again.
        """
        with self.lock:
            self.used += size
            self.unmeasured += size
            if self.used <= self.limit and self.unmeasured < MEASURED_SHARE * self.limit:
                return
            files = list_cached_ranges(self.folder)
            self.unmeasured = 0
            self.used = size + sum(bytes_ for _, bytes_, _ in files)
            if self.used <= self.limit:
                return
            for _, bytes_, path in files:
                if self.used <= KEPT_SHARE * self.limit:
                    break
                with suppress(OSError):
                    os.unlink(path)
                    self.used -= bytes_

    def pause(self, error: OSError) -> None:
        """Write nothing for a while; a full disk also halves what the cache may hold."""
        with self.lock:
            self.paused_until = time.monotonic() + PAUSE_SECONDS
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.limit //= 2
        print(
            f"residua: what is read from servers is not kept in {self.folder} for now: "
            f"{error.strerror or error}",
            file=sys.stderr,
        )


def list_cached_ranges(folder: Path) -> list[tuple[float, int, str]]:
    """List the ranges in the cache, (time, bytes, path), that used least recently first.

    Temporary files that killed processes left are deleted.
    """
    found = []
    for place in list_entries(folder):
        for entry in list_entries(place.path):
            with suppress(OSError):
                status = entry.stat()
                if not entry.name.endswith(".tmp"):
                    found.append((status.st_mtime, status.st_size, entry.path))
                elif time.time() - status.st_mtime > OLD_SECONDS:
                    os.unlink(entry.path)
    return sorted(found)


def list_entries(folder: str | Path) -> list["os.DirEntry[str]"]:
    """List what is in a folder; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def measure_folder(folder: Path) -> int:
    """Add up the bytes of all ranges in the cache."""
    return sum(size for _, size, _ in list_cached_ranges(folder))


def get_remote_cache() -> RemoteCache:
    """Return the cache of this process for the present settings of the user."""
    return open_remote_cache(get_cache_dir() / "remote", os.environ.get(LIMIT_VARIABLE, ""))


@lru_cache(maxsize=2)
def open_remote_cache(folder: Path, limit_gib: str) -> RemoteCache:
    """Open the cache in a folder; UsageError if its limit, in GiB, is no number."""
    if limit_gib:
        try:
            limit = float(limit_gib)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < 2**30:
            raise UsageError(f"{LIMIT_VARIABLE}={limit_gib} is invalid: give a number of GiB")
        return RemoteCache(folder, int(limit * 2**30))
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = free_disk_bytes(parent) + measure_folder(folder)
    return RemoteCache(folder, int(DEFAULT_SHARE * free))

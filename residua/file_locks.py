"""Locks that exclude other processes, and that a killed process cannot keep.

A lock is a file that its holder keeps open with `flock`, and deletes when it is done.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

IS_POSIX = os.name == "posix"
POLL_SECONDS = 0.02
QUIET_SECONDS = 1.0  # of waiting, before a line says so
NO_LOCK = -1


class FileLock(NamedTuple):
    """A lock that this process holds."""

    path: Path
    handle: int  # NO_LOCK where locks do not exist
    was_left: bool  # by a killed process

    @property
    def excludes_others(self) -> bool:
        return self.handle != NO_LOCK


def acquire_lock(lock_path: Path, wait_for: Path | None = None) -> FileLock | None:
    """Take the lock, or return None if another process or thread holds it.

    With `wait_for`, which names the output that the lock protects, wait until the lock is free, and
    say so on stderr if this takes long.  Where locks do not exist (Windows, some file systems,
    folders that cannot be written to), the returned lock excludes nobody.
    """
    deadline: float | None = time.monotonic() + QUIET_SECONDS
    while True:
        try:
            handle, is_new = open_lock_file(lock_path)
        except OSError:
            return FileLock(lock_path, NO_LOCK, was_left=False)
        has_lock = try_flock(handle)
        if has_lock is None:
            release_lock(FileLock(lock_path, handle, was_left=False))
            return FileLock(lock_path, NO_LOCK, was_left=False)
        # The holder before may have deleted the file since it was opened here.
        if has_lock and is_open_file(handle, lock_path):
            return FileLock(lock_path, handle, was_left=not is_new)
        os.close(handle)
        if has_lock:
            continue
        if wait_for is None:
            return None
        if deadline is not None and time.monotonic() > deadline:
            print(
                f"residua: waiting for another process that writes to {wait_for}", file=sys.stderr
            )
            deadline = None
        time.sleep(POLL_SECONDS)


def release_lock(lock: FileLock) -> None:
    if lock.excludes_others:
        with suppress(OSError):
            lock.path.unlink()
        os.close(lock.handle)


@contextmanager
def try_lock_folder(folder: Path) -> Iterator[bool]:
    """Lock `folder` and yield True, or yield False if another process already holds the lock.

    The lock is released when the `with` block or the process ends.  Where locks do not exist, True
    is yielded.
    """
    lock = acquire_lock(folder / ".lock")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            release_lock(lock)


def is_locked_elsewhere(folder: Path) -> bool:
    """Return whether another process or thread holds the lock of `folder`; nothing is written."""
    if not IS_POSIX:
        return False
    import fcntl

    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may ask, too
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(handle)


def open_lock_file(lock_path: Path) -> tuple[int, bool]:
    """Open the file of a lock; return its handle, and whether the file is new."""
    if not IS_POSIX:
        raise OSError("no locks")
    try:
        return os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        pass
    try:
        return os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), False
    except PermissionError:  # another user's
        return os.open(lock_path, os.O_RDONLY | os.O_NOFOLLOW), False


def try_flock(handle: int) -> bool | None:
    """Lock an open file; False if it is locked already, None if the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_open_file(handle: int, path: Path) -> bool:
    """Return whether `path` still names the file that is open as `handle`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False

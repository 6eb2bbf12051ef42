"""Write files and folders atomically: write to a temporary path, flush to disk, rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file or a folder to; on success it replaces `path`.

    On failure `path` keeps its old content, and the temporary file or folder is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, backup = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    delete_path(temporary)
    try:
        yield temporary
        fsync_tree(temporary)
        if path.is_dir():  # a folder cannot be renamed over one that is not empty
            delete_path(backup)
            os.replace(path, backup)
        try:
            os.replace(temporary, path)
        except BaseException:
            if backup.exists():
                os.replace(backup, path)
            raise
        fsync_directory(path.parent)
    finally:
        delete_path(temporary)
        delete_path(backup)


@contextmanager
def try_lock_folder(folder: Path) -> Iterator[bool]:
    """Lock `folder` and yield True; yield False if another process already holds the lock.

    Only processes on this machine count.  The lock is released when the `with` block or the process
    ends.  On a file system without locks, the result is always True.
    """
    if os.name != "posix":
        yield True
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            acquired = True
        except BlockingIOError:
            acquired = False
        except OSError:  # no locks on this disk
            acquired = True
        yield acquired
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def delete_path(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync_tree(path: Path) -> None:
    """Flush a file, or every file of a folder, to disk."""
    for file in (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())
    if path.is_dir():
        fsync_directory(path)


def fsync_directory(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

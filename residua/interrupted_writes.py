"""Exclude other writers of an output, and clean up after writers that were killed.

Beside an output NAME there may be:

.NAME.lock         the lock of its writer, until the writer is done
.NAME.TOKEN.part   the staging folder of one writer, with a unique TOKEN
.NAME.TOKEN.old    the old folder, while a new one takes its place in two renames

A lock that exists but that no process holds was left by a killed writer.  Whoever takes it next
deletes what else that writer left, and renames the old folder back if NAME is missing.
"""

import errno
import os
import re
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from residua.file_locks import acquire_lock, release_lock

MAX_STEM_BYTES = 200  # of the 255 that a file name may have, so that the endings fit
MAX_READS = 100  # of a folder that other processes keep replacing
MAX_TIMES_MISSING = 3

ReadT = TypeVar("ReadT")
held_locks = threading.local()  # `paths` are the locks that this thread holds


@contextmanager
def hold_output_lock(path: Path) -> Iterator[None]:
    """Keep other processes and threads from writing to `path` inside the context.

    Waits while another one writes, and says so on stderr after a second.  First cleans up what a
    killed writer left.  A thread may hold the same lock several times.  Where locks do not exist
    (Windows, some file systems, folders that cannot be written to), nothing is excluded.
    """
    path = resolve_target(path)
    lock_path = hidden_sibling(path, "lock")
    held_paths: set[Path] = held_locks.__dict__.setdefault("paths", set())
    if lock_path in held_paths:
        yield
        return
    lock = acquire_lock(lock_path, wait_for=path)
    assert lock is not None  # it was waited for
    held_paths.add(lock_path)
    try:
        if lock.was_left or has_unlocked_left_overs(path):
            restore_replaced_folder(path)
            if lock.excludes_others:
                delete_left_overs(path)
        yield
    finally:
        held_paths.discard(lock_path)
        release_lock(lock)


def recover_interrupted(path: Path) -> None:
    """Rename the old folder back to `path` if a killed writer had moved it away.

    Call this before reading a folder that may be replaced.  Waits for a live writer that is between
    its two renames.
    """
    if path.exists():
        return
    with suppress(OSError):  # e.g. the parent is missing, too, or cannot be written to
        target = resolve_target(path)
        if find_replaced_folders(target):
            with hold_output_lock(target):
                restore_replaced_folder(target)


def read_undisturbed(folder: Path, read: Callable[[], ReadT]) -> ReadT:
    """Return `read()`, which reads several files, all from the same version of `folder`.

    If another process replaces or changes the folder meanwhile, `read` is called again.
    """
    times_missing = 0
    for _ in range(MAX_READS):
        recover_interrupted(folder)
        before = identify_folder(folder)
        try:
            content = read()
        except Exception:
            is_undisturbed = identify_folder(folder) == before
            times_missing += before is None
            # once may be a moment between two renames
            if is_undisturbed and (before is not None or times_missing == MAX_TIMES_MISSING):
                raise
        else:
            if identify_folder(folder) == before:
                return content
    return read()


def identify_folder(folder: Path) -> tuple[int, int, int] | None:
    """Return a value that changes if a folder is replaced or gets files; None if it is missing."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def clean_up_interrupted_writes(folder: Path) -> None:
    """Delete what killed writers left in `folder`, whatever the names of their outputs.

    This is for folders in which a name is seldom written twice, so that no later writer of that
    name would clean up.
    """
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if re.fullmatch(r"\..+\.lock", name) and (lock := acquire_lock(folder / name)):
            path = folder / name[1:].removesuffix(".lock")
            try:
                restore_replaced_folder(path)
                if lock.excludes_others:
                    delete_left_overs(path)
            finally:
                release_lock(lock)


def restore_replaced_folder(path: Path) -> None:
    """If `path` is missing, rename back the old folder that a killed writer moved away."""
    if not os.path.lexists(path) and (replaced := find_replaced_folders(path)):
        os.rename(max(replaced, key=lambda folder: folder.stat().st_ctime_ns), path)
        print(
            f"residua: restored {path}: it was being replaced by a killed process", file=sys.stderr
        )


def delete_left_overs(path: Path) -> None:
    """Delete what writers of `path` left; the caller holds the lock, so no writer is live."""
    for left_over in list_left_overs(path):
        # under a name that is never renamed back, since a kill may leave it half deleted
        doomed = hidden_sibling(path, f"{make_token()}.part")
        with suppress(OSError):
            os.rename(left_over, doomed)
            delete_path(doomed)


def find_replaced_folders(path: Path) -> list[Path]:
    return [left_over for left_over in list_left_overs(path) if left_over.suffix == ".old"]


def list_left_overs(path: Path) -> list[Path]:
    """List the staging and old folders beside `path` that belong to its writers, live or killed."""
    pattern = re.escape(hidden_stem(path.name)) + r"(\.\d+-[0-9a-f]{8})?\.(part|old)"
    names = os.listdir(path.parent)
    return [path.parent / name for name in names if re.fullmatch(pattern, name)]


def find_output_of_staging_folder(path: Path) -> Path | None:
    """Find the output of the writer to whom a staging or old folder belongs; None for others."""
    match = re.fullmatch(r"\.(.+)\.\d+-[0-9a-f]{8}\.(part|old)", path.name)
    return path.with_name(match[1]) if match else None


def has_unlocked_left_overs(path: Path) -> bool:
    """Return whether a killed writer of version 0.1 (without locks) left files beside `path`."""
    return any(os.path.lexists(hidden_sibling(path, ending)) for ending in ("part", "old"))


def hidden_sibling(path: Path, ending: str) -> Path:
    return path.with_name(f"{hidden_stem(path.name)}.{ending}")


def hidden_stem(name: str) -> str:
    """Return `.NAME`; NAME is cut if it leaves no room for a suffix within a file name."""
    if len(os.fsencode(name)) <= MAX_STEM_BYTES:
        return f".{name}"
    return f".{name[:40]}~{zlib.crc32(os.fsencode(name)):08x}"


def make_token() -> str:
    """Make a text that no other writer has."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def resolve_target(path: Path) -> Path:
    """Return the absolute path to which a write to `path` goes; OSError if links form a circle."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def delete_path(path: Path) -> None:
    """Delete a file, a link or a folder; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

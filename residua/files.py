"""Write files and folders so that nobody reads half of one, and a kill at any moment is harmless.

All writing goes through this module.  A writer holds the lock of its output, writes to a hidden
staging folder beside it, flushes that to disk, and puts the result in place in one step.
`interrupted_writes` describes what a killed writer leaves, and cleans it up.
"""

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from residua.errors import UsageError
from residua.file_locks import is_locked_elsewhere as is_locked_elsewhere
from residua.file_locks import try_lock_folder as try_lock_folder
from residua.file_names import encode_utf8
from residua.interrupted_writes import clean_up_interrupted_writes as clean_up_interrupted_writes
from residua.interrupted_writes import delete_path as delete_path
from residua.interrupted_writes import (
    find_output_of_staging_folder as find_output_of_staging_folder,
)
from residua.interrupted_writes import hidden_sibling, make_token, resolve_target
from residua.interrupted_writes import hold_output_lock as hold_output_lock
from residua.interrupted_writes import read_undisturbed as read_undisturbed
from residua.interrupted_writes import recover_interrupted as recover_interrupted

IS_POSIX = os.name == "posix"
FULL_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
MAX_RENAMES = 10  # attempts, where no lock keeps other processes from undoing the first one


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new file or folder, which is put at `path` on success.

    On failure `path` keeps its old content.  Other files may be written beside the temporary path,
    and are deleted in the end.  If `path` is a link, what it refers to is replaced.  A file gets
    the permissions of the one that it replaces, or those that `open` gives.  Waits for other
    processes that write to `path`.  Raises OSError, which names `path`, if it cannot be written.
    """
    target = resolve_target(path)
    with make_parent_folders(path), hold_output_lock(target):
        require_replaceable(path, target)
        token = make_token()
        staging = hidden_sibling(target, f"{token}.part")
        temporary = staging / target.name
        try:
            with name_target_in_errors(path, staging):
                folder_mode = make_private_folder(staging)
                yield temporary
                set_permissions(temporary, target, folder_mode)
                fsync_tree(temporary)
                if target.is_dir() and temporary.is_dir():
                    replace_folder(temporary, target, hidden_sibling(target, f"{token}.old"))
                else:
                    os.replace(temporary, target)
                fsync_directory(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode_utf8(text))


def write_json(path: Path, value: object) -> None:
    write_text(path, render_json(value))


def render_json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def write_text_files(folder: Path, texts: dict[str, str]) -> None:
    """Write several files, given by their paths in `folder`, in this order.

    Two processes that write the same files do so one after the other, so that their files are never
    mixed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold_output_lock(folder / next(reversed(texts))):
        for name, text in texts.items():
            write_text(folder / name, text)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file that no other process writes; after an error the file is as before.

    A kill may leave a part of the line, which has no newline; the next call deletes it.
    """
    data = f"{line}\n".encode()
    with open(path, "ab+", buffering=0) as file:
        end = find_end_of_lines(file)
        file.truncate(end)
        append_or_restore(file, data, end, path)


def append_bytes(path: Path, data: bytes) -> None:
    """Append to a file that no other process writes; after an error the file is as before."""
    with open(path, "ab", buffering=0) as file:
        append_or_restore(file, data, file.seek(0, os.SEEK_END), path)


def append_or_restore(file: FileIO, data: bytes, end: int, path: Path) -> None:
    """Append to an open file that ends at `end`; after an error it ends there again."""
    try:
        if file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except BaseException:
        file.truncate(end)
        raise


def find_end_of_lines(file: IO[bytes]) -> int:
    """Find the position after the last newline of an open file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) in (b"", b"\n"):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def holds_visible_entries(folder: Path) -> bool:
    """Return whether a folder holds anything but hidden files, such as those of killed writers."""
    return any(not name.startswith(".") for name in os.listdir(folder))


@contextmanager
def claim_new_output(path: Path) -> Iterator[None]:
    """Keep other processes from writing to `path` inside the context; `path` must not exist yet.

    Waits while another process writes to it.  Raises UsageError if `path` exists.
    """
    with make_parent_folders(path), hold_output_lock(path):
        if os.path.lexists(path):
            raise UsageError(f"{path} already exists: choose another --out")
        yield


@contextmanager
def make_parent_folders(path: Path) -> Iterator[None]:
    """Make the folders that are to contain `path`; after an error, delete those that are empty.

    If `path` is a link, nothing is made: a link to a missing folder is a mistake.
    """
    new_folders = [] if path.is_symlink() else [p for p in path.parents if not p.exists()]
    if new_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()
        raise


def require_writable_file(path: Path) -> None:
    """Raise OSError, before long work, if no file can be written at `path`; nothing is kept."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    target = resolve_target(path)
    require_replaceable(path, target)
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    with TemporaryFile(dir=folder):
        pass


def require_replaceable(path: Path, target: Path) -> None:
    """Raise OSError if `target`, to which `path` refers, exists and must not be replaced."""
    if not target.exists():
        return
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if os.path.ismount(target):
        raise OSError(errno.EBUSY, "a mount point cannot be replaced", str(path))


@contextmanager
def name_target_in_errors(path: Path, staging: Path) -> Iterator[None]:
    """Give an OSError about a file in `staging`, or about a full disk, the file name `path`."""
    try:
        yield
    except OSError as error:
        is_unnamed = error.filename is None and error.errno in FULL_DISK_ERRORS
        if is_unnamed or staging.name in str(error.filename):
            error.filename, error.filename2 = str(path), None
        raise


def replace_folder(new: Path, target: Path, backup: Path) -> None:
    """Put the folder `new` in the place of the folder `target`, whose old content is then at `new`.

    Linux exchanges the two in one step.  On other systems, `target` is first renamed to `backup`.
    """
    if exchange_paths(new, target):
        return
    for attempt in range(MAX_RENAMES):
        try:
            os.rename(target, backup)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EBUSY):  # e.g. a folder of a container's image
                reason = "the file system cannot replace this folder"
                raise OSError(error.errno, reason, str(target)) from error
            raise
        try:
            os.rename(new, target)
            break
        except OSError as error:
            is_occupied = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not is_occupied or attempt == MAX_RENAMES - 1:
                os.rename(backup, target)
                raise
    os.rename(backup, new)


def exchange_paths(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; where this is impossible, do nothing and return False."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # absent from old C libraries
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and not renameat2(
        AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE
    )


def make_private_folder(folder: Path) -> int:
    """Make a folder for this user alone; return the permissions that a new folder has otherwise."""
    folder.mkdir()
    mode = folder.stat().st_mode & 0o777
    folder.chmod(0o700)
    return mode


def set_permissions(new: Path, target: Path, folder_mode: int) -> None:
    """Give `new` the permissions of `target`, which it replaces, or those that `open` gives.

    Without this, files would stay unreadable to others if a library writes them for the owner
    alone.  `folder_mode` holds the permissions of a new folder, from which those of a file follow.
    The umask itself is not read, because it can be read only by setting it, for all threads.
    """
    if not IS_POSIX:
        return
    for file in list_files(new):
        mode = stat.S_IMODE(file.stat().st_mode)
        usual_mode = folder_mode if mode & 0o100 else folder_mode & 0o666
        if mode != usual_mode:
            file.chmod(usual_mode)
    if target.exists() and target.is_dir() == new.is_dir():
        shutil.copymode(target, new)


def fsync_tree(path: Path) -> None:
    """Flush a file, or all files and folders below a folder, to disk."""
    for file in list_files(path):
        fsync_file(file)
    for folder in [path, *path.rglob("*")] if path.is_dir() else []:
        if folder.is_dir():
            fsync_directory(folder)


def list_files(path: Path) -> list[Path]:
    """List the files below a folder, or the file itself; linked files belong to others."""
    if not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]


def fsync_file(path: Path) -> None:
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def fsync_directory(folder: Path) -> None:
    if IS_POSIX:  # other systems cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Find, list and empty the cache: downloads and decoded images, which can all be made again."""

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from residua.files import delete_path, find_output_of_staging_folder, hold_output_lock, list_files

KINDS_BY_FOLDER = {
    "weights": "weights",
    "images": "decoded images",
    "photos": "whole photographs",
    "digests": "digests of files",
    "shards": "members of shards",
    "remote": "remote data",
    "datasets": "converted data set",
    "kernels": "compiled kernels",
}
"""What is in the folders of the cache; any other folder is a published data set."""
SUM_SUFFIX = ".sha256"
DOWNLOAD_NAME = re.compile(r"\.(.+)\.download")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file or a folder of the cache: its path in the cache, its size, and what it is."""

    name: str
    bytes: int
    kind: str


def get_cache_dir() -> Path:
    """Return the cache folder: $XDG_CACHE_HOME/residua, by default ~/.cache/residua."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "residua"


def list_cached_files(pattern: str = "*") -> list[CachedFile]:
    """List what is in the cache and matches a shell pattern by name, sorted by name.

    A folder whose files belong together, such as a data set, is listed as one; interrupted
    downloads are listed, too.
    """
    files = [
        CachedFile(str(path.relative_to(get_cache_dir())), measure_size(path), kind)
        for path, kind in list_cached_paths()
    ]
    return sorted(
        (file for file in files if fnmatch(file.name, pattern)), key=lambda file: file.name
    )


def list_cached_paths() -> list[tuple[Path, str]]:
    """List the files and folders that `list_cached_files` describes, with their kinds."""
    paths: list[tuple[Path, str]] = []
    for path in list_folder(get_cache_dir()):
        kind = KINDS_BY_FOLDER.get(path.name)
        if kind and path.is_dir():
            paths += [(inner, kind) for inner in list_folder(path)]
        else:
            paths.append((path, "data set"))
    return paths


def list_folder(folder: Path) -> list[Path]:
    """List what is in a folder, without the locks of live writers; [] if there is none."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def measure_size(path: Path) -> int:
    """Add up the bytes of a file, or of all files below a folder; links count nothing."""
    return sum(file.stat().st_size for file in list_files(path) if not file.is_symlink())


def clear_cache(pattern: str = "*") -> list[CachedFile]:
    """Delete what is in the cache and matches a shell pattern by name; return what was deleted.

    Waits for a process that is writing to one of the files, or that is downloading it.  Recorded
    SHA-256 sums are kept, so that they are demanded again, unless the pattern ends in .sha256.
    """
    deleted = []
    for file in list_cached_files(pattern):
        if file.name.endswith(SUM_SUFFIX) and not pattern.endswith(SUM_SUFFIX):
            continue
        path = get_cache_dir() / file.name
        with hold_output_lock(find_written_path(path)):
            if os.path.lexists(path):
                delete_path(path)
                deleted.append(file)
    return deleted


def find_written_path(path: Path) -> Path:
    """Return the output whose writer holds the lock that protects `path`: mostly `path` itself.

    Hidden files and folders are those of a download, or of another writer.
    """
    if match := DOWNLOAD_NAME.fullmatch(path.name):
        return path.with_name(match[1])
    return find_output_of_staging_folder(path) or path

"""How much memory this machine has, and how much memory and disk space is free."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from residua.errors import DataError


def free_memory_bytes(filesystem_root: Path = Path("/")) -> int | None:
    """Return the memory, in bytes, that this process can still allocate; None if it is unknown.

    Both the machine and the cgroups of the process (containers) may limit it.  Their limits are
    read from files below `filesystem_root`.
    """
    limits = list(iter_cgroup_free_bytes(filesystem_root))
    limits += read_meminfo(filesystem_root, "MemAvailable:")
    return max(min(limits), 0) if limits else None


def total_memory_bytes(filesystem_root: Path = Path("/")) -> int | None:
    """Return the memory, in bytes, that this process may use at most; None if it is unknown.

    Unlike `free_memory_bytes`, it does not depend on what else runs on the machine.
    """
    limits = read_meminfo(filesystem_root, "MemTotal:")
    for cgroup, names in iter_cgroups(filesystem_root):
        with suppress(OSError, ValueError):
            limits.append(int((cgroup / names.limit).read_text()))
    return min(limits) if limits else None


def read_meminfo(filesystem_root: Path, name: str) -> list[int]:
    """Read a number of bytes from /proc/meminfo; [] if it is not there."""
    try:
        lines = (filesystem_root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return []
    return [1024 * int(words[1]) for words in map(str.split, lines) if words[:1] == [name]]


class CgroupFiles(NamedTuple):
    """The names of a cgroup's files, and those of what the kernel can drop in memory.stat."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


def iter_cgroups(filesystem_root: Path) -> Iterator[tuple[Path, CgroupFiles]]:
    """Yield the folder of each cgroup of this process that may limit memory (versions 1 and 2)."""
    try:
        lines = (filesystem_root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            hierarchy_root = filesystem_root / "sys/fs/cgroup"
            names = CgroupFiles(
                "memory.max",
                "memory.current",
                ("inactive_file", "active_file", "slab_reclaimable"),
            )
        elif "memory" in controllers.split(","):
            hierarchy_root = filesystem_root / "sys/fs/cgroup/memory"
            names = CgroupFiles(
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                ("total_inactive_file", "total_active_file"),
            )
        else:
            continue
        own_cgroup = hierarchy_root / path.strip("/")
        for cgroup in (own_cgroup, *own_cgroup.parents):
            if cgroup == hierarchy_root.parent:
                break
            yield cgroup, names


def iter_cgroup_free_bytes(filesystem_root: Path) -> Iterator[int]:
    """Yield the bytes left in each memory-limited cgroup of this process.

    File caches count as free, because the kernel drops them when memory is needed, as they do in
    MemAvailable of the machine.  That of files which training reads again is an active one.
    """
    for cgroup, names in iter_cgroups(filesystem_root):
        # A cgroup without a limit lacks the files (OSError) or says "max" (ValueError).
        with suppress(OSError, ValueError):
            limit, used = [int((cgroup / name).read_text()) for name in (names.limit, names.usage)]
            memory_stat = dict(
                line.split() for line in (cgroup / "memory.stat").read_text().splitlines()
            )
            yield limit - used + sum(int(memory_stat.get(key, 0)) for key in names.reclaimable)


def free_disk_bytes(folder: Path) -> int:
    """Return the disk space, in bytes, that is free for files in `folder`."""
    return shutil.disk_usage(folder).free


def require_memory_beside_cache(
    image_count: int, needed_bytes: int, cache_root: Path, cache_error: OSError, way_on: str
) -> None:
    """Raise DataError if images need more than half of the free memory; it ends with `way_on`.

    The message names `cache_error`, the reason why the images could not be cached on disk.
    """
    free_memory = free_memory_bytes()
    if free_memory is None or needed_bytes <= free_memory // 2:
        return
    raise DataError(
        f"{image_count:,} photographs need {format_bytes(needed_bytes)}, which is more than the "
        f"free memory allows, and they cannot be cached in {cache_root} "
        f"({cache_error.strerror or cache_error}): set XDG_CACHE_HOME to a folder with more "
        f"space, or {way_on}"
    ) from cache_error


def format_bytes(byte_count: int) -> str:
    """Format a number of bytes for reading, such as `560 MiB` or `1.4 GiB`."""
    if byte_count >= 2**30:
        return f"{byte_count / 2**30:,.1f} GiB"
    return f"{byte_count / 2**20:,.0f} MiB"

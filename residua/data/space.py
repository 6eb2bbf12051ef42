"""How much memory and disk space is free on this machine."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def free_memory_bytes(filesystem_root: Path = Path("/")) -> int | None:
    """Return the memory, in bytes, that this process can still allocate; None if it is unknown.

    Both the machine and the cgroups of the process (containers) may limit it.  Their limits are
    read from files below `filesystem_root`.
    """
    limits = list(iter_cgroup_free_bytes(filesystem_root))
    with suppress(OSError):
        meminfo_lines = (
            line.split() for line in (filesystem_root / "proc/meminfo").read_text().splitlines()
        )
        limits += [1024 * int(words[1]) for words in meminfo_lines if words[0] == "MemAvailable:"]
    return max(min(limits), 0) if limits else None


def iter_cgroup_free_bytes(filesystem_root: Path) -> Iterator[int]:
    """Yield the bytes left in each memory-limited cgroup of this process (cgroup v1 and v2).

    File caches that were not used recently count as free, because the kernel can drop them.
    """
    try:
        lines = (filesystem_root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            hierarchy_root = filesystem_root / "sys/fs/cgroup"
            limit_file, usage_file, cache_key = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            hierarchy_root = filesystem_root / "sys/fs/cgroup/memory"
            limit_file, usage_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache_key = "total_inactive_file"
        else:
            continue
        own_cgroup = hierarchy_root / path.strip("/")
        for cgroup in (own_cgroup, *own_cgroup.parents):
            if cgroup == hierarchy_root.parent:
                break
            # A cgroup without a limit lacks the files (OSError) or says "max" (ValueError).
            with suppress(OSError, ValueError):
                limit, used = [
                    int((cgroup / name).read_text()) for name in (limit_file, usage_file)
                ]
                memory_stat = dict(
                    line.split() for line in (cgroup / "memory.stat").read_text().splitlines()
                )
                yield limit - used + int(memory_stat[cache_key])


def free_disk_bytes(folder: Path) -> int:
    """Return the disk space, in bytes, that is free for files in `folder`."""
    return shutil.disk_usage(folder).free


def format_bytes(byte_count: int) -> str:
    """Format a number of bytes for reading, such as `560 MiB` or `1.4 GiB`."""
    if byte_count >= 2**30:
        return f"{byte_count / 2**30:,.1f} GiB"
    return f"{byte_count / 2**20:,.0f} MiB"

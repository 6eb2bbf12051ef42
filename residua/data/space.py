"""How much memory and disk is free."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def free_memory_bytes(filesystem_root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take of the machine's memory under `root`; None where nobody says."""
    limits = list(iter_cgroup_free_bytes(filesystem_root))
    with suppress(OSError):
        meminfo_lines = (
            line.split() for line in (filesystem_root / "proc/meminfo").read_text().splitlines()
        )
        limits += [1024 * int(words[1]) for words in meminfo_lines if words[0] == "MemAvailable:"]
    return max(min(limits), 0) if limits else None


def iter_cgroup_free_bytes(filesystem_root: Path) -> Iterator[int]:
    """Bytes that each of the process's cgroups leaves it, of version 2 and 1, where it has a limit.

    What a group caches of files and has not used lately can be taken back, and is not counted.
    """
    try:
        lines = (filesystem_root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            hierarchy_root, file_names = (
                filesystem_root / "sys/fs/cgroup",
                ("memory.max", "memory.current", "inactive_file"),
            )
        elif "memory" in controllers.split(","):
            hierarchy_root, file_names = (
                filesystem_root / "sys/fs/cgroup/memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        own_cgroup = hierarchy_root / path.strip("/")
        for cgroup in (own_cgroup, *own_cgroup.parents):
            if cgroup == hierarchy_root.parent:
                break
            with suppress(
                OSError, ValueError
            ):  # no such file: not limited here; "max" is no number: not limited
                limit, used = (int((cgroup / name).read_text()) for name in file_names[:2])
                memory_stat = dict(
                    line.split() for line in (cgroup / "memory.stat").read_text().splitlines()
                )
                yield limit - used + int(memory_stat[file_names[2]])


def free_disk_bytes(folder: Path) -> int:
    """Bytes that can still be written into a folder."""
    return shutil.disk_usage(folder).free


def format_bytes(byte_count: int) -> str:
    """`560 MiB`, `1.4 GiB`."""
    return (
        f"{byte_count / 2**30:,.1f} GiB"
        if byte_count >= 2**30
        else f"{byte_count / 2**20:,.0f} MiB"
    )

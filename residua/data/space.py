"""How much memory and disk is free."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take of the machine's memory under `root`; None where nobody says."""
    limits = list(control_groups(root))
    with suppress(OSError):
        facts = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        limits += [1024 * int(words[1]) for words in facts if words[0] == "MemAvailable:"]
    return max(min(limits), 0) if limits else None


def control_groups(root: Path) -> Iterator[int]:
    """Bytes that each of the process's cgroups leaves it, of version 2 and 1, where it has a limit.

    What a group caches of files and has not used lately can be taken back, and is not counted.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.strip("/")
        for place in (folder, *folder.parents):
            if place == top.parent:
                break
            with suppress(OSError, ValueError):  # no such file: not limited here; "max" is no number: not limited
                limit, used = (int((place / name).read_text()) for name in names[:2])
                caches = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                yield limit - used + int(caches[names[2]])


def free_disk(folder: Path) -> int:
    """Bytes that can still be written into a folder."""
    return shutil.disk_usage(folder).free


def binary(count: int) -> str:
    """`560 MiB`, `1.4 GiB`."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"

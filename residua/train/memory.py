"""Whether the memory for a run is there, before it begins."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from residua.data.folder import data_of, side_kept
from residua.errors import TrainingError
from residua.spec.dataset import Dataset
from residua.spec.memory import RECOMPUTES, Memory, data_bytes, run_memory
from residua.spec.plan import Plan
from residua.spec.run import Run
from residua.train.machine import Machine


def foreseen(run: Run, planned: Plan, machine: Machine, batch_size: int = 0) -> Memory:
    """What a run needs on a machine, or would need with another batch."""
    recipe = run.recipe_for(planned.depth)
    batch = max((batch_size or recipe.batch_size) // max(recipe.parts, machine.group.size), 1)
    return run_memory(
        planned,
        recipe,
        data_of(run.dataset, run.network.input),
        batch,
        machine.recompute,
        machine.precision == "bf16",
        machine.device.type == "cpu",
    )


def sentence(run: Run, planned: Plan, machine: Machine) -> str:
    """The memory that a run needs, and that there is."""
    memory, free = foreseen(run, planned, machine), available(machine.device)
    weights = f"weights, gradients and momentum {binary(memory.weights)}"
    parts = f"activations {binary(memory.activations)}, {weights}, data {binary(memory.data)}"
    there = "" if free is None else f"; {binary(free)} are free"
    return f"memory {binary(memory.total)} with --recompute {machine.recompute}: {parts}{there}"


def refuse_too_large(run: Run, planned: Plan, machine: Machine) -> None:
    """TrainingError, with what would fit, where a run needs more memory than there is."""
    need, free = foreseen(run, planned, machine).total, available(machine.device)
    if free is not None and need > free:
        fitting = remedy(run, planned, machine, free)
        raise TrainingError(f"{run.network.name} needs {binary(need)} of memory, and {binary(free)} are free: {fitting}")


def remedy(run: Run, planned: Plan, machine: Machine, free: int) -> str:
    """The way to recompute that needs least, if that fits; or else with it the largest batch that fits.

    Where photographs alone fill half of what is free, squares of them that do not.
    """
    data = data_of(run.dataset, run.network.input)
    if data.kind == "folder" and data_bytes(data, 0) > free // 2:
        return smaller(data, free // 2)
    ways = [replace(machine, recompute=by) for by in RECOMPUTES]
    needs = [foreseen(run, planned, way).total for way in ways]
    need, best = min(needs), ways[needs.index(min(needs))]
    if need <= free:
        return f"add --recompute {best.recompute}, which needs {binary(need)}"
    fits, too_many = 0, run.recipe_for(planned.depth).batch_size
    while too_many - fits > 1:
        batch = (fits + too_many) // 2
        if foreseen(run, planned, best, batch).total <= free:
            fits = batch
        else:
            too_many = batch
    return f"add --recompute {best.recompute} --set batch_size={fits}" if fits else "not even a batch of one image fits"


def smaller(data: Dataset, most: int) -> str:
    """The largest squares of photographs that fit into so many bytes."""
    need = f"{data.images:,} photographs of {data.input[1]} x {data.input[2]} pixels alone need {binary(data_bytes(data, 0))}"
    for side in range(data.input[1] - 1, 15, -1):
        if data_bytes(replace(data, input=(data.input[0], side, side), resize=side_kept(side)), 0) <= most:
            return f"{need}, so add --size {side}"
    return f"{need}, so give fewer of them"


def available(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take, of a GPU's memory or the machine's under `root`; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
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


def binary(count: int) -> str:
    """`560 MiB`, `1.4 GiB`."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"

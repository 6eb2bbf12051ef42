"""Whether the memory for a run is there, before it begins."""

from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from residua.data.folder import data_of, side_within
from residua.data.space import binary, free_memory
from residua.errors import TrainingError
from residua.spec.dataset import Dataset
from residua.spec.memory import RECOMPUTES, Memory, data_bytes, run_memory
from residua.spec.plan import Plan
from residua.spec.run import Run
from residua.train.machine import Machine


def foreseen(run: Run, planned: Plan, machine: Machine, batch_size: int = 0) -> Memory:
    """What a run needs on a machine, or would need with another batch; images that are read from disk are not counted."""
    recipe, data = run.recipe_for(planned.depth), data_of(run.dataset, run.network.input)
    batch = max((batch_size or recipe.batch_size) // max(recipe.parts, machine.group.size), 1)
    memory = run_memory(
        planned, recipe, data, batch, machine.recompute, machine.precision == "bf16", machine.device.type == "cpu"
    )  # fmt: skip
    return replace(memory, data=memory.data - bytes_on_disk(data, machine))


def bytes_on_disk(data: Dataset, machine: Machine) -> int:
    """Of photographs that fill more than half of a CPU's memory: the system reads them from the cache as they are wanted."""
    free, count = available(machine.device), prod(data.kept) * data.images
    large = free is not None and count > free // 2
    return count if data.kind == "folder" and machine.device.type == "cpu" and large else 0


def sentence(run: Run, planned: Plan, machine: Machine) -> str:
    """The memory that a run needs, and that there is."""
    memory, free = foreseen(run, planned, machine), available(machine.device)
    weights = f"weights, gradients and momentum {binary(memory.weights)}"
    parts = f"activations {binary(memory.activations)}, {weights}, data {binary(memory.data)}"
    there = "" if free is None else f"; {binary(free)} are free"
    disk = bytes_on_disk(data_of(run.dataset, run.network.input), machine)
    there += f"; {binary(disk)} of images are read from the disk again and again" if disk else ""
    return f"memory {binary(memory.total)} with --recompute {machine.recompute}: {parts}{there}"


def refuse_too_large(run: Run, planned: Plan, machine: Machine) -> None:
    """TrainingError, with what would fit, where a run needs more memory than there is."""
    need, free = foreseen(run, planned, machine).total, available(machine.device)
    if free is not None and need > free:
        fitting = remedy(run, planned, machine, free)
        raise TrainingError(f"{run.network.name} needs {binary(need)} of memory, and {binary(free)} are free: {fitting}")


def remedy(run: Run, planned: Plan, machine: Machine, free: int) -> str:
    """The way to recompute that needs least, if that fits; or else with it the largest batch that fits.

    Where photographs alone fill half of a GPU's memory, squares of them that do not.
    """
    data = data_of(run.dataset, run.network.input)
    if data.kind == "folder" and data_bytes(data, 0) - bytes_on_disk(data, machine) > free // 2:
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
    labels = data_bytes(data, 0) - prod(data.kept) * data.images
    if side := side_within(data.images, data.input[0], most - labels):
        return f"{need}, so add --size {side}"
    return f"{need}, so give fewer of them"


def available(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take, of a GPU's memory or the machine's under `root`; None where nobody says."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory(root)

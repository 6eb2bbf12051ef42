"""Whether the memory for a run is there, before it begins."""

from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from residua.config.dataset import Dataset
from residua.config.memory import (
    RECOMPUTE_MODES,
    MemoryEstimate,
    estimate_data_bytes,
    estimate_run_memory,
)
from residua.config.plan import Plan
from residua.config.run import Run
from residua.data.sources.image_folder import largest_side_that_fits, resolve_dataset
from residua.data.space import format_bytes, free_memory_bytes
from residua.errors import TrainingError
from residua.training.machine import Machine


def estimate_memory_on_machine(
    run: Run, network_plan: Plan, machine: Machine, batch_size: int = 0
) -> MemoryEstimate:
    """What a run needs on a machine, or would need with another batch; images that are read from disk are not counted."""
    recipe, data = (
        run.recipe_for_depth(network_plan.depth),
        resolve_dataset(run.dataset, run.network.input),
    )
    local_batch_size = max(
        (batch_size or recipe.batch_size) // max(recipe.bn_splits, machine.group.world_size), 1
    )
    memory = estimate_run_memory(
        network_plan,
        recipe,
        data,
        local_batch_size,
        machine.recompute,
        machine.precision == "bf16",
        machine.device.type == "cpu",
    )
    return replace(memory, data=memory.data - disk_backed_bytes(data, machine))


def disk_backed_bytes(data: Dataset, machine: Machine) -> int:
    """Of photographs that fill more than half of a CPU's memory: the system reads them from the cache as they are wanted."""
    free_bytes, image_bytes = (
        available_memory(machine.device),
        prod(data.stored_shape) * data.num_images,
    )
    exceeds_half_memory = free_bytes is not None and image_bytes > free_bytes // 2
    return (
        image_bytes
        if data.kind == "folder" and machine.device.type == "cpu" and exceeds_half_memory
        else 0
    )


def describe_memory(run: Run, network_plan: Plan, machine: Machine) -> str:
    """The memory that a run needs, and that there is."""
    memory, free_bytes = (
        estimate_memory_on_machine(run, network_plan, machine),
        available_memory(machine.device),
    )
    weights = f"weights, gradients and momentum {format_bytes(memory.weights)}"
    parts = f"activations {format_bytes(memory.activations)}, {weights}, data {format_bytes(memory.data)}"
    availability = "" if free_bytes is None else f"; {format_bytes(free_bytes)} are free"
    disk_bytes = disk_backed_bytes(resolve_dataset(run.dataset, run.network.input), machine)
    availability += (
        f"; {format_bytes(disk_bytes)} of images are read from the disk again and again"
        if disk_bytes
        else ""
    )
    return f"memory {format_bytes(memory.total)} with --recompute {machine.recompute}: {parts}{availability}"


def require_enough_memory(run: Run, network_plan: Plan, machine: Machine) -> None:
    """TrainingError, with what would fit, where a run needs more memory than there is."""
    needed_bytes, free_bytes = (
        estimate_memory_on_machine(run, network_plan, machine).total,
        available_memory(machine.device),
    )
    if free_bytes is not None and needed_bytes > free_bytes:
        suggestion = suggest_memory_fix(run, network_plan, machine, free_bytes)
        raise TrainingError(
            f"{run.network.name} needs {format_bytes(needed_bytes)} of memory, and {format_bytes(free_bytes)} are free: {suggestion}"
        )


def suggest_memory_fix(run: Run, network_plan: Plan, machine: Machine, free_bytes: int) -> str:
    """The way to recompute that needs least, if that fits; or else with it the largest batch that fits.

    Where photographs alone fill half of a GPU's memory, squares of them that do not.
    """
    data = resolve_dataset(run.dataset, run.network.input)
    if (
        data.kind == "folder"
        and estimate_data_bytes(data, 0) - disk_backed_bytes(data, machine) > free_bytes // 2
    ):
        return suggest_smaller_images(data, free_bytes // 2)
    candidates = [replace(machine, recompute=recompute) for recompute in RECOMPUTE_MODES]
    candidate_bytes = [
        estimate_memory_on_machine(run, network_plan, candidate).total for candidate in candidates
    ]
    least_bytes, leanest = (
        min(candidate_bytes),
        candidates[candidate_bytes.index(min(candidate_bytes))],
    )
    if least_bytes <= free_bytes:
        return f"add --recompute {leanest.recompute}, which needs {format_bytes(least_bytes)}"
    fitting_batch_size, failing_batch_size = 0, run.recipe_for_depth(network_plan.depth).batch_size
    while failing_batch_size - fitting_batch_size > 1:
        batch_size = (fitting_batch_size + failing_batch_size) // 2
        if estimate_memory_on_machine(run, network_plan, leanest, batch_size).total <= free_bytes:
            fitting_batch_size = batch_size
        else:
            failing_batch_size = batch_size
    return (
        f"add --recompute {leanest.recompute} --set batch_size={fitting_batch_size}"
        if fitting_batch_size
        else "not even a batch of one image fits"
    )


def suggest_smaller_images(data: Dataset, max_bytes: int) -> str:
    """The largest squares of photographs that fit into so many bytes."""
    needed_text = f"{data.num_images:,} photographs of {data.input[1]} x {data.input[2]} pixels alone need {format_bytes(estimate_data_bytes(data, 0))}"
    label_bytes = estimate_data_bytes(data, 0) - prod(data.stored_shape) * data.num_images
    if side := largest_side_that_fits(data.num_images, data.input[0], max_bytes - label_bytes):
        return f"{needed_text}, so add --size {side}"
    return f"{needed_text}, so give fewer of them"


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that the process can still take, of a GPU's memory or the machine's under `root`; None where nobody says."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes(root)

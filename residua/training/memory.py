"""Compare the memory that a run needs with the memory that is free, before the run begins."""

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
from residua.data.sources.resolve import largest_side_that_fits
from residua.data.space import format_bytes, free_memory_bytes
from residua.errors import TrainingError
from residua.training.cuda_graph import CAPTURE_LOCK
from residua.training.machine import Machine


def estimate_memory_on_machine(
    run: Run, network_plan: Plan, data: Dataset, machine: Machine, batch_size: int = 0
) -> MemoryEstimate:
    """Estimate the memory in bytes that one process of a run needs.

    A nonzero `batch_size` replaces that of the recipe.  Images that are mapped from disk are not
    counted (see `disk_backed_bytes`).
    """
    recipe = run.recipe_without_unneeded_warmup(network_plan.depth)
    ranks_per_split = max(machine.group.world_size // recipe.bn_splits, 1)
    # the largest share of a rank in a BN split
    local_batch_size = -(-(batch_size or recipe.batch_size) // (recipe.bn_splits * ranks_per_split))
    memory = estimate_run_memory(
        network_plan,
        recipe,
        data,
        local_batch_size,
        machine.recompute,
        machine.precision == "bf16",
        machine.device.type == "cpu",
        keeps_step_memory=machine.device.type == "cuda",
    )
    return replace(memory, data=memory.data - disk_backed_bytes(data, machine))


def disk_backed_bytes(data: Dataset, machine: Machine) -> int:
    """Return the size in bytes of the images that are mapped from disk and can leave memory.

    The operating system reads these images from the on-disk cache when needed, and may evict them.
    The size is 0 unless the data set is a folder of photos that are kept as squares, training is
    on a CPU, and the images fill more than half of the free memory.
    """
    free_bytes = available_memory(machine.device)
    image_bytes = prod(data.stored_shape) * data.num_images
    exceeds_half_memory = free_bytes is not None and image_bytes > free_bytes // 2
    is_mapped = data.kind == "folder" and not data.is_streamed and machine.device.type == "cpu"
    return image_bytes if is_mapped and exceeds_half_memory else 0


def describe_memory(run: Run, network_plan: Plan, data: Dataset, machine: Machine) -> str:
    """Say in one line how much memory a run needs, for what, and how much is free."""
    memory = estimate_memory_on_machine(run, network_plan, data, machine)
    free_bytes = available_memory(machine.device)
    disk_bytes = disk_backed_bytes(data, machine)
    description = (
        f"estimated memory {format_bytes(memory.total)} with --recompute {machine.recompute}: "
        f"activations {format_bytes(memory.activations)}, "
        f"weights, gradients and momentum {format_bytes(memory.weights)}, "
        f"data {format_bytes(memory.data)}"
    )
    if free_bytes is not None:
        description += f"; {format_bytes(free_bytes)} free"
    if disk_bytes:
        description += f"; {format_bytes(disk_bytes)} of images are read from disk as needed"
    return description


def require_enough_memory(run: Run, network_plan: Plan, data: Dataset, machine: Machine) -> None:
    """Raise TrainingError if a run needs more memory than is free, and suggest options that fit."""
    needed_bytes = estimate_memory_on_machine(run, network_plan, data, machine).total
    free_bytes = available_memory(machine.device)
    if free_bytes is not None and needed_bytes > free_bytes:
        suggestion = suggest_memory_fix(run, network_plan, data, machine, free_bytes)
        raise TrainingError(
            f"{run.network.name} needs {format_bytes(needed_bytes)} of memory, "
            f"but only {format_bytes(free_bytes)} is free: {suggestion}"
        )


def suggest_memory_fix(
    run: Run, network_plan: Plan, data: Dataset, machine: Machine, free_bytes: int
) -> str:
    """Suggest options with which a run fits into `free_bytes`.

    The suggestion is the mode of activation checkpointing that needs the least memory.  If that is
    not enough, the largest batch size that fits is also suggested.  If the photos alone fill more
    than half of `free_bytes`, a smaller image size is suggested instead.
    """
    data_bytes = estimate_data_bytes(data, 0) - disk_backed_bytes(data, machine)
    if data.kind == "folder" and not data.is_streamed and data_bytes > free_bytes // 2:
        return suggest_smaller_images(data, free_bytes // 2)
    bytes_by_mode = {
        mode: estimate_memory_on_machine(
            run, network_plan, data, replace(machine, recompute=mode)
        ).total
        for mode in RECOMPUTE_MODES
    }
    leanest_mode = min(bytes_by_mode, key=bytes_by_mode.__getitem__)
    least_bytes = bytes_by_mode[leanest_mode]
    if least_bytes <= free_bytes:
        return f"add --recompute {leanest_mode}, which needs {format_bytes(least_bytes)}"
    leanest_machine = replace(machine, recompute=leanest_mode)
    batch_size = find_fitting_batch_size(run, network_plan, data, leanest_machine, free_bytes)
    if batch_size == 0:
        return "not even a batch of one image fits"
    return f"add --recompute {leanest_mode} --set batch_size={batch_size}"


def find_fitting_batch_size(
    run: Run, network_plan: Plan, data: Dataset, machine: Machine, free_bytes: int
) -> int:
    """Find the largest batch size below the recipe's that fits into `free_bytes`, or 0."""
    fitting, failing = 0, run.recipe_without_unneeded_warmup(network_plan.depth).batch_size
    while failing - fitting > 1:
        batch_size = (fitting + failing) // 2
        memory = estimate_memory_on_machine(run, network_plan, data, machine, batch_size)
        if memory.total <= free_bytes:
            fitting = batch_size
        else:
            failing = batch_size
    return fitting


def suggest_smaller_images(data: Dataset, max_bytes: int) -> str:
    """Suggest the largest `--size` with which all photos fit into `max_bytes`."""
    needed_bytes = estimate_data_bytes(data, 0)
    label_bytes = needed_bytes - prod(data.stored_shape) * data.num_images
    problem = (
        f"{data.num_images:,} photos of {data.input[1]} x {data.input[2]} pixels alone need "
        f"{format_bytes(needed_bytes)}"
    )
    if side := largest_side_that_fits(data.num_images, data.input[0], max_bytes - label_bytes):
        return f"{problem}, so add --size {side}"
    return f"{problem}, so use fewer of them"


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the free memory in bytes, of the GPU if `device` is one, otherwise of the machine.

    Returns None if the free memory is unknown.  `root` is the folder that holds proc/ and sys/.
    Memory of a GPU that PyTorch keeps for later, but does not use, is given back first.
    """
    if device.type != "cuda":
        return free_memory_bytes(root)
    with CAPTURE_LOCK:
        torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]

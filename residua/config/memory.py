"""How many bytes a training step keeps for its backward pass, and how many a whole run needs, from values alone."""

from dataclasses import dataclass
from itertools import count, islice, pairwise
from math import ceil, prod, sqrt
from typing import Literal, get_args

from residua.config.dataset import Dataset
from residua.config.network import Add, Drop, Gate
from residua.config.plan import Layer, Layers, Plan, PlannedUnit
from residua.config.recipe import AdamW, Muon, Optimiser, Recipe, RmsProp, Sgd

RecomputeMode = Literal["none", "unit", "stage", "sqrt"]
RECOMPUTE_MODES: tuple[RecomputeMode, ...] = get_args(RecomputeMode)
FP32_BYTES, BF16_BYTES = 4, 2  # bytes of a number in fp32 and in bf16
POOL_INDEX_BYTES = 8  # bytes of a max-pool's winner
EVAL_BATCH = 500  # images at a time
MAX_PREPADDED_BYTES = 2**31  # bytes of images, up to which they are padded all at once; our choice


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a run has at most, beside Python, its libraries and modules."""

    activations: int  # and their gradients: all that comes and goes
    weights: int  # with their gradients, and what the optimiser remembers of each
    data: int

    @property
    def total(self) -> int:
        return self.activations + self.weights + self.data


def estimate_run_memory(
    plan: Plan,
    recipe: Recipe,
    data: Dataset,
    batch_size: int,
    recompute: RecomputeMode = "none",
    bf16: bool = False,
    on_cpu: bool = True,
) -> MemoryEstimate:
    """What training by `recipe` needs, steps on so many images at a time and evaluation; on a CPU, or else on a GPU."""
    step_peak_bytes = (estimate_cpu_step_bytes if on_cpu else estimate_step_bytes)(
        plan, batch_size, recompute, bf16
    )
    bn_statistics_bytes = sum(
        2 * FP32_BYTES * layer.output_shape.channels for layer in plan.layers if layer.op == "bn"
    )
    return MemoryEstimate(
        max(step_peak_bytes, estimate_evaluation_bytes(plan, min(EVAL_BATCH, data.num_images))),
        (2 + count_optimiser_states(recipe.optimiser)) * FP32_BYTES * plan.parameters
        + bn_statistics_bytes,
        estimate_data_bytes(data, recipe.augment.pad),
    )


def estimate_cpu_step_bytes(
    plan: Plan, batch_size: int, recompute: RecomputeMode = "none", bf16: bool = False
) -> int:
    """`step_bytes`, and what convolutions and the heap of a CPU take beside, as measured (benchmarks/memory.py).

    Operations work in the room of 7 of the largest activations, and in fp32, which has no fused kernels, of 12.  Segments that
    come and go leave gaps of 3.5 more and a third of a segment: glibc fills a hole only with what is smaller by some bytes, and
    activations are of few sizes.
    """
    bytes_per_number = BF16_BYTES if bf16 else FP32_BYTES
    largest = batch_size * bytes_per_number * max(layer.output_shape.numel for layer in plan.layers)
    unit_saved_bytes = iter(saved_bytes_per_part(plan, bytes_per_number)[1:])
    segment_lengths = [
        length for stage in recompute_segment_lengths(plan, recompute) for length in stage
    ]
    largest_segment = batch_size * max(
        (sum(islice(unit_saved_bytes, length)) for length in segment_lengths), default=0
    )
    gaps = 3.5 * largest + largest_segment / 3 if segment_lengths else 0
    return round(
        estimate_step_bytes(plan, batch_size, recompute, bf16)
        + (7 if bf16 else 12) * largest
        + gaps
    )


def estimate_step_bytes(
    plan: Plan, batch_size: int, recompute: RecomputeMode = "none", bf16: bool = False
) -> int:
    """Bytes that a step has at most beside weights, their gradients and momentum: activations, and weights in bf16.

    While a unit is on its way back, there are what the segments up to its own start from, what the units of its segment up to
    itself keep, and what passes through it.
    """
    bytes_per_number = BF16_BYTES if bf16 else FP32_BYTES
    stem, *units, head = [
        batch_size * saved for saved in saved_bytes_per_part(plan, bytes_per_number)
    ]
    images = batch_size * plan.stem[0].input_shape.numel * FP32_BYTES
    persistent = images + stem
    units_and_bytes, peak = iter(zip(plan.units, units, strict=True)), 0
    for stage, lengths in zip(
        plan.network.stages, recompute_segment_lengths(plan, recompute), strict=True
    ):
        for length in lengths or (stage.units,):
            segment_bytes = 0
            for i in range(length):
                unit, kept = next(units_and_bytes)
                if i == 0 and lengths:
                    persistent += batch_size * unit.input_shape.numel * bytes_per_number
                segment_bytes += kept + (
                    BF16_BYTES * sum(layer.parameters for layer in unit.layers) if bf16 else 0
                )
                peak = max(
                    peak,
                    persistent
                    + segment_bytes
                    + batch_size * count_transient_numbers(unit) * bytes_per_number,
                )
            persistent += 0 if lengths else segment_bytes
    return max(peak, persistent + head)


def estimate_evaluation_bytes(plan: Plan, batch_size: int) -> int:
    """The same for a forward pass of so many images alone, in fp32."""
    images = 2 * plan.stem[0].input_shape.numel
    return (
        FP32_BYTES
        * batch_size
        * (
            images
            + max(unit.input_shape.numel + count_transient_numbers(unit) for unit in plan.units)
        )
    )


def count_transient_numbers(unit: PlannedUnit) -> int:
    """Numbers of an image that are there for a moment: of the operation at hand, of the sum, and of paths that differ from it."""
    paths = 0
    if unit.shortcut is not None:
        paths = unit.output_shape.numel + (0 if unit.join == Add() else unit.input_shape.numel)
    return paths + max(layer.input_shape.numel + layer.output_shape.numel for layer in unit.layers)


def count_optimiser_states(optimiser: Optimiser) -> int:
    """Numbers that it remembers of each parameter."""
    match optimiser:
        case Sgd():
            return int(optimiser.momentum > 0)
        case Muon():
            return 1
        case RmsProp():
            return 1 + (optimiser.momentum > 0)
        case AdamW():
            return 2


def estimate_data_bytes(data: Dataset, pad: int) -> int:
    """Of the images of the training part as they are, and padded those that are trained on; of labels and of two orders."""
    channels, height, width = data.stored_shape
    training_count = data.num_images - data.num_dev_images
    padded = (
        channels * (height + 2 * pad) * (width + 2 * pad) * training_count
        if pad and prod(data.stored_shape) * training_count <= MAX_PREPADDED_BYTES
        else 0
    )
    return (
        prod(data.stored_shape) * data.num_images
        + padded
        + 8 * (data.num_images + 2 * training_count)
    )


def activation_bytes(plan: Plan) -> int:
    """Bytes kept for one image in fp32; weights, gradients and the work space of a convolution are not counted.

    Weight layers and BN keep their input, ReLU keeps its output, a gate keeps all that it multiplies; a tensor that two
    layers want is kept once.
    """
    return sum(saved_bytes_per_part(plan, FP32_BYTES))


def saved_bytes_per_part(plan: Plan, bytes_per_number: int) -> list[int]:
    """What the stem, each unit and the head keep for one image, in numbers of so many bytes; a tensor counts where it is first."""
    saved: dict[int, int] = {}
    tensor_ids = count()

    def walk_layers(layers: Layers, x: int) -> int:
        for layer in layers:
            if layer.op == "flatten":
                continue
            y = next(tensor_ids)
            if layer.op in ("weight", "bn", "scale", "maxpool", "vlad"):
                saved.setdefault(x, layer.input_shape.numel * bytes_per_number)
            if layer.op == "relu":
                saved[y] = layer.output_shape.numel * bytes_per_number
            if layer.op == "maxpool":
                saved[next(tensor_ids)] = layer.output_shape.numel * POOL_INDEX_BYTES
            if layer.op == "vlad":
                saved[next(tensor_ids)] = saved_vlad_bytes(layer)
            x = y
        return x

    def walk_unit(unit: PlannedUnit, x: int) -> int:
        x = walk_layers(unit.lead, x)
        branch = walk_layers(unit.branch, x)
        if unit.shortcut is None:
            return walk_layers(unit.after, branch)
        shortcut = walk_layers(unit.shortcut, x)
        match unit.join:
            case Gate(scales="both"):
                factors = [
                    shortcut,
                    branch,
                    walk_layers(unit.gate, x),
                    next(tensor_ids),
                ]  # the last is 1 - g
            case Gate():
                factors = [shortcut, walk_layers(unit.gate, x), next(tensor_ids)]
            case Drop():
                factors = [next(tensor_ids)] if unit.join.shortcut else []  # the mask
            case _:
                factors = []
        saved.update(dict.fromkeys(factors, unit.output_shape.numel * bytes_per_number))
        return walk_layers(unit.after, next(tensor_ids))

    x = walk_layers(plan.stem, next(tensor_ids))
    running_totals = [0, sum(saved.values())]
    for unit in plan.units:
        x = walk_unit(unit, x)
        running_totals.append(sum(saved.values()))
    walk_layers(plan.head, x)
    running_totals.append(sum(saved.values()))
    return [after - before for before, after in pairwise(running_totals)]


def saved_vlad_bytes(layer: Layer) -> int:
    """Of a VLAD pooling, its input left out: unit features in two orders, shares, residuals in two lengths; and lengths."""
    positions = layer.input_shape.numel // layer.input_shape.channels
    features = 2 * layer.input_shape.numel + 2 * positions
    residuals = 2 * layer.output_shape.numel + 3 * layer.vlad_centres + 2
    return FP32_BYTES * (features + layer.vlad_centres * positions + residuals)


def recompute_segment_lengths(plan: Plan, mode: RecomputeMode) -> tuple[tuple[int, ...], ...]:
    """For each stage, how many units each of its segments has; () where nothing is recomputed.

    "sqrt" makes segments of about sqrt(n) of the network's n weight layers, so that of O(sqrt(n)) layers is kept (Chen et al.
    2016, section 4.1).
    """
    units, layers = [stage.units for stage in plan.network.stages], len(plan.network.unit.kernels)
    max_units = {
        "none": 0,
        "unit": 1,
        "stage": max(units),
        "sqrt": max(1, round(sqrt(sum(units) / layers))),
    }[mode]
    return tuple(split_evenly(n, ceil(n / max_units)) if max_units else () for n in units)


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """`total` as a sum of so many nearly equal parts."""
    return tuple(total * (i + 1) // parts - total * i // parts for i in range(parts))

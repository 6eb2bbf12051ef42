"""Estimate the peak memory of training and evaluation, in bytes.

The estimates are made from plans and recipes alone, without building a network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice, pairwise
from math import ceil, prod, sqrt
from typing import Literal, get_args

from residua.config.dataset import Dataset
from residua.config.joins import Add
from residua.config.layers import Layers
from residua.config.plan import Plan, PlannedUnit, plan
from residua.config.recipe import Recipe

RecomputeMode = Literal["none", "unit", "stage", "sqrt"]
RECOMPUTE_MODES: tuple[RecomputeMode, ...] = get_args(RecomputeMode)
FP32_BYTES, BF16_BYTES = 4, 2
INPUT_SAVING_OPS = ("weight", "bn", "silu", "scale", "attention", "maxpool", "avgpool")
POOL_INDEX_BYTES = 8  # for the position of each maximum in a max-pool
EVAL_BATCH = 500  # images per forward pass in an evaluation
DECODED_BATCHES = 3  # of an evaluation that are decoded at a time, the one that is used included
MAX_PREPADDED_BYTES = 2**31  # larger data sets are padded a batch at a time; our choice


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peak memory of a run, in bytes, excluding Python and the loaded libraries.

    activations  bytes of activations and their gradients
    weights      bytes of weights, their gradients and the optimiser's state
    data         bytes of images and labels
    """

    activations: int
    weights: int
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
    *,
    keeps_step_memory: bool = False,
) -> MemoryEstimate:
    """Estimate the peak memory of a run that trains by `recipe` and evaluates the network.

    `batch_size` is the number of images per training step.  The training images are taken to be of
    full size, whatever `recipe.sizes` is.  On a CPU, the estimate includes the temporary buffers of
    the operations.  With `keeps_step_memory`, the memory of a step is not free
    for evaluations, as that of a CUDA graph.
    """
    estimate_step = estimate_cpu_step_bytes if on_cpu else estimate_activation_peak_bytes
    step_bytes = estimate_step(plan_training(plan, recipe), batch_size, recompute, bf16)
    evaluation_bytes = estimate_evaluation_bytes(plan, min(EVAL_BATCH, data.num_images))
    activation_bytes = (
        step_bytes + evaluation_bytes if keeps_step_memory else max(step_bytes, evaluation_bytes)
    )
    bn_channels = sum(layer.output_shape.channels for layer in plan.layers if layer.op == "bn")
    has_average = int(recipe.ema > 0)
    # weight, gradient, average, state
    numbers_per_parameter = 2 + has_average + recipe.optimiser.states_per_parameter
    return MemoryEstimate(
        activation_bytes,
        FP32_BYTES
        * (numbers_per_parameter * plan.parameters + 2 * (1 + has_average) * bn_channels),
        estimate_data_bytes(data, recipe.augment.pad),
    )


def plan_training(full_plan: Plan, recipe: Recipe) -> Plan:
    """Plan the network for the images that the recipe trains on, at their full size."""
    network = full_plan.network
    if not recipe.train_size or len(network.input) != 3:
        return full_plan
    size = recipe.full_train_size((network.input[1], network.input[2]))
    return plan(replace(network, input=(network.input[0], *size)))


def estimate_cpu_step_bytes(
    plan: Plan, batch_size: int, recompute: RecomputeMode = "none", bf16: bool = False
) -> int:
    """Estimate the peak memory of a training step on a CPU, in bytes.

    The estimate is `estimate_activation_peak_bytes` plus the extra memory that a CPU needs.  The
    constants were measured with benchmarks/memory.py.

    Temporary buffers of the operations take 7 times the size of the largest activation in bf16, and
    12 times in fp32, which has no fused kernels.  With activation checkpointing, memory
    fragmentation adds 3.5 times the largest activation and a third of the largest segment.  The
    reason is that glibc reuses a freed block only for a smaller one, which is rare because
    activations have only a few different sizes.
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
    step_bytes = estimate_activation_peak_bytes(plan, batch_size, recompute, bf16)
    return round(step_bytes + (7 if bf16 else 12) * largest + gaps)


def estimate_activation_peak_bytes(
    plan: Plan, batch_size: int, recompute: RecomputeMode = "none", bf16: bool = False
) -> int:
    """Estimate the peak memory of a step's activations and bf16 copies of weights, in bytes.

    A segment is a group of units whose activations are recomputed together (activation
    checkpointing).  During the backward pass of a unit, memory holds the inputs of its segment and
    of all earlier segments, the tensors saved by this unit and by the earlier units of its segment,
    and the tensors of the current operation.
    """
    bytes_per_number = BF16_BYTES if bf16 else FP32_BYTES
    part_bytes = [batch_size * saved for saved in saved_bytes_per_part(plan, bytes_per_number)]
    stem_bytes, *unit_bytes, head_bytes = part_bytes
    image_bytes = batch_size * plan.stem[0].input_shape.numel * FP32_BYTES
    persistent = image_bytes + stem_bytes
    units_and_bytes, peak = iter(zip(plan.units, unit_bytes, strict=True)), 0
    segments_by_stage = recompute_segment_lengths(plan, recompute)
    for stage, lengths in zip(plan.network.stages, segments_by_stage, strict=True):
        for length in lengths or (stage.units,):
            segment_bytes = 0
            for i, (unit, saved_bytes) in enumerate(islice(units_and_bytes, length)):
                if i == 0 and lengths:
                    persistent += batch_size * unit.input_shape.numel * bytes_per_number
                weight_copies = sum(layer.parameters for layer in unit.layers) if bf16 else 0
                segment_bytes += saved_bytes + BF16_BYTES * weight_copies
                transient = batch_size * count_transient_numbers(unit) * bytes_per_number
                peak = max(peak, persistent + segment_bytes + transient)
            persistent += 0 if lengths else segment_bytes
    return max(peak, persistent + head_bytes)


def estimate_evaluation_bytes(plan: Plan, batch_size: int) -> int:
    """Estimate the peak memory of fp32 inference on `batch_size` images, in bytes."""
    image_numbers = 2 * plan.stem[0].input_shape.numel
    unit_numbers = max(
        unit.input_shape.numel + count_transient_numbers(unit) for unit in plan.units
    )
    return FP32_BYTES * batch_size * (image_numbers + unit_numbers)


def count_transient_numbers(unit: PlannedUnit) -> int:
    """Count the tensor elements per image that are in memory only while a unit is computed.

    These are the input and output of the current operation, and the result of the join.  If the
    join is not the plain sum, the shortcut is also counted.
    """
    join_numbers = 0
    if unit.shortcut is not None:
        is_plain_sum = unit.join == Add()
        join_numbers = unit.output_shape.numel + (0 if is_plain_sum else unit.input_shape.numel)
    return join_numbers + max(
        layer.input_shape.numel + layer.output_shape.numel for layer in unit.layers
    )


def estimate_data_bytes(data: Dataset, pad: int) -> int:
    """Estimate the memory of a data set, in bytes.

    The estimate counts the stored images of the training split, the padded copies of the images
    that are trained on (unless the data set is large), the labels, and the image orders of two
    epochs.  Of photographs that are decoded when they are needed, it counts the batches that an
    evaluation decodes ahead in place of all images.
    """
    channels, height, width = data.stored_shape
    image_bytes = prod(data.stored_shape)
    training_count = data.num_images - data.num_dev_images
    padded_bytes = 0
    if pad and image_bytes * training_count <= MAX_PREPADDED_BYTES:
        padded_bytes = channels * (height + 2 * pad) * (width + 2 * pad) * training_count
    label_and_order_bytes = 8 * (data.num_images + 2 * training_count)
    if data.is_streamed:
        decoded_count = min(DECODED_BATCHES * EVAL_BATCH, data.num_images)
        return decoded_count * prod(data.input) + label_and_order_bytes
    return image_bytes * data.num_images + padded_bytes + label_and_order_bytes


def activation_bytes(plan: Plan) -> int:
    """Return the bytes per image that are saved for the backward pass in fp32.

    Weights and temporary buffers are not counted.  Weight layers, BN and SiLU save their input,
    ReLU saves its output, and a gated join saves all factors of its products.  A tensor that two
    layers need is counted once.
    """
    return sum(saved_bytes_per_part(plan, FP32_BYTES))


def saved_bytes_per_part(plan: Plan, bytes_per_number: int) -> list[int]:
    """List the bytes per image that the stem, each unit and the head save for the backward pass.

    A tensor that several of these parts need is counted once, for the first of them.
    """
    tensors = SavedBytesCounter(bytes_per_number)
    x = tensors.add_layers(plan.stem, tensors.new_tensor_id())
    running_totals = [0, tensors.total_bytes]
    for unit in plan.units:
        x = tensors.add_unit(unit, x)
        running_totals.append(tensors.total_bytes)
    tensors.add_layers(plan.head, x)
    running_totals.append(tensors.total_bytes)
    return [after - before for before, after in pairwise(running_totals)]


class SavedBytesCounter:
    """Counts the bytes per image that layers save for the backward pass, each tensor once."""

    def __init__(self, bytes_per_number: int) -> None:
        self.bytes_per_number = bytes_per_number
        self.bytes_by_id: dict[int, int] = {}
        self.ids: Iterator[int] = count()

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_id.values())

    def new_tensor_id(self) -> int:
        return next(self.ids)

    def add_layers(self, layers: Layers, input_id: int) -> int:
        """Add the tensors that `layers` save, and return the id of their output tensor.

        `input_id` is the id of their input tensor.
        """
        x = input_id
        for layer in layers:
            if layer.op == "flatten":
                continue
            y = self.new_tensor_id()
            saves_input = layer.op in INPUT_SAVING_OPS
            if saves_input or (layer.pooling is not None and layer.pooling.saves_input()):
                self.bytes_by_id.setdefault(x, layer.input_shape.numel * self.bytes_per_number)
            if layer.op == "relu":
                self.bytes_by_id[y] = layer.output_shape.numel * self.bytes_per_number
            if layer.op == "maxpool":
                self.bytes_by_id[self.new_tensor_id()] = layer.output_shape.numel * POOL_INDEX_BYTES
            if layer.attention is not None:
                factors = layer.attention.count_saved_factors(layer.input_shape.channels)
                self.bytes_by_id[self.new_tensor_id()] = self.bytes_per_number * factors
            if layer.pooling is not None:
                numbers = layer.pooling.count_saved_numbers(*layer.input_shape)
                self.bytes_by_id[self.new_tensor_id()] = FP32_BYTES * numbers
            x = y
        return x

    def add_unit(self, unit: PlannedUnit, input_id: int) -> int:
        """Add the tensors that `unit` saves, and return the id of its output tensor.

        `input_id` is the id of its input tensor.
        """
        x = self.add_layers(unit.lead, input_id)
        branch = self.add_layers(unit.branch, x)
        if unit.shortcut is None:
            return self.add_layers(unit.after, branch)
        operands = {"shortcut": self.add_layers(unit.shortcut, x), "branch": branch}
        if unit.gate:
            operands["gate"] = self.add_layers(unit.gate, x)
        for name in unit.join.saved_tensors:
            tensor = self.new_tensor_id() if name == "new" else operands[name]
            self.bytes_by_id[tensor] = unit.output_shape.numel * self.bytes_per_number
        return self.add_layers(unit.after, self.new_tensor_id())


def recompute_segment_lengths(plan: Plan, mode: RecomputeMode) -> tuple[tuple[int, ...], ...]:
    """Return the number of units in each activation-checkpointing segment, stage by stage.

    In mode "none", every stage has an empty tuple.  In mode "sqrt", a segment has about sqrt(n) of
    the network's n weight layers, so that the activations of O(sqrt(n)) layers are kept (Chen et
    al. 2016, section 4.1).
    """
    units = [stage.units for stage in plan.network.stages]
    layers_per_unit = len(plan.network.unit.kernels)
    max_units = {
        "none": 0,
        "unit": 1,
        "stage": max(units),
        "sqrt": max(1, round(sqrt(sum(units) / layers_per_unit))),
    }[mode]
    return tuple(split_evenly(n, ceil(n / max_units)) if max_units else () for n in units)


def split_evenly(total: int, count: int) -> tuple[int, ...]:
    """Split `total` into `count` nearly equal whole numbers, whose sum is `total`."""
    return tuple(total * (i + 1) // count - total * i // count for i in range(count))

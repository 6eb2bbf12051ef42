"""How many bytes a training step keeps for its backward pass, and how many a whole run needs, from values alone."""

from dataclasses import dataclass
from itertools import count, islice, pairwise
from math import ceil, prod, sqrt
from typing import Literal, get_args

from residua.spec.dataset import Dataset
from residua.spec.network import Add, Drop, Gate
from residua.spec.plan import Layer, Layers, Plan, PlannedUnit
from residua.spec.recipe import AdamW, Muon, Optimiser, Recipe, RmsProp, Sgd

Recompute = Literal["none", "unit", "stage", "sqrt"]
RECOMPUTES: tuple[Recompute, ...] = get_args(Recompute)
FLOAT, HALF = 4, 2  # bytes of a number in fp32 and in bf16
INDEX = 8  # bytes of a max-pool's winner
EVALUATED = 500  # images at a time
PADDED = 2**31  # bytes of images, up to which they are padded all at once; our choice


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a run has at most, beside Python, its libraries and modules."""

    activations: int  # and their gradients: all that comes and goes
    weights: int  # with their gradients, and what the optimiser remembers of each
    data: int

    @property
    def total(self) -> int:
        return self.activations + self.weights + self.data


def run_memory(
    plan: Plan, recipe: Recipe, data: Dataset, batch: int, recompute: Recompute = "none", bf16: bool = False, cpu: bool = True
) -> Memory:
    """What training by `recipe` needs, steps on so many images at a time and evaluation; on a CPU, or else on a GPU."""
    step = (resident_bytes if cpu else step_bytes)(plan, batch, recompute, bf16)
    statistics = sum(2 * FLOAT * layer.out.channels for layer in plan.layers if layer.op == "bn")
    return Memory(
        max(step, evaluation_bytes(plan, min(EVALUATED, data.images))),
        (2 + states(recipe.optimiser)) * FLOAT * plan.parameters + statistics,
        data_bytes(data, recipe.augment.pad),
    )


def resident_bytes(plan: Plan, batch: int, recompute: Recompute = "none", bf16: bool = False) -> int:
    """`step_bytes`, and what convolutions and the heap of a CPU take beside, as measured (benchmarks/memory.py).

    Operations work in the room of 7 of the largest activations, and in fp32, which has no fused kernels, of 12.  Segments that
    come and go leave gaps of 3.5 more and a third of a segment: glibc fills a hole only with what is smaller by some bytes, and
    activations are of few sizes.
    """
    number = HALF if bf16 else FLOAT
    largest = batch * number * max(layer.out.numbers for layer in plan.layers)
    kept = iter(kept_bytes(plan, number)[1:])
    lengths = [length for stage in segments(plan, recompute) for length in stage]
    segment = batch * max((sum(islice(kept, length)) for length in lengths), default=0)
    gaps = 3.5 * largest + segment / 3 if lengths else 0
    return round(step_bytes(plan, batch, recompute, bf16) + (7 if bf16 else 12) * largest + gaps)


def step_bytes(plan: Plan, batch: int, recompute: Recompute = "none", bf16: bool = False) -> int:
    """Bytes that a step has at most beside weights, their gradients and momentum: activations, and weights in bf16.

    While a unit is on its way back, there are what the segments up to its own start from, what the units of its segment up to
    itself keep, and what passes through it.
    """
    number = HALF if bf16 else FLOAT
    stem, *units, head = [batch * kept for kept in kept_bytes(plan, number)]
    images = batch * plan.stem[0].at.numbers * FLOAT
    always = images + stem
    planned, most = iter(zip(plan.units, units, strict=True)), 0
    for stage, lengths in zip(plan.network.stages, segments(plan, recompute), strict=True):
        for length in lengths or (stage.units,):
            inside = 0
            for i in range(length):
                unit, kept = next(planned)
                if i == 0 and lengths:
                    always += batch * unit.at.numbers * number
                inside += kept + (HALF * sum(layer.parameters for layer in unit.layers) if bf16 else 0)
                most = max(most, always + inside + batch * passing(unit) * number)
            always += 0 if lengths else inside
    return max(most, always + head)


def evaluation_bytes(plan: Plan, batch: int) -> int:
    """The same for a forward pass of so many images alone, in fp32."""
    images = 2 * plan.stem[0].at.numbers
    return FLOAT * batch * (images + max(unit.at.numbers + passing(unit) for unit in plan.units))


def passing(unit: PlannedUnit) -> int:
    """Numbers of an image that are there for a moment: of the operation at hand, of the sum, and of paths that differ from it."""
    paths = 0
    if unit.shortcut is not None:
        paths = unit.out.numbers + (0 if unit.join == Add() else unit.at.numbers)
    return paths + max(layer.at.numbers + layer.out.numbers for layer in unit.layers)


def states(optimiser: Optimiser) -> int:
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


def data_bytes(data: Dataset, pad: int) -> int:
    """Of the images of the training part as they are, and padded those that are trained on; of labels and of two orders."""
    channels, height, width = data.kept
    trained = data.images - data.dev
    padded = channels * (height + 2 * pad) * (width + 2 * pad) * trained if pad and prod(data.kept) * trained <= PADDED else 0
    return prod(data.kept) * data.images + padded + 8 * (data.images + 2 * trained)


def activation_bytes(plan: Plan) -> int:
    """Bytes kept for one image in fp32; weights, gradients and the work space of a convolution are not counted.

    Weight layers and BN keep their input, ReLU keeps its output, a gate keeps all that it multiplies; a tensor that two
    layers want is kept once.
    """
    return sum(kept_bytes(plan, FLOAT))


def kept_bytes(plan: Plan, number: int) -> list[int]:
    """What the stem, each unit and the head keep for one image, in numbers of so many bytes; a tensor counts where it is first."""
    kept: dict[int, int] = {}
    fresh = count()

    def run(layers: Layers, x: int) -> int:
        for layer in layers:
            if layer.op == "flatten":
                continue
            y = next(fresh)
            if layer.op in ("weight", "bn", "scale", "maxpool", "vlad"):
                kept.setdefault(x, layer.at.numbers * number)
            if layer.op == "relu":
                kept[y] = layer.out.numbers * number
            if layer.op == "maxpool":
                kept[next(fresh)] = layer.out.numbers * INDEX
            if layer.op == "vlad":
                kept[next(fresh)] = vlad_bytes(layer)
            x = y
        return x

    def run_unit(unit: PlannedUnit, x: int) -> int:
        x = run(unit.lead, x)
        branch = run(unit.branch, x)
        if unit.shortcut is None:
            return run(unit.after, branch)
        shortcut = run(unit.shortcut, x)
        match unit.join:
            case Gate(scales="both"):
                factors = [shortcut, branch, run(unit.gate, x), next(fresh)]  # the last is 1 - g
            case Gate():
                factors = [shortcut, run(unit.gate, x), next(fresh)]
            case Drop():
                factors = [next(fresh)] if unit.join.shortcut else []  # the mask
            case _:
                factors = []
        kept.update(dict.fromkeys(factors, unit.out.numbers * number))
        return run(unit.after, next(fresh))

    x = run(plan.stem, next(fresh))
    sums = [0, sum(kept.values())]
    for unit in plan.units:
        x = run_unit(unit, x)
        sums.append(sum(kept.values()))
    run(plan.head, x)
    sums.append(sum(kept.values()))
    return [after - before for before, after in pairwise(sums)]


def vlad_bytes(layer: Layer) -> int:
    """Of a VLAD pooling, its input left out: unit features in two orders, shares, residuals in two lengths; and lengths."""
    positions = layer.at.numbers // layer.at.channels
    features = 2 * layer.at.numbers + 2 * positions
    residuals = 2 * layer.out.numbers + 3 * layer.words + 2
    return FLOAT * (features + layer.words * positions + residuals)


def segments(plan: Plan, by: Recompute) -> tuple[tuple[int, ...], ...]:
    """For each stage, how many units each of its segments has; () where nothing is recomputed.

    "sqrt" makes segments of about sqrt(n) of the network's n weight layers, so that of O(sqrt(n)) layers is kept (Chen et al.
    2016, section 4.1).
    """
    units, layers = [stage.units for stage in plan.network.stages], len(plan.network.unit.kernels)
    longest = {"none": 0, "unit": 1, "stage": max(units), "sqrt": max(1, round(sqrt(sum(units) / layers)))}[by]
    return tuple(even(n, ceil(n / longest)) if longest else () for n in units)


def even(total: int, parts: int) -> tuple[int, ...]:
    """`total` as a sum of so many nearly equal parts."""
    return tuple(total * (i + 1) // parts - total * i // parts for i in range(parts))

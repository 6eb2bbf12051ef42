"""The operations of a training step, and the rate of a large matrix product, which limits them."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from residua.config.layers import Layer
from residua.config.plan import Plan
from residua.training.machine import Machine

PRODUCT_SIDES = 2048, 4096  # of the matrices whose product gives the limit
MAX_PRODUCT_SECONDS = 2.0  # of the larger product; if it takes longer, the smaller one is used
PRODUCT_REPETITIONS = {"cpu": 2, "cuda": 20}


def count_image_operations(
    plan: Plan, *, trains_stem: bool = True, trains_only_last: bool = False
) -> int:
    """Count the operations of the multiply-adds of a step per image, without BN and ReLU.

    A forward pass has two for each multiply-add, and so has each of the gradients of inputs and of
    weights.  If only the last layer is trained, only its weights have a gradient.  Nothing needs a
    gradient of the images or, if the stem is not trained, of its output.  The weights of a stem
    that come from images have none either.  A forward pass that is repeated to save memory does not
    count.
    """
    forward = 2 * plan.multiply_adds
    if trains_only_last:
        return forward + 2 * plan.head[-1].multiply_adds
    untrained = [layer for layer in plan.stem if layer.stem_start or not trains_stem]
    first = find_first_weights(plan.stem)
    if not trains_stem:
        unit = plan.units[0]
        first = [layer for layer in plan.stem if layer.op == "weight"]
        paths = (unit.branch, unit.shortcut or (), unit.gate)
        has_lead = any(layer.parameters for layer in unit.lead)
        for path in (unit.lead,) if has_lead else paths:
            first += find_first_weights(path)
    without_gradient = sum(layer.multiply_adds for layer in (*untrained, *first))
    return 3 * forward - 2 * without_gradient


def find_first_weights(path: Iterable[Layer]) -> list[Layer]:
    """Return the first layer of a path that has parameters if it is a weight layer, in a list."""
    with_parameters = [layer for layer in path if layer.parameters]
    return [layer for layer in with_parameters[:1] if layer.op == "weight"]


def measure_product_rate(machine: Machine) -> tuple[int, float]:
    """Measure the rate of a product of square matrices: their side, and operations per second.

    The rate is the best of some repetitions, in the precision of the machine.
    """
    small, large = PRODUCT_SIDES
    rate = measure_rate_of_side(small, machine)
    if 2 * large**3 / rate > MAX_PRODUCT_SECONDS:
        return small, rate
    return large, measure_rate_of_side(large, machine)


def measure_rate_of_side(side: int, machine: Machine) -> float:
    """Measure the operations per second of a product of two matrices (side, side)."""
    dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=machine.device).to(dtype)
    repetitions = range(PRODUCT_REPETITIONS[machine.device.type])
    return 2 * side**3 / min(time_product(a, b) for _ in repetitions)


def time_product(a: Tensor, b: Tensor) -> float:
    """Measure the seconds of one matrix product; on a GPU, the mean of several in a row."""
    count = 1
    if a.is_cuda:
        count = 10
        torch.mm(a, b)
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        torch.mm(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

"""The rate of a large matrix product, the limit with which a training step is compared."""

import time

import torch
from torch import Tensor

from residua.training.machine import Machine

PRODUCT_SIDES = 2048, 4096  # of the matrices whose product gives the limit
MAX_PRODUCT_SECONDS = 2.0  # of the larger product; if it takes longer, the smaller one is used
PRODUCT_REPETITIONS = {"cpu": 2, "cuda": 20}


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

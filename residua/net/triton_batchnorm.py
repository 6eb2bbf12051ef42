"""Launch the Triton kernels of BN, addition and ReLU, for training on an NVIDIA GPU in bf16.

The division of a tensor among programs depends only on its shape, so that results are bit-identical
on repeat.  This module needs the package `triton`, and is imported only where the kernels are used.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residua.net.batch_moments import BatchMoments
from residua.net.triton_bn_kernels import (
    input_gradient_kernel,
    normalise_kernel,
    sum_batch_kernel,
    sum_gradients_kernel,
)

Direction = Literal["forward", "backward"]
MAX_BLOCK_CHANNELS = 64  # 128 bytes of bf16, a cache line
BLOCK_PARTIAL_ELEMENTS = 4096


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """How many programs share the rows of a tensor, and the size of each.

    A program loads `block_elements` numbers at a time with `warps` * 32 threads.
    """

    row_programs: int
    block_elements: int = 4096
    warps: int = 8


@dataclass(frozen=True, slots=True)
class BatchNormLaunches:
    """The launches of the two kernels of a pass: the one that sums, and the one that applies."""

    sums: KernelLaunch
    apply: KernelLaunch


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """The grid of a kernel's programs, and the arguments that say which rows each handles."""

    grid: tuple[int, int]
    arguments: dict[str, int]


MEASURED_LAUNCHES: dict[tuple[Direction, int, int], BatchNormLaunches] = {
    ("forward", 16, 18): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(264, 4096, 8)),
    ("backward", 16, 18): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(264, 2048, 4)),
    ("forward", 32, 16): BatchNormLaunches(KernelLaunch(128, 4096, 8), KernelLaunch(132, 4096, 8)),
    ("backward", 32, 16): BatchNormLaunches(KernelLaunch(128, 4096, 8), KernelLaunch(132, 2048, 4)),
    ("backward", 64, 14): BatchNormLaunches(KernelLaunch(64, 4096, 8), KernelLaunch(132, 2048, 4)),
    ("forward", 64, 20): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(528, 4096, 8)),
    ("backward", 64, 20): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(528, 2048, 4)),
    ("forward", 64, 18): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(264, 4096, 8)),
    ("backward", 64, 18): BatchNormLaunches(KernelLaunch(256, 4096, 8), KernelLaunch(528, 2048, 4)),
    ("backward", 256, 18): BatchNormLaunches(
        KernelLaunch(128, 4096, 8), KernelLaunch(132, 2048, 4)
    ),
    ("backward", 128, 16): BatchNormLaunches(
        KernelLaunch(128, 4096, 8), KernelLaunch(132, 2048, 4)
    ),
    ("forward", 512, 16): BatchNormLaunches(KernelLaunch(128, 4096, 8), KernelLaunch(33, 4096, 8)),
    ("backward", 512, 16): BatchNormLaunches(KernelLaunch(64, 4096, 4), KernelLaunch(66, 2048, 4)),
    ("forward", 256, 14): BatchNormLaunches(KernelLaunch(64, 4096, 8), KernelLaunch(33, 4096, 8)),
    ("backward", 256, 14): BatchNormLaunches(KernelLaunch(64, 4096, 8), KernelLaunch(66, 2048, 4)),
    ("forward", 1024, 14): BatchNormLaunches(KernelLaunch(64, 4096, 8), KernelLaunch(16, 4096, 8)),
    ("backward", 1024, 14): BatchNormLaunches(KernelLaunch(32, 4096, 4), KernelLaunch(33, 2048, 4)),
    ("forward", 512, 12): BatchNormLaunches(KernelLaunch(32, 4096, 4), KernelLaunch(33, 2048, 4)),
    ("backward", 512, 12): BatchNormLaunches(KernelLaunch(32, 4096, 8), KernelLaunch(33, 2048, 4)),
}
"""The fastest launches on an H100 by pass, number of channels and bit length of the number of rows,
where they are better than the rule of `choose_launches` (benchmarks/kernels_bn.py)."""


def choose_launches(rows: int, channels: int, direction: Direction) -> BatchNormLaunches:
    """Choose the launches for a tensor of rows x channels.

    Without a measurement, a rule holds.  Every program of the second kernel reads the sums of all
    programs of the first, and with about sqrt(rows) / 2 of these, reading the sums takes as long as
    computing them.
    """
    measured = MEASURED_LAUNCHES.get((direction, channels, rows.bit_length()))
    if measured is not None:
        return measured
    sums = min(128, 1 << ((rows // 4).bit_length() // 2))
    tiles = triton.cdiv(channels, MAX_BLOCK_CHANNELS)
    apply = 264 if rows * channels < 2**23 else 528  # 2 or 4 for each multiprocessor of an H100
    return BatchNormLaunches(KernelLaunch(sums), KernelLaunch(max(apply // tiles, 16)))


def plan_kernel(rows: int, channels: int, launch: KernelLaunch) -> KernelPlan:
    """Divide rows evenly among at most `launch.row_programs` programs, in whole blocks."""
    block_channels = min(triton.next_power_of_2(channels), MAX_BLOCK_CHANNELS)
    block_rows = launch.block_elements // block_channels
    rows_per_program = triton.cdiv(triton.cdiv(rows, launch.row_programs), block_rows) * block_rows
    grid = triton.cdiv(rows, rows_per_program), triton.cdiv(channels, block_channels)
    channel_unit = min(channels & -channels, 16)  # the largest power of two that divides channels
    arguments = {
        "rows": rows,
        "rows_per_program": rows_per_program,
        "channel_units": channels // channel_unit,
        "CHANNEL_UNIT": channel_unit,
        "BLOCK_ROWS": block_rows,
        "BLOCK_CHANNELS": block_channels,
        "num_warps": launch.warps,
    }
    return KernelPlan(grid, arguments)


@cache
def plan_kernels(
    rows: int, channels: int, launches: BatchNormLaunches
) -> tuple[KernelPlan, KernelPlan]:
    """Plan the kernel that sums and the one that applies, which also needs to know the sums."""
    sums = plan_kernel(rows, channels, launches.sums)
    apply = plan_kernel(rows, channels, launches.apply)
    block_partials = BLOCK_PARTIAL_ELEMENTS // apply.arguments["BLOCK_CHANNELS"]
    apply.arguments.update(programs=sums.grid[0], BLOCK_PARTIALS=block_partials)
    return sums, apply


class TritonBatchNormAddReLUFunction(torch.autograd.Function):
    """Autograd Function: BN(x) in training mode, then an optional addition and an optional ReLU.

    `x` and `residual` are bf16, channels-last (n, c, h, w).  Arithmetic is in fp32, and the result
    is rounded once to bf16.  The running statistics of the BN are updated if it tracks them, and
    its count of batches too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        apply_relu: bool,
        moments: BatchMoments | None = None,
    ) -> Tensor:
        y, batch_stats = launch_forward(
            x, residual, weight, bias, norm, apply_relu, moments=moments
        )
        ctx.relu, ctx.adds = apply_relu, residual is not None
        kept_output = y if ctx.adds and apply_relu else None
        ctx.save_for_backward(x, batch_stats, weight, bias, kept_output)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dy = dy.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        x, batch_stats, weight, bias, y = ctx.saved_tensors
        parameters = weight, bias, batch_stats
        dx, dresidual, dweight, dbias = launch_backward(dy, x, y, *parameters, ctx.relu)
        if ctx.adds and y is None:  # without a ReLU, the gradient of the sum is that of `residual`
            dresidual = dy
        return dx, dresidual, dweight, dbias, None, None, None


def launch_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    norm: nn.BatchNorm2d,
    apply_relu: bool,
    launches: BatchNormLaunches | None = None,
    moments: BatchMoments | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute y and the statistics (2, c) of the batch: the means and 1 / standard deviation.

    `moments` are those of x, if they are known already.
    """
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    launches = launches or choose_launches(rows, channels, "forward")
    sums, apply = plan_kernels(rows, channels, launches)
    y, batch_stats = torch.empty_like(x), torch.empty(2, channels, device=x.device)
    batch_count = norm.num_batches_tracked if norm.track_running_stats else None
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if moments is None:
            parts = torch.empty(sums.grid[0], 2, channels, device=x.device)
            sum_batch_kernel[sums.grid](x, parts, **sums.arguments)
            moments = BatchMoments(parts, sums.arguments["rows_per_program"])
        normalise_kernel[apply.grid](
            x,
            x if residual is None else residual,
            y,
            moments.parts,
            weight,
            bias,
            batch_stats,
            norm.running_mean,
            norm.running_var,
            batch_stats if batch_count is None else batch_count,
            rows_per_partial=moments.rows_per_part,
            eps=norm.eps,
            momentum=norm.momentum,
            ADD=residual is not None,
            RELU=apply_relu,
            TRACK=norm.track_running_stats,
            COUNT=batch_count is not None,
            **(apply.arguments | {"programs": len(moments.parts)}),
        )
    return y, batch_stats


def launch_backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    batch_stats: Tensor,
    apply_relu: bool,
    launches: BatchNormLaunches | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Compute the gradients of x, of the residual, of the weight and of the bias.

    `y` is the output if a residual was added before ReLU, and otherwise None.  If it is None, the
    gradient of the residual is None.
    """
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    launches = launches or choose_launches(rows, channels, "backward")
    sums, apply = plan_kernels(rows, channels, launches)
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    dresidual = None if y is None else torch.empty_like(x)
    partials = torch.empty(sums.grid[0], 2, channels, device=x.device)
    parameters = weight, bias, batch_stats
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        sum_gradients_kernel[sums.grid](
            dy,
            x,
            x if y is None else y,
            x if dresidual is None else dresidual,
            partials,
            *parameters,
            ADD=y is not None,
            RELU=apply_relu,
            **sums.arguments,
        )
        input_gradient_kernel[apply.grid](
            dy if dresidual is None else dresidual,
            x,
            dx,
            partials,
            *parameters,
            dweight,
            dbias,
            RELU=apply_relu and y is None,
            **apply.arguments,
        )
    return dx, dresidual, dweight, dbias


def run_trial_kernels(device: torch.device) -> None:
    """Normalise a small tensor; raises the errors of Triton, of its C compiler or of the driver."""
    x = torch.ones(2, 16, 1, 1, device=device, dtype=torch.bfloat16)
    norm = nn.BatchNorm2d(16, device=device)
    with torch.no_grad():
        y, _ = launch_forward(x, None, norm.weight, norm.bias, norm, apply_relu=True)
    if y.any():
        raise RuntimeError("a constant normalised is not 0")

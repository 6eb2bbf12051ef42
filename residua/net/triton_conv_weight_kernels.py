"""Gradients of a convolution's weights in Triton, with the conventions of `triton_conv_kernels`."""
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

import triton
import triton.language as tl

from residua.net.triton_conv_kernels import load_kernel_row_pixels


@triton.jit
def sum_weight_gradient(
    source,
    gradient,
    partial,
    rows,
    S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STEPS: tl.constexpr,
    WHOLE_KERNEL: tl.constexpr,
):
    """Sum the gradient of the weights over STEPS x BLOCK_R output pixels, as (m, n).

    m goes over columns and channels of a kernel row.  A program sums for one kernel row, or with
    WHOLE_KERNEL, for all three of them.
    """
    blocks: tl.constexpr = (S.K * S.C + BLOCK_M - 1) // BLOCK_M
    kernel_row = tl.program_id(1) // blocks  # 0 with WHOLE_KERNEL
    m = tl.program_id(1) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(0) * (STEPS * BLOCK_R)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if WHOLE_KERNEL:
        total_1 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        total_2 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        r = first + step * BLOCK_R + tl.arange(0, BLOCK_R)
        row = r // S.OW % S.OH * S.STRIDE - S.K // 2
        column = r % S.OW * S.STRIDE - S.K // 2
        at = ((r // (S.OW * S.OH) * S.H + row) * S.W + column) * S.C
        inside = (r < rows)[:, None] & (n < S.N)[None, :]
        change = tl.load(gradient + (r[:, None] * S.N + n[None, :]), mask=inside, other=0.0)
        pixels = (source, at, m, row, column, r < rows)
        seen = load_kernel_row_pixels(*pixels, kernel_row, S)
        total = tl.dot(tl.trans(seen), change, total)
        if WHOLE_KERNEL:
            seen = load_kernel_row_pixels(*pixels, 1, S)
            total_1 = tl.dot(tl.trans(seen), change, total_1)
            seen = load_kernel_row_pixels(*pixels, 2, S)
            total_2 = tl.dot(tl.trans(seen), change, total_2)
    inside = (m < S.K * S.C)[:, None] & (n < S.N)[None, :]
    place = m[:, None] + (n * (S.K * S.K * S.C) + kernel_row * (S.K * S.C))[None, :]
    target = partial + tl.program_id(0) * (S.N * S.K * S.K * S.C)
    tl.store(target + place, total, mask=inside)
    if WHOLE_KERNEL:
        tl.store(target + S.K * S.C + place, total_1, mask=inside)
        tl.store(target + 2 * S.K * S.C + place, total_2, mask=inside)


@triton.jit
def add_partial_sums(
    partial,
    result,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add PARTS arrays of SIZE in a fixed order."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK_P, BLOCK), tl.float32)
    for start in range(0, PARTS, BLOCK_P):
        part = start + tl.arange(0, BLOCK_P)
        inside = (part < PARTS)[:, None] & (index < SIZE)[None, :]
        total += tl.load(partial + (part[:, None] * SIZE + index[None, :]), mask=inside, other=0.0)
    tl.store(result + index, tl.sum(total, axis=0), mask=index < SIZE)

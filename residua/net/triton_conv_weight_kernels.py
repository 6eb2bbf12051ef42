"""Gradients of a convolution's weights in Triton, with the conventions of `triton_conv_kernels`."""
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

import triton
import triton.language as tl

from residua.net.triton_conv_kernels import load_pixels


@triton.jit
def sum_weight_gradient(
    source,
    gradient,
    partial,
    affine,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STEPS: tl.constexpr,
    WHOLE_KERNEL: tl.constexpr,
    NORMALISE: tl.constexpr,
):
    """Sum the gradient of the weights over STEPS x BLOCK_R output pixels, as (m, n).

    m goes over columns and channels of a kernel row.  A program sums for one kernel row, or with
    WHOLE_KERNEL, for all three of them.
    """
    blocks: tl.constexpr = (K * C + BLOCK_M - 1) // BLOCK_M
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
        row = r // OW % OH * STRIDE - K // 2 + kernel_row
        column = r % OW * STRIDE - K // 2
        offsets = ((r // (OW * OH) * H + row) * W + column) * C
        change = tl.load(
            gradient + (r[:, None] * N + n[None, :]),
            mask=(r < rows)[:, None] & (n < N)[None, :],
            other=0.0,
        )
        inside = (r < rows) & (row >= 0) & (row < H)
        tile = load_pixels(source, offsets, m, column, inside, K * C, affine, W, C, NORMALISE)
        if WHOLE_KERNEL:
            inside = (r < rows) & (row + 1 >= 0) & (row + 1 < H)
            start = offsets + W * C
            tile_1 = load_pixels(source, start, m, column, inside, K * C, affine, W, C, NORMALISE)
            inside = (r < rows) & (row + 2 >= 0) & (row + 2 < H)
            start = offsets + 2 * W * C
            tile_2 = load_pixels(source, start, m, column, inside, K * C, affine, W, C, NORMALISE)
        total = tl.dot(tl.trans(tile), change, total)
        if WHOLE_KERNEL:
            total_1 = tl.dot(tl.trans(tile_1), change, total_1)
            total_2 = tl.dot(tl.trans(tile_2), change, total_2)
    inside = (m < K * C)[:, None] & (n < N)[None, :]
    place = m[:, None] + (n * (K * K * C) + kernel_row * (K * C))[None, :]
    target = partial + tl.program_id(0) * (N * K * K * C)
    tl.store(target + place, total, mask=inside)
    if WHOLE_KERNEL:
        tl.store(target + K * C + place, total_1, mask=inside)
        tl.store(target + 2 * K * C + place, total_2, mask=inside)


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

"""Convolutions as implicit matrix products in Triton, and gradients of their input, for a GPU.

A row of a product is a pixel.  Activations are bf16 and channels-last, so that the pixels that a
kernel row sees are one contiguous stretch of the source: kernel columns and channels are one axis,
k, of the product.  Weights are laid out as (out, kernel row, kernel column, in); they are read in
their own precision and rounded to bf16, as autocast does.  Sums are fp32.  Nothing is added
atomically, so that results repeat bit for bit.
"""
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: ignore-errors

from typing import NamedTuple

import triton
import triton.language as tl


class ProductShape(NamedTuple):
    """The shape of a product: C channels of its source become N channels of its result.

    (H, W) and (OH, OW) are the sizes of the convolution's input and output, and K is 1 or 3, the
    side of its kernel.
    """

    H: int
    W: int
    OH: int
    OW: int
    C: int
    N: int
    K: int
    STRIDE: int


@triton.jit
def load_pixels(source, offsets, k, column, row_is_inside, depth, W: tl.constexpr, C: tl.constexpr):
    """Load the stretches at `offsets` of the source as (row, k), with zeros for padding."""
    columns = column[:, None] + (k // C)[None, :]
    inside = row_is_inside[:, None] & (columns >= 0) & (columns < W) & (k < depth)[None, :]
    return tl.load(source + (offsets[:, None] + k[None, :]), mask=inside, other=0.0)


@triton.jit
def load_kernel_row_pixels(source, offsets, k, row, column, valid, kernel_row, S: tl.constexpr):
    """Load what a row of the kernel sees; row, column and offsets are those of its first row."""
    inside = valid & (row + kernel_row >= 0) & (row + kernel_row < S.H)
    start = offsets + kernel_row * (S.W * S.C)
    return load_pixels(source, start, k, column, inside, S.K * S.C, S.W, S.C)


@triton.jit
def load_weights(weight, k, n, kernel_row, S: tl.constexpr, MIRROR: tl.constexpr):
    """Load a row of the kernel as (k, n); mirrored, it is a kernel of the input's gradient."""
    if MIRROR:
        tap = (S.K - 1 - kernel_row) * S.K + (S.K - 1 - k // S.C)
        offsets = ((k % S.C) * (S.K * S.K * S.N) + tap * S.N)[:, None] + n[None, :]
    else:
        offsets = (kernel_row * (S.K * S.C) + k)[:, None] + (n * (S.K * S.K * S.C))[None, :]
    inside = (k < S.K * S.C)[:, None] & (n < S.N)[None, :]
    return tl.load(weight + offsets, mask=inside, other=0.0).to(tl.bfloat16)


@triton.jit
def load_all_weights(weight, k, n, S: tl.constexpr, MIRROR: tl.constexpr, BLOCKS: tl.constexpr):
    weights = ()
    for step in tl.static_range(S.K * BLOCKS):
        part = step % BLOCKS * k.shape[0] + k
        weights = weights + (load_weights(weight, part, n, step // BLOCKS, S, MIRROR),)
    return weights


@triton.jit
def multiply_all(
    source,
    offsets,
    k,
    row,
    column,
    valid,
    weights,
    total,
    S: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Load all that a tile needs, and then multiply."""
    pixels = ()
    for step in tl.static_range(S.K * BLOCKS):
        part = step % BLOCKS * k.shape[0] + k
        kernel_row = step // BLOCKS
        seen = load_kernel_row_pixels(source, offsets, part, row, column, valid, kernel_row, S)
        pixels = pixels + (seen,)
    for step in tl.static_range(S.K * BLOCKS):
        total = tl.dot(pixels[step], weights[step], total)
    return total


@triton.jit
def multiply_in_blocks(
    source,
    offsets,
    k,
    row,
    column,
    valid,
    weight,
    n,
    total,
    S: tl.constexpr,
    MIRROR: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Load and multiply block after block of k, in a pipelined loop."""
    for step in range(S.K * BLOCKS):
        part = step % BLOCKS * k.shape[0] + k
        kernel_row = step // BLOCKS
        seen = load_kernel_row_pixels(source, offsets, part, row, column, valid, kernel_row, S)
        total = tl.dot(seen, load_weights(weight, part, n, kernel_row, S, MIRROR), total)
    return total


@triton.jit
def convolve(
    source,
    weight,
    result,
    moments,
    rows,
    S: tl.constexpr,
    MIRROR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
    WHOLE_KERNEL: tl.constexpr,
):
    """Compute a convolution, or mirrored, the gradient of the input of one with stride 1.

    A program computes TILES tiles one after another.  With WHOLE_KERNEL, it keeps all weights, and
    loads all that a tile needs before it multiplies; otherwise it goes over k in a pipelined loop.
    If `moments` is given, it stores its rows' mean, and sum of squared deviations from it, for BN.
    """
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    blocks: tl.constexpr = (S.K * S.C + BLOCK_K - 1) // BLOCK_K
    if WHOLE_KERNEL:
        weights = load_all_weights(weight, k, n, S, MIRROR, blocks)
    if moments is not None:
        first = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tile in range(TILES):
        m = (tl.program_id(0) * TILES + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        row = m // S.OW % S.OH * S.STRIDE - S.K // 2
        column = m % S.OW * S.STRIDE - S.K // 2
        at = ((m // (S.OW * S.OH) * S.H + row) * S.W + column) * S.C
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        pixels = (source, at, k, row, column, m < rows)
        if WHOLE_KERNEL:
            total = multiply_all(*pixels, weights, total, S, blocks)
        else:
            total = multiply_in_blocks(*pixels, weight, n, total, S, MIRROR, blocks)
        inside = (m < rows)[:, None] & (n < S.N)[None, :]
        values = total.to(tl.bfloat16)
        tl.store(result + (m[:, None] * S.N + n[None, :]), values, mask=inside)
        if moments is not None:
            first = tl.where(tile == 0, values.to(tl.float32), first)
            deviation = tl.where(inside, values.to(tl.float32) - first, 0.0)
            sums += deviation
            squares += deviation * deviation
    if moments is not None:
        place = moments + tl.program_id(0) * (2 * S.N) + n
        rows_left = rows - tl.program_id(0) * (TILES * BLOCK_M)
        store_moments(place, first, sums, squares, rows_left, n < S.N, S.N, TILES)


@triton.jit
def store_moments(
    place, first, sums, squares, rows_left, inside, N: tl.constexpr, TILES: tl.constexpr
):
    """Merge the deviations of each cell from its first value, as by Chan et al. (1983).

    In fp32, E[x^2] - E[x]^2 would be wrong where the mean is large.
    """
    height: tl.constexpr = first.shape[0]
    r = tl.arange(0, height)
    count = tl.minimum(tl.maximum((rows_left - r + (height - 1)) // height, 0), TILES)
    count = count.to(tl.float32)[:, None]
    shift = sums * (1.0 / tl.maximum(count, 1.0))
    cell_mean = first + shift
    mean = tl.sum(cell_mean * count, axis=0) / tl.minimum(rows_left, TILES * height).to(tl.float32)
    spread = tl.maximum(squares - sums * shift, 0.0)
    distance = cell_mean - mean[None, :]
    spread += distance * distance * count
    tl.store(place, mean, mask=inside)
    tl.store(place + N, tl.sum(spread, axis=0), mask=inside)


@triton.jit
def spread_gradient(
    gradient,
    weight,
    result,
    rows,
    S: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute the gradient of the input of a convolution with stride 2.

    A program works on pixels whose rows are all odd or all even, and so their columns: these see
    the same weights.  The pixels with most weights come first.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    odd_row = 1 - tl.program_id(2) // 2
    odd_column = 1 - tl.program_id(2) % 2
    column = m % S.OW
    row = m // S.OW % S.OH
    if S.K == 3:
        kernel_rows, kernel_columns = 1 + odd_row, 1 + odd_column
    else:
        kernel_rows, kernel_columns = 1 - odd_row, 1 - odd_column
    blocks = tl.cdiv(kernel_columns * S.C, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(kernel_rows * blocks):
        below = step // blocks
        k = step % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = (m < rows) & (row + below < S.OH)
        start = (m + below * S.OW) * S.C
        seen = load_pixels(gradient, start, k, column, inside, kernel_columns * S.C, S.OW, S.C)
        if S.K == 3:
            tap = (1 + odd_row - 2 * below) * S.K + (1 + odd_column - 2 * (k // S.C))
        else:
            tap = k * 0
        weights = tl.load(
            weight + (((k % S.C) * (S.K * S.K * S.N) + tap * S.N)[:, None] + n[None, :]),
            mask=(k < kernel_columns * S.C)[:, None] & (n < S.N)[None, :],
            other=0.0,
        )
        total = tl.dot(seen, weights.to(tl.bfloat16), total)
    row, column = row * 2 + odd_row, column * 2 + odd_column
    inside = ((m < rows) & (row < S.H) & (column < S.W))[:, None] & (n < S.N)[None, :]
    pixel = (m // (S.OW * S.OH) * S.H + row) * S.W + column
    tl.store(result + (pixel[:, None] * S.N + n[None, :]), total.to(tl.bfloat16), mask=inside)

"""Convolutions as implicit matrix products in Triton, and their gradients, for a GPU.

A row of a product is a pixel.  Activations are bf16 and channels-last, so that the pixels that a
kernel row sees are one contiguous stretch of the source: kernel columns and channels are one axis,
k, of the product.  Weights are laid out as (out, kernel row, kernel column, in); they are read in
their own precision and rounded to bf16, as autocast does.  Sums are fp32.  Nothing is added
atomically, so that results repeat bit for bit.

In the kernels, C channels of the source become N channels of the result, K is the side of the
kernel (1 or 3), and (H, W) and (OH, OW) are the sizes of the convolution's input and output.
"""
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def load_pixels(
    source,
    offsets,
    k,
    column,
    row_is_inside,
    depth,
    affine,
    W: tl.constexpr,
    C: tl.constexpr,
    NORMALISE: tl.constexpr,
):
    """Load the stretches at `offsets` of the source as (row, k), with zeros for padding.

    With NORMALISE, the source is relu(a x + b), with a and b of each channel in `affine` (2, C).
    """
    columns = column[:, None] + (k // C)[None, :]
    inside = row_is_inside[:, None] & (columns >= 0) & (columns < W) & (k < depth)[None, :]
    pixels = tl.load(source + (offsets[:, None] + k[None, :]), mask=inside, other=0.0)
    if NORMALISE:
        factor = tl.load(affine + k % C)[None, :]
        offset = tl.load(affine + C + k % C)[None, :]
        values = pixels.to(tl.float32) * factor + offset
        values = tl.where(values <= 0, 0.0, values)  # NaN stays NaN
        pixels = tl.where(inside, values, 0.0).to(tl.bfloat16)
    return pixels


@triton.jit
def load_weights(
    weight,
    k,
    n,
    kernel_row,
    C: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    MIRROR: tl.constexpr,
):
    """Load a row of the kernel as (k, n); mirrored, it is a kernel of the input's gradient."""
    if MIRROR:
        tap = (K - 1 - kernel_row) * K + (K - 1 - k // C)
        offsets = ((k % C) * (K * K * N) + tap * N)[:, None] + n[None, :]
    else:
        offsets = (kernel_row * (K * C) + k)[:, None] + (n * (K * K * C))[None, :]
    inside = (k < K * C)[:, None] & (n < N)[None, :]
    return tl.load(weight + offsets, mask=inside, other=0.0).to(tl.bfloat16)


@triton.jit
def convolve(
    source,
    weight,
    result,
    affine,
    moments,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    MIRROR: tl.constexpr,
    NORMALISE: tl.constexpr,
    MOMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
    WHOLE_KERNEL: tl.constexpr,
):
    """Compute a convolution, or mirrored, the gradient of the input of one with stride 1.

    A program computes TILES tiles one after another.  With WHOLE_KERNEL, it keeps all weights, and
    loads all that a tile needs before it multiplies; otherwise it goes over k in a pipelined loop.
    With MOMENTS, it also stores its rows' mean, and sum of squared deviations from it, for BN.
    """
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    blocks: tl.constexpr = (K * C + BLOCK_K - 1) // BLOCK_K
    weights = ()
    if WHOLE_KERNEL:
        for step in tl.static_range(K * blocks):
            part = step % blocks * BLOCK_K + k
            weights = weights + (load_weights(weight, part, n, step // blocks, C, N, K, MIRROR),)
    if MOMENTS:
        first = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tile in range(TILES):
        m = (tl.program_id(0) * TILES + tile) * BLOCK_M + tl.arange(0, BLOCK_M)
        row = m // OW % OH * STRIDE - K // 2
        column = m % OW * STRIDE - K // 2
        offsets = ((m // (OW * OH) * H + row) * W + column) * C
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if WHOLE_KERNEL:
            pixels = ()
            for step in tl.static_range(K * blocks):
                inside = (m < rows) & (row + step // blocks >= 0) & (row + step // blocks < H)
                start = offsets + step // blocks * (W * C)
                part = step % blocks * BLOCK_K + k
                seen = load_pixels(
                    source, start, part, column, inside, K * C, affine, W, C, NORMALISE
                )
                pixels = pixels + (seen,)
            for step in tl.static_range(K * blocks):
                total = tl.dot(pixels[step], weights[step], total)
        else:
            for step in range(K * blocks):
                kernel_row = step // blocks
                inside = (m < rows) & (row + kernel_row >= 0) & (row + kernel_row < H)
                start = offsets + kernel_row * (W * C)
                part = step % blocks * BLOCK_K + k
                seen = load_pixels(
                    source, start, part, column, inside, K * C, affine, W, C, NORMALISE
                )
                taps = load_weights(weight, part, n, kernel_row, C, N, K, MIRROR)
                total = tl.dot(seen, taps, total)
        inside = (m < rows)[:, None] & (n < N)[None, :]
        values = total.to(tl.bfloat16)
        tl.store(result + (m[:, None] * N + n[None, :]), values, mask=inside)
        if MOMENTS:
            first = tl.where(tile == 0, values.to(tl.float32), first)
            deviation = tl.where(inside, values.to(tl.float32) - first, 0.0)
            sums += deviation
            squares += deviation * deviation
    if MOMENTS:
        start = tl.program_id(0) * (TILES * BLOCK_M)
        store_moments(
            moments + tl.program_id(0) * (2 * N) + n,
            first,
            sums,
            squares,
            rows - start,
            n < N,
            N,
            BLOCK_M,
            TILES,
        )


@triton.jit
def store_moments(
    place,
    first,
    sums,
    squares,
    rows_left,
    inside,
    N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
):
    """Merge the deviations of each cell from its first value, as by Chan et al. (1983).

    In fp32, E[x^2] - E[x]^2 would be wrong where the mean is large.
    """
    r = tl.arange(0, BLOCK_M)
    count = tl.minimum(tl.maximum((rows_left - r + (BLOCK_M - 1)) // BLOCK_M, 0), TILES)
    count = count.to(tl.float32)[:, None]
    shift = sums / tl.maximum(count, 1.0)
    cell_mean = first + shift
    total = tl.minimum(rows_left, TILES * BLOCK_M).to(tl.float32)
    mean = tl.sum(cell_mean * count, axis=0) / total
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
    H: tl.constexpr,
    W: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
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
    k = tl.arange(0, BLOCK_K)
    odd_row = 1 - tl.program_id(2) // 2
    odd_column = 1 - tl.program_id(2) % 2
    out_column = m % OW
    out_row = m // OW % OH
    if K == 3:
        kernel_rows, kernel_columns = 1 + odd_row, 1 + odd_column
    else:
        kernel_rows, kernel_columns = 1 - odd_row, 1 - odd_column
    blocks = tl.cdiv(kernel_columns * C, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(kernel_rows * blocks):
        below = step // blocks
        part = step % blocks * BLOCK_K + k
        inside = (m < rows) & (out_row + below < OH)
        start = (m + below * OW) * C
        tile = load_pixels(
            gradient, start, part, out_column, inside, kernel_columns * C, None, OW, C, False
        )
        if K == 3:
            tap = (1 + odd_row - 2 * below) * K + (1 + odd_column - 2 * (part // C))
        else:
            tap = part * 0
        weights = tl.load(
            weight + (((part % C) * (K * K * N) + tap * N)[:, None] + n[None, :]),
            mask=(part < kernel_columns * C)[:, None] & (n < N)[None, :],
            other=0.0,
        )
        total = tl.dot(tile, weights.to(tl.bfloat16), total)
    row = out_row * 2 + odd_row
    column = out_column * 2 + odd_column
    inside = ((m < rows) & (row < H) & (column < W))[:, None] & (n < N)[None, :]
    pixel = (m // (OW * OH) * H + row) * W + column
    tl.store(result + (pixel[:, None] * N + n[None, :]), total.to(tl.bfloat16), mask=inside)

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
def load_pixels(source, offsets, k, column, row_is_inside, depth, W: tl.constexpr, C: tl.constexpr):
    """Load the stretches at `offsets` of the source as (row, k), with zeros for padding."""
    columns = column[:, None] + (k // C)[None, :]
    inside = row_is_inside[:, None] & (columns >= 0) & (columns < W) & (k < depth)[None, :]
    return tl.load(source + (offsets[:, None] + k[None, :]), mask=inside, other=0.0)


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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
    WHOLE_KERNEL: tl.constexpr,
):
    """Compute a convolution, or mirrored, the gradient of the input of one with stride 1.

    A program computes TILES tiles one after another.  With WHOLE_KERNEL, it keeps all weights, and
    loads all that a tile needs before it multiplies; otherwise it goes over k in a pipelined loop.
    """
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    blocks: tl.constexpr = (K * C + BLOCK_K - 1) // BLOCK_K
    weights = ()
    if WHOLE_KERNEL:
        for step in tl.static_range(K * blocks):
            part = step % blocks * BLOCK_K + k
            weights = weights + (load_weights(weight, part, n, step // blocks, C, N, K, MIRROR),)
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
                pixels = pixels + (load_pixels(source, start, part, column, inside, K * C, W, C),)
            for step in tl.static_range(K * blocks):
                total = tl.dot(pixels[step], weights[step], total)
        else:
            for step in range(K * blocks):
                kernel_row = step // blocks
                inside = (m < rows) & (row + kernel_row >= 0) & (row + kernel_row < H)
                start = offsets + kernel_row * (W * C)
                part = step % blocks * BLOCK_K + k
                seen = load_pixels(source, start, part, column, inside, K * C, W, C)
                taps = load_weights(weight, part, n, kernel_row, C, N, K, MIRROR)
                total = tl.dot(seen, taps, total)
        inside = (m < rows)[:, None] & (n < N)[None, :]
        tl.store(result + (m[:, None] * N + n[None, :]), total.to(tl.bfloat16), mask=inside)


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
        tile = load_pixels(gradient, start, part, out_column, inside, kernel_columns * C, OW, C)
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


@triton.jit
def sum_weight_gradient(
    source,
    gradient,
    partial,
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
        tile = load_pixels(source, offsets, m, column, inside, K * C, W, C)
        if WHOLE_KERNEL:
            inside = (r < rows) & (row + 1 >= 0) & (row + 1 < H)
            tile_1 = load_pixels(source, offsets + W * C, m, column, inside, K * C, W, C)
            inside = (r < rows) & (row + 2 >= 0) & (row + 2 < H)
            tile_2 = load_pixels(source, offsets + 2 * W * C, m, column, inside, K * C, W, C)
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

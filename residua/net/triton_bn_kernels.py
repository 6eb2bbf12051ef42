"""Triton kernels of BN in training mode with an optional addition and ReLU, in bf16.

Two kernels compute the forward pass and two the backward pass: the first sums parts of the batch,
and the second merges these sums and computes the outputs.  A tensor (n, c, h, w) in channels-last
layout is a matrix of n * h * w rows and c = `channel_units` * `CHANNEL_UNIT` columns.  The unit
is a power of two, so that the compiler knows the alignment of a row.  Program (i, j) of a kernel
handles `rows_per_program` rows of `BLOCK_CHANNELS` channels.  This module needs `triton`.
"""

import triton
import triton.language as tl

# arguments whose values do not matter to the compiled code, so that it is the same for all sizes
SIZES = ["rows", "rows_per_program", "rows_per_partial", "programs", "channel_units"]


@triton.jit
def locate_own_rows(rows: tl.tensor, rows_per_program: tl.tensor) -> tl.tensor:
    """Return the first row of this program (int64) and the number of its rows."""
    first_row = tl.program_id(0).to(tl.int64) * rows_per_program
    return first_row, tl.minimum(rows - first_row, rows_per_program).to(tl.int32)


@triton.jit
def locate_block(BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr) -> tl.tensor:
    """Return the rows of a block, from 0, as a column, and its channels as a row."""
    c = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return tl.arange(0, BLOCK_ROWS)[:, None], c[None, :]


@triton.jit(do_not_specialize=SIZES)
def sum_batch_kernel(
    x: tl.tensor,
    partials: tl.tensor,
    rows: tl.tensor,
    rows_per_program: tl.tensor,
    channel_units: tl.tensor,
    CHANNEL_UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """Compute the mean and the sum of squared deviations from it, of each program's rows.

    Each cell of the block subtracts its first value from the others, and the cells are merged as by
    Chan et al. (1983): in fp32, E[x^2] - E[x]^2 would be wrong where the mean is large.
    """
    channels = channel_units * CHANNEL_UNIT
    first_row, own_rows = locate_own_rows(rows, rows_per_program)
    r, c = locate_block(BLOCK_ROWS, BLOCK_CHANNELS)
    at = x + first_row * channels + (r * channels + c)
    first = tl.load(at, mask=(r < own_rows) & (c < channels), other=0.0).to(tl.float32)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    squares = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for row in tl.range(BLOCK_ROWS, own_rows, BLOCK_ROWS, loop_unroll_factor=4):
        inside = (row + r < own_rows) & (c < channels)
        value = tl.load(at + row * channels, mask=inside, other=0.0).to(tl.float32)
        deviation = tl.where(inside, value - first, 0.0)
        sums += deviation
        squares += deviation * deviation
    count = ((own_rows - r + (BLOCK_ROWS - 1)) // BLOCK_ROWS).to(tl.float32)
    shift = sums / tl.maximum(count, 1.0)
    cell_mean = first + shift
    mean = tl.sum(cell_mean * count, 0)[None, :] / own_rows
    spread = squares - sums * shift
    spread = tl.where(spread < 0, 0.0, spread) + (cell_mean - mean) * (cell_mean - mean) * count
    to = partials + tl.program_id(0) * (2 * channels) + c
    tl.store(to, mean, mask=c < channels)
    tl.store(to + channels, tl.sum(spread, 0)[None, :], mask=c < channels)


@triton.jit
def merge_batch_sums(
    partials: tl.tensor,
    programs: tl.tensor,
    rows: tl.tensor,
    rows_per_partial: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    BLOCK_PARTIALS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Merge what `sum_batch_kernel` wrote into the batch's mean and sum of squared deviations."""
    k = tl.arange(0, BLOCK_PARTIALS)[:, None]
    count = tl.zeros((BLOCK_PARTIALS, 1), tl.float32)
    mean = tl.zeros((BLOCK_PARTIALS, BLOCK_CHANNELS), tl.float32)
    spread = tl.zeros((BLOCK_PARTIALS, BLOCK_CHANNELS), tl.float32)
    for first in range(0, programs, BLOCK_PARTIALS):
        p = first + k
        inside = (p < programs) & (c < channels)
        at = partials + p * (2 * channels) + c
        part_mean = tl.load(at, mask=inside, other=0.0)
        part_spread = tl.load(at + channels, mask=inside, other=0.0)
        left = rows - p.to(tl.int64) * rows_per_partial
        part_count = tl.maximum(tl.minimum(left, rows_per_partial), 0).to(tl.float32)
        share = part_count / tl.maximum(count + part_count, 1.0)
        difference = part_mean - mean
        mean += difference * share
        spread += part_spread + difference * difference * (count * share)
        count += part_count
    batch_mean = tl.sum(mean * count, 0)[None, :] / rows
    spread += (mean - batch_mean) * (mean - batch_mean) * count
    return batch_mean, tl.sum(spread, 0)[None, :]


@triton.jit
def move_running_average(
    at: tl.tensor, value: tl.tensor, momentum: tl.tensor, known: tl.tensor
) -> None:
    old = tl.load(at, mask=known, other=0.0)
    tl.store(at, (1 - momentum) * old + momentum * value, mask=known)


@triton.jit(do_not_specialize=SIZES)
def normalise_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    partials: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    batch_stats: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batch_count: tl.tensor,
    rows: tl.tensor,
    programs: tl.tensor,
    rows_per_partial: tl.tensor,
    rows_per_program: tl.tensor,
    eps: tl.tensor,
    momentum: tl.tensor,
    channel_units: tl.tensor,
    CHANNEL_UNIT: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    TRACK: tl.constexpr,
    COUNT: tl.constexpr,
) -> None:
    """Compute y, and in the first program of each tile of channels the statistics."""
    channels = channel_units * CHANNEL_UNIT
    first_row, own_rows = locate_own_rows(rows, rows_per_program)
    r, c = locate_block(BLOCK_ROWS, BLOCK_CHANNELS)
    known = c < channels
    at = first_row * channels + (r * channels + c)
    inside = (r < own_rows) & known
    value = tl.load(x + at, mask=inside, other=0.0)  # now, to wait for it and the sums together
    mean, spread = merge_batch_sums(
        partials, programs, rows, rows_per_partial, c, channels, BLOCK_PARTIALS, BLOCK_CHANNELS
    )
    inverse_std = 1.0 / tl.sqrt(spread / rows + eps)
    if tl.program_id(0) == 0:
        tl.store(batch_stats + c, mean, mask=known)
        tl.store(batch_stats + channels + c, inverse_std, mask=known)
        if TRACK:
            move_running_average(running_mean + c, mean, momentum, known)
            move_running_average(running_var + c, spread / (rows - 1), momentum, known)
        if COUNT:
            tl.store(batch_count, tl.load(batch_count) + 1, mask=tl.program_id(1) == 0)
    scale = tl.load(weight + c, mask=known, other=0.0) * inverse_std
    offset = tl.load(bias + c, mask=known, other=0.0)
    for row in range(0, own_rows, BLOCK_ROWS):
        inside_next = (row + BLOCK_ROWS + r < own_rows) & known
        next_at = at + BLOCK_ROWS * channels
        next_value = tl.load(x + next_at, mask=inside_next, other=0.0)
        output = (value.to(tl.float32) - mean) * scale + offset
        if ADD:
            output += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            output = tl.where(output <= 0, 0.0, output)  # NaN stays NaN
        tl.store(y + at, output.to(tl.bfloat16), mask=inside)
        value, at, inside = next_value, next_at, inside_next


@triton.jit(do_not_specialize=SIZES)
def sum_gradients_kernel(
    dy: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    dresidual: tl.tensor,
    partials: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    batch_stats: tl.tensor,
    rows: tl.tensor,
    rows_per_program: tl.tensor,
    channel_units: tl.tensor,
    CHANNEL_UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
) -> None:
    """Sum the gradients of BN's output, alone and times its normalised input, of each program.

    With ADD, which implies RELU, the gradient after ReLU is also stored, for the residual.
    """
    channels = channel_units * CHANNEL_UNIT
    first_row, own_rows = locate_own_rows(rows, rows_per_program)
    r, c = locate_block(BLOCK_ROWS, BLOCK_CHANNELS)
    known = c < channels
    mean = tl.load(batch_stats + c, mask=known, other=0.0)
    inverse_std = tl.load(batch_stats + channels + c, mask=known, other=0.0)
    scale = tl.load(weight + c, mask=known, other=0.0) * inverse_std
    offset = tl.load(bias + c, mask=known, other=0.0)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    products = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    start = first_row * channels
    for row in tl.range(0, own_rows, BLOCK_ROWS, loop_unroll_factor=2):
        inside = (row + r < own_rows) & known
        at = start + (row * channels + (r * channels + c))
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        centred = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean
        if ADD:
            output = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
            gradient = tl.where(output <= 0, 0.0, gradient)
            tl.store(dresidual + at, gradient.to(tl.bfloat16), mask=inside)
        elif RELU:
            gradient = tl.where(centred * scale + offset <= 0, 0.0, gradient)
        sums += gradient
        products += gradient * (centred * inverse_std)
    to = partials + tl.program_id(0) * (2 * channels) + c
    tl.store(to, tl.sum(sums, 0)[None, :], mask=known)
    tl.store(to + channels, tl.sum(products, 0)[None, :], mask=known)


@triton.jit(do_not_specialize=SIZES)
def input_gradient_kernel(
    gradient_after_relu: tl.tensor,
    x: tl.tensor,
    dx: tl.tensor,
    partials: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    batch_stats: tl.tensor,
    dweight: tl.tensor,
    dbias: tl.tensor,
    rows: tl.tensor,
    programs: tl.tensor,
    rows_per_program: tl.tensor,
    channel_units: tl.tensor,
    CHANNEL_UNIT: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    RELU: tl.constexpr,
) -> None:
    """Compute dx, and in the first program of each tile of channels dweight and dbias."""
    channels = channel_units * CHANNEL_UNIT
    first_row, own_rows = locate_own_rows(rows, rows_per_program)
    r, c = locate_block(BLOCK_ROWS, BLOCK_CHANNELS)
    k = tl.arange(0, BLOCK_PARTIALS)[:, None]
    known = c < channels
    at = first_row * channels + (r * channels + c)
    inside = (r < own_rows) & known
    value = tl.load(x + at, mask=inside, other=0.0)  # now, to wait for it and the sums together
    sums = tl.zeros((BLOCK_PARTIALS, BLOCK_CHANNELS), tl.float32)
    products = tl.zeros((BLOCK_PARTIALS, BLOCK_CHANNELS), tl.float32)
    for first in range(0, programs, BLOCK_PARTIALS):
        summed = (first + k < programs) & known
        part = partials + (first + k) * (2 * channels) + c
        sums += tl.load(part, mask=summed, other=0.0)
        products += tl.load(part + channels, mask=summed, other=0.0)
    sum_all = tl.sum(sums, 0)[None, :]
    product_all = tl.sum(products, 0)[None, :]
    if tl.program_id(0) == 0:
        tl.store(dbias + c, sum_all, mask=known)
        tl.store(dweight + c, product_all, mask=known)
    mean = tl.load(batch_stats + c, mask=known, other=0.0)
    inverse_std = tl.load(batch_stats + channels + c, mask=known, other=0.0)
    scale = tl.load(weight + c, mask=known, other=0.0) * inverse_std
    offset = tl.load(bias + c, mask=known, other=0.0)
    mean_gradient = sum_all / rows
    slope = inverse_std * (product_all / rows)
    for row in range(0, own_rows, BLOCK_ROWS):
        inside_next = (row + BLOCK_ROWS + r < own_rows) & known
        next_at = at + BLOCK_ROWS * channels
        next_value = tl.load(x + next_at, mask=inside_next, other=0.0)
        gradient = tl.load(gradient_after_relu + at, mask=inside, other=0.0).to(tl.float32)
        centred = value.to(tl.float32) - mean
        if RELU:
            gradient = tl.where(centred * scale + offset <= 0, 0.0, gradient)
        result = scale * (gradient - mean_gradient - centred * slope)
        tl.store(dx + at, result.to(tl.bfloat16), mask=inside)
        value, at, inside = next_value, next_at, inside_next

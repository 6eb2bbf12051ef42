"""Convolutions in Triton with gradients: bf16 channels-last activations, weights of any precision.

This module needs Triton; see `fast_conv` for modules that use it where it helps.
"""
# mypy: disable-error-code="no-untyped-call"

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from residua.net.gradient_stream import current_gradient_stream
from residua.net.triton_conv_kernels import ProductShape, convolve, spread_gradient
from residua.net.triton_conv_launches import ConvShape, Launch, Pass, choose_launch
from residua.net.triton_conv_weight_kernels import add_partial_sums, sum_weight_gradient


class TritonConvolution(torch.autograd.Function):
    """A bf16 convolution padded by half of its kernel: `apply(x, weight, stride, with_moments)`.

    With moments, it returns the output and what `allocate_moments` describes, without gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, with_moments: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.gradient_stream = current_gradient_stream.get()
        if ctx.gradient_stream is not None:
            ctx.gradient_stream.uses[id(weight)] += 1
        with torch.cuda.device_of(x):
            if not with_moments:
                return compute_convolution(x, weight, stride)
            moments = allocate_moments(x, weight, stride)
            ctx.mark_non_differentiable(moments)
            ctx.set_materialize_grads(False)  # no zeros for the moments
            return compute_convolution(x, weight, stride, moments=moments), moments

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, _: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        input_gradient = weight_gradient = None
        with torch.cuda.device_of(x):
            if ctx.needs_input_grad[1]:
                compute = partial(compute_weight_gradient, x, gradient, weight, ctx.stride)
                weight_gradient = (
                    compute()
                    if ctx.gradient_stream is None
                    else ctx.gradient_stream.compute(weight, compute, (x, gradient))
                )
            if ctx.needs_input_grad[0]:
                input_gradient = compute_input_gradient(gradient, weight, x.shape, ctx.stride)
        return input_gradient, weight_gradient, None, None


def describe_shape(x_shape: torch.Size, weight: Tensor, stride: int) -> ConvShape:
    images, in_channels, height, width = x_shape
    out_channels, _, kernel, _ = weight.shape
    return ConvShape(images, height, width, in_channels, out_channels, kernel, stride)


def allocate_channels_last(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def allocate_moments(
    x: Tensor, weight: Tensor, stride: int, launch: Launch | None = None
) -> Tensor:
    """Allocate the `moments` of `compute_convolution`: (programs, 2, out channels), fp32.

    Each program stores the mean of `count_rows_per_program` pixels of the output, or of what is
    left for the last one, and the sum of their squared deviations from it.
    """
    shape = describe_shape(x.shape, weight, stride)
    programs = -(-shape.out_rows // count_rows_per_program(shape, launch))
    return torch.empty(programs, 2, shape.out_channels, device=x.device)


def count_rows_per_program(shape: ConvShape, launch: Launch | None = None) -> int:
    launch = launch or choose_launch("forward", shape)
    return launch.block_m * launch.tiles


def compute_convolution(
    x: Tensor,
    weight: Tensor,
    stride: int,
    launch: Launch | None = None,
    moments: Tensor | None = None,
) -> Tensor:
    """Compute the convolution of channels-last bf16 (n, c, h, w) with a channels-last weight.

    With `moments`, of `allocate_moments`, what BN needs to know of the output is written there.
    """
    shape = describe_shape(x.shape, weight, stride)
    launch = launch or choose_launch("forward", shape)
    output = allocate_channels_last(
        x, shape.images, shape.out_channels, shape.out_height, shape.out_width
    )
    product = describe_product(shape)
    launch_convolve(x, weight, output, product, launch, moments=moments)
    return output


def describe_product(shape: ConvShape, direction: Pass = "forward") -> ProductShape:
    sizes = (shape.height, shape.width, shape.out_height, shape.out_width)
    channels = (shape.in_channels, shape.out_channels)
    if direction == "input_gradient":
        channels = channels[::-1]
    return ProductShape(*sizes, *channels, shape.kernel, shape.stride)


def launch_convolve(
    source: Tensor,
    weight: Tensor,
    result: Tensor,
    product: ProductShape,
    launch: Launch,
    mirror: bool = False,
    moments: Tensor | None = None,
) -> None:
    rows = result.numel() // product.N
    grid = (-(-rows // (launch.block_m * launch.tiles)), -(-product.N // launch.block_n))
    convolve[grid](
        source,
        weight,
        result,
        moments,
        rows,
        product,
        mirror,
        launch.block_m,
        launch.block_n,
        launch.block_k,
        launch.tiles,
        launch.whole,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )


def compute_input_gradient(
    gradient: Tensor,
    weight: Tensor,
    x_shape: torch.Size,
    stride: int,
    launch: Launch | None = None,
) -> Tensor:
    """Compute the gradient of a convolution's input, as channels-last bf16 of `x_shape`."""
    shape = describe_shape(x_shape, weight, stride)
    launch = launch or choose_launch("input_gradient", shape)
    result = allocate_channels_last(gradient, *x_shape)
    product = describe_product(shape, "input_gradient")
    if stride == 1:
        launch_convolve(gradient, weight, result, product, launch, mirror=True)
        return result
    grid = (-(-shape.out_rows // launch.block_m), -(-shape.in_channels // launch.block_n), 4)
    spread_gradient[grid](
        gradient,
        weight,
        result,
        shape.out_rows,
        product,
        launch.block_m,
        launch.block_n,
        launch.block_k,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return result


def compute_weight_gradient(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    stride: int,
    launch: Launch | None = None,
) -> Tensor:
    """Compute the gradient of a convolution's weight, in the weight's precision and layout."""
    shape = describe_shape(x.shape, weight, stride)
    launch = launch or choose_launch("weight_gradient", shape)
    whole = launch.whole and shape.kernel == 3
    kernel_rows = 1 if whole else shape.kernel
    blocks = kernel_rows * -(-shape.kernel * shape.in_channels // launch.block_m)
    out_blocks = -(-shape.out_channels // launch.block_n)
    steps = -(-shape.out_rows // launch.block_k)
    steps_each = -(-steps // max(1, launch.programs // (blocks * out_blocks)))
    parts = -(-steps // steps_each)
    partial = torch.empty(parts * weight.numel(), dtype=torch.float32, device=x.device)
    sum_weight_gradient[parts, blocks, out_blocks](
        x,
        gradient,
        partial,
        shape.out_rows,
        describe_product(shape),
        launch.block_m,
        launch.block_n,
        launch.block_k,
        steps_each,
        whole,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    result = torch.empty_like(weight)
    block_parts = 16
    while block_parts < min(parts, 128):
        block_parts *= 2
    block = min(128, 4096 // block_parts)
    add_partial_sums[(-(-weight.numel() // block),)](
        partial, result, parts, weight.numel(), block_parts, block, num_warps=4
    )
    return result

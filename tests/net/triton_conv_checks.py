"""What tests of convolutions in Triton share: tensors, the equation, and how far off it is."""

import torch
import torch.nn.functional as F

from residua.net.triton_conv import (
    compute_convolution,
    compute_input_gradient,
    compute_weight_gradient,
)
from residua.net.triton_conv_launches import ConvShape

HALF_STEP = 2**-8  # half the distance of bf16 numbers, relative to the smaller


def make_tensors(shape: ConvShape, device="cpu", seed=0):
    """A bf16 input, an fp32 weight and a bf16 gradient of the output, all channels-last."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        values = torch.randn(size, generator=generator)
        return values.to(device).contiguous(memory_format=torch.channels_last)

    x = draw(shape.images, shape.in_channels, shape.height, shape.width).bfloat16()
    weight = draw(shape.out_channels, shape.in_channels, shape.kernel, shape.kernel) / 10
    out_size = (shape.images, shape.out_channels, shape.out_height, shape.out_width)
    return x, weight, draw(*out_size).bfloat16()


def compute_by_equation(x, weight, gradient, stride):
    """Output and gradients of input and weight in float64, from the weight rounded to bf16."""
    x = x.double().requires_grad_()
    weight = weight.bfloat16().double().requires_grad_()
    output = F.conv2d(x, weight, None, stride, weight.shape[2] // 2)
    return output.detach(), *torch.autograd.grad(output, [x, weight], gradient.double())


def compute_with_kernels(x, weight, gradient, stride, launches=(None, None, None)):
    return (
        compute_convolution(x, weight, stride, launches[0]),
        compute_input_gradient(gradient, weight, x.shape, stride, launches[1]),
        compute_weight_gradient(x, gradient, weight, stride, launches[2]),
    )


def assert_equals_equation(results, expected, sum_error=1e-5):
    """Outputs and input gradients are rounded once to bf16; weight gradients are fp32.

    `sum_error` is the error of fp32 sums, relative to the largest value.
    """
    for result, exact in zip(results[:2], expected[:2], strict=True):
        assert result.dtype == torch.bfloat16
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert result.isfinite().all()
        allowed = HALF_STEP * exact.abs() + sum_error * exact.abs().max()
        assert ((result.double() - exact).abs() <= allowed).all()
    gradient, exact = results[2], expected[2]
    assert gradient.dtype == torch.float32
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert (gradient.double() - exact).abs().max() <= sum_error * exact.abs().max()

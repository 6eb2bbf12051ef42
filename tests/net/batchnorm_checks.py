"""Compare the Triton kernels with float64, element by element."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from residua.net.triton_batchnorm import TritonBatchNormAddReLUFunction

FP32_ERROR = 2e-6  # of a few operations, relative to the largest term


def make_bf16_images(shape, device, mean=0.0, std=1.0):
    values = torch.randn(shape, device=device) * std + mean
    return values.bfloat16().to(memory_format=torch.channels_last)


def make_inputs(shape, adds, device="cpu", mean=0.5, std=2.0):
    """A BN with random weights, x, the residual (or None) and dy."""
    torch.manual_seed(sum(shape))
    norm = nn.BatchNorm2d(shape[1], device=device)
    nn.init.normal_(norm.weight, 1, 0.3), nn.init.normal_(norm.bias)
    x = make_bf16_images(shape, device, mean, std)
    return (
        norm,
        x,
        make_bf16_images(shape, device) if adds else None,
        make_bf16_images(shape, device),
    )


def run_kernels(norm, x, residual, dy, relu):
    """y, and the gradients of x, the weight, the bias and, if there is one, of the residual."""
    norm.zero_grad()
    inputs = [x.detach().requires_grad_(), norm.weight, norm.bias]
    if residual is not None:
        inputs.append(residual.detach().requires_grad_())
    y = TritonBatchNormAddReLUFunction.apply(
        inputs[0], *inputs[3:] or (None,), *inputs[1:3], norm, relu
    )
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def half_ulp(values):
    """Half the distance between bf16 neighbours: the error of one rounding."""
    _, exponents = torch.frexp(values)
    return torch.ldexp(torch.ones_like(values), exponents - 9)


def check_against_float64(norm, x, residual, dy, relu):
    """y and all gradients are float64's, rounded once; the running statistics agree to 1e-5."""
    before = copy.deepcopy(norm).double()
    y, dx, dweight, dbias, *dresidual = run_kernels(norm, x, residual, dy, relu)
    exact_x = x.double().requires_grad_()
    normalised = F.batch_norm(
        exact_x,
        before.running_mean,
        before.running_var,
        before.weight,
        before.bias,
        training=True,
        momentum=before.momentum,
        eps=before.eps,
    )
    exact_y = normalised.detach() if residual is None else normalised.detach() + residual.double()
    std = (exact_x.detach().var((0, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
    error = FP32_ERROR * (1 + exact_x.detach().abs().amax((0, 2, 3), keepdim=True) / std)
    weight = before.weight.detach().view(1, -1, 1, 1).abs()
    slack = error * (1 + weight + (0 if residual is None else residual.double().abs()))
    truth = exact_y.clamp(min=0) if relu else exact_y
    assert ((y.double() - truth).abs() <= 1.001 * half_ulp(truth) + slack).all()
    assert y.is_contiguous(memory_format=torch.channels_last)

    gradient = dy.double() * (y > 0) if relu else dy.double()
    exact_dx, exact_dweight, exact_dbias = torch.autograd.grad(
        normalised, [exact_x, before.weight, before.bias], gradient
    )
    size = gradient.abs() + gradient.abs().mean((0, 2, 3), keepdim=True)
    scaled = (exact_x.detach() - exact_x.detach().mean((0, 2, 3), keepdim=True)).abs() / std
    product = (gradient.abs() * scaled).mean((0, 2, 3))
    slack = error * weight / std * (size + scaled * product.view(1, -1, 1, 1))
    assert ((dx.double() - exact_dx).abs() <= 1.001 * half_ulp(exact_dx) + 2 * slack).all()
    rows, error = x.numel() // x.shape[1], error.flatten()
    assert ((dbias.double() - exact_dbias).abs() <= error * rows * size.mean((0, 2, 3))).all()
    size = rows * (product + gradient.abs().mean((0, 2, 3)))
    assert ((dweight.double() - exact_dweight).abs() <= error * size).all()
    if residual is not None:
        assert torch.equal(dresidual[0].double(), gradient)
    torch.testing.assert_close(
        norm.running_mean.double(), before.running_mean, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(norm.running_var.double(), before.running_var, rtol=1e-5, atol=0)
    assert norm.num_batches_tracked == 1

"""Convolutions in Triton on a GPU, at the shapes that networks have; skipped without a GPU."""

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from residua.config.papers import network
from residua.net.build import build
from residua.net.fast_conv import TritonConv2d, install_triton_convolutions
from residua.net.triton_conv_launches import ConvShape
from tests.net.triton_conv_checks import (
    assert_equals_equation,
    compute_by_equation,
    compute_with_kernels,
    make_tensors,
)

SHAPES = [
    ConvShape(128, 32, 32, 3, 16, 3, 1),
    ConvShape(128, 32, 32, 16, 16, 3, 1),
    ConvShape(128, 32, 32, 16, 32, 3, 2),
    ConvShape(128, 16, 16, 32, 32, 3, 1),
    ConvShape(128, 16, 16, 32, 64, 3, 2),
    ConvShape(128, 8, 8, 64, 64, 3, 1),
    ConvShape(128, 32, 32, 16, 32, 1, 2),
    ConvShape(128, 32, 32, 64, 16, 1, 1),
    ConvShape(128, 32, 32, 16, 64, 1, 1),
    ConvShape(128, 8, 8, 256, 64, 1, 1),
    ConvShape(128, 8, 8, 64, 256, 1, 1),
    ConvShape(37, 32, 32, 16, 16, 3, 1),
    ConvShape(37, 8, 8, 64, 64, 3, 1),
    ConvShape(37, 9, 9, 48, 80, 3, 2),
    ConvShape(64, 14, 14, 256, 256, 3, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_are_those_of_the_equation_and_repeat_bit_for_bit(shape):
    tensors = make_tensors(shape, "cuda")
    first = compute_with_kernels(*tensors, shape.stride)
    assert_equals_equation(first, compute_by_equation(*tensors, shape.stride), sum_error=5e-5)
    for _ in range(10):
        poison = [torch.full_like(result, torch.nan) for result in first]
        poison.append(torch.full((2**24,), torch.nan, device="cuda"))
        del poison  # what the allocator hands out next
        again = compute_with_kernels(*tensors, shape.stride)
        assert all(map(torch.equal, again, first))


def compute_gradients(net, images, precision):
    net.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        net(images).float().square().mean().backward()
    return {name: parameter.grad.double() for name, parameter in net.named_parameters()}


def test_gradients_of_a_network_are_as_near_to_fp32_as_those_of_pytorch():
    torch.manual_seed(0)
    device = torch.device("cuda")
    net = build(network("cifar-resnet20")).to(device, memory_format=torch.channels_last)
    images = torch.randn(128, 3, 32, 32, device=device).contiguous(
        memory_format=torch.channels_last
    )
    exact = compute_gradients(net, images, "fp32")
    plain = compute_gradients(net, images, "bf16")
    install_triton_convolutions(net, device)
    assert sum(isinstance(module, TritonConv2d) for module in net.modules()) == 19
    ours = compute_gradients(net, images, "bf16")
    assert all(gradient.isfinite().all() for gradient in ours.values())

    def measure_distance(gradients):
        return sum((gradients[name] - exact[name]).square().sum() for name in exact) ** 0.5

    assert measure_distance(ours) <= 1.1 * measure_distance(plain)

"""A convolution whose kernel is larger than its input has the gradients of its equation."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from residua.config.papers import network
from residua.net.build import build
from residua.net.cropped_conv import CroppedConv2d
from residua.training.machine import Machine
from tests.third_party import torchvision


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride"),
    [(h, w, k, s) for h, w, k, s in product((1, 2, 3, 5), (1, 2, 4), (3, 5, 7), (1, 2))],
)
def test_outputs_and_gradients_equal_those_in_float64(height, width, kernel, stride):
    torch.manual_seed(0)
    layer = CroppedConv2d(6, 4, kernel, stride, kernel // 2, groups=2, bias=False).double()
    x = torch.randn(2, 6, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, layer.weight, None, stride, kernel // 2, groups=2)
    gradients = torch.autograd.grad(expected.square().sum(), [x, layer.weight])
    output = layer(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.square().sum(), [x, layer.weight]), gradients
    )


def compute_gradients(net, images):
    junk = [torch.full((2**20,), 1e30) for _ in range(4)]  # what unset gradients would show
    del junk
    net.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        net(images).square().mean().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


def build_ours():
    return build(network("resnet18", input=(3, 32, 32), classes=3))  # trained on smaller images


def build_theirs():
    return torchvision.models.resnet18(num_classes=3)


@pytest.mark.parametrize("build_net", [build_ours, build_theirs])
def test_gradients_in_bf16_of_images_that_shrink_to_one_pixel_are_set_and_repeat(build_net):
    net = Machine(torch.device("cpu"), "bf16").prepare_model_in_place(build_net())
    assert any(isinstance(module, CroppedConv2d) for module in net.modules())
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first = compute_gradients(net, images)
    assert max(gradient.abs().max() for gradient in first) < 1e3
    for _ in range(3):
        assert all(map(torch.equal, compute_gradients(net, images), first))

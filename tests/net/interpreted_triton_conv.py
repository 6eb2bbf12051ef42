"""Tests of convolutions in Triton that test_triton_conv.py runs in a process of their own."""

from itertools import product

import pytest
import torch
from torch import nn

from residua.config.papers import network
from residua.net import fast_conv, fused_bn, triton_batchnorm
from residua.net.build import build
from residua.net.fast_conv import TritonConv2d, install_triton_convolutions
from residua.net.triton_batchnorm import TritonBatchNormAddReLUFunction
from residua.net.triton_conv import (
    TritonConvolution,
    allocate_moments,
    compute_convolution,
)
from residua.net.triton_conv_launches import ConvShape, Launch
from tests.net.triton_conv_checks import (
    assert_equals_equation,
    compute_by_equation,
    compute_with_kernels,
    make_tensors,
)
from tests.triton_interpreter import mend_triton_interpreter

mend_triton_interpreter()  # TRITON_INTERPRET is set for this process
CPU = torch.device("cpu")
SHAPES = [
    ConvShape(*sizes, *channels, kernel, stride)
    for (sizes, channels), kernel, stride in product(
        [((2, 8, 8), (16, 16)), ((1, 5, 7), (16, 32)), ((1, 5, 4), (64, 48)), ((1, 7, 3), (3, 16))],
        (1, 3),
        (1, 2),
    )
] + [ConvShape(2, 1, 1, 16, 16, 3, 1), ConvShape(1, 2, 1, 32, 16, 3, 2)]


def describe(shape):
    return f"{shape.in_channels}-{shape.out_channels}-{shape.kernel}x{shape.kernel}-{shape.stride}"


@pytest.mark.parametrize("shape", SHAPES, ids=describe)
def test_output_and_gradients_are_those_of_the_equation_in_float64(shape):
    tensors = make_tensors(shape)
    expected = compute_by_equation(*tensors, shape.stride)
    assert_equals_equation(compute_with_kernels(*tensors, shape.stride), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "launch",
    [
        Launch(32, 16, 16, programs=3),
        Launch(64, 16, 64, programs=40, tiles=3, whole=True),
        Launch(16, 64, 32, programs=1, tiles=2, whole=True),
    ],
)
def test_results_do_not_depend_on_the_launch_configuration(launch, stride):
    shape = ConvShape(2, 7, 6, 16, 32, 3, stride)
    tensors = make_tensors(shape)
    expected = compute_by_equation(*tensors, stride)
    assert_equals_equation(compute_with_kernels(*tensors, stride, [launch] * 3), expected)


@pytest.mark.parametrize("launch", [Launch(32, 16, 16, tiles=3, whole=True), Launch(64, 32, 32)])
@pytest.mark.parametrize("mean", [0, 100])
def test_the_moments_of_the_output_are_those_in_float64(mean, launch):
    x, weight, _ = make_tensors(ConvShape(3, 9, 6, 16, 32, 3, 1))
    weight[:, :, 1, 1] += mean / 100
    x = (x * 0.1 + mean).bfloat16()
    moments = allocate_moments(x, weight, 1, launch).fill_(torch.nan)
    output = compute_convolution(x, weight, 1, launch, moments=moments)
    parts = output.permute(0, 2, 3, 1).reshape(-1, 32).double().split(launch.block_m * launch.tiles)
    means = torch.stack([part.mean(0) for part in parts])
    spreads = torch.stack([(part - part.mean(0)).square().sum(0) for part in parts])
    torch.testing.assert_close(moments[:, 0].double(), means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments[:, 1].double(), spreads, rtol=1e-4, atol=1e-6)


def test_gradients_are_the_same_with_moments():
    x, weight, gradient = make_tensors(ConvShape(2, 5, 4, 16, 16, 3, 1))
    x.requires_grad_()
    weight.requires_grad_()
    output, moments = TritonConvolution.apply(x, weight, 1, True)
    assert not moments.requires_grad
    plain = TritonConvolution.apply(x, weight, 1)
    assert torch.equal(output, plain)
    for result in (output, plain):
        x.grad = weight.grad = None
        result.backward(gradient)
        assert_equals_equation(
            (result, x.grad, weight.grad), compute_by_equation(x, weight, gradient, 1)
        )


@pytest.fixture
def pretends_to_be_a_gpu(monkeypatch):
    monkeypatch.setattr(fast_conv, "explain_missing_convolutions", lambda device: None)


def build_conv(*arguments, **settings):
    conv = nn.Conv2d(*arguments, **settings)
    net = nn.Sequential(conv).to(memory_format=torch.channels_last)
    install_triton_convolutions(net, CPU)
    return net


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
def test_a_module_keeps_its_parameters_and_gets_their_gradients_in_fp32():
    net = build_conv(16, 32, 3, 2, 1, bias=False)
    assert type(net[0]) is TritonConv2d
    assert list(net.state_dict()) == ["0.weight"]
    x, _, gradient = make_tensors(ConvShape(2, 6, 6, 16, 32, 3, 2))
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = net(x)
    output.backward(gradient)
    results = (output, x.grad, net[0].weight.grad)
    assert_equals_equation(results, compute_by_equation(x, net[0].weight, gradient, 2))


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
def test_fp32_images_are_rounded_under_autocast():
    net = build_conv(3, 16, 3, 1, 1, bias=False)
    images = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(images)
        assert torch.equal(output, net(images.bfloat16()))
    assert output.dtype == torch.bfloat16


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 3, padding=1),  # with a bias
        nn.Conv2d(16, 16, 3, padding=0, bias=False),
        nn.Conv2d(16, 16, 5, padding=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(24, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.Conv2d(16, 512, 1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=(2, 1), bias=False),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False),
    ],
    ids=repr,
)
def test_other_convolutions_remain_those_of_pytorch(conv):
    net = nn.Sequential(conv)
    install_triton_convolutions(net, CPU)
    assert type(net[0]) is nn.Conv2d


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
def test_other_precisions_and_layouts_are_computed_by_pytorch():
    net = build_conv(16, 16, 3, 1, 1, bias=False)
    x = torch.randn(2, 16, 5, 5)
    expected = nn.functional.conv2d(x, net[0].weight, None, 1, 1)
    assert torch.equal(net(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(net(x).float(), expected, atol=0.05)
    assert torch.allclose(net.double()(x.double()).float(), expected, atol=1e-5)


def test_nothing_changes_without_a_gpu():
    net = build_conv(16, 16, 3, 1, 1, bias=False)
    assert type(net[0]) is nn.Conv2d
    assert fast_conv.describe_convolutions(CPU) == "PyTorch's"


def compute_gradients(net, images, precision):
    net.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        net(images).float().square().mean().backward()
    return {name: parameter.grad.double() for name, parameter in net.named_parameters()}


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
def test_gradients_of_a_network_are_as_near_to_fp32_as_those_of_pytorch():
    torch.manual_seed(0)
    net = build(network("cifar-resnet8")).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    exact = compute_gradients(net, images, "fp32")
    plain = compute_gradients(net, images, "bf16")
    install_triton_convolutions(net, CPU)
    assert sum(isinstance(module, TritonConv2d) for module in net.modules()) == 7
    ours = compute_gradients(net, images, "bf16")

    def measure_distance(gradients):
        return sum((gradients[name] - exact[name]).square().sum() for name in exact) ** 0.5

    assert measure_distance(ours) <= 1.1 * measure_distance(plain)


@pytest.mark.usefixtures("pretends_to_be_a_gpu")
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet8"])
def test_batchnorm_takes_the_moments_from_the_convolution_before_it(name, monkeypatch):
    monkeypatch.setattr(fused_bn, "explain_missing_kernels", lambda device: None)
    monkeypatch.setattr(
        fused_bn, "choose_kernel_function", lambda device: TritonBatchNormAddReLUFunction
    )
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    ends, sums = [], []
    launch_sums = triton_batchnorm.sum_batch_kernel
    for max_parts in (0, 512):
        monkeypatch.setattr(fast_conv, "MAX_MOMENT_PARTS", max_parts)
        monkeypatch.setattr(triton_batchnorm, "sum_batch_kernel", CountedKernel(launch_sums))
        net = build(network(name)).to(memory_format=torch.channels_last)
        install_triton_convolutions(net, CPU)
        fused_bn.install_fused_batchnorm(net)
        gradients = compute_gradients(net, images, "bf16")
        sums.append(triton_batchnorm.sum_batch_kernel.count)
        ends.append({**gradients, **dict(net.named_buffers())})
    batchnorms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    # in a pre-activation net, the first BN of a unit, and the last one, follow no convolution
    assert sums == [batchnorms, 0 if name == "cifar-resnet8" else 4]
    for key, without in ends[0].items():
        difference = (ends[1][key] - without).double().norm()
        assert difference <= 0.02 * without.double().norm() + 1e-6, key


class CountedKernel:
    """A kernel that counts how often it is launched."""

    def __init__(self, kernel):
        self.kernel, self.count = kernel, 0

    def __getitem__(self, grid):
        self.count += 1
        return self.kernel[grid]

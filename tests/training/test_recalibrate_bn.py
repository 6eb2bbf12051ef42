import copy

import pytest
import torch
from torch import nn

import residua
from residua.config.dataset import get_dataset
from residua.data.augment import normalise_pixels
from residua.data.images import Images
from residua.data.read import read_split
from residua.net.freeze import list_unfrozen_batchnorms
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine
from residua.training.recalibrate_bn import (
    recalibrated_batchnorm,
    score_with_recalibrated_bn,
)

CPU_FP32 = Machine(torch.device("cpu"), "fp32")
MEAN, STD = (0.3,), (0.4,)


def make_random_images(n):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(10, (n,), generator=generator))


def test_inside_the_context_statistics_are_those_of_the_images():
    norm, images = nn.BatchNorm2d(1), make_random_images(1000)
    x = normalise_pixels(images.pixels, MEAN, STD)
    with recalibrated_batchnorm(nn.Sequential(norm), images, MEAN, STD, CPU_FP32):
        assert norm.running_mean.item() == pytest.approx(x.mean().item(), abs=1e-6)
        assert norm.running_var.item() == pytest.approx(
            x.var().item(), rel=1e-3
        )  # the mean of the variances of two batches
        assert not norm.training
    assert (norm.running_mean.item(), norm.running_var.item(), norm.momentum) == (0, 1, 0.1)


def test_the_network_is_restored_bit_identically_even_after_a_failure():
    net = residua.create_model("cifar-resnet8,join=drop-path", input=(1, 8, 8)).train()
    before = copy.deepcopy(net.state_dict())
    first, second = [
        score_with_recalibrated_bn(net, make_random_images(60), MEAN, STD, CPU_FP32)
        for _ in range(2)
    ]
    assert first == second  # no drop-path
    with (
        pytest.raises(ZeroDivisionError),
        recalibrated_batchnorm(net, make_random_images(60), MEAN, STD, CPU_FP32),
    ):
        raise ZeroDivisionError
    assert all(module.training for module in net.modules())
    assert {norm.momentum for norm in list_unfrozen_batchnorms(net)} == {0.1}
    for name, value in net.state_dict().items():
        assert value.equal(before[name]), name


def test_recalibration_corrects_lagging_running_averages():
    """After a few steps the running averages are almost the initial ones: chance error."""
    images = read_split(get_dataset("digits"), "train")[slice(0, 600)]
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8))
    for norm in list_unfrozen_batchnorms(net):
        norm.momentum = 0.001
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x = normalise_pixels(images.pixels, MEAN, STD)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), images.labels).backward()
        optimiser.step()
    lagging, now = (
        evaluate_network(net, images, MEAN, STD, CPU_FP32),
        score_with_recalibrated_bn(net, images, MEAN, STD, CPU_FP32),
    )
    net.train()
    wrong = (net(x).argmax(1) != images.labels).float().mean().item()
    assert lagging.error > 0.5
    assert now.error == pytest.approx(wrong, abs=0.01)
    assert now.error < 0.1

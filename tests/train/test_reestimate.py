import copy

import pytest
import torch
from torch import nn

import residua
from residua.data.augment import normalise
from residua.data.read import Images, read
from residua.spec.dataset import dataset
from residua.train.evaluate import evaluate
from residua.train.machine import Machine
from residua.train.reestimate import norms, reestimated, reestimated_score

MACHINE = Machine(torch.device("cpu"), "fp32")
MEAN, STD = (0.3,), (0.4,)


def random_images(n):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(10, (n,), generator=generator))


def test_within_it_statistics_are_those_of_the_images():
    norm, images = nn.BatchNorm2d(1), random_images(1000)
    x = normalise(images.pixels, MEAN, STD)
    with reestimated(nn.Sequential(norm), images, MEAN, STD, MACHINE):
        assert norm.running_mean.item() == pytest.approx(x.mean().item(), abs=1e-6)
        assert norm.running_var.item() == pytest.approx(x.var().item(), rel=1e-3)  # a mean of two batches' variances
        assert not norm.training
    assert (norm.running_mean.item(), norm.running_var.item(), norm.momentum) == (0, 1, 0.1)


def test_the_network_is_left_as_it_was_to_the_bit_also_after_a_failure():
    net = residua.create_model("cifar-resnet8,join=drop-path", input=(1, 8, 8)).train()
    before = copy.deepcopy(net.state_dict())
    first, second = [reestimated_score(net, random_images(60), MEAN, STD, MACHINE) for _ in range(2)]
    assert first == second  # nothing is dropped at random
    with pytest.raises(ZeroDivisionError), reestimated(net, random_images(60), MEAN, STD, MACHINE):
        raise ZeroDivisionError
    assert all(module.training for module in net.modules())
    assert {norm.momentum for norm in norms(net)} == {0.1}
    for name, value in net.state_dict().items():
        assert value.equal(before[name]), name


def test_a_network_whose_averages_lag_is_told_by_its_own_weights():
    """After a few steps of training running averages are still those of the beginning, and the error they give is a guess's."""
    images = read(dataset("digits"), "train")[slice(0, 600)]
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8))
    for norm in norms(net):
        norm.momentum = 0.001
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x = normalise(images.pixels, MEAN, STD)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), images.labels).backward()
        optimiser.step()
    lagging, now = evaluate(net, images, MEAN, STD, MACHINE), reestimated_score(net, images, MEAN, STD, MACHINE)
    net.train()
    wrong = (net(x).argmax(1) != images.labels).float().mean().item()
    assert lagging.error > 0.5
    assert now.error == pytest.approx(wrong, abs=0.01)
    assert now.error < 0.1

"""A frozen body is truly still: neither weights nor BN statistics move, whatever the step does."""

import pytest
import torch

from residua.net.build import build
from residua.net.freeze import freeze, last_of
from residua.spec.papers import network
from residua.spec.recipe import AdamW, Muon, RmsProp, Sgd
from residua.train.step import Step
from tests.train.runs import CPU

OPTIMISERS = [Sgd(weight_decay=0.1), AdamW(weight_decay=0.1), RmsProp(weight_decay=0.1), Muon(weight_decay=0.1)]


def trained(net, optimiser, body_lr=1.0, steps=3):
    """State of a net before and after a few steps on random images."""
    before = {name: x.clone() for name, x in net.state_dict().items()}
    net.train()
    step = Step(net, optimiser, CPU, body_lr=body_lr)
    for i in range(steps):
        images = torch.randn(8, *net.plan.network.input, generator=torch.Generator().manual_seed(i)) + 3
        step(images, torch.arange(8) % 10, 0.1)
    return before, net.state_dict()


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet8"])  # the latter's last BN stands in the head
def test_a_frozen_body_does_not_move_by_a_bit(name, optimiser):
    net = build(network(name, input=(3, 8, 8)))
    freeze(net)
    before, after = trained(net, optimiser)
    last = [name for name in before if name.startswith(f"head.{len(net.head) - 1}.")]
    assert len(last) == 2
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in last), name


def test_a_body_that_is_not_frozen_moves():
    before, after = trained(build(network("cifar-resnet8", input=(3, 8, 8))), OPTIMISERS[0])
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_frozen_and_free_compute_the_same_in_evaluation():
    free, still = [build(network("cifar-resnet8", input=(3, 8, 8)), seed=3) for _ in range(2)]
    freeze(still)
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(free.eval()(images), still.train()(images))
    assert list(free.state_dict()) == list(still.state_dict())


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_below_the_last_layer_the_rate_is_a_share(share):
    """One step of plain gradient descent moves the body by that share of what it moves otherwise, and the last layer as far."""
    states = []
    for body_lr in (1.0, share):
        net = build(network("cifar-resnet8", input=(3, 8, 8)), seed=1).double()
        last = {name for name, p in net.named_parameters() if p in last_of(net)}
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        step = Step(net.train(), Sgd(0.0, 0.0), CPU, body_lr=body_lr)
        step(torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(8), 0.1)
        states.append({name: p.detach() - before[name] for name, p in net.named_parameters()})
    whole, part = states
    for name, moved in whole.items():
        assert torch.allclose(part[name], moved * (1 if name in last else share), atol=1e-15), name

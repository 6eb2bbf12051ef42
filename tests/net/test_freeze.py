"""A frozen body never changes: neither its weights nor its BN statistics."""

import pytest
import torch

from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.config.papers import network
from residua.net.build import build
from residua.net.freeze import (
    freeze_backbone,
    last_layer_parameters,
    list_unfrozen_batchnorms,
)
from residua.training.step import TrainingStep
from tests.training.short_runs import CPU_FP32

OPTIMISERS = [
    Sgd(weight_decay=0.1),
    AdamW(weight_decay=0.1),
    RmsProp(weight_decay=0.1),
    Muon(weight_decay=0.1),
]


def train_steps(net, optimiser, body_lr=1.0, steps=3):
    """The state of a net before and after a few steps on random images."""
    before = {name: x.clone() for name, x in net.state_dict().items()}
    net.train()
    step = TrainingStep(net, optimiser, CPU_FP32, body_lr=body_lr)
    for i in range(steps):
        images = (
            torch.randn(8, *net.plan.network.input, generator=torch.Generator().manual_seed(i)) + 3
        )
        step(images, torch.arange(8) % 10, 0.1)
    return before, net.state_dict()


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "name", ["cifar-resnet8", "cifar-preresnet8"]
)  # the latter's last BN stands in the head
def test_a_frozen_body_stays_bit_identical(name, optimiser):
    net = build(network(name, input=(3, 8, 8)))
    freeze_backbone(net)
    before, after = train_steps(net, optimiser)
    last = [name for name in before if name.startswith(f"head.{len(net.head) - 1}.")]
    assert len(last) == 2
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in last), name


def test_an_unfrozen_body_changes():
    before, after = train_steps(build(network("cifar-resnet8", input=(3, 8, 8))), OPTIMISERS[0])
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_frozen_running_statistics_are_not_updated():
    net = build(network("cifar-resnet8", input=(3, 8, 8)))
    assert len(list_unfrozen_batchnorms(net)) == 7
    freeze_backbone(net)
    assert list_unfrozen_batchnorms(net) == []


def test_a_frozen_and_an_unfrozen_net_compute_the_same_in_eval_mode():
    free, still = [build(network("cifar-resnet8", input=(3, 8, 8)), seed=3) for _ in range(2)]
    freeze_backbone(still)
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(free.eval()(images), still.train()(images))
    assert list(free.state_dict()) == list(still.state_dict())


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_layers_below_the_head_use_a_scaled_learning_rate(share):
    """One step of gradient descent moves the body by `share` of its full step.

    The last layer moves by its full step.
    """
    states = []
    for body_lr in (1.0, share):
        net = build(network("cifar-resnet8", input=(3, 8, 8)), seed=1).double()
        last = {name for name, p in net.named_parameters() if p in last_layer_parameters(net)}
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        step = TrainingStep(net.train(), Sgd(0.0, 0.0), CPU_FP32, body_lr=body_lr)
        step(
            torch.randn(
                8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            ),
            torch.arange(8),
            0.1,
        )
        states.append({name: p.detach() - before[name] for name, p in net.named_parameters()})
    whole, part = states
    for name, moved in whole.items():
        assert torch.allclose(part[name], moved * (1 if name in last else share), atol=1e-15), name

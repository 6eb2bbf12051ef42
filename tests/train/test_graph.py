"""A step as one CUDA graph does what the same step does kernel by kernel."""

import pytest
import torch

from residua.data.counter import bits
from residua.net.build import create_model
from residua.spec.recipe import Muon, Sgd
from residua.train.graph import WARM
from residua.train.machine import machine
from residua.train.step import Step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(name, optimiser, graphs, steps):
    here = machine("bf16")
    net = here.place(create_model(name, num_classes=10))
    step = Step(net, optimiser, here)
    if not graphs:
        step.whole = step.backward
    seen = []
    for i in range(steps):
        torch.manual_seed(i)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(i)).to(here.device)
        labels = (bits(1, i, torch.arange(16)) % 10).to(here.device)
        seen.append(torch.stack(step(images, labels, 0.05 / (i + 1))))
    return net, torch.stack(seen)


@pytest.mark.parametrize("optimiser", [Sgd(), Muon()])
@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20,join=drop-path"])
def test_a_graph_trains_to_the_same_bits(name, optimiser):
    (net, seen), (other, expected) = (trained(name, optimiser, graphs, WARM + 5) for graphs in (True, False))
    assert torch.equal(seen, expected)
    for value, wanted in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def test_a_deep_net_replays_a_graph():
    here = machine("bf16")
    step = Step(here.place(create_model("cifar-resnet1202")), Sgd(), here)
    images, labels = torch.zeros(8, 3, 32, 32, device=here.device), torch.zeros(8, dtype=torch.int64, device=here.device)
    for _ in range(WARM + 2):
        loss, _ = step(images, labels, 0.0)
    assert loss.isfinite()
    assert step.whole.graph is not None

"""A step as one CUDA graph computes the same as kernel by kernel."""

import pytest
import torch

from residua.config.optimisers import Muon, Sgd
from residua.data.counter_rng import random_bits_from_keys
from residua.net.create import create_model
from residua.training.cuda_graph import WARMUP_CALLS
from residua.training.machine import set_up_machine
from residua.training.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def train_steps(name, optimiser, graphs, steps):
    gpu_machine = set_up_machine("bf16")
    net = gpu_machine.prepare_model_in_place(create_model(name, num_classes=10))
    step = TrainingStep(net, optimiser, gpu_machine)
    if not graphs:
        step.run_undivided = step.forward_backward
    losses_and_wrong = []
    for i in range(steps):
        torch.manual_seed(i)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(i)).to(
            gpu_machine.device
        )
        labels = (random_bits_from_keys(1, i, torch.arange(16)) % 10).to(gpu_machine.device)
        losses_and_wrong.append(torch.stack(step(images, labels, 0.05 / (i + 1))))
    return net, torch.stack(losses_and_wrong)


@pytest.mark.parametrize("optimiser", [Sgd(), Muon()])
@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20,join=drop-path"])
def test_training_with_a_cuda_graph_is_bit_identical(name, optimiser):
    (net, seen), (other, expected) = (
        train_steps(name, optimiser, graphs, WARMUP_CALLS + 5) for graphs in (True, False)
    )
    assert torch.equal(seen, expected)
    for value, wanted in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def test_a_deep_net_trains_with_a_cuda_graph():
    here = set_up_machine("bf16")
    step = TrainingStep(here.prepare_model_in_place(create_model("cifar-resnet1202")), Sgd(), here)
    images, labels = (
        torch.zeros(8, 3, 32, 32, device=here.device),
        torch.zeros(8, dtype=torch.int64, device=here.device),
    )
    for _ in range(WARMUP_CALLS + 2):
        loss, _ = step(images, labels, 0.0)
    assert loss.isfinite()
    assert step.run_undivided.graph is not None

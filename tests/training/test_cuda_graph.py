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


@pytest.mark.parametrize("optimiser", [Sgd(), Muon()])
def test_a_graph_is_captured_anew_when_the_trained_layers_or_the_image_size_change(optimiser):
    """Averaged and clipped, each phase long enough for a graph, and an evaluation in between."""
    ends = []
    for graphs in (True, False):
        here = set_up_machine("bf16")
        net = here.prepare_model_in_place(create_model("cifar-preresnet20", num_classes=10)).train()
        step = TrainingStep(
            net, optimiser, here, clip_norm=0.5, ema=0.9, layer_decay=0.5, may_probe=True
        )
        losses, captured = [], set()
        for i in range(4 * (WARMUP_CALLS + 2)):
            phase = i // (WARMUP_CALLS + 2)
            step.set_probing(phase < 2)
            if not graphs:
                step.run_undivided = step.forward_backward
            side = 16 if phase in (0, 2) else 32
            generator = torch.Generator().manual_seed(i)
            images = torch.randn(16, 3, side, side, generator=generator).to(here.device)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = (torch.arange(16) % 10).to(here.device)
            losses.append(torch.stack(step(images, labels, 0.05)))
            step.average.update(i)
            captured |= {(phase, getattr(step.run_undivided, "graph", None) is not None)}
            with step.averaged_weights(), torch.no_grad():
                net.eval()
                net(images)
                net.train()
        assert {phase for phase, is_graph in captured if is_graph} == (
            set(range(4)) if graphs else set()
        )
        ends.append([*net.state_dict().values(), *step.average.tensors.values(), *losses])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))

"""A step as one CUDA graph computes the same as kernel by kernel."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from torch import nn

from residua.config.augmentation import Augmentation
from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.config.recipes import recipe
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import random_bits_from_keys
from residua.data.images import Images
from residua.errors import TrainingError
from residua.net import fast_conv
from residua.net.create import create_model
from residua.net.fused_bn import FusedSequential, FusedUnit
from residua.net.gradient_stream import WeightGradientStream
from residua.training.cuda_graph import WARMUP_CALLS
from residua.training.gpu_streams import get_own_stream
from residua.training.machine import set_up_machine
from residua.training.step import TrainingStep, make_training_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS = WARMUP_CALLS + 5
AUGMENTATIONS = {
    "shifts and flips": Augmentation(),
    "cutout": Augmentation(cut=8),
    "random areas": Augmentation(pad=0, area=0.35, colour=0.4),
    "mixed": Augmentation(mixup=0.4, cutmix=0.4),
    "RandAugment": Augmentation(randaugment=2),
}


def train_steps(name, optimiser, graphs, steps):
    gpu_machine = set_up_machine("bf16")
    net = gpu_machine.prepare_model_in_place(create_model(name, num_classes=10))
    step = TrainingStep(net, optimiser, gpu_machine)
    step.uses_cuda_graph &= graphs
    losses_and_wrong = []
    for i in range(steps):
        torch.manual_seed(i)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(i)).to(
            gpu_machine.device
        )
        labels = (random_bits_from_keys(1, i, torch.arange(16)) % 10).to(gpu_machine.device)
        losses_and_wrong.append(torch.stack(step(images, labels, 0.05 / (i + 1))))
    return net, torch.stack(losses_and_wrong)


@pytest.mark.parametrize("optimiser", [Sgd(), Muon(), AdamW(), RmsProp(momentum=0.5)])
@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20,join=drop-path"])
def test_training_with_a_cuda_graph_is_bit_identical(name, optimiser):
    (net, seen), (other, expected) = (
        train_steps(name, optimiser, graphs, STEPS) for graphs in (True, False)
    )
    assert torch.equal(seen, expected)
    for value, wanted in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def make_batches(augment, device, count=100, batch_size=32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(count) % 10).to(device)
    return TrainingBatches(images, batch_size, augment, (0.5,) * 3, (0.25,) * 3, 3, num_classes=10)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_batches_assembled_in_the_graph_are_those_of_the_cpu(augment):
    """Also across the ends of epochs: 100 images make 3.125 batches."""
    here = set_up_machine("bf16")
    on_cpu, on_gpu = [
        make_batches(augment, device) for device in (torch.device("cpu"), here.device)
    ]
    net = here.prepare_model_in_place(create_model("cifar-resnet8", num_classes=10))
    step = TrainingStep(net, Sgd(), here)
    assert step.can_assemble(on_gpu) == (not augment.randaugment)
    for i in range(STEPS):
        if step.can_assemble(on_gpu):
            step.train_on_step(on_gpu, i, 0.01)
            seen = step.graphs.prefetched.images, step.graphs.prefetched.labels  # of the next step
        else:
            seen = on_gpu.make_batch(i + 1)
            step(*seen, 0.01)
        for ours, theirs in zip(seen, on_cpu.make_batch(i + 1), strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-4)
    assert step.graphs.are_captured


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"bn_splits": 2}, {"clip_norm": 0.5, "ema": 0.9, "layer_decay": 0.5}, {"smoothing": 0.1}],
    ids=["plain", "two BN splits", "clipped and averaged", "smoothed"],
)
def test_a_graph_that_assembles_its_batches_trains_as_kernels_on_their_own_do(name, changes):
    ends = []
    for graphs in (True, False):
        here = set_up_machine("bf16")
        net = here.prepare_model_in_place(create_model(name, num_classes=10)).train()
        step = make_training_step(net, replace(recipe("he2015"), **changes), here)
        step.uses_cuda_graph &= graphs
        batches = make_batches(Augmentation(), here.device)
        losses = []
        for i in range(STEPS):
            if graphs:
                losses.append(torch.stack(step.train_on_step(batches, i, 0.05)))
            else:
                losses.append(torch.stack(step(*batches.make_batch(i), 0.05)))
            if step.average:
                step.average.update(i)
        assert step.graphs.are_captured == graphs
        average = step.average.tensors.values() if step.average else ()
        ends.append([*net.state_dict().values(), *losses, *average])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


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
    assert step.graphs.are_captured


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
        step.uses_cuda_graph &= graphs
        losses, captured = [], set()
        for i in range(4 * (WARMUP_CALLS + 2)):
            phase = i // (WARMUP_CALLS + 2)
            step.set_probing(phase < 2)
            side = 16 if phase in (0, 2) else 32
            generator = torch.Generator().manual_seed(i)
            images = torch.randn(16, 3, side, side, generator=generator).to(here.device)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = (torch.arange(16) % 10).to(here.device)
            losses.append(torch.stack(step(images, labels, 0.05)))
            step.average.update(i)
            captured |= {(phase, step.graphs.are_captured)}
            with step.averaged_weights(), torch.no_grad():
                net.eval()
                net(images)
                net.train()
        assert {phase for phase, is_graph in captured if is_graph} == (
            set(range(4)) if graphs else set()
        )
        ends.append([*net.state_dict().values(), *step.average.tensors.values(), *losses])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20", "cifar-preresnet29"])
def test_weight_gradients_on_a_stream_of_their_own_have_the_same_bits(name):
    ends = []
    for is_apart in (True, False):
        here = set_up_machine("bf16")
        net = here.prepare_model_in_place(create_model(name, num_classes=10)).train()
        step = TrainingStep(net, Sgd(), here)
        step.gradient_stream = WeightGradientStream(here.device) if is_apart else None
        batches = make_batches(Augmentation(), here.device)
        losses = [torch.stack(step.train_on_step(batches, i, 0.05)) for i in range(40)]
        ends.append([*net.state_dict().values(), *losses])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20"])
def test_training_with_moments_of_convolutions_is_the_same_but_for_rounding(name, monkeypatch):
    losses = []
    for max_parts in (0, 512):
        monkeypatch.setattr(fast_conv, "MAX_MOMENT_PARTS", max_parts)
        here = set_up_machine("bf16")
        net = here.prepare_model_in_place(create_model(name, num_classes=10)).train()
        step = TrainingStep(net, Sgd(), here)
        batches = make_batches(Augmentation(), here.device)
        losses.append([step.train_on_step(batches, i, 0.01)[0].item() for i in range(20)])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


class SignDescent(torch.optim.Optimizer):
    """An optimiser of another package, which reads its rate on the host."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


def test_an_optimiser_that_does_not_take_its_rate_as_a_tensor_is_not_captured(monkeypatch):
    monkeypatch.setattr(
        "residua.training.step.build_torch_optimiser", lambda value, groups: SignDescent(groups)
    )
    monkeypatch.setattr(Sgd, "TAKES_LR_AS_TENSOR", False)
    here = set_up_machine("bf16")
    net = here.prepare_model_in_place(create_model("cifar-resnet8", num_classes=10)).train()
    step = TrainingStep(net, Sgd(), here)
    before = net.head[-1].weight.detach().clone()
    for i in range(STEPS):
        step(*make_batches(Augmentation(), here.device).make_batch(i), 0.01)
    assert not step.uses_cuda_graph
    assert not torch.equal(net.head[-1].weight, before)


class SometimesDeeper(nn.Module):
    """A module whose second layer is first used in the third step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3 * 32 * 32, 10), nn.Linear(10, 10)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.first(x.flatten(1))
        return self.second(x) if self.calls > 2 else x


def test_a_parameter_may_get_its_first_gradient_late():
    here = set_up_machine("fp32")
    step = TrainingStep(here.prepare_model_in_place(SometimesDeeper()).train(), Sgd(), here)
    batches = make_batches(Augmentation(), here.device)
    losses = [step(*batches.make_batch(i), 0.01)[0] for i in range(5)]
    assert all(loss.isfinite() for loss in losses)


def test_threads_do_not_get_a_stream_on_which_another_one_trains():
    """PyTorch has 32 streams, and hands them out again after that."""
    with ThreadPoolExecutor(4) as pool:
        barrier = Barrier(4)

        def list_own_streams(_):
            barrier.wait()
            purposes = ("run", "graph", "prefetch")
            return {get_own_stream(purpose).cuda_stream for purpose in purposes}

        first = list(pool.map(list_own_streams, range(4)))
        drawn = [torch.cuda.Stream() for _ in range(40)]
        again = list(pool.map(list_own_streams, range(4)))
    assert len(set.union(*first)) == 12
    assert sorted(map(sorted, first)) == sorted(map(sorted, again))
    assert len(drawn) == 40


def test_lack_of_memory_in_a_capture_is_said_in_one_sentence(monkeypatch):
    here = set_up_machine("bf16")
    net = here.prepare_model_in_place(create_model("cifar-resnet8", num_classes=10)).train()
    step, batches = TrainingStep(net, Sgd(), here), make_batches(Augmentation(), here.device)
    for i in range(WARMUP_CALLS):
        step.train_on_step(batches, i, 0.01)

    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step.optimiser, "step", fail)
    with pytest.raises(TrainingError, match="more memory than the GPU has free"):
        step.train_on_step(batches, WARMUP_CALLS, 0.01)


@pytest.mark.parametrize("bn_splits", [1, 2])
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-resnet8,join=drop-path"])
def test_the_engine_is_described_as_it_is(name, bn_splits):
    here = set_up_machine("bf16")
    net = here.prepare_model_in_place(create_model(name, num_classes=10), bn_splits).train()
    engine = here.describe_engine(net, bn_splits, Sgd())
    step = TrainingStep(net, Sgd(), here, bn_splits)
    has_fused_units = any(isinstance(unit, FusedUnit) for unit in net.units)
    assert (engine["step"] == "one CUDA graph") == step.uses_cuda_graph
    assert ("Triton" in engine["kernels"]) == any(
        isinstance(module, FusedSequential) for module in net.modules()
    )
    assert step.uses_cuda_graph or not has_fused_units

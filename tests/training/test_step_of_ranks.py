"""A step of several ranks as two graphs around an all-reduce is the step without graphs."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from residua.config.augmentation import Augmentation
from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.net.create import create_model
from residua.training.cuda_graph import WARMUP_CALLS
from residua.training.distributed import DataParallelGroup
from residua.training.machine import Machine, set_up_machine
from residua.training.step import TrainingStep
from tests.training.recorded_graphs import steps_recorded_on_a_cpu
from tests.training.test_cuda_graph import make_batches

PHASES = 2
STEPS = PHASES * (WARMUP_CALLS + 3)
FINE_TUNING = {"clip_norm": 0.5, "ema": 0.9, "layer_decay": 0.5, "may_probe": True}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class GroupOfEqualRanks(DataParallelGroup):
    """Two ranks of which the other one has the same images: sums are twice the own values."""

    def all_reduce_sum(self, x):
        if dist.is_initialized():
            dist.all_reduce(x)  # in a group of one
        return x.mul_(2)

    def broadcast_weights(self, net):
        pass


def train_as_one_of_two_ranks(machine, optimiser, options, *, graphs=True):
    """Train in two phases; return weights, averages, momenta, losses and wrong predictions."""
    group = GroupOfEqualRanks(0, 2)
    ranks = Machine(machine.device, machine.precision, group=group)
    net = create_model("cifar-resnet8", input=(1, 8, 8), num_classes=10, seed=3)
    net = ranks.prepare_model_in_place(net, 2).train()
    step = TrainingStep(net, optimiser, ranks, 2, **options)
    step.uses_cuda_graph &= graphs
    seen = []
    for i in range(STEPS):
        generator = torch.Generator().manual_seed(i)
        images = torch.randn(16, 1, 8, 8, generator=generator).to(machine.device)
        labels = (torch.arange(16) % 10).to(machine.device)
        if options:
            step.set_probing(i < STEPS // PHASES)
        seen.append(torch.stack(step(images, labels, 0.05 / (i + 1))))
        if step.average:
            step.average.update(i)
    averages = step.average.tensors.values() if step.average else ()
    tensors = [*net.state_dict().values(), *averages, *step.optimiser_state().values(), *seen]
    return step, [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("options", [{}, FINE_TUNING], ids=["plain", "two phases"])
@pytest.mark.parametrize("optimiser", [Sgd(), Muon(), AdamW()])  # RMSprop can on a GPU alone
def test_two_recorded_graphs_train_to_the_bits_of_the_same_step_without_them(optimiser, options):
    """The backward pass allocates the gradients, as in a CUDA graph, with and without a tape."""
    machine, ends = Machine(torch.device("cpu"), "fp32"), []
    for graphs in (True, False):
        with steps_recorded_on_a_cpu():
            step, tensors = train_as_one_of_two_ranks(machine, optimiser, options, graphs=graphs)
        assert step.graphs.are_captured == graphs
        assert set(step.graphs.current) == {"gradients", "update"}
        ends.append(tensors)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


@pytest.mark.parametrize("options", [{}, FINE_TUNING], ids=["plain", "two phases"])
def test_graphs_train_as_the_step_whose_gradients_are_added_up(options):
    machine, ends = Machine(torch.device("cpu"), "fp32"), []
    for context in (steps_recorded_on_a_cpu(), nullcontext()):
        with context:
            ends.append(train_as_one_of_two_ranks(machine, Sgd(), options)[1])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_stand_in_refuses_what_a_capture_refuses():
    class ReadingStep(TrainingStep):
        def compute_gradients(self, images, labels):
            return super().compute_gradients(images * labels.sum().item(), labels)

    machine = Machine(torch.device("cpu"), "fp32", group=GroupOfEqualRanks(0, 2))
    with steps_recorded_on_a_cpu():
        net = create_model("cifar-resnet8", input=(1, 8, 8), num_classes=10)
        step = ReadingStep(net, Sgd(), machine, 2)
        images, labels = torch.ones(4, 1, 8, 8), torch.ones(4, dtype=torch.int64)
        for _ in range(WARMUP_CALLS):
            step(images, labels, 0.0)
        with pytest.raises(RuntimeError, match="the host reads a tensor in a capture"):
            step(images, labels, 0.0)


@pytest.fixture
def nccl_group_of_one():
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@needs_gpu
@pytest.mark.parametrize("options", [{}, FINE_TUNING], ids=["plain", "two phases"])
@pytest.mark.parametrize("optimiser", [Sgd(), Muon(), AdamW(), RmsProp(momentum=0.5)])
def test_cuda_graphs_around_an_all_reduce_of_nccl_train_to_the_same_bits(
    nccl_group_of_one, optimiser, options
):
    machine, ends = set_up_machine("bf16"), []
    for graphs in (True, False):
        step, tensors = train_as_one_of_two_ranks(machine, optimiser, options, graphs=graphs)
        assert step.graphs.are_captured == graphs
        ends.append(tensors)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


@needs_gpu
def test_the_graph_of_a_rank_assembles_its_next_batch(nccl_group_of_one):
    here = set_up_machine("bf16")
    ranks, ends = Machine(here.device, "bf16", group=GroupOfEqualRanks(0, 2)), []
    for graphs in (True, False):
        net = create_model("cifar-resnet20", num_classes=10, seed=0)
        net = ranks.prepare_model_in_place(net, 2).train()
        step = TrainingStep(net, Sgd(), ranks, 2)
        step.uses_cuda_graph &= graphs
        batches = make_batches(Augmentation(), here.device)
        losses = [
            torch.stack(
                step.train_on_step(batches, i, 0.05)
                if graphs
                else step(*batches.make_batch(i), 0.05)
            )
            for i in range(STEPS)
        ]
        assert step.graphs.are_captured == graphs
        ends.append([*net.state_dict().values(), *losses])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


@needs_gpu
def test_the_engine_of_several_ranks_is_described_as_it_is():
    here = set_up_machine("bf16")
    for bn_splits, described in ((2, "two CUDA graphs"), (1, "one operator after another")):
        ranks = Machine(here.device, "bf16", group=GroupOfEqualRanks(0, 2))
        net = create_model("cifar-resnet8", num_classes=10)
        net = ranks.prepare_model_in_place(net, bn_splits)
        assert ranks.describe_engine(net, bn_splits, Sgd())["step"] == described

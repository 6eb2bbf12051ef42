import pytest
import torch

from residua.net.build import build
from residua.spec.memory import activation_bytes
from residua.spec.network import Drop, Gate, Scale
from residua.spec.papers import SHORTCUT_ABLATIONS, network
from residua.spec.plan import plan

NAMES = [
    "cifar-resnet20",
    "cifar-plain20",
    "cifar-preresnet20",
    "cifar-preresnet164",
    "cifar-resnet20,shortcut=C",
    "resnet18",
    "cifar-resnet20,order=skipinit",
    "cifar-highway20",
    "fc-resnet10",
    "lecture-resnet12",
]


def kept_by_torch(net, batch):
    """Bytes of all that autograd keeps for the backward pass, parameters left out."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    kept = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        scores = net(torch.zeros(batch, *net.plan.network.input))
    return sum(size for size, _ in kept.values()), scores


def statistics(planned):
    """Bytes of the mean and the inverse deviation that BN keeps for each channel, and of a head's pooled features."""
    return sum(2 * 4 * layer.out.channels for layer in planned.layers if layer.op == "bn")


@pytest.mark.parametrize("name", NAMES)
def test_activation_bytes_are_exactly_those_that_autograd_keeps(name):
    net, planned = build(network(name)), plan(network(name))
    kept, _ = kept_by_torch(net, batch=3)
    assert kept == 3 * activation_bytes(planned) + statistics(planned)


@pytest.mark.parametrize("join", [Scale(0.5, 1), Gate(-6.0), Gate(-6.0, scales="shortcut"), Drop(0.5), Drop(branch=0.5)], ids=str)
def test_activation_bytes_count_what_a_join_keeps(join):
    from dataclasses import replace

    base = network("cifar-resnet20")
    spec = replace(base, unit=replace(SHORTCUT_ABLATIONS["original"], join=join))
    kept, _ = kept_by_torch(build(spec), batch=2)
    assert kept == pytest.approx(2 * activation_bytes(plan(spec)), rel=0.02)


def test_activation_bytes_count_what_vlad_keeps():
    planned = plan(network("cifar-resnet20,head=vlad"))
    kept, _ = kept_by_torch(build(planned.network), batch=3)
    assert kept == 3 * activation_bytes(planned) + statistics(planned)

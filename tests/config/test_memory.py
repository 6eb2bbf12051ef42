import pytest
import torch

from residua.config.joins import Drop, Gate, Scale
from residua.config.memory import activation_bytes, estimate_evaluation_bytes
from residua.config.papers import SHORTCUT_ABLATIONS, network
from residua.config.plan import plan
from residua.net.build import build

NETWORK_NAMES = [
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
    "resnet10t",
    "seresnext26d_32x4d",
    "cifar-resnet20,attention=eca,width=0.5",
    "resnetv2_18d",
]


def measure_saved_by_autograd(net, batch):
    """Bytes of all that autograd keeps for the backward pass, parameters left out."""
    parameter_pointers = {
        t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]
    }
    saved_tensors = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in parameter_pointers:
            saved_tensors[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        scores = net(torch.zeros(batch, *net.plan.network.input))
    return sum(size for size, _ in saved_tensors.values()), scores


def count_bn_statistics_bytes(planned):
    """Bytes of the mean and the inverse deviation that BN keeps for each channel, and of a head's
    pooled features.
    """
    return sum(2 * 4 * layer.output_shape.channels for layer in planned.layers if layer.op == "bn")


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_activation_bytes_equal_those_saved_by_autograd(name):
    net, planned = build(network(name)), plan(network(name))
    kept, _ = measure_saved_by_autograd(net, batch=3)
    assert kept == 3 * activation_bytes(planned) + count_bn_statistics_bytes(planned)


@pytest.mark.parametrize(
    "join",
    [Scale(0.5, 1), Gate(-6.0), Gate(-6.0, scales="shortcut"), Drop(0.5), Drop(branch=0.5)],
    ids=str,
)
def test_activation_bytes_include_tensors_saved_by_a_join(join):
    from dataclasses import replace

    base = network("cifar-resnet20")
    spec = replace(base, unit=replace(SHORTCUT_ABLATIONS["original"], join=join))
    kept, _ = measure_saved_by_autograd(build(spec), batch=2)
    assert kept == pytest.approx(2 * activation_bytes(plan(spec)), rel=0.02)


def test_activation_bytes_include_tensors_saved_by_vlad():
    planned = plan(network("cifar-resnet20,head=vlad"))
    kept, _ = measure_saved_by_autograd(build(planned.network), batch=3)
    assert kept == 3 * activation_bytes(planned) + count_bn_statistics_bytes(planned)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # image and its normalised copy; a unit's input; a convolution's input and output; the sum
        ("cifar-resnet20", 2 * 3 * 32**2 + (1 + 2 + 1) * 16 * 32**2),
        ("cifar-plain20", 2 * 3 * 32**2 + (1 + 2) * 16 * 32**2),
        # a gate keeps the shortcut, too
        ("cifar-highway20", 2 * 3 * 32**2 + (1 + 2 + 2) * 16 * 32**2),
    ],
)
def test_memory_of_inference_is_that_of_the_widest_unit(name, numbers):
    assert estimate_evaluation_bytes(plan(network(name)), batch_size=10) == 10 * 4 * numbers

"""Recomputed activations give bit-identical results in every kind of network."""

from dataclasses import replace

import pytest
import torch

from residua.config.joins import Drop
from residua.config.papers import SHORTCUT_ABLATIONS, network
from residua.config.recipes import recipe
from residua.net import fused_bn
from residua.net.activation_checkpoint import CheckpointedStage
from residua.net.build import build
from residua.training.machine import Machine
from residua.training.step import TrainingStep

NAMES = [
    "cifar-resnet20",
    "cifar-resnet20,shortcut=B",
    "cifar-resnet20,shortcut=C",
    "cifar-preresnet20",
    "cifar-preresnet29,block=bottleneck",
    "cifar-plain20",
    "cifar-highway20",
    "cifar-resnet20,join=drop-path",
    "cifar-resnet20,order=skipinit",
    "fc-resnet10",
    "cifar-resnet29,block=bottleneck,groups=4x4d,attention=se,shortcut=D",
    "cifar-preresnet20,attention=eca,fork=shape-change,width=0.5",
]
SPECS = {name: network(name) for name in NAMES}
for name, spec in SPECS.items():
    SPECS[name] = network(name, input=(192,) if len(spec.input) == 1 else (3, 8, 8), classes=10)
DROPOUT_UNIT = replace(SHORTCUT_ABLATIONS["original"], join=Drop(shortcut=0.5, branch=0.3))
SPECS["dropout on both paths"] = replace(SPECS["cifar-resnet20"], unit=DROPOUT_UNIT)


def train_steps(spec, machine, steps=3):
    """The net, and its losses, gradients, weights and statistics after some steps."""
    net = machine.prepare_model_in_place(build(spec))
    step, losses = TrainingStep(net, recipe("he2015").optimiser, machine), []
    for i in range(steps):
        torch.manual_seed(i)
        images, labels = torch.randn(6, *spec.input), torch.arange(6) % 10
        losses.append(step(images, labels, 0.05)[0])
    return net, [
        *losses,
        *(p.grad for p in net.parameters()),
        *net.state_dict().values(),
        torch.rand(1),
    ]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "PyTorch's"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SPECS)
def test_activation_checkpointing_is_bit_identical(name, precision, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(fused_bn, "explain_missing_kernels", lambda _: "disabled by the test")
    if fused and (precision == "fp32" or fused_bn.explain_missing_kernels(fused_bn.CPU)):
        pytest.skip("the kernels are not used")
    plain, expected = train_steps(SPECS[name], Machine(torch.device("cpu"), precision))
    for way in ("unit", "stage", "sqrt"):
        net, found = train_steps(SPECS[name], Machine(torch.device("cpu"), precision, way))
        assert all(isinstance(stage, CheckpointedStage) for stage in net.stages.values())
        assert list(net.state_dict()) == list(plain.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        net.eval(), plain.eval()
        images = torch.randn(4, *SPECS[name].input)
        assert torch.equal(net(images), plain(images))


def test_accumulated_gradients_are_bit_identical_too():
    """Two backward passes before an update, and a gradient for the images too."""
    results = []
    for way in ("none", "sqrt"):
        net = Machine(torch.device("cpu"), "fp32", way).prepare_model_in_place(
            build(SPECS["cifar-resnet20"])
        )
        images = torch.randn(
            4, 3, 8, 8, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        losses = [
            net(images * scale).square().mean() for scale in (1, 2)
        ]  # both graphs are there at once
        for loss in losses:
            loss.backward()
        results.append(
            [images.grad, *(p.grad for p in net.parameters()), *net.state_dict().values()]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_frozen_part_gets_no_gradient():
    net = Machine(torch.device("cpu"), "fp32", "unit").prepare_model_in_place(
        build(SPECS["cifar-resnet20"])
    )
    for parameter in [*net.stem.parameters(), *net.stages["stage1"].parameters()]:
        parameter.requires_grad_(False)
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())

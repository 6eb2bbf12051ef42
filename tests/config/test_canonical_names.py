"""Tests of the names of changed networks: a name makes exactly the network that carries it."""

from dataclasses import replace

import pytest

from residua.config.canonical_names import (
    CUSTOM_TAG,
    with_canonical_name,
    with_units_per_stage,
)
from residua.config.papers import network


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "wide-resnet50-4",  # whose 3x3 convolution is as wide as the first stage
        "cifar-wrn16-4",
        "cifar-resnet20,block=triple",
        "cifar-resnet20,block=single",
        "cifar-preresnet110,join=shortcut-gate",
        "cifar-resnet20,shortcut=B,start=dirac",
        "resnet18,width=0.5",
        "resnext50_32x4d",
        "seresnet50",
        "resnet50d",
        "wide_resnet50_2",
    ],
)
def test_a_network_with_other_units_gets_a_name_that_makes_it(name: str) -> None:
    net = network(name)
    units = tuple(stage.units + 1 for stage in net.stages)
    deeper = with_units_per_stage(net, units)
    assert tuple(stage.units for stage in deeper.stages) == units
    assert network(deeper.name, input=net.input, classes=net.classes) == deeper
    assert CUSTOM_TAG not in deeper.name


def test_the_plain_twin_of_a_network_is_named_after_its_family() -> None:
    net = network("cifar-resnet20")
    plain = replace(net, unit=replace(net.unit, shortcut="none"))
    twin = with_canonical_name(plain, resnet="plain")
    assert twin.name.startswith("cifar-plain20")
    assert network(twin.name, input=net.input, classes=net.classes) == twin


def test_a_network_that_no_name_describes_is_marked_as_such() -> None:
    net = network("cifar-resnet20")
    widened = replace(net, stages=(net.stages[0], replace(net.stages[1], width=40), net.stages[2]))
    assert with_canonical_name(widened).name == f"cifar-resnet20,{CUSTOM_TAG}"

"""Sizes are bounded by arithmetic, when a value is made and before anything is planned or built."""

import time
import tracemalloc
from dataclasses import replace

import pytest

from residua.config.network import Network, Unit
from residua.config.papers import list_models, network
from residua.config.plan import plan
from residua.config.stages import Stage, Stem
from residua.config.vlad_config import VladClassifier
from residua.errors import UsageError

SMALL = network("cifar-resnet8")


@pytest.mark.parametrize(
    "name", [*list_models(), "cifar-resnet20,head=vlad", "cifar-preresnet20,join=exclusive-gate"]
)
def test_the_counted_weights_are_most_of_the_planned_parameters_and_never_more(name):
    net = network(name)
    # a net of few bottlenecks has the largest share of projections
    assert 0.7 < net.count_weights_without_projections() / plan(net).parameters <= 1


TOO_LARGE = {
    "100,000 units": (
        lambda: replace(SMALL, stages=(*SMALL.stages[:2], Stage(64, 100_000, 2))),
        "a network of at least 200,004 layers is too deep: choose at most 20,000",
    ),
    "100,000 stages": (
        lambda: replace(SMALL, stages=(Stage(16, 1),) * 100_000),
        "a network of at least 200,000 layers is too deep: choose at most 20,000",
    ),
    "100,000 layers in a unit": (
        lambda: replace(SMALL, unit=Unit(kernels=(1,) * 100_000)),
        "a network of at least 300,000 layers is too deep: choose at most 20,000",
    ),
    "a width of a million": (
        lambda: replace(SMALL, stages=(*SMALL.stages[:2], Stage(1_000_000, 1, 2))),
        "a network of at least 9,000,298,018,864 parameters is too large",
    ),
    "a width of a million, by name": (
        lambda: network("cifar-resnet20,width=9999"),
        "a network of at least 26,490,730,502,448 parameters is too large",
    ),
    "a stem of a billion channels": (
        lambda: replace(SMALL, stem=Stem(width=10**9), unit=Unit(shortcut="project")),
        "a network of at least 171,000,072,064 parameters is too large",
    ),
    "a kernel of a million": (
        lambda: replace(SMALL, stem=replace(SMALL.stem, kernel=1_000_001)),
        "a network of at least 48,000,096,074,416 parameters is too large",
    ),
    "a billion classes": (
        lambda: replace(SMALL, classes=10**9),
        "a network of at least 64,000,074,160 parameters is too large",
    ),
    "a width of 4,000 digits": (
        lambda: replace(SMALL, stages=(*SMALL.stages[:2], Stage(10**4000, 1, 2))),
        "a network of at least 1,000,000,000,000,000 parameters is too large",
    ),
    "images of a terapixel": (
        lambda: replace(SMALL, input=(3, 1_000_000, 1_000_000)),
        "an input of at least 3,000,000,000,000 values is too large",
    ),
    "a name of a million letters": (
        lambda: replace(SMALL, name="x" * 1_000_000),
        "the name of a network has 1,000,000 characters: give at most 1,000",
    ),
    "a billion words": (
        lambda: VladClassifier(
            input=(3, 32, 32),
            classes=10,
            patch=4,
            dimensions=24,
            words=10**9,
            cells=3,
            samples=10**10,
        ),
        "a network of at least 2,184,000,001,210 parameters is too large",
    ),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_network_that_no_machine_can_hold_is_refused_quickly_and_in_little_memory(case):
    make, sentence = TOO_LARGE[case]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(UsageError) as refused:
            make()
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert str(refused.value).startswith(sentence)
    assert len(str(refused.value)) < 200


def test_the_largest_networks_of_the_papers_are_far_below_the_limits():
    for name in ("cifar-resnet1202", "resnet200", "wide-resnet101-2", "cifar-resnet9998"):
        assert isinstance(network(name), Network)

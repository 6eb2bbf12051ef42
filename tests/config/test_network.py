from dataclasses import replace

import pytest

from residua.config.joins import Drop, Gate, Scale
from residua.config.network import Network, Unit
from residua.config.orders import Order
from residua.config.stages import Stage, Stem
from residua.errors import UsageError


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Unit(shortcut="none", join=Gate(-2.0)),
            "the join Gate needs a shortcut, and a plain net has none: add a shortcut, or use "
            "join=Add()",
        ),
        (lambda: Unit(shortcut="padd"), "there is no shortcut 'padd': did you mean 'pad'?"),
        (
            lambda: Scale(shortcut=0),
            "a shortcut scaled by 0 is not a shortcut: use shortcut='none'",
        ),
        (lambda: Drop(1.5), "a dropout probability of 1.5 is invalid: it must be in [0, 1)"),
        (
            lambda: Unit(stride_at=2),
            "stride_at=2 is not the index of a weight layer: give 0 to 1",
        ),
        (
            lambda: Unit(kernels=(2,)),
            "kernels (2,) are invalid: give one or more odd sizes, because only odd "
            "kernels keep the shape in a 'same' convolution",
        ),
        (lambda: Gate(-6.0, scales="bth"), "there is no gate scaling 'bth': did you mean 'both'?"),
        (
            lambda: Gate(-6.0, kernel=2),
            "kernels (2,) are invalid: give one or more odd sizes, because only odd "
            "kernels keep the shape in a 'same' convolution",
        ),
        (
            lambda: Stem(width=0),
            "a stem of width 0 is invalid: it must be at least 1",
        ),
        (lambda: Stem(width=1, stride=0), "stride 0 is invalid: give 1 to 1,024"),
        (lambda: Stage(16, 1, stride=2**63), f"stride {2**63:,} is invalid: give 1 to 1,024"),
        (
            lambda: Order("weight bn rellu", "weight"),
            "there is no operation 'rellu': did you mean 'relu'?",
        ),
        (
            lambda: Order("bn relu", "weight"),
            "order each='bn relu' must contain 'weight' exactly once",
        ),
        (
            lambda: Unit(squeeze=0),
            "squeeze 0 is invalid: give a positive number that divides the widths",
        ),
        (
            lambda: Scale(float("nan")),
            "the shortcut scale nan and the branch scale 1.0 must both be finite numbers",
        ),
        (lambda: Gate(float("inf")), "a gate's bias of inf is invalid: give a finite number"),
        (
            lambda: Order("weight", "weight", after="scale"),
            "order after='scale' must not contain 'scale': a scale is only allowed at the end of a "
            "branch",
        ),
        (
            lambda: Stage(16, 0),
            "a stage of width 16 and 0 units is invalid: each must be at least 1",
        ),
    ],
)
def test_contradictory_values_are_refused_on_construction(make, sentence):
    with pytest.raises(UsageError) as refused:
        make()
    assert str(refused.value) == sentence


def make_network(**changes):
    fields = {
        "name": "n",
        "input": (3, 8, 8),
        "stem": Stem(width=6),
        "stages": (Stage(6, 1),),
        "unit": Unit(),
        "classes": 2,
    }
    return Network(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"unit": Unit(squeeze=4)},
            "squeeze 4 does not divide width 6: choose a divisor of every stage's width",
        ),
        (
            {"input": (3, 8)},
            "input (3, 8) is invalid: give (channels, height, width), or (features,)",
        ),
        (
            {"input": (9,)},
            "a fully connected net cannot use kernels larger than 1: set the kernels of the stem, "
            "the units and the gates to 1",
        ),
        (
            {"stages": (Stage(6, 1), Stage(4, 1))},
            "a zero-padded shortcut can only keep or increase the width, but the widths are "
            "[6, 6, 4]: use widths that do not decrease, or shortcut='project'",
        ),
        ({"stages": ()}, "a network needs at least one stage"),
        ({"classes": 0}, "0 classes are invalid: give at least 1"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, sentence):
    with pytest.raises(UsageError) as refused:
        make_network(**changes)
    assert str(refused.value) == sentence


def test_values_are_equal_when_their_contents_are():
    assert make_network() == make_network()
    assert replace(make_network(), classes=3) != make_network()

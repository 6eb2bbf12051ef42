"""The random-walk model agrees with closed forms."""

from math import comb, pi, sqrt

import pytest

from residua.analysis.random_walk import predict_initial_signals
from residua.config.papers import network
from residua.config.plan import plan


def predict_stage(name, stage_number):
    planned = plan(network(name))
    return [
        expected
        for expected, unit in zip(predict_initial_signals(planned), planned.units, strict=True)
        if unit.stage == stage_number
    ]


def compute_sparre_andersen_probability(steps):
    """The probability that no partial sum of symmetric steps is above 0 (Sparre Andersen 1954)."""
    return comb(2 * steps, steps) / 4**steps


@pytest.mark.parametrize("depth", [20, 110, 1202])
def test_the_first_stage_matches_the_formulas_of_sparre_andersen_and_spitzer(depth):
    units = predict_stage(f"cifar-resnet{depth}", 1)
    for i, unit in enumerate(units, 1):
        assert unit.clip_fraction == pytest.approx(
            compute_sparre_andersen_probability(i + 1), abs=2e-4
        )
        assert unit.survival == pytest.approx(
            compute_sparre_andersen_probability(i) / 2 + compute_sparre_andersen_probability(i + 1),
            abs=2e-4,
        )
        assert unit.mean == pytest.approx(
            sum(1 / sqrt(2 * pi * k) for k in range(1, i + 2)), rel=1e-3
        )
    assert [unit.clip_fraction for unit in units[:3]] == pytest.approx(
        [0.375, 0.315, 0.27], abs=4e-3
    )
    assert units[-1].survival == pytest.approx(0.83 / sqrt(len(units)), rel=0.12)


def test_later_stages_start_from_the_previous_stage_and_zero_padding():
    for number, paths_left in ((2, 0.271), (3, 0.297)):
        units = predict_stage("cifar-resnet1202", number)
        assert [unit.clip_fraction for unit in units[:3]] == pytest.approx(
            [0.268, 0.206, 0.175], abs=4e-3
        )
        assert units[-1].survival == pytest.approx(paths_left, abs=2e-3)
    before = predict_stage("cifar-resnet20", 1)[-1].mean
    [first, *_] = predict_stage("cifar-resnet20,units=3-1-5", 2)
    assert first.clip_fraction == pytest.approx(
        0.5 * 0.5 + 0.5 * compute_sparre_andersen_probability(5), abs=2e-4
    )  # half of the channels are zeros, the other half continue the walk
    assert first.mean == pytest.approx(
        0.5 / sqrt(2 * pi) + 0.5 * (before + 1 / sqrt(2 * pi * 5)), rel=1e-3
    )


def test_a_projection_with_bn_restarts_the_random_walk():
    second, third = (
        predict_stage("cifar-resnet110,shortcut=B", 2),
        predict_stage("cifar-resnet110,shortcut=B", 3),
    )
    assert second == third
    assert second[0].clip_fraction == pytest.approx(0.5, abs=1e-6)
    assert second[0].variance == pytest.approx(2 * (1 / 2 - 1 / (2 * pi)), rel=1e-3)


def test_without_a_post_addition_relu_variances_add_up():
    for name, first in (
        ("cifar-resnet110,order=no-relu-after-add", 1.3408),
        ("cifar-preresnet110", 1.3408),
    ):
        units = predict_stage(name, 1)
        assert all((unit.clip_fraction, unit.survival) == (0, 1) for unit in units)
        assert [unit.variance for unit in units] == pytest.approx(
            [first + i for i in range(18)], rel=1e-3
        )


def test_zero_branches_change_nothing():
    for unit in predict_stage("cifar-resnet110,start=identity", 3):
        assert (unit.clip_fraction, unit.survival, unit.response_std) == (0, 1, 0)
        assert unit.mean == pytest.approx(
            1 / sqrt(2 * pi) / 4, rel=1e-3
        )  # three channels of four are zeros
    assert {
        (unit.clip_fraction, unit.survival, unit.mean)
        for unit in predict_stage("cifar-resnet20,order=skipinit", 2)
    } == {(0, 1, None)}


@pytest.mark.parametrize(
    "name", ["cifar-resnet20,order=bare", "cifar-highway20", "cifar-resnet20,order=bn-after-add"]
)
def test_the_random_walk_model_gives_none_where_it_does_not_apply(name):
    assert set(predict_initial_signals(plan(network(name)))) == {None}


def test_after_a_max_pool_the_model_applies_from_the_first_projection_on():
    assert [unit is None for unit in predict_initial_signals(plan(network("resnet18")))] == [
        True,
        True,
        *[False] * 6,
    ]

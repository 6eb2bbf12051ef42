from dataclasses import replace

import pytest

from residua.config.recipe import Recipe
from residua.config.recipes import recipe, require_size_of_recipe
from residua.config.schedules import OneCycle, StepDecay
from residua.errors import UsageError


def test_he2015_has_the_learning_rates_of_the_paper():
    he = recipe("he2015").drop_unneeded_warmup(20)
    rates = [he.lr_at_step(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert he.total_steps(45_000) == 64_000


@pytest.mark.parametrize(("depth", "start"), [(56, 0.1), (110, 0.01), (1202, 0.01)])
def test_he2015_warms_up_at_110_layers_and_deeper(depth, start):
    he = recipe("he2015").drop_unneeded_warmup(depth)
    assert [he.lr_at_step(step, 64_000) for step in (0, 399, 400)] == pytest.approx(
        [start, start, 0.1]
    )


def test_he2016_warms_up_at_every_depth():
    assert recipe("he2016").drop_unneeded_warmup(20).lr_at_step(0, 64_000) == 0.01


def test_a_short_run_warms_up_for_a_tenth_of_its_steps_and_never_exceeds_the_schedule():
    he = recipe("he2016")
    assert [he.lr_at_step(step, 300) for step in (0, 29, 30, 299)] == pytest.approx(
        [0.01, 0.01, 0.1, 0.001]
    )


def test_a_shorter_run_drops_its_learning_rate_at_the_same_fractions():
    he = recipe("he2015").drop_unneeded_warmup(20)
    assert [he.lr_at_step(step, 640) for step in (319, 320, 480)] == pytest.approx(
        [0.1, 0.01, 0.001]
    )


def test_one_cycle_rises_to_its_peak_and_ends_near_zero():
    schedule = OneCycle(lr=0.4, rise=0.25)
    rates = [schedule.lr_at_progress(step / 1000) for step in range(1000)]
    assert rates[0] == 0
    assert max(rates) == rates[250] == 0.4
    assert rates[:251] == sorted(rates[:251])
    assert rates[250:] == sorted(rates[250:], reverse=True)
    assert rates[-1] < 1e-5


def test_epochs_are_converted_to_steps():
    assert Recipe(name="r", epochs=10, batch_size=64).total_steps(1288) == 201
    assert Recipe(name="r", epochs=0.01).total_steps(128) == 1


def test_a_recipe_lasts_for_steps_or_for_epochs():
    for length in ({}, {"steps": 3, "epochs": 2.0}, {"steps": -1}):
        with pytest.raises(UsageError, match="are invalid: give one of them above 0, and leave"):
            Recipe(name="r", schedule=StepDecay(), **length)


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="there is no recipe 'smal': did you mean 'small'"):
        recipe("smal")


@pytest.mark.parametrize(
    "length",
    [{"steps": 10**14}, {"epochs": 1e300}, {"epochs": float("inf")}, {"epochs": float("nan")}],
)
def test_a_run_that_never_ends_is_refused(length):
    with pytest.raises(UsageError, match="is too long: give at most"):
        Recipe(name="r", **length)


def test_epochs_of_a_large_data_set_are_bounded_in_steps():
    with pytest.raises(
        UsageError, match="10,000,000,000 steps is too long: give at most 1,000,000"
    ):
        Recipe(name="r", epochs=10**6, batch_size=128).total_steps(1_280_000)


@pytest.mark.parametrize(
    ("side", "suggestion"),
    [(112, "train_size=88 --set test_resize=116"), (448, "train_size=352 --set test_resize=464")],
)
def test_sizes_of_a_recipe_are_suggested_in_proportion_to_the_photographs(side, suggestion):
    named = recipe("imagenet-torchvision2021")
    with pytest.raises(UsageError, match=suggestion):
        require_size_of_recipe(named, side)
    require_size_of_recipe(named, 224)
    require_size_of_recipe(replace(named, train_size=side), side)

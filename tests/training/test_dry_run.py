"""The plan of a run is made without a look at each of its steps."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from residua.config.recipe import MAX_STEPS, Recipe, recipe
from residua.config.schedules import OneCycle, StepDecay, Warmup
from residua.training.dry_run import list_lr_changes

fractions = st.one_of(st.integers(0, 12).map(lambda n: n / 10), st.floats(-0.5, 1.5))
schedules = st.one_of(
    st.builds(
        StepDecay,
        at=st.lists(fractions, max_size=5).map(tuple),
        factor=st.sampled_from([0.0, 0.1, 1.0]),
    ),
    st.builds(OneCycle, lr=st.sampled_from([0.0, 0.1]), rise=st.sampled_from([0.0, 0.4])),
)
warmups = st.none() | st.builds(Warmup, st.sampled_from([0.01, 1.0]), st.integers(0, 300))


def list_changes_step_by_step(run_recipe, total_steps):
    """The definition: look at the learning rate of every step."""
    rates = [run_recipe.lr_at_step(step, total_steps) for step in range(total_steps)]
    steps = [i for i in range(total_steps) if i == 0 or rates[i] != rates[i - 1]]
    if len(steps) > 10:
        steps = [total_steps * i // 10 for i in range(10)]
    return [(step, rates[step]) for step in steps]


@settings(max_examples=60)
@given(schedules, warmups, st.integers(1, 1500))
def test_the_changes_of_the_learning_rate_are_those_of_all_steps(schedule, warmup, total_steps):
    run_recipe = Recipe(name="x", steps=1, schedule=schedule, warmup=warmup)
    assert list_lr_changes(run_recipe, total_steps) == list_changes_step_by_step(
        run_recipe, total_steps
    )


def test_the_longest_run_is_planned_at_once():
    start = time.perf_counter()
    assert [step for step, _ in list_lr_changes(recipe("he2015"), MAX_STEPS)] == [
        0,
        400,
        MAX_STEPS // 2,
        3 * MAX_STEPS // 4,
    ]
    assert len(list_lr_changes(recipe("fast"), MAX_STEPS)) == 10
    assert time.perf_counter() - start < 0.5

import json
import re
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.config.joins import Drop, Gate, Scale
from residua.config.network import Network, Unit
from residua.config.papers import list_models, network
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPES, recipe
from residua.config.run import Run
from residua.config.schedules import OneCycle
from residua.config.serialize import apply_override, decode_json, from_json, to_json
from residua.config.stages import Stage, Stem
from residua.errors import RecordError, UsageError

random_joins = st.one_of(
    st.builds(Scale, st.floats(0.1, 2), st.floats(-2, 2)),
    st.builds(
        Gate, st.floats(-9, 9), st.sampled_from([1, 3]), st.sampled_from(["both", "shortcut"])
    ),
    st.builds(Drop, st.floats(0, 0.9)),
)
random_networks = st.builds(
    Network,
    name=st.text(),
    input=st.tuples(st.integers(1, 9), st.integers(1, 99), st.integers(1, 99)),
    stem=st.builds(Stem, width=st.integers(1, 64), pool=st.booleans()),
    stages=st.lists(
        st.builds(Stage, st.integers(1, 64), st.integers(1, 9), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    ).map(tuple),
    unit=st.builds(
        Unit,
        shortcut=st.just("project"),
        kernels=st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=4).map(tuple),
        join=random_joins,
    ),
    classes=st.integers(1, 1000),
)


@given(random_networks)
def test_any_network_round_trips_through_json(net):
    assert from_json(Network, json.loads(json.dumps(to_json(net)))) == net


@pytest.mark.parametrize(
    ("hint", "given", "decoded"),
    [
        (Literal[1, 2], 2, 2),
        (Literal["none", "10"], 10, "10"),
        (Literal[10, "10"], 10, 10),
        (Literal["none", "10"], "10", "10"),
    ],
)
def test_a_choice_is_taken_as_it_is_before_its_digits_are(hint, given, decoded):
    found = decode_json(hint, given, "field")
    assert (found, type(found)) == (decoded, type(decoded))


@pytest.mark.parametrize("value", [3, True, 1.0, "1", None, [1]])
def test_what_is_no_choice_is_refused_as_it_was_written(value):
    with pytest.raises(TypeError, match=re.escape(f"field is {value!r}, not one of 1, 2")):
        decode_json(Literal[1, 2], value, "field")


def test_an_example_may_take_as_long_as_a_busy_machine_needs():
    assert settings().deadline is None


@pytest.mark.parametrize("name", list_models())
def test_published_networks_round_trip_through_json(name):
    assert from_json(Network, json.loads(json.dumps(to_json(network(name))))) == network(name)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_round_trip_through_json(name):
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe(name))))) == recipe(name)


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("batch_size=64", lambda r: r.batch_size == 64),
        ("optimiser.momentum=0.8", lambda r: r.optimiser.momentum == 0.8),
        ("optimiser.nesterov=true", lambda r: r.optimiser.nesterov is True),
        ("optimiser.decay=weights", lambda r: r.optimiser.decay == "weights"),
        ("schedule.lr=1", lambda r: r.schedule.lr == 1.0),
        ("warmup=null", lambda r: r.warmup is None),
        ('schedule={"kind": "OneCycle", "lr": 0.2}', lambda r: r.schedule == OneCycle(lr=0.2)),
    ],
)
def test_an_override_changes_one_field(assignment, changed):
    assert changed(apply_override(recipe("he2015"), assignment))


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("batch_sze=3", "recipe has no field 'batch_sze': did you mean 'batch_size'?"),
        (
            "batch_size",
            "'batch_size' is not a setting: write FIELD=VALUE, e.g. batch_size=64",
        ),
        ("batch_size=big", "batch_size is 'big', not int"),
        ("optimiser.decay=some", "optimiser.decay is 'some', not one of 'all', 'weights'"),
        ("batch_size.x=3", "batch_size.x cannot be set: int has no field 'x'"),
        ("batch_size=0", "a batch of 0 images is invalid: give at least 1"),
        (
            "parts=0",
            "a batch cannot be split into 0 parts: give 1 for the whole batch, or a larger number",
        ),
    ],
)
def test_an_impossible_override_is_refused(assignment, sentence):
    with pytest.raises(UsageError) as refused:
        apply_override(recipe("he2015"), assignment)
    assert str(refused.value) == sentence


def test_json_of_another_type_is_refused():
    for data in ({"name": "x"}, [], {**to_json(network("cifar-resnet20")), "classes": "ten"}):
        with pytest.raises(RecordError, match="not a valid network"):
            from_json(Network, data)


def test_the_default_bn_split_is_not_written_so_that_older_runs_keep_their_ids():
    old = recipe("he2015")
    assert "parts" not in to_json(old)
    assert to_json(replace(old, bn_splits=2)) == {**to_json(old), "parts": 2}
    assert from_json(Recipe, to_json(replace(old, bn_splits=2))).bn_splits == 2
    assert Run(network("cifar-resnet20"), "cifar10", old, 0).id == "2491f5b0d1"


def test_the_run_id_depends_on_everything_that_affects_the_outcome():
    run = Run(network("cifar-resnet20"), "cifar10", recipe("he2015"), 0)
    others = [
        replace(run, seed=1),
        replace(run, dataset="cifar100"),
        replace(run, network=network("cifar-plain20")),
        replace(run, recipe=apply_override(run.recipe, "batch_size=64")),
        replace(run, recipe=apply_override(run.recipe, "parts=2")),
    ]
    assert len({run.id, *(other.id for other in others)}) == 6
    assert replace(run).id == run.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": None}, "network.classes is None, not int"),
        ({"classes": 10**99}, "is too large"),
        ({"unit": []}, "network.unit is [], not an object"),
        ({"head": {"kind": {}}}, "network.head is of kind {}, not one of"),
        ({"head": 3}, "network.head is 3, not an object with a kind"),
        ({"stem": {"kernel": 3}}, "network.stem lacks width"),
        ({"stages": [{"width": 10**90, "units": 10**90}]}, "is too"),
        ({"name": ["x"] * 10_000}, "network.name is ['x', 'x', "),
    ],
)
def test_a_part_of_the_wrong_form_is_named_and_not_printed_at_length(change, reason):
    content = to_json(network("cifar-resnet20")) | change
    with pytest.raises((RecordError, UsageError)) as refused:
        from_json(Network, content)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 300

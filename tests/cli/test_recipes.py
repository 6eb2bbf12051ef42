"""`residua recipes`: what it prints can be given to --set and leads to the same recipe."""

import json
import re
from dataclasses import fields, is_dataclass

import pytest

from residua.cli.recipes import FIELD_MEANINGS, SCHEDULE_KINDS, iterate_fields
from residua.config.optimisers import AdamW, Muon, Optimiser, RmsProp, Sgd
from residua.config.recipes import RECIPE_PURPOSES, RECIPES, recipe
from residua.config.registry import registered_kinds, stored_kind_of
from residua.config.schedules import LinearDecay, OneCycle, StepDecay
from residua.config.serialize import apply_override, stored_key
from tests.cli_runner import run_cli


def test_every_recipe_is_listed_with_what_it_is_for(capsys):
    assert list(RECIPE_PURPOSES) == list(RECIPES)
    code, out, _ = run_cli(capsys, "recipes")
    assert code == 0
    heading, *rows, _ = out.splitlines()
    assert heading.split()[:2] == ["name", "length"]
    assert [row.split()[0] for row in rows] == list(RECIPES)
    assert "64,000 steps     128  Drops 0.1        Sgd        He et al. 2015" in rows[0]
    assert "36 epochs        128  OneCycle 0.03    Muon" in rows[2]
    _, out, _ = run_cli(capsys, "recipes", "--json")
    listed = json.loads(out)["recipes"]
    assert listed[0] == {
        "name": "he2015",
        "purpose": RECIPE_PURPOSES["he2015"],
        "epochs": 0,
        "steps": 64_000,
        "batch_size": 128,
        "schedule": "Drops",
        "lr": 0.1,
        "optimiser": "Sgd",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_each_printed_assignment_sets_the_value_that_the_recipe_has(capsys, name):
    code, out, _ = run_cli(capsys, "recipes", name)
    assert code == 0
    lines = out.splitlines()[2:]
    rebuilt = recipe(name)
    for line in lines:
        assignment = re.match(r"'.+?' |\S+", line)[0]
        rebuilt = apply_override(rebuilt, assignment.strip("' "))
    assert rebuilt == recipe(name)
    assert len(lines) == len(list(iterate_fields(recipe(name)))) >= 25


def test_the_json_of_a_recipe_has_path_value_and_meaning(capsys):
    _, out, _ = run_cli(capsys, "recipes", "photos", "--json")
    listed = {field["path"]: field for field in json.loads(out)["fields"]}
    assert listed["schedule.lr"]["value"] == 0.05
    assert listed["optimiser"]["value"] == {"kind": "Sgd"}
    assert listed["warmup"]["value"] is None
    assert all(field["meaning"] for field in listed.values())


def test_every_field_of_every_part_has_a_meaning_and_no_meaning_is_left_over():
    for kind in (Sgd, AdamW, RmsProp, Muon, StepDecay, OneCycle):
        assert kind in FIELD_MEANINGS
    for kind, meanings in FIELD_MEANINGS.items():
        assert is_dataclass(kind)
        assert list(meanings) == [stored_key(field) for field in fields(kind)]


def test_the_kinds_that_the_meanings_name_exist(capsys):
    assert tuple(map(stored_kind_of, (StepDecay, OneCycle, LinearDecay))) == SCHEDULE_KINDS
    _, out, _ = run_cli(capsys, "recipes", "small")
    assert ", ".join(registered_kinds(Optimiser)) in out


def test_an_unknown_recipe_gets_the_nearest_one_or_all(capsys):
    assert run_cli(capsys, "recipes", "he205")[::2] == (
        2,
        "residua: there is no recipe 'he205': did you mean 'he2015'?",
    )
    assert run_cli(capsys, "recipes", "xyzzy")[::2] == (
        2,
        f"residua: there is no recipe 'xyzzy': choose from {', '.join(RECIPES)}",
    )

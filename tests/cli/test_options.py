"""Plain options such as --lr do what the same --set does, and groups of options in the help."""

import argparse
import json
from dataclasses import replace

import pytest

from residua.cli.main import COMMANDS, make_parser
from residua.cli.option_groups import MIN_GROUPED_OPTIONS, group_options
from residua.cli.options import add_recipe_options, apply_recipe_options
from residua.cli.parser import CommandParser
from residua.config.optimisers import AdamW, Muon, Optimiser, RmsProp, Sgd
from residua.config.recipes import recipe
from residua.config.registry import registered_kinds
from residua.config.schedules import OneCycle
from residua.errors import UsageError
from tests.cli_runner import run_cli


def parse_recipe(*words, base=None):
    parser = CommandParser(prog="residua x")
    add_recipe_options(parser, default="the base")
    return apply_recipe_options(parser.parse_args([*words]), base or recipe("small"))


ADAMW = """optimiser={"kind": "AdamW"}"""
EQUIVALENT_OPTIONS = [
    (["--lr", "0.3"], ["--set", "schedule.lr=0.3"]),
    (["--lr=1e-05"], ["--set", "schedule.lr=0.00001"]),
    (["--batch-size", "16"], ["--set", "batch_size=16"]),
    (["--weight-decay", "0"], ["--set", "optimiser.weight_decay=0"]),
    (["--optimizer", "adamw"], ["--set", ADAMW, "--set", "schedule.lr=0.001"]),
    (["--optimiser", "AdamW"], ["--set", ADAMW, "--set", "schedule.lr=0.001"]),
    (["--optimizer", "adamw", "--lr", "0.02"], ["--set", ADAMW, "--set", "schedule.lr=0.02"]),
    (
        ["--lr", "0.02", "--set", """schedule={"kind": "OneCycle", "rise": 0.1}"""],
        ["--set", """schedule={"kind": "OneCycle", "rise": 0.1, "lr": 0.02}"""],
    ),
    (
        ["--optimizer", "sgd", "--set", "optimiser.momentum=0.8"],
        ["--set", "optimiser.momentum=0.8"],
    ),
]


@pytest.mark.parametrize(("plain", "by_set"), EQUIVALENT_OPTIONS, ids=str)
def test_a_plain_option_gives_the_recipe_of_the_same_set(plain, by_set):
    assert parse_recipe(*plain) == parse_recipe(*by_set) != recipe("small")


def test_plain_options_give_the_run_id_of_the_same_sets(capsys, tmp_path):
    arguments = ["train", "digits", "--model", "cifar-resnet8", "--steps", "1"]
    arguments += ["--precision", "fp32", "--out"]
    plain = ["--lr", "0.3", "--batch-size", "16", "--weight-decay", "0.001"]
    by_set = ["schedule.lr=0.3", "batch_size=16", "optimiser.weight_decay=0.001"]
    by_set = [word for assignment in by_set for word in ("--set", assignment)]
    assert run_cli(capsys, *arguments, tmp_path / "a", *plain)[0] == 0
    assert run_cli(capsys, *arguments, tmp_path / "b", *by_set)[0] == 0
    plain_run, run_by_set = (
        json.loads((tmp_path / name / "run.json").read_text())["run"] for name in "ab"
    )
    assert plain_run == run_by_set
    assert plain_run["recipe"]["batch_size"] == 16


def test_gradient_accumulation_is_parts_by_its_usual_name_and_a_note_says_so(capsys):
    changed = parse_recipe("--set", "accumulate=4", "--batch-size", "32")
    assert changed == parse_recipe("--set", "parts=4", "--batch-size", "32")
    assert capsys.readouterr().err == (
        "residua: accumulate=4 sets parts=4: a batch of 32 is split into 4 equal parts, each with "
        "its own BN statistics; their gradients are averaged\n"
    )
    with pytest.raises(UsageError, match="a batch cannot be split into 0 parts"):
        parse_recipe("--set", "accumulate=0")


CONFLICTS = [
    (["--lr", "0.1", "--set", "schedule.lr=0.2"], "--lr and --set 'schedule.lr=0.2' cannot be"),
    (["--lr", "0.1", "--set", """schedule={"kind": "Drops", "lr": 1}"""], "both set schedule.lr"),
    (["--batch-size", "8", "--set", "batch_size=9"], "both set batch_size: give one of them"),
    (["--weight-decay", "0", "--set", "optimiser.weight_decay=0"], "--weight-decay and --set"),
    (["--optimizer", "sgd", "--set", ADAMW], "both set optimiser: give one of them"),
    (["--optimizer", "adamm"], "there is no optimizer 'adamm': did you mean 'adamw'?"),
    (
        ["--optimizer", "lion"],
        "there is no optimizer 'lion': choose from sgd, adamw, rmsprop, muon",
    ),
    (["--lr", "-1"], "lr=-1.0 is invalid: it must be at least 0"),
    (["--batch-size", "0"], "a batch of 0 images is invalid: give at least 1"),
    (["--weight-decay", "-1"], "weight_decay=-1.0 is invalid: it must be at least 0"),
]


@pytest.mark.parametrize(("words", "sentence"), CONFLICTS, ids=str)
def test_options_that_contradict_each_other_or_are_impossible_are_refused(words, sentence):
    with pytest.raises(UsageError) as refused:
        parse_recipe(*words)
    assert sentence in str(refused.value)


def test_the_optimiser_of_the_recipe_keeps_its_settings_and_its_learning_rate(capsys):
    photos = recipe("photos")
    assert parse_recipe("--optimizer", "sgd", base=photos) == photos
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "optimiser", "lr"),
    [("adamw", AdamW(), 0.001), ("rmsprop", RmsProp(), 0.001), ("muon", Muon(), 0.03)],
)
def test_another_optimiser_has_its_usual_learning_rate_and_a_note_says_so(
    capsys, name, optimiser, lr
):
    changed = parse_recipe("--optimizer", name, "--set", """schedule={"kind": "OneCycle"}""")
    assert (changed.optimiser, changed.schedule) == (optimiser, OneCycle(lr=lr))
    note = f"learning rate {lr:g}, the default of {type(optimiser).__name__} (override: --lr)"
    assert note in capsys.readouterr().err
    parse_recipe("--optimizer", name, "--lr", "0.5")
    assert capsys.readouterr().err == ""


def test_every_optimiser_of_residua_has_a_usual_learning_rate():
    for kind in (Sgd, AdamW, RmsProp, Muon):
        assert kind in registered_kinds(Optimiser).values()
        changed = replace(recipe("fast"), optimiser=kind(), schedule=OneCycle(lr=kind.USUAL_LR))
        assert 0 < changed.schedule.lr <= 0.1


def test_an_optimiser_without_a_usual_learning_rate_needs_one(monkeypatch):
    monkeypatch.setattr(AdamW, "USUAL_LR", None)
    with pytest.raises(UsageError, match="^AdamW has no default learning rate: add --lr$"):
        parse_recipe("--optimizer", "adamw")
    assert parse_recipe("--optimizer", "adamw", "--lr", "0.1").schedule.lr == 0.1


def test_a_configuration_file_takes_plain_options(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 0.3\nbatch-size: 16\noptimizer: sgd\n")
    parser = CommandParser(prog="residua x")
    add_recipe_options(parser, default="the base")
    parser.add_config_options()
    parsed = parser.parse_args(["--config", str(tmp_path / "c.yaml")])
    changed = apply_recipe_options(parsed, recipe("small"))
    assert (changed.schedule.lr, changed.batch_size) == (0.3, 16)


@pytest.mark.parametrize("command", ["train", "evaluate", "study", "signals", "lesion"])
def test_a_command_that_computes_takes_a_device(capsys, command):
    code, _, line = run_cli(capsys, command, "--device", "gpu")
    assert (code, line) == (
        2,
        f"residua {command}: --device has no value 'gpu': choose from auto, cpu, cuda",
    )


def test_the_help_claims_no_kind_of_gpu_that_was_not_tried(capsys):
    _, out, _ = run_cli(capsys, "train", "--help")
    assert "AMD" not in out
    assert "a GPU that PyTorch calls cuda; tried on NVIDIA's" in " ".join(out.split())


def list_groups(parser):
    return {
        group.title: [action.option_strings[-1] for action in group._group_actions]
        for group in parser._action_groups
        if group.title != "positional arguments" and group._group_actions
    }


def test_the_help_of_train_groups_its_options():
    groups = list_groups(make_parser("train"))
    assert list(groups) == ["data", "network", "recipe", "run", "output", "options"]
    assert {"--recipe", "--lr", "--batch-size", "--set"} <= set(groups["recipe"])
    assert groups["output"] == ["--out", "--log", "--json"]
    assert groups["options"] == ["--help", "--config", "--print_config"]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_in_one_group_each_and_none_is_forgotten(command):
    parser = make_parser(command)
    groups = list_groups(parser)
    listed = [option for options in groups.values() for option in options]
    expected = [action.option_strings[-1] for action in parser._actions if action.option_strings]
    assert sorted(listed) == sorted(expected)
    if len(expected) >= MIN_GROUPED_OPTIONS:
        assert groups["options"] == ["--help", "--config", "--print_config"]
    else:
        assert list(groups) == ["options"]


def test_a_parser_with_few_options_has_no_groups():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    group_options(parser)
    assert list_groups(parser) == {"options": ["--help", "--model"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_says_each_default_once(command):
    parser = make_parser(command)
    formatter = parser._get_formatter()
    for action in parser._actions:
        assert formatter._get_help_string(action).count("default:") <= 1, action.dest

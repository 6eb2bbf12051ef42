"""Runs with initial weights from a model folder."""

import json
from dataclasses import replace

import pytest
import torch

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.net.build import build
from residua.net.model_folder import (
    fingerprint_model_folder,
    from_pretrained,
    read_model_config,
    save_pretrained,
)

DIGITS = get_dataset("digits")


@pytest.fixture
def model_folder(tmp_path):
    """A model folder for digits, with a mean and std of its own."""
    spec = network("cifar-resnet8", input=DIGITS.input)
    config = ModelConfig(network=spec, classes=DIGITS.classes, mean=(0.25,), std=(0.5,))
    save_pretrained(build(spec, seed=9), config, tmp_path / "start")
    return tmp_path / "start"


def test_a_run_starts_from_the_weights_and_preprocessing_of_a_folder(model_folder, tmp_path):
    out = tmp_path / "run"
    options = [
        "--steps",
        "2",
        "--precision",
        "fp32",
        "--set",
        "schedule.lr=0",
        "--set",
        "batch_size=8",
    ]
    assert main(["train", "digits", "--from", str(model_folder), "--out", str(out), *options]) == 0
    before, after = from_pretrained(model_folder), from_pretrained(out / "last")
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(a, b)  # unchanged by a learning rate of 0
    assert not torch.equal(before.stem[1].running_mean, after.stem[1].running_mean)
    config = read_model_config(out / "last")
    assert (config.mean, config.std) == ((0.25,), (0.5,))
    assert config.dataset == "digits"
    assert json.loads((out / "run.json").read_text())["run"]["start"] == fingerprint_model_folder(
        model_folder
    )


def test_the_fingerprint_changes_with_weights_and_preprocessing(model_folder):
    prints = {fingerprint_model_folder(model_folder)}
    net, config = from_pretrained(model_folder), read_model_config(model_folder)
    save_pretrained(net, replace(config, mean=(0.3,)), model_folder)
    prints.add(fingerprint_model_folder(model_folder))
    with torch.no_grad():
        net.head[-1].bias += 1
    save_pretrained(net, config, model_folder)
    assert len(prints | {fingerprint_model_folder(model_folder)}) == 3


def test_other_initial_weights_make_a_different_run(model_folder, tmp_path, capsys):
    command = [
        "train",
        "digits",
        "--from",
        str(model_folder),
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "2",
    ]
    assert main(command) == 0
    net, config = from_pretrained(model_folder), read_model_config(model_folder)
    with torch.no_grad():
        net.head[-1].bias += 1
    save_pretrained(net, config, model_folder)
    assert main(command) == 2
    assert "holds another run: start is" in capsys.readouterr().err


def test_initial_weights_that_do_not_fit_are_refused(model_folder, tmp_path, capsys):
    def run_train(*arguments):
        assert main(["train", *arguments, "--out", str(tmp_path / "run")]) != 0
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert f"--from {model_folder} already decides the network: leave --model out" in run_train(
        "digits", "--from", str(model_folder), "--model", "resnet18"
    )
    assert "there is no file or folder" in run_train("digits", "--from", str(tmp_path / "nothing"))
    assert (
        "takes images of shape (1, 8, 8), but those of cifar10 have shape (3, 32, 32)"
        in run_train("cifar10", "--from", str(model_folder))
    )
    config = read_model_config(model_folder)
    other = network("cifar-resnet8", input=(1, 9, 9))
    save_pretrained(build(other), replace(config, network=other), model_folder)
    assert "takes images of shape (1, 9, 9), but those of digits have shape (1, 8, 8)" in run_train(
        "digits", "--from", str(model_folder)
    )
    (model_folder / "model.safetensors").unlink()
    assert "it has no model.safetensors" in run_train("digits", "--from", str(model_folder))


def test_a_deepened_run_keeps_its_predictions_and_continues_learning(tmp_path, capsys):
    first, deeper, second = (str(tmp_path / name) for name in ("first", "deeper", "second"))
    assert (
        main(
            [
                "train",
                "digits",
                "--model",
                "cifar-preresnet8",
                "--steps",
                "40",
                "--out",
                first,
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    assert main(["deepen", first, "--stage", "3", "--units", "2", "--out", deeper, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["identical"] is True
    assert facts["model"] == "cifar-preresnet12,units=1-1-3"
    scores = []
    for folder in (first, deeper):
        assert main(["evaluate", folder, "digits", "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]
    assert (
        main(
            [
                "train",
                "digits",
                "--from",
                deeper,
                "--steps",
                "40",
                "--out",
                second,
                "--json",
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["train_error"] < scores[0]["error"]
    units = from_pretrained(f"{second}/last").units[-2:]
    assert all(
        unit.branch[-1].weight.abs().max() > 0 for unit in units
    )  # the new units have learned


def test_edit_commands_refuse_existing_folders_and_impossible_edits(model_folder, tmp_path, capsys):
    assert (
        main(
            [
                "deepen",
                str(model_folder),
                "--stage",
                "1",
                "--units",
                "1",
                "--out",
                str(model_folder),
            ]
        )
        == 2
    )
    assert f"{model_folder} already exists: choose another --out" in capsys.readouterr().err
    assert main(["residualize", str(model_folder), "--out", str(tmp_path / "new")]) == 2
    assert "cifar-resnet8 already has skip connections: give a plain net" in capsys.readouterr().err
    assert (
        main(
            [
                "deepen",
                str(model_folder),
                "--stage",
                "7",
                "--units",
                "1",
                "--out",
                str(tmp_path / "new"),
            ]
        )
        == 2
    )
    assert not (tmp_path / "new").exists()

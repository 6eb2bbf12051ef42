"""Commands that look into a network, or change it, with published weights by name."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import residua
from residua.analysis.run_signals import point_to_published_weights
from residua.cli.main import main
from residua.net.model_folder import find_model_folder
from tests.cli_runner import run_cli
from tests.weight_publisher import NAMES, publish_weights

IMAGES_PER_CLASS = 4


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(1)
    for name in NAMES:
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            pixels = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    with publish_weights(tmp_path, monkeypatch) as publisher:
        yield publisher


def run_command(capsys, *arguments):
    """Run a command that succeeds; return its JSON, and all of its standard error."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    out, error = capsys.readouterr()
    return json.loads(out), error


def test_lesion_takes_the_name_of_weights_and_counts_as_evaluate_does(capsys, publisher):
    expected, _ = run_command(capsys, "evaluate", "tiny.v1", "photos")
    options = ["--draws", "1", "--beside", "tiny"]
    facts, error = run_command(capsys, "lesion", "tiny.v1", "photos", *options)
    assert (facts["split"], facts["images"]) == ("all", 3 * IMAGES_PER_CLASS)
    labels = [net["label"] for net in facts["nets"]]
    assert labels == ["cifar-resnet8 (tiny.v1)", "cifar-resnet8 (tiny)"]
    wrong = pytest.approx(expected["error"])
    assert [net["error"] for net in facts["nets"]] == [wrong, wrong]
    assert "images: cat 4, dog 4, fish 4" in error


def test_images_of_a_lesion_study_are_spread_over_the_classes(capsys, publisher):
    options = ["--draws", "1", "--images", "6"]
    _, error = run_command(capsys, "lesion", "tiny.v1", "photos", *options)
    assert "images: cat 2, dog 2, fish 2" in error


def test_signals_takes_the_name_of_weights(capsys, publisher):
    options = ["--data", "photos", "--images", "3"]
    facts, error = run_command(capsys, "signals", "tiny.v1", *options)
    assert (facts["trained"], facts["images"], facts["seed"]) == (True, 3, None)
    assert "images: cat 1, dog 1, fish 1" in error
    of_folder, _ = run_command(
        capsys, "signals", find_model_folder("tiny"), *options, "--out", "folder"
    )
    assert of_folder["units"] == facts["units"]
    in_python = residua.signals("tiny", "photos", images=3, quiet=True)
    assert in_python.trained
    assert list(in_python.measured["mean"]) == [unit["mean"] for unit in facts["units"]]


@pytest.mark.parametrize(
    "words",
    [
        ["deepen", "tiny.v1", "--stage", "1", "--units", "1", "--out", "deeper"],
        ["convert", "tiny", "--to", "timm", "--out", "tiny.safetensors"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_change_a_network_take_the_name_of_weights(capsys, publisher, words):
    facts, _ = run_command(capsys, *words)
    assert facts.get("identical", True)
    assert Path(words[-1]).exists()


def test_a_folder_wins_over_the_name_of_weights_and_this_is_said(capsys, publisher, tmp_path):
    (tmp_path / "tiny").symlink_to(find_model_folder("tiny"))
    _, error = run_command(capsys, "signals", "tiny", "--data", "photos", "--images", "3")
    assert error.count("tiny is taken as a path, because it exists") == 1


def test_weights_without_a_named_data_set_need_photographs(capsys, publisher):
    code, _, error = run_cli(capsys, "signals", "tiny.v1")
    assert code == 2
    assert error.endswith("add --data with a name, or with the place of photographs")


@pytest.mark.parametrize("command", ["signals", "lesion"])
def test_weights_are_not_fetched_offline(capsys, publisher, monkeypatch, command):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # which the option replaces until the test ends
    data = ["--data", "photos"] if command == "signals" else ["photos"]
    code, _, error = run_cli(capsys, command, "tiny.v1", *data, "--offline")
    assert (code, "offline, as HF_HUB_OFFLINE or the command line asks" in error) == (1, True)
    assert publisher.asked == []


def test_a_tag_that_no_weights_have_is_refused_with_the_nearest_name(capsys, publisher):
    code, _, error = run_cli(capsys, "signals", "resnet50.tv_v9")
    assert (code, error) == (
        2,
        "residua: no published weights are named 'resnet50.tv_v9': did you mean 'resnet50.tv_v2'?",
    )


def test_a_network_name_that_weights_have_too_means_the_untrained_network():
    sentence = "resnet50 is measured at initialisation; its published weights are resnet50."
    assert point_to_published_weights("resnet50").startswith(sentence)
    assert point_to_published_weights("resnet50.tv_v2") == ""
    assert point_to_published_weights("cifar-resnet56") == ""

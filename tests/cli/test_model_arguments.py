"""What every command does with a model that is missing, on the hub, damaged or absurdly large."""

import json

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import residua
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.net.model_folder import compute_file_sha256, save_pretrained
from tests.cli_runner import run_cli
from tests.third_party import randomize_weights

COMMANDS = {
    "evaluate": ["evaluate", "{model}", "digits"],
    "predict": ["predict", "{model}", "image.png"],
    "export": ["export", "{model}", "--to", "torch-export", "--out", "out"],
    "serve": ["serve", "{model}", "--port", "0"],
    "deepen": ["deepen", "{model}", "--stage", "1", "--units", "1", "--out", "out"],
    "residualize": ["residualize", "{model}", "--out", "out"],
    "lesion": ["lesion", "{model}", "digits", "--out", "out"],
    "lesion --beside": ["lesion", "good", "digits", "--beside", "{model}", "--out", "out"],
    "signals": ["signals", "{model}", "--out", "out"],
    "convert --to": ["convert", "{model}", "--to", "torchvision", "--out", "out.pth"],
    "train --from": ["train", "digits", "--from", "{model}", "--steps", "1", "--out", "out"],
}

CONVERT_OPTIONS = "--model cifar-resnet8 --classes digits --mean 0 --std 1 --out out"
FILE_COMMANDS = COMMANDS | {"convert": ["convert", "{model}", *CONVERT_OPTIONS.split()]}


@pytest.fixture(scope="module")
def good_model(tmp_path_factory):
    data = get_dataset("digits")
    net = randomize_weights(residua.create_model("cifar-resnet8", num_classes=10, input=data.input))
    config = ModelConfig(
        network=net.plan.network,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        dataset="digits",
    )
    folder = tmp_path_factory.mktemp("good") / "model"
    save_pretrained(net, config, folder)
    return folder


@pytest.fixture
def hub_requests(monkeypatch):
    """The names that the hub was asked for; the hub has none of them."""
    names = []

    def refuse_download(name, **options):
        names.append(name)
        raise OSError("404: no such repository")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse_download)
    return names


@pytest.fixture
def run_model_command(capsys, tmp_path, monkeypatch, good_model, hub_requests):
    """A function that runs one of `FILE_COMMANDS`, and checks that it writes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("residua.deploy.serve.serve_until_stopped", lambda *arguments: None)
    Image.new("L", (8, 8), 90).save("image.png")
    (tmp_path / "good").symlink_to(good_model)

    def run_command(command, model):
        before = sorted(tmp_path.rglob("*"))
        words = [word.format(model=model) for word in FILE_COMMANDS[command]]
        code, out, error = run_cli(capsys, *words)
        assert out == ""
        assert sorted(tmp_path.rglob("*")) == before
        return code, error

    return run_command


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_a_missing_path_is_not_asked_of_the_hub_but_said_to_be_missing(
    run_model_command, hub_requests, command
):
    code, error = run_model_command(command, "runs/typo")
    assert code == 1
    assert "runs/typo" in error
    assert error.endswith(", or hf:runs/typo if it is on the Hugging Face hub")
    assert hub_requests == []


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_the_hub_is_asked_for_a_name_with_its_prefix(run_model_command, hub_requests, command):
    assert run_model_command(command, "hf:someone/letters") == (
        1,
        "residua: hf:someone/letters could not be downloaded from the Hugging Face hub: "
        "404: no such repository",
    )
    assert set(hub_requests) == {"someone/letters"}


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_a_prefix_without_a_name_reads_no_local_folder(run_model_command, hub_requests, command):
    for name in ("hf:..", "hf:../good", "hf:good", "hf:/good", "hf:", "hf:./good", "hf:a/../good"):
        assert run_model_command(command, name) == (
            2,
            f"residua: {name} is not a name on the Hugging Face hub: write hf:OWNER/NAME, "
            "or leave out hf: to give a local folder",
        )
    assert hub_requests == []


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_not_finite_are_refused_by_name(run_model_command, tmp_path, command):
    folder = copy_changed_model(tmp_path, "stem.1.running_var", torch.nan)
    code, error = run_model_command(command, folder)
    assert (code, error) == (
        1,
        f"residua: {folder / 'model.safetensors'} cannot be used, because stem.1.running_var is "
        "not finite everywhere: use another copy of it, or train again",
    )


def copy_changed_model(tmp_path, tensor_name, value):
    """A copy of the model folder with one number changed, and the checksum made anew."""
    folder = tmp_path / "changed"
    folder.mkdir()
    tensors = load_file(tmp_path / "good" / "model.safetensors")
    tensors[tensor_name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((tmp_path / "good" / "config.json").read_text())
    config["weights"] = compute_file_sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_an_absurdly_large_network_is_refused_before_anything_is_built(
    run_model_command, tmp_path, monkeypatch, command
):
    folder = copy_changed_model(tmp_path, "stem.1.running_var", 1.0)
    config = json.loads((folder / "config.json").read_text())
    config["network"]["stages"][2]["units"] = 100_000
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("residua.config.plan.plan_unit", None)  # so that planning one would fail
    assert run_model_command(command, folder) == (
        1,
        f"residua: {folder / 'config.json'} is not a valid model config: a network of at least "
        "200,004 layers is too deep: choose at most 20,000",
    )

"""A command loads its model folder once, and passes the network and its config on."""

import builtins
import io

import pytest
from PIL import Image

import residua
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.net.model_folder import save_pretrained
from tests.cli_runner import run_cli
from tests.third_party import randomize_weights


@pytest.fixture
def model_folder(tmp_path):
    data = get_dataset("digits")
    net = randomize_weights(residua.create_model("cifar-resnet8", num_classes=10, input=data.input))
    config = ModelConfig(
        network=net.plan.network, classes=data.classes, mean=data.mean, std=data.std
    )
    save_pretrained(net, config, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def opened_paths(monkeypatch):
    """The paths of the files that Python code opens, one entry per opening."""
    paths, open_file = [], io.open

    def record_and_open(path, *arguments, **options):
        paths.append(str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(io, "open", record_and_open)  # pathlib's
    monkeypatch.setattr(builtins, "open", record_and_open)
    return paths


def assert_loaded_once(model_folder, opened_paths):
    assert opened_paths.count(str(model_folder / "config.json")) == 1
    weights_path = str(model_folder / "model.safetensors")
    # for its checksum and the length of its header; then safetensors maps the file
    assert opened_paths.count(weights_path) == 2


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_predict_with_explanations_loads_the_model_folder_once(
    model_folder, opened_paths, tmp_path, capsys, engine
):
    pytest.importorskip("captum")
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(tmp_path / "images" / f"{i}.png")
    arguments = ["--explain", tmp_path / "maps", "--engine", engine]
    code, _, _ = run_cli(capsys, "predict", model_folder, tmp_path / "images", *arguments)
    assert code == 0
    assert len(list((tmp_path / "maps").iterdir())) == 3
    assert_loaded_once(model_folder, opened_paths)


def test_serve_with_explanations_and_similar_images_loads_the_model_folder_once(
    model_folder, opened_paths, monkeypatch, capsys
):
    pytest.importorskip("captum")
    pytest.importorskip("uvicorn")
    services = []
    monkeypatch.setattr(
        "residua.deploy.serve.serve_until_stopped",
        lambda service, listener, on_listening: services.append(service),
    )
    arguments = ["--port", 0, "--images", "digits", "--engine", "torch"]
    assert run_cli(capsys, "serve", model_folder, *arguments)[0] == 0
    [service] = services
    assert service.explainer is not None
    assert service.similar_images is not None
    assert_loaded_once(model_folder, opened_paths)


def test_export_loads_the_model_folder_once(model_folder, opened_paths, tmp_path, capsys):
    arguments = ["--to", "torch-export", "--out", tmp_path / "out.pt2"]
    assert run_cli(capsys, "export", model_folder, *arguments)[0] == 0
    assert_loaded_once(model_folder, opened_paths)

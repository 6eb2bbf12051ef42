import json

import pytest
import torch
from safetensors.torch import save_file

import residua
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.errors import RecordError, UsageError
from residua.net.model_folder import read_model_config, save_pretrained
from tests.net.test_pretrained import add_to_hub_cache, run_offline


@pytest.fixture
def model_folder(tmp_path):
    net = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=7)
    config = ModelConfig(
        network=net.plan.network,
        classes=("a", "b", "c"),
        mean=(0.5,),
        std=(0.25,),
        dataset="letters",
    )
    save_pretrained(net, config, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_network_is_loaded_unchanged(model_folder):
    net = residua.from_pretrained(model_folder)
    same = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=7).eval()
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(net(images), same(images))
    assert not net.training
    assert read_model_config(model_folder).classes == ("a", "b", "c")
    assert {path.name for path in model_folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_a_folder_without_a_model_is_reported(tmp_path):
    with pytest.raises(RecordError, match="is not a model folder: it has no config.json"):
        residua.from_pretrained(tmp_path)


def test_missing_weights_are_reported(model_folder):
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(RecordError, match="it has no model.safetensors"):
        residua.from_pretrained(model_folder)


def test_changed_weights_of_the_right_shape_are_refused(model_folder):
    path = model_folder / "model.safetensors"
    net = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=8)
    save_file(net.state_dict(), path)
    with pytest.raises(
        RecordError,
        match=r"model.safetensors does not match its config.json: its SHA-256 sum is \w{12}..., "
        r"not \w{12}",
    ):
        residua.from_pretrained(model_folder)
    config = json.loads((model_folder / "config.json").read_text())
    del config["weights"]  # of a folder of an earlier version
    (model_folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(
        residua.from_pretrained(model_folder).state_dict()["stem.0.weight"],
        net.state_dict()["stem.0.weight"],
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "net.onnx",
            "is an ONNX file, which stores neither residua's weight names nor the classes: "
            "give the model folder it was exported from",
        ),
        (
            "net.pth",
            "is a weight file, not a model folder: make a model folder of it with residua convert",
        ),
        (
            "net.txt",
            "is a file, not a model folder with config.json and model.safetensors",
        ),
    ],
)
def test_a_file_instead_of_a_folder_is_reported(tmp_path, name, sentence):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RecordError) as refused:
        residua.from_pretrained(tmp_path / name)
    assert str(refused.value) == f"{tmp_path / name} {sentence}"


def test_a_model_on_the_hub_is_loaded_by_its_name(model_folder, tmp_path):
    expected = residua.from_pretrained(model_folder)(torch.ones(1, 1, 8, 8))[0, 0].item()
    add_to_hub_cache(tmp_path, "someone/letters", model_folder)
    code = (
        "import residua, torch; net = residua.from_pretrained('someone/letters'); "
        "print(net(torch.ones(1, 1, 8, 8))[0, 0].item())"
    )
    assert float(run_offline(tmp_path, code)) == pytest.approx(expected, rel=1e-6)


def test_truncated_weights_are_reported(model_folder):
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RecordError, match=r"model.safetensors does not match its config.json"):
        residua.from_pretrained(model_folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"format": 2},
            "has format 2, newer than 1, the newest this version reads: update residua",
        ),
        ({"classes": 3}, "not a valid model config: model config.classes is 3"),
        (
            {"classes": ["a"]},
            "config.json is not a valid model config: cifar-resnet8 has 3 classes, but 1 class "
            "names were given: give one name per class",
        ),
        ({"mean": []}, "0 means and 1 stds do not fit: give one of each for every channel"),
        (
            {"mean": [0, 0], "std": [1, 1]},
            "cifar-resnet8 takes images of 1 channels, but 2 means are given: give one mean and "
            "one std per channel",
        ),
        (
            {"std": [0]},
            "means (0.5,) and stds (0.0,) are invalid: give finite numbers, and stds above 0",
        ),
        (
            {"mean": [float("nan")]},
            "means (nan,) and stds (0.25,) are invalid: give finite numbers, and stds above 0",
        ),
        (
            {"colour": "red"},
            "config.json is not a valid model config: model config has no field 'colour'",
        ),
    ],
)
def test_an_invalid_config_is_reported(model_folder, change, sentence):
    path = model_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError) as refused:
        residua.from_pretrained(model_folder)
    assert sentence in str(refused.value)


def test_a_damaged_config_is_reported(model_folder):
    (model_folder / "config.json").write_text("{")
    with pytest.raises(RecordError, match="config.json is damaged"):
        residua.from_pretrained(model_folder)


@pytest.mark.parametrize(
    ("channels", "fits"), [(1, True), (3, True), (784, True), (5, False), (0, False)]
)
def test_image_channels_must_divide_the_features_of_a_fully_connected_net(channels, fits):
    net = network("fc-resnet10", input=(3, 28, 28) if channels == 3 else (1, 28, 28), classes=2)
    asked = {
        "network": net,
        "classes": ("a", "b"),
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
    }
    if fits:
        assert len(ModelConfig(**asked).mean) == channels
    else:
        with pytest.raises(
            UsageError,
            match="fc-resnet10 takes 784 numbers, which the channels must divide, "
            f"but {channels} means are given: give one mean and one std per channel",
        ):
            ModelConfig(**asked)

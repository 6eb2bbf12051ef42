import json

import pytest
import torch

import residua
from residua.errors import RecordError
from residua.net.folder import read_config, save_pretrained
from residua.spec.model import ModelConfig


@pytest.fixture
def folder(tmp_path):
    net = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=7)
    config = ModelConfig(network=net.plan.network, classes=("a", "b", "c"), mean=(0.5,), std=(0.25,), dataset="letters")
    save_pretrained(net, config, tmp_path / "model")
    return tmp_path / "model"


def test_a_model_folder_gives_back_the_same_network(folder):
    net = residua.from_pretrained(folder)
    same = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=7).eval()
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(net(images), same(images))
    assert not net.training
    assert read_config(folder).classes == ("a", "b", "c")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(RecordError, match="is no model folder: it has no config.json"):
        residua.from_pretrained(tmp_path)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(RecordError, match="it has no model.safetensors"):
        residua.from_pretrained(folder)


def test_truncated_weights_are_named(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RecordError, match=r"model.safetensors does not fit its config.json"):
        residua.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "has format 2, newer than 1, the newest this version reads: update residua"),
        ({"classes": 3}, "not a modelconfig: modelconfig.classes is 3"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(folder, change, sentence):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError) as refused:
        residua.from_pretrained(folder)
    assert sentence in str(refused.value)


def test_a_damaged_config_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(RecordError, match="config.json is damaged"):
        residua.from_pretrained(folder)

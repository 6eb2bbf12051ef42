import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

import residua
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.vlad_config import make_vlad_classifier
from residua.errors import RecordError, UsageError
from residua.net.convert.state_dict import write_state_dict
from residua.net.model_folder import (
    compute_file_sha256,
    find_model_folder,
    read_model_config,
    save_pretrained,
)
from residua.net.vlad import VladNetwork
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
            "give the model folder it was exported from, or make one with residua convert",
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
        "import residua, torch; net = residua.from_pretrained('hf:someone/letters'); "
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
            "has format 2, but the newest that this version reads is 1: update residua",
        ),
        ({"classes": 3}, "not a valid model config: model config.classes is 3"),
        (
            {"classes": ["a"]},
            "config.json is not a valid model config: cifar-resnet8 has 3 classes, but 1 class "
            "names were given: give one name per class",
        ),
        (
            {"classes": ["a", "b", "a"]},
            "config.json is not a valid model config: class names must be distinct, but 'a' "
            "appears 2 times: rename all but one",
        ),
        (
            {"classes": ["a", "b", 3]},
            "config.json is not a valid model config: model config.classes[2] is 3, not str",
        ),
        (
            {"classes": None},
            "config.json is not a valid model config: model config.classes is None, not tuple",
        ),
        (
            {"classes": ["a", "b", "c" * 1001]},
            "the name of a class has 1,001 characters: give at most 1,000",
        ),
        ({"mean": []}, "0 means and 1 stds do not match: give one of each for every channel"),
        (
            {"mean": [0, 0], "std": [1, 1]},
            "cifar-resnet8 takes images of 1 channels, but 2 means are given: give one mean and "
            "one std per channel",
        ),
        (
            {"std": [0]},
            "means (0.5,) and stds (0.0,) are invalid: give means of at most 1,000,000, and stds "
            "from 1e-06 to 1,000,000",
        ),
        ({"std": [1e-320]}, "means (0.5,) and stds (1e-320,) are invalid"),
        ({"temperature": 1e-320}, "temperature=1e-320 is invalid: it must be at least 1e-06"),
        (
            {"mean": [float("nan")]},
            "config.json is damaged: it contains NaN, which is not a finite number",
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


UNFIT_TENSORS = {
    "its stem.0.weight is 16x3x3x3, but cifar-resnet8 needs 16x1x3x3": {
        "stem.0.weight": torch.zeros(16, 3, 3, 3)
    },
    "its head.1.bias is 4, but cifar-resnet8 needs 3": {"head.1.bias": torch.zeros(4)},
    "cifar-resnet8 has no place for its head.2.weight": {"head.2.weight": torch.zeros(1)},
    "it lacks head.1.bias, which cifar-resnet8 needs": {"head.1.bias": None, "x": torch.zeros(9)},
    "it holds 74,544 numbers, but cifar-resnet8 needs 74,547": {
        name: None
        for name in residua.create_model("cifar-resnet8").state_dict()
        if "running" in name or "num_batches" in name or name == "head.1.bias"
    },
}


def change_tensors(folder, changes):
    """Replace tensors of a model folder, or leave them out, and make the checksum anew."""
    tensors = load_file(folder / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["weights"] = compute_file_sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("sentence", UNFIT_TENSORS)
def test_weights_that_do_not_fit_the_config_are_refused_with_the_difference(model_folder, sentence):
    change_tensors(model_folder, UNFIT_TENSORS[sentence])
    with pytest.raises(RecordError) as refused:
        residua.from_pretrained(model_folder)
    path = model_folder / "model.safetensors"
    assert str(refused.value) == f"{path} does not match its config.json: {sentence}"


def test_a_network_that_its_file_cannot_fill_is_not_built(model_folder, monkeypatch):
    path = model_folder / "config.json"
    config = json.loads(path.read_text())
    for stage in config["network"]["stages"]:
        stage["width"] = 2_000
    path.write_text(json.dumps(config))
    monkeypatch.setattr("residua.net.model_folder.build_untrained", None)  # fails if it is called
    with pytest.raises(RecordError, match=r"it holds 75,034 numbers, but cifar-resnet8 needs 180,"):
        residua.from_pretrained(model_folder)


UNUSABLE_VALUES = {
    "stem.0.weight is not finite everywhere": ("stem.0.weight", -torch.inf),
    "stem.1.bias is not finite everywhere": ("stem.1.bias", torch.nan),
    "stem.1.running_mean is not finite everywhere": ("stem.1.running_mean", torch.inf),
    "stem.1.running_var is not finite everywhere": ("stem.1.running_var", torch.nan),
    "stem.1.running_var is negative somewhere, but a variance cannot be": (
        "stem.1.running_var",
        -1e-3,
    ),
    "head.1.weight is as large as 2.6e+36, which no trained network is": ("head.1.weight", -2.6e36),
}


@pytest.mark.parametrize("problem", UNUSABLE_VALUES)
def test_a_single_value_that_no_trained_network_has_is_refused_by_name(model_folder, problem):
    name, value = UNUSABLE_VALUES[problem]
    tensor = load_file(model_folder / "model.safetensors")[name]
    tensor.view(-1)[tensor.numel() // 2] = value
    change_tensors(model_folder, {name: tensor})
    with pytest.raises(RecordError) as refused:
        residua.from_pretrained(model_folder)
    path = model_folder / "model.safetensors"
    assert str(refused.value) == (
        f"{path} cannot be used, because {problem}: use another copy of it, or train again"
    )


def test_fitted_vlad_numbers_that_are_not_finite_are_refused(tmp_path):
    classifier = make_vlad_classifier("vlad", (1, 8, 8), 2)
    config = ModelConfig(network=classifier, classes=("a", "b"), mean=(0.5,), std=(0.5,))
    save_pretrained(VladNetwork(classifier), config, tmp_path / "vlad")
    assert isinstance(residua.from_pretrained(tmp_path / "vlad"), VladNetwork)
    change_tensors(tmp_path / "vlad", {"bias": torch.tensor([0.0, torch.nan])})
    with pytest.raises(RecordError, match="because bias is not finite everywhere"):
        residua.from_pretrained(tmp_path / "vlad")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_all_files_of_a_model_folder_have_the_permissions_that_the_umask_gives(model_folder, umask):
    net, config = residua.from_pretrained(model_folder), read_model_config(model_folder)
    folder, before = model_folder.with_name("new"), os.umask(umask)
    try:
        save_pretrained(net, config, folder)
        write_state_dict(net.state_dict(), folder / "x.safetensors")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(
        ("config.json", "model.safetensors", "README.md", "x.safetensors"), 0o666 & ~umask
    )


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


def test_the_model_folder_of_a_finished_run_is_its_last_network(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    facts = {"format": 1, "id": "x", "run": {}, "environment": {}, "result": None}
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"the run in .*run is not finished: continue it"):
        find_model_folder(run)
    (run / "run.json").write_text(json.dumps(facts | {"result": {"steps": 1}}))
    assert find_model_folder(run) == run / "last"
    assert find_model_folder(tmp_path) == tmp_path  # a model folder, or what is none

"""Small trained networks that come with the package: they have a name, and need no network."""

import hashlib
import json
import socket
from itertools import chain
from math import sqrt
from pathlib import Path

import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.published_weights import PACKAGED_MODELS, PublishedWeights
from residua.config.weight_registry import (
    find_weights,
    read_weight_table,
    suggest_weight_name,
)
from residua.data.read import read_split
from residua.errors import RecordError, UsageError
from residua.net.model_folder import from_pretrained, read_model_config

PACKAGED = sorted(path.name for path in PACKAGED_MODELS.iterdir())
MAX_BYTES = 3_000_000  # of all together
RECORDS = Path(residua.__file__).parents[1] / "experiments" / "packaged-models"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # which --offline sets for the whole process


def list_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_photo(path, side=48):
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(path)
    return path


def test_they_are_small_enough_to_come_along():
    assert PACKAGED
    files = chain.from_iterable((PACKAGED_MODELS / name).iterdir() for name in PACKAGED)
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_model_is_what_its_entry_says(name):
    entry, folder = read_weight_table()[name], PACKAGED_MODELS / name
    file_sum = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert entry.is_packaged
    assert entry.sha256 == file_sum
    assert find_weights(entry.short_name) == entry
    network, config = residua.network(entry.network), read_model_config(folder)
    assert (config.network.stages, config.network.unit) == (network.stages, network.unit)
    assert (config.network.stem, config.network.head) == (network.stem, network.head)


@pytest.mark.parametrize("name", PACKAGED)
def test_its_error_is_that_of_the_run_on_record(name):
    recorded = json.loads((RECORDS / name / "run.json").read_text())
    errors = json.loads((RECORDS / name / "evaluation.json").read_text())["test_error_by_views"]
    assert read_weight_table()[name].top1_error == errors["none"]
    config = read_model_config(PACKAGED_MODELS / name)
    assert config.test_views == "none"
    assert errors[recorded["result"].get("test_views", "none")] == recorded["result"]["test_error"]
    assert recorded["run"]["network"]["name"] == config.network.name
    assert recorded["run"]["dataset"] == config.dataset == "cifar10"


@pytest.mark.parametrize("name", PACKAGED)
def test_its_error_on_real_images_is_the_recorded_one(name, real_data_folder):
    count, dataset = 2000, get_dataset("cifar10")
    images = read_split(dataset, "test", real_data_folder)
    pixels = images.pixels[:count].permute(0, 2, 3, 1)
    predicted = residua.load(name).predict([image.numpy() for image in pixels])
    labels = [dataset.classes[index] for index in images.labels[:count].tolist()]
    wrong = sum(p.label != label for p, label in zip(predicted, labels, strict=True))
    expected = read_weight_table()[name].top1_error
    assert abs(wrong / count - expected) < 4 * sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_way_to_name_it_gives_the_same_network(name):
    entry = read_weight_table()[name]
    x = torch.randn(2, *entry.input)
    expected = from_pretrained(PACKAGED_MODELS / name)(x)
    for source in (name, entry.short_name):
        assert torch.equal(residua.load(source).net(x), expected)
    net = residua.create_model(entry.network, pretrained=True).eval()
    assert torch.equal(net(x), expected)


def test_commands_take_its_name_and_leave_it_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = PACKAGED_MODELS / find_weights("cifar-resnet20").name
    before = list_files(folder)
    write_photo(tmp_path / "photo.png")
    assert main(["predict", "cifar-resnet20", "photo.png", "--offline", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["class"] in get_dataset("cifar10").classes
    for command in (
        ["export", "cifar-resnet20", "--to", "torch-export", "--out", "net.pt2"],
        ["convert", "cifar-resnet20", "--to", "timm", "--out", "timm.safetensors"],
        ["deepen", "cifar-resnet20", "--stage", "1", "--units", "1", "--out", "deeper"],
        ["models", "cifar-*", "--weights"],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert list_files(folder) == before


def test_training_starts_from_it_at_its_own_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split, label, i in ((s, c, i) for s in ("train", "val") for c in "ab" for i in range(4)):
        path = tmp_path / "photos" / split / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(path, side=40 + i)
    start = ["train", "photos", "--from", "cifar-resnet20", "--steps", "2", "--out", "run"]
    assert main([*start, "--json"]) == 0, capsys.readouterr().err
    entry = find_weights("cifar-resnet20")
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights_from"] == {"name": entry.name, "sha256": entry.sha256}
    assert read_model_config(tmp_path / "run" / "last").input == (3, 32, 32)


def test_it_cannot_be_calibrated_where_it_is(real_data_folder, capsys):
    folder = PACKAGED_MODELS / find_weights("cifar-resnet20").name
    for named in ("cifar-resnet20", str(folder)):
        command = ["evaluate", named, "cifar10", "--data-dir", str(real_data_folder), "--calibrate"]
        assert main(command) == 2
        assert "stays as it was published: copy the folder" in capsys.readouterr().err


def test_only_the_weights_of_that_name_come_with_the_package():
    with pytest.raises(UsageError, match="is not the URL of a file"):
        PublishedWeights(
            name="other.v1", network="cifar-resnet20", address=f"package:{PACKAGED[0]}"
        )


def write_user_file(path, monkeypatch, **entry):
    path.write_text(json.dumps({"weights": [entry]}))
    monkeypatch.setenv("RESIDUA_WEIGHTS", str(path))


@pytest.mark.parametrize(
    "changes", [{"mean": [0.5, 0.5, 0.5]}, {"sha256": "0" * 64}, {"network": "cifar-resnet32"}]
)
def test_fields_of_packaged_weights_cannot_be_changed_without_an_address(
    changes, tmp_path, monkeypatch
):
    name = find_weights("cifar-resnet20").name
    write_user_file(tmp_path / "weights.json", monkeypatch, name=name, **changes)
    with pytest.raises(RecordError, match=f"cannot be changed: give {name} the address of a file"):
        find_weights(name)
    write_user_file(
        tmp_path / "weights.json", monkeypatch, name=name, address="https://a.b/c.pth", **changes
    )
    assert not find_weights(name).is_packaged


def test_weights_that_nobody_packaged_cannot_claim_it(tmp_path, monkeypatch):
    write_user_file(
        tmp_path / "weights.json",
        monkeypatch,
        name="my.v1",
        network="cifar-resnet8",
        address="package:my.v1",
        class_names=[*"abcdefghij"],
    )
    with pytest.raises(RecordError, match="cannot be changed: give my.v1 the address of a file"):
        find_weights("my.v1")


def test_weights_of_the_user_s_win_a_short_name(tmp_path, monkeypatch):
    write_user_file(
        tmp_path / "weights.json",
        monkeypatch,
        name="cifar-resnet20.mine",
        network="cifar-resnet20",
        address="https://a.b/c.pth",
        class_names=["cat", "dog"],
    )
    assert find_weights("cifar-resnet20").name == "cifar-resnet20.mine"
    assert find_weights("cifar-resnet20").measured_on is None
    assert find_weights(PACKAGED[-1]).measured_on == "cifar10"


def test_another_depth_is_not_taken_for_a_misspelt_name(capsys):
    assert suggest_weight_name("cifar-resnet56") == ""
    assert suggest_weight_name("cifar-resnet2O") == "cifar-resnet20"
    assert main(["predict", "cifar-resnet56", "photo.png"]) == 1
    assert "cifar-resnet20" not in capsys.readouterr().err

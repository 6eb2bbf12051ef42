import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import residua
from residua.data.folder import data_of
from residua.data.image import decode, prepared
from residua.data.read import Images, Seen, read, seen
from residua.errors import UsageError
from residua.net.folder import from_pretrained, read_config, save_pretrained
from residua.spec.dataset import dataset
from residua.spec.model import ModelConfig
from residua.train.assess import SHOWN, assess, assess_folder, scores
from residua.train.evaluate import evaluate
from tests.peers import randomised
from tests.train.runs import CPU

DIGITS = dataset("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    net = randomised(residua.create_model("cifar-resnet8", num_classes=10, input=DIGITS.input))
    config = ModelConfig(network=net.plan.network, classes=DIGITS.classes, mean=DIGITS.mean, std=DIGITS.std, dataset="digits")
    path = tmp_path_factory.mktemp("assess") / "model"
    save_pretrained(net, config, path)
    return path


@pytest.mark.parametrize("mirror", [False, True])
def test_the_scores_of_all_images_count_as_evaluation_counts(folder, mirror):
    net, config, images = from_pretrained(folder), read_config(folder), read(DIGITS, "test")
    counted = evaluate(net, images, config.mean, config.std, CPU, mirror=mirror)
    found = scores(net, images, config, CPU, 100, mirror=mirror)
    assert found.exp().sum(1).sub(1).abs().max() < 1e-5
    told = assess(seen(DIGITS, "test", config), found.numpy(), config)
    assert (told.count, told.wrong, told.wrong5) == (counted.count, counted.wrong, counted.wrong5)
    assert told.loss == pytest.approx(counted.loss, rel=1e-5)


def by_hand():
    """Five images of three classes, of levels 0 to 4, and log probabilities."""
    p = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.02, 0.01, 0.97], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]], np.float32)
    labels = np.array([0, 0, 1, 1, 2])
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    net = residua.network("cifar-resnet8", input=(1, 8, 8), classes=3)
    config = ModelConfig(network=net, classes=("a", "b", "c"), mean=(0.5,), std=(0.5,))
    return Seen(Images(pixels, torch.from_numpy(labels)), [f"{i}.png" for i in range(5)]), np.log(p), config


def test_confusions_and_mistakes_are_those_counted_by_hand():
    found = assess(*by_hand())
    assert found.confusion == ((1, 1, 0), (0, 1, 1), (0, 0, 1))
    assert (found.wrong, found.wrong5) == (2, 0)
    assert [(m.where, m.truth, m.guess) for m in found.mistakes] == [("2.png", 1, 2), ("1.png", 0, 1)]
    assert found.mistakes[0].probability == pytest.approx(0.97)
    assert found.mistakes[0].thumbnail.startswith("data:image/png;base64,")


def test_a_temperature_of_the_folder_is_reported_as_it_is():
    images, values, config = by_hand()
    found = assess(images, values, replace(config, temperature=2.0))
    assert (found.fitted, found.temperature) == ("folder", 2.0)
    assert found.calibration == assess(images, values, config).calibration


def test_calibrate_keeps_a_temperature_in_the_folder_that_was_not_fitted_on_what_is_reported(folder, tmp_path):
    net, config = from_pretrained(folder), read_config(folder)
    save_pretrained(net, config, tmp_path / "m")
    before = assess_folder(tmp_path / "m", DIGITS, "test", CPU)
    assert read_config(tmp_path / "m").temperature == 1
    after = assess_folder(tmp_path / "m", DIGITS, "test", CPU, calibrate=True)
    kept = read_config(tmp_path / "m")
    assert (after.fitted, after.temperature) == ("dev", pytest.approx(kept.temperature))
    assert kept.temperature != 1
    assert replace(kept, temperature=1.0) == read_config(folder)
    assert (after.wrong, after.calibration) == (before.wrong, before.calibration)
    assert after.scaled.loss < after.calibration.loss
    assert assess_folder(tmp_path / "m", DIGITS, "test", CPU).fitted == "folder"
    assert len(after.mistakes) == SHOWN
    assert dict(after.environment)["precision"] == "fp32"


def test_all_images_are_those_of_the_three_splits(folder):
    assert assess_folder(folder, DIGITS, "all", CPU).count == 1797


def test_photographs_are_evaluated_as_they_are_predicted_to_the_bit(tmp_path, monkeypatch):
    """By each way to resize, from the files alone; a damaged one is left out and named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k, (split, name) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        place = tmp_path / "data" / split / name
        place.mkdir(parents=True)
        for i in range(3):
            pixels = torch.randint(256, (20 + 3 * i, 30 - k, 3), generator=torch.Generator().manual_seed(9 * k + i))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{i}.png")
    damaged = tmp_path / "data" / "test" / "dog" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    net = randomised(residua.create_model("cifar-resnet8", num_classes=2, input=(3, 16, 16)))
    for i, changes in enumerate(({}, {"resize": 19}, {"resize": 24, "interpolation": "bicubic"})):
        config = ModelConfig(
            network=net.plan.network, classes=("cat", "dog"), mean=(0.5,) * 3, std=(0.25,) * 3, dataset="pets", **changes
        )
        save_pretrained(net, config, tmp_path / f"{i}")
        found = seen(data_of(str(tmp_path / "data"), (3, 16, 16)), "test", config)
        assert found.names == ["test/cat/0.png", "test/cat/1.png", "test/cat/2.png", "test/dog/0.png", "test/dog/2.png"]
        files = [decode(tmp_path / "data" / name) for name in found.names]
        assert torch.equal(found.images.pixels, torch.stack([prepared(file, config) for file in files]))
        told = assess_folder(tmp_path / f"{i}", data_of(str(tmp_path / "data"), (3, 16, 16)), "test", CPU)
        assert (told.count, told.left_out) == (5, ("test/dog/1.png is truncated: its data end too early",))


def test_what_is_fitted_on_is_not_reported(folder):
    before = (folder / "config.json").read_bytes()
    for split in ("dev", "all"):
        with pytest.raises(UsageError, match="--calibrate fits on the dev split, which then says nothing of the fit"):
            assess_folder(folder, DIGITS, split, CPU, calibrate=True)
    with pytest.raises(UsageError, match="a mirror image in digits may be of another class: leave --mirror out"):
        assess_folder(folder, DIGITS, "test", CPU, mirror=True)
    assert (folder / "config.json").read_bytes() == before


def test_a_class_set_that_differs_is_refused_with_the_difference(folder, tmp_path):
    config = read_config(folder)
    save_pretrained(from_pretrained(folder), replace(config, classes=(*config.classes[:9], "ten")), tmp_path / "m")
    with pytest.raises(UsageError, match="knows other classes than digits: ten there, 9 here"):
        assess_folder(tmp_path / "m", DIGITS, "test", CPU)
    assert "temperature" not in json.loads((folder / "config.json").read_text())

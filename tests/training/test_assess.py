import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from scipy.stats import sem

import residua
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.data.decode import decode_image, preprocess_image
from residua.data.images import Images
from residua.data.preprocessed_images import NamedImages, read_preprocessed_split
from residua.data.read import read_split
from residua.data.sources.resolve import resolve_dataset
from residua.errors import RecordError, UsageError
from residua.net.model_folder import (
    from_pretrained,
    read_model_config,
    replace_model_config,
    save_pretrained,
)
from residua.training import assess, stored_temperature
from residua.training.assess import (
    evaluate_model_folder,
    make_second_opinion,
    predict_log_probabilities,
)
from residua.training.calibration import TemperatureGain, fit_temperature
from residua.training.doubtful_labels import find_doubtful_labels
from residua.training.evaluate import evaluate_network
from residua.training.evaluation_measures import build_evaluation
from residua.training.shown_images import MAX_MISTAKES
from residua.training.stored_temperature import store_temperature_if_better
from tests.cli_runner import run_cli
from tests.third_party import randomize_weights
from tests.training.short_runs import CPU_FP32

DIGITS = get_dataset("digits")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    net = randomize_weights(
        residua.create_model("cifar-resnet8", num_classes=10, input=DIGITS.input)
    )
    config = ModelConfig(
        network=net.plan.network,
        classes=DIGITS.classes,
        mean=DIGITS.mean,
        std=DIGITS.std,
        dataset="digits",
    )
    path = tmp_path_factory.mktemp("assess") / "model"
    save_pretrained(net, config, path)
    return path


@pytest.mark.parametrize("mirror", [False, True])
def test_assess_counts_the_same_errors_as_evaluate(model_folder, mirror):
    net, config, images = (
        from_pretrained(model_folder),
        read_model_config(model_folder),
        read_split(DIGITS, "test"),
    )
    counted = evaluate_network(
        net, images, config.mean, config.std, CPU_FP32, views="mirror" if mirror else "none"
    )
    log_probs = predict_log_probabilities(
        net, images, config, CPU_FP32, 100, views="mirror" if mirror else "none"
    )
    assert log_probs.exp().sum(1).sub(1).abs().max() < 1e-5
    images = read_preprocessed_split(DIGITS, "test", config)
    evaluation = build_evaluation(images, log_probs.numpy(), config)
    assert (evaluation.count, evaluation.wrong, evaluation.wrong5) == (
        counted.count,
        counted.wrong,
        counted.wrong5,
    )
    assert evaluation.loss == pytest.approx(counted.loss, rel=1e-5)


def make_hand_counted_example():
    """Five images of three classes with pixel values 0 to 4, and log probabilities."""
    p = np.array(
        [[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.02, 0.01, 0.97], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]],
        np.float32,
    )
    labels = np.array([0, 0, 1, 1, 2])
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    net = residua.network("cifar-resnet8", input=(1, 8, 8), classes=3)
    config = ModelConfig(network=net, classes=("a", "b", "c"), mean=(0.5,), std=(0.5,))
    return (
        NamedImages(Images(pixels, torch.from_numpy(labels)), [f"{i}.png" for i in range(5)]),
        np.log(p),
        config,
    )


def test_confusions_and_mistakes_match_a_count_by_hand():
    found = build_evaluation(*make_hand_counted_example())
    assert found.confusion == ((1, 1, 0), (0, 1, 1), (0, 0, 1))
    assert (found.wrong, found.wrong5) == (2, 0)
    assert [(m.where, m.truth, m.guess) for m in found.mistakes] == [
        ("2.png", 1, 2),
        ("1.png", 0, 1),
    ]
    assert found.mistakes[0].probability == pytest.approx(0.97)
    assert found.mistakes[0].thumbnail.startswith("data:image/png;base64,")


def test_the_change_of_the_loss_has_the_standard_error_of_scipy():
    images, log_probs, config = make_hand_counted_example()
    found = build_evaluation(images, log_probs, replace(config, temperature=2.0))
    labels = images.images.labels.numpy()
    before, after = (
        -log_softmax(logits.astype(np.float64), axis=1)[np.arange(5), labels]
        for logits in (log_probs, log_probs / 2)
    )
    assert found.loss_change_error == pytest.approx(sem(before - after), rel=1e-5)
    assert found.calibration.loss - found.scaled.loss == pytest.approx((before - after).mean())


def test_an_evaluation_pictures_all_images_of_a_small_set_and_checks_its_labels():
    images, log_probs, config = make_hand_counted_example()
    found = build_evaluation(images, log_probs, replace(config, temperature=2.0))
    pictured = [image.where for image in (*found.mistakes, *found.examples)]
    assert sorted(pictured) == [f"{i}.png" for i in range(5)]
    assert found.label_check == "last"
    # the label of 2.png has the probability 0.1 / (0.14 + 0.1 + 0.98), and that of 1.png 0.16
    assert [doubtful.where for doubtful in found.doubtful_labels] == ["2.png", "1.png"]


def test_the_weights_of_the_best_epoch_are_asked_if_they_are_others(model_folder, tmp_path):
    run, config = tmp_path / "run", read_model_config(model_folder)
    shutil.copytree(model_folder, run / "last")
    images = read_split(DIGITS, "test")
    config = read_model_config(run / "last")
    assert make_second_opinion(run / "last", config, images, CPU_FP32) is None  # there is no best
    shutil.copytree(model_folder, run / "best")
    assert make_second_opinion(run / "last", config, images, CPU_FP32) is None  # the same weights
    net = from_pretrained(model_folder)
    for parameter in net.parameters():
        parameter.data *= 1.1
    save_pretrained(net, config, run / "best")
    ask = make_second_opinion(run / "last", config, images, CPU_FP32)
    everything = predict_log_probabilities(net, images, config, CPU_FP32)
    positions = np.array([5, 300, 7])
    np.testing.assert_allclose(ask(positions), everything[positions], atol=1e-5)
    assert make_second_opinion(run / "best", config, images, CPU_FP32) is None
    evaluation = evaluate_model_folder(run / "last", DIGITS, "test", CPU_FP32)
    assert evaluation.label_check == "last and best"
    (run / "best" / "config.json").write_text("{")
    assert make_second_opinion(run / "last", config, images, CPU_FP32) is None


def test_an_evaluation_records_the_temperature_of_each_half():
    images, log_probs, config = make_hand_counted_example()
    found = build_evaluation(images, log_probs, replace(config, temperature=1.0))
    labels = images.images.labels.numpy()
    even, odd = slice(0, None, 2), slice(1, None, 2)
    assert found.half_temperatures == pytest.approx(
        (
            fit_temperature(log_probs[odd], labels[odd]),
            fit_temperature(log_probs[even], labels[even]),
        )
    )
    ones = np.ones((len(labels), 1), np.float32)
    positions = find_doubtful_labels(log_probs, labels, ones)  # five images fit no temperature
    assert [doubtful.where for doubtful in found.doubtful_labels] == [f"{i}.png" for i in positions]
    found = build_evaluation(images, log_probs, replace(config, temperature=2.0))
    assert found.half_temperatures == ()
    [doubtful, *_] = found.doubtful_labels
    assert not found.doubts_are_scaled
    by_name = {image.where: image.probability for image in (*found.mistakes, *found.examples)}
    assert doubtful.probability == pytest.approx(by_name[doubtful.where])


def test_a_stored_temperature_is_reported_unchanged():
    images, values, config = make_hand_counted_example()
    found = build_evaluation(images, values, replace(config, temperature=2.0))
    assert (found.fitted, found.temperature) == ("folder", 2.0)
    assert found.calibration == build_evaluation(images, values, config).calibration


def test_calibrate_stores_a_temperature_fitted_on_another_split_than_reported(
    model_folder, tmp_path
):
    net, config = from_pretrained(model_folder), read_model_config(model_folder)
    save_pretrained(net, config, tmp_path / "m")
    before = evaluate_model_folder(tmp_path / "m", DIGITS, "test", CPU_FP32)
    assert read_model_config(tmp_path / "m").temperature == 1
    after = evaluate_model_folder(tmp_path / "m", DIGITS, "test", CPU_FP32, calibrate=True)
    stored_config = read_model_config(tmp_path / "m")
    assert (after.fitted, after.temperature) == ("dev", pytest.approx(stored_config.temperature))
    assert stored_config.temperature != 1
    assert replace(stored_config, temperature=1.0) == read_model_config(model_folder)
    assert (after.wrong, after.calibration) == (before.wrong, before.calibration)
    assert after.scaled.loss < after.calibration.loss
    assert evaluate_model_folder(tmp_path / "m", DIGITS, "test", CPU_FP32).fitted == "folder"
    assert len(after.mistakes) == MAX_MISTAKES
    assert dict(after.environment)["precision"] == "fp32"


@pytest.fixture
def copied_model(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "m")
    return tmp_path / "m"


def test_calibrate_says_what_it_wrote_and_off_undoes_it(copied_model, capsys):
    """Also as a flag before the other arguments."""
    config_path = copied_model / "config.json"
    before = config_path.read_bytes()
    code, out, note = run_cli(capsys, "evaluate", "--calibrate", copied_model, "digits", "--json")
    temperature = read_model_config(copied_model).temperature
    assert (code, json.loads(out)["temperature"]) == (0, pytest.approx(temperature))
    assert re.fullmatch(
        rf"residua: temperature {temperature:.3f} was written to {config_path}: fitted on one half "
        r"of 150 held-out images, it lowers the loss of the other half by \S+ ± \S+, "
        "beyond its standard error",
        note,
    )
    assert json.loads(out)["temperature_note"] == note.removeprefix("residua: ")
    for note in ("temperature {t:.3f} was removed from {p}", "{p} has no temperature: nothing was"):
        code, out, last_line = run_cli(
            capsys, "evaluate", copied_model, "digits", "--json", "--calibrate", "off"
        )
        assert (code, json.loads(out)["temperature_from"]) == (0, "halves")
        assert note.format(t=temperature, p=config_path) in last_line
        assert config_path.read_bytes() == before


def test_a_temperature_that_does_not_help_other_images_is_not_stored(copied_model, monkeypatch):
    """A stored temperature then stays, and the note says so."""
    before = (copied_model / "config.json").read_bytes()
    monkeypatch.setattr(
        stored_temperature, "measure_temperature_gain", lambda *_: TemperatureGain(0.02, 0.03)
    )
    found = evaluate_model_folder(copied_model, DIGITS, "test", CPU_FP32, calibrate=True)
    assert found.temperature_note == (
        "no temperature was written: fitted on one half of 150 held-out images, it lowers the loss "
        "of the other half by 0.02 ± 0.03, not beyond its standard error"
    )
    assert (found.fitted, (copied_model / "config.json").read_bytes()) == ("halves", before)
    replace_model_config(copied_model, replace(read_model_config(copied_model), temperature=1.5))
    found = evaluate_model_folder(copied_model, DIGITS, "test", CPU_FP32, calibrate=True)
    assert found.temperature_note.endswith(
        f"; {copied_model / 'config.json'} keeps the temperature 1.500"
    )
    assert (found.fitted, found.temperature) == ("folder", 1.5)


def test_no_temperature_is_fitted_to_images_without_a_mistake(copied_model):
    before = (copied_model / "config.json").read_bytes()
    labels = torch.arange(150) % 10
    held_out = NamedImages(Images(torch.zeros(150, 1, 8, 8, dtype=torch.uint8), labels), [])
    logits = np.eye(10, dtype=np.float32)[labels.numpy()]
    config, note, _ = store_temperature_if_better(
        copied_model, read_model_config(copied_model), held_out, logits, write=True
    )
    assert note == (
        "no temperature was written: no mistake among 150 held-out images shows how sure to be"
    )
    assert (config.temperature, (copied_model / "config.json").read_bytes()) == (1.0, before)


def test_calibration_on_too_few_images_is_refused(copied_model, capsys, monkeypatch):
    before = (copied_model / "config.json").read_bytes()
    monkeypatch.setattr(stored_temperature, "MIN_CALIBRATION_IMAGES", 151)
    code, _, message = run_cli(capsys, "evaluate", copied_model, "digits", "--calibrate")
    assert (code, message) == (
        2,
        "residua: --calibrate needs at least 151 held-out images, but the dev split has 150: "
        "leave --calibrate out, or give more images",
    )
    assert (copied_model / "config.json").read_bytes() == before


def test_split_all_means_the_images_of_all_three_splits(model_folder):
    assert evaluate_model_folder(model_folder, DIGITS, "all", CPU_FP32).count == 1797


def test_evaluation_and_prediction_preprocess_photos_bit_identically(tmp_path, monkeypatch):
    """With each kind of resizing, directly from files; a damaged file is skipped and named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for k, (split, name) in enumerate((s, c) for s in ("train", "test") for c in ("cat", "dog")):
        place = tmp_path / "data" / split / name
        place.mkdir(parents=True)
        for i in range(3):
            pixels = torch.randint(
                256, (20 + 3 * i, 30 - k, 3), generator=torch.Generator().manual_seed(9 * k + i)
            )
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{i}.png")
    damaged = tmp_path / "data" / "test" / "dog" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    net = randomize_weights(residua.create_model("cifar-resnet8", num_classes=2, input=(3, 16, 16)))
    for i, changes in enumerate(({}, {"resize": 19}, {"resize": 24, "interpolation": "bicubic"})):
        config = ModelConfig(
            network=net.plan.network,
            classes=("cat", "dog"),
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            dataset="pets",
            **changes,
        )
        save_pretrained(net, config, tmp_path / f"{i}")
        found = read_preprocessed_split(
            resolve_dataset(str(tmp_path / "data"), (3, 16, 16)), "test", config
        )
        assert found.names == [
            "test/cat/0.png",
            "test/cat/1.png",
            "test/cat/2.png",
            "test/dog/0.png",
            "test/dog/2.png",
        ]
        files = [decode_image(tmp_path / "data" / name) for name in found.names]
        assert torch.equal(
            found.images.pixels, torch.stack([preprocess_image(file, config) for file in files])
        )
        evaluation = evaluate_model_folder(
            tmp_path / f"{i}",
            resolve_dataset(str(tmp_path / "data"), (3, 16, 16)),
            "test",
            CPU_FP32,
        )
        assert (evaluation.count, evaluation.left_out) == (
            5,
            ("test/dog/1.png is truncated: its data end too early",),
        )


def test_the_split_used_for_calibration_is_refused_for_reporting(model_folder):
    before = (model_folder / "config.json").read_bytes()
    for split in ("dev", "all"):
        with pytest.raises(
            UsageError,
            match="--calibrate fits the temperature on the dev split, "
            "so an evaluation on that split would be too optimistic",
        ):
            evaluate_model_folder(model_folder, DIGITS, split, CPU_FP32, calibrate=True)
    with pytest.raises(
        UsageError,
        match="--views=mirror cannot be used with digits, because a mirrored image may belong to "
        "another class: use --views=none",
    ):
        evaluate_model_folder(model_folder, DIGITS, "test", CPU_FP32, views="mirror")
    assert (model_folder / "config.json").read_bytes() == before


def test_a_model_with_other_classes_is_refused_with_the_difference(model_folder, tmp_path):
    config = read_model_config(model_folder)
    save_pretrained(
        from_pretrained(model_folder),
        replace(config, classes=(*config.classes[:9], "ten")),
        tmp_path / "m",
    )
    with pytest.raises(
        UsageError,
        match=r"and digits differ in name or order \(only in the model: ten; only in the data: 9\)",
    ):
        evaluate_model_folder(tmp_path / "m", DIGITS, "test", CPU_FP32)
    assert "temperature" not in json.loads((model_folder / "config.json").read_text())


def test_scores_that_are_not_finite_are_refused(copied_model, monkeypatch):
    monkeypatch.setattr(
        assess,
        "predict_log_probabilities",
        lambda net, images, *_, **__: torch.full((len(images), 10), torch.nan),
    )
    with pytest.raises(RecordError, match="scores that are not finite for 359 of 359 images"):
        evaluate_model_folder(copied_model, DIGITS, "test", CPU_FP32)

"""`residua train --from RUN --add-class`: a model gets new classes, and keeps those that it has."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

import residua
from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.data.class_match import match_classes
from residua.errors import UsageError
from residua.net.build import build
from residua.net.model_folder import read_model_config, save_pretrained
from residua.record import RunRecord

QUICK = ["--steps", "2", "--precision", "fp32", "--set", "batch_size=8", "--json"]
FROZEN = ["--set", "schedule.lr=0", "--set", "optimiser.weight_decay=0"]
MODEL_CLASSES = ("two", "zero")  # not in the order of the alphabet


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folders of digits: `more` holds zero, one and two, `new` only zero and one."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for name, words in (("more", ("zero", "one", "two")), ("new", ("zero", "one"))):
        for word in words:
            folder = root / name / word
            folder.mkdir(parents=True)
            label = ("zero", "one", "two").index(word)
            for i in np.flatnonzero(digits.target == label)[:24]:
                pixels = (digits.images[i] * 255 / 16).astype(np.uint8)
                image = Image.fromarray(pixels).resize((16, 16)).convert("RGB")
                image.save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "start"
    spec = network("cifar-resnet8", input=(3, 16, 16), classes=2)
    config = ModelConfig(network=spec, classes=MODEL_CLASSES, mean=(0.4,) * 3, std=(0.3,) * 3)
    net = build(spec, seed=9)
    with torch.no_grad():
        net.head[-1].bias.copy_(torch.tensor([0.5, -0.1]))
    save_pretrained(net, config, folder)
    return folder


def read_tensors(folder):
    """Read the weights of a model folder by safetensors alone: the body, and the last layer."""
    tensors = load_file(folder / "model.safetensors")
    head = {name.rpartition(".")[2]: t for name, t in tensors.items() if name.startswith("head.")}
    return {name: t for name, t in tensors.items() if not name.startswith("head.")}, head


def train(capsys, data, model, out, *options):
    command = ["train", str(data), "--from", str(model), "--add-class", "--out", str(out), *options]
    status = main(command)
    return status, capsys.readouterr()


def test_the_rows_of_the_models_classes_are_kept_and_new_ones_come_after(
    photographs, model, tmp_path, capsys
):
    out = tmp_path / "run"
    status, printed = train(capsys, photographs / "more", model, out, *QUICK, *FROZEN)
    assert status == 0
    assert read_model_config(out / "last").classes == (*MODEL_CLASSES, "one")
    (_, before), (_, after) = read_tensors(model), read_tensors(out / "last")
    assert np.array_equal(after["weight"][:2], before["weight"])
    assert np.array_equal(after["bias"][:2], before["bias"])
    assert after["bias"][2] == pytest.approx(0.2)  # the mean of 0.5 and -0.1
    width = before["weight"].shape[1]
    assert after["weight"].shape == (3, width)
    assert 0.5 < after["weight"][2].std() / np.sqrt(2 / width) < 1.5  # drawn as He et al. do
    assert "classes of the model that are trained on: 2 (two, zero)" in printed.err
    assert "new classes, with new rows in the last layer: 1 (one)" in printed.err
    content = json.loads((out / "run.json").read_text())
    assert content["run"]["add_class"] is True
    assert content["environment"]["class_match"] == {
        "matched": ["two", "zero"],
        "added": ["one"],
        "absent": [],
    }


def test_without_the_option_the_classes_are_those_of_the_data(photographs, model, tmp_path):
    out = tmp_path / "run"
    command = ["train", str(photographs / "more"), "--from", str(model), "--out", str(out)]
    assert main([*command, *QUICK, *FROZEN]) == 0
    assert read_model_config(out / "last").classes == ("one", "two", "zero")
    content = json.loads((out / "run.json").read_text())
    assert "add_class" not in content["run"]
    assert "class_match" not in content["environment"]


def test_a_class_without_new_images_is_kept_with_a_warning(photographs, model, tmp_path, capsys):
    out = tmp_path / "run"
    status, printed = train(capsys, photographs / "new", model, out, *QUICK, *FROZEN)
    assert status == 0
    assert read_model_config(out / "last").classes == (*MODEL_CLASSES, "one")
    assert "without images to train on: 1 (two); they are kept, but" in printed.err
    assert json.loads(printed.out)["classes"] == {
        "two": 0,
        "zero": json.loads(printed.out)["classes"]["zero"],
        "one": json.loads(printed.out)["classes"]["one"],
    }
    (_, before), (_, after) = read_tensors(model), read_tensors(out / "last")
    assert np.array_equal(after["weight"][0], before["weight"][0])


def test_a_stopped_run_with_added_classes_resumes_bit_identically(
    photographs, model, tmp_path, capsys
):
    whole = tmp_path / "whole"
    options = ["--steps", "6", "--precision", "fp32", "--set", "batch_size=8", "--save-every", "2"]
    assert train(capsys, photographs / "more", model, whole, *options)[0] == 0

    def stop_at_three(report):
        if report.step == 3:
            raise KeyError("stop")

    halves = {
        "steps": 6,
        "recipe": RunRecord(whole).read_run().recipe,
        "precision": "fp32",
        "save_every": "2",
        "from_": model,
        "add_class": True,
        "quiet": True,
        "out": tmp_path / "halves",
    }
    data = str(photographs / "more")
    with pytest.raises(KeyError):
        residua.train(None, data, on_progress=stop_at_three, **halves)
    assert not RunRecord(tmp_path / "halves").is_finished
    with pytest.raises(UsageError, match="add_class"):
        residua.train(None, data, resume=True, **(halves | {"add_class": False}))
    residua.train(None, data, resume=True, **halves)
    for (_, a), (_, b) in zip(
        read_tensors(whole / "last")[0].items(),
        read_tensors(tmp_path / "halves" / "last")[0].items(),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_arrays_in_memory_get_the_models_labels(model):
    digits = load_digits()
    chosen = digits.target < 3
    images = np.repeat(np.repeat(digits.images[chosen] / 16, 2, 1), 2, 2)[..., None].repeat(3, -1)
    result = residua.train(
        *(None, (images, digits.target[chosen])),
        classes=["zero", "one", "two"],
        from_=model,
        add_class=True,
        steps=40,
        quiet=True,
    )
    assert result.classifier.classes == ("two", "zero", "one")
    answers = result.classifier.predict(list((images[:30] * 255).astype(np.uint8)))
    words = [("zero", "one", "two")[label] for label in digits.target[chosen][:30]]
    assert np.mean([a.label == word for a, word in zip(answers, words, strict=True)]) > 0.8


def test_what_cannot_be_matched_is_refused(photographs, model, tmp_path, capsys):
    common = ["train", str(photographs / "more"), "--add-class", *QUICK]
    assert main(common) == 2
    assert "needs the model to go on from: add --from" in capsys.readouterr().err
    assert main([*common[:3], "--model", "vlad"]) == 2
    assert "--add-class does not apply to --model vlad" in capsys.readouterr().err
    weights = model / "model.safetensors"
    assert main([*common, "--from", str(weights)]) == 2
    assert "without them: give the folder of a run or a model" in capsys.readouterr().err
    assert main(["train", "digits", "--add-class", "--from", str(model), *QUICK]) == 2
    assert "cannot renumber the classes of digits" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"classes": ["Two", "zero"]}))
    assert main([*common, "--from", str(other)]) == 2
    assert "the class two of more is called Two by the model" in capsys.readouterr().err


def test_classes_are_matched_by_name():
    dataset = replace(
        get_dataset("digits"), classes=("b", "a", "x", "c"), model_classes=("b", "a", "x")
    )
    match = match_classes(dataset, [0, 1, 1, 3])
    assert (match.matched, match.added, match.absent) == (("b", "a"), ("c",), ("x",))
    assert "none" in list(replace(match, added=()).describe())[1]


def test_a_dry_run_says_how_classes_match(photographs, model, tmp_path, capsys):
    out = tmp_path / "run"
    status, printed = train(capsys, photographs / "new", model, out, *QUICK, "--dry-run")
    assert status == 0
    assert "new classes, with new rows in the last layer: 1 (one)" in printed.err
    assert not out.exists()

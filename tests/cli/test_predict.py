import csv
import io
import json
import os
import sys

import pytest
import torch
from PIL import Image

import residua
from residua.net.folder import save_pretrained
from residua.spec.model import ModelConfig
from tests.commands import said
from tests.peers import randomised


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    net = randomised(residua.create_model("cifar-resnet8", num_classes=3, input=(3, 8, 8)))
    config = ModelConfig(
        network=net.plan.network, classes=("cat", "dog", "a class with a long and telling name"), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    path = tmp_path_factory.mktemp("predict") / "model"
    save_pretrained(net, config, path)
    return path


@pytest.fixture
def images(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    for i in range(3):
        pixels = torch.randint(256, (9, 12, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    (place / "2.png").write_bytes((place / "2.png").read_bytes()[:120])
    return place


@pytest.fixture
def predict(folder, capsys):
    return lambda *arguments, model=folder: said(capsys, "predict", model, *arguments, "--engine", "torch")


def test_each_image_has_an_object_of_its_own_and_the_exit_code_says_that_one_failed(predict, images):
    code, out, last = predict(images, "--json", "--top", "2")
    first, second, third = map(json.loads, out.splitlines())
    assert (code, last) == (1, "residua: 1 of 3 files could not be read")
    assert set(first) == {"path", "class", "probability", "top"}
    assert [set(entry) for entry in first["top"]] == [{"class", "probability"}] * 2
    assert first["top"][0] == {"class": first["class"], "probability": first["probability"]}
    assert first["probability"] >= first["top"][1]["probability"]
    assert second["path"] == str(images / "1.png")
    assert third == {"path": str(images / "2.png"), "error": "is truncated: its data end too early"}


def test_a_table_names_the_next_likeliest_and_a_long_path_last(predict, images):
    code, out, _ = predict(images / "0.png", "--top", "9")
    assert code == 0
    [line] = out.splitlines()
    assert line.endswith(f"  {images / '0.png'}")
    assert line.count(" % ") == 3
    assert "a class with a long and…" in line
    assert f"not read: {images / '2.png'} is truncated: its data end too early" in predict(images)[1]


def test_csv_is_read_by_spreadsheets(predict, images):
    _, out, _ = predict(images, "--csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "class", "probability", "class2", "probability2", "error"]
    assert float(rows[0]["probability"]) + float(rows[0]["probability2"]) <= 1.0001
    assert (rows[2]["class"], rows[2]["error"]) == ("", "is truncated: its data end too early")


@pytest.mark.parametrize(("null", "end"), [([], b"\n"), (["-0"], b"\0")])
def test_paths_are_read_from_standard_input_whatever_their_bytes(predict, images, monkeypatch, null, end):
    names = [os.fsencode(images / "0.png"), os.fsencode(images) + b"/\xff\xe6.png", os.fsencode(images / "1.png")]
    (images / "0.png").rename(os.fsdecode(names[1]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(end.join(names))))
    code, out, _ = predict("-", "--json", *null)
    told = [json.loads(line) for line in out.splitlines()]
    assert [os.fsencode(line["path"]) for line in told] == names
    assert ([("error" in line) for line in told], code) == ([True, False, False], 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names[1])))
    assert "\\xff\\xe6.png" in predict("-", *null)[1]


def test_pictures_of_where_the_network_looks_are_named_after_the_images(predict, images, tmp_path):
    pytest.importorskip("captum")
    _, out, _ = predict(images, "--json", "--explain", tmp_path / "cam")
    told = [json.loads(line) for line in out.splitlines()]
    assert [line.get("explanation") for line in told] == [
        f"{tmp_path / 'cam'}/00001-0.png",
        f"{tmp_path / 'cam'}/00002-1.png",
        None,
    ]
    with Image.open(told[0]["explanation"]) as file:
        assert file.size == (448, 224)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{empty}"], 1, "residua: no image in {empty}: give image files, or folders of them"),
        (["x.png", "--top", "0"], 2, "residua: --top 0 is impossible: give 1 or more"),
        (["x.png", "--json", "--csv"], 2, "residua: --json and --csv both say how to print: give one of them"),
        (["x.png"], 1, "residua: 1 of 1 files could not be read"),
    ],
)
def test_mistakes_are_one_sentence(predict, tmp_path, arguments, code, sentence):
    (tmp_path / "empty").mkdir()
    given = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    found, _, last = predict(*given)
    assert (found, last) == (code, sentence.format(empty=tmp_path / "empty"))


def test_what_is_no_model_folder_is_one_sentence(predict, images, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    code, _, last = predict(images, model=tmp_path / "net.onnx")
    assert code == 1
    assert last.startswith(f"residua: {tmp_path / 'net.onnx'} is an ONNX file")
    code, _, last = predict(images, model=images)
    assert (code, last) == (1, f"residua: {images} is no model folder: it has no config.json")

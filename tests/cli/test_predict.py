"""`residua predict` as scripts use it: tables, JSON, CSV, standard input, and usage errors."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.model import ModelConfig
from residua.net.model_folder import save_pretrained
from tests.cli_runner import run_cli
from tests.third_party import randomize_weights


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    net = randomize_weights(residua.create_model("cifar-resnet8", num_classes=3, input=(3, 8, 8)))
    config = ModelConfig(
        network=net.plan.network,
        classes=("cat", "dog", "a class with a long and telling name"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    path = tmp_path_factory.mktemp("predict") / "model"
    save_pretrained(net, config, path)
    return path


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = torch.randint(
            256, (9, 12, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8
        )
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:120])
    return folder


@pytest.fixture
def run_predict(model_folder, capsys):
    return lambda *arguments, model=model_folder: run_cli(
        capsys, "predict", model, *arguments, "--engine", "torch"
    )


def test_each_image_gets_a_json_object_and_a_failure_sets_the_exit_code(run_predict, image_folder):
    code, out, last = run_predict(image_folder, "--json", "--top", "2")
    first, second, third = map(json.loads, out.splitlines())
    assert (code, last) == (1, "residua: 1 of 3 files could not be read")
    assert set(first) == {"path", "class", "probability", "top"}
    assert [set(entry) for entry in first["top"]] == [{"class", "probability"}] * 2
    assert first["top"][0] == {"class": first["class"], "probability": first["probability"]}
    assert first["probability"] >= first["top"][1]["probability"]
    assert second["path"] == str(image_folder / "1.png")
    assert third == {
        "path": str(image_folder / "2.png"),
        "error": "is truncated: its data end too early",
    }


def test_the_table_shows_the_runner_up_classes_and_puts_long_paths_last(run_predict, image_folder):
    code, out, _ = run_predict(image_folder / "0.png", "--top", "9")
    assert code == 0
    [line] = out.splitlines()
    assert line.endswith(f"  {image_folder / '0.png'}")
    assert line.count(" % ") == 3
    assert "a class with a long and…" in line
    assert (
        f"not read: {image_folder / '2.png'} is truncated: its data end too early"
        in run_predict(image_folder)[1]
    )


def test_csv_output_can_be_read_by_spreadsheets(run_predict, image_folder):
    _, out, _ = run_predict(image_folder, "--csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "class", "probability", "class2", "probability2", "error"]
    assert float(rows[0]["probability"]) + float(rows[0]["probability2"]) <= 1.0001
    assert (rows[2]["class"], rows[2]["error"]) == ("", "is truncated: its data end too early")


@pytest.mark.parametrize(("null", "end"), [([], b"\n"), (["-0"], b"\0")])
def test_paths_of_any_bytes_are_read_from_standard_input(
    run_predict, image_folder, monkeypatch, null, end
):
    names = [
        os.fsencode(image_folder / "0.png"),
        os.fsencode(image_folder) + b"/\xff\xe6.png",
        os.fsencode(image_folder / "1.png"),
    ]
    (image_folder / "0.png").rename(os.fsdecode(names[1]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(end.join(names))))
    code, out, _ = run_predict("-", "--json", *null)
    records = [json.loads(line) for line in out.splitlines()]
    assert [os.fsencode(line["path"]) for line in records] == names
    assert ([("error" in line) for line in records], code) == ([True, False, False], 1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names[1])))
    assert "\\xff\\xe6.png" in run_predict("-", *null)[1]


def test_explanation_pictures_are_named_after_the_images(run_predict, image_folder, tmp_path):
    pytest.importorskip("captum")
    _, out, _ = run_predict(image_folder, "--json", "--explain", tmp_path / "cam")
    records = [json.loads(line) for line in out.splitlines()]
    assert [line.get("explanation") for line in records] == [
        f"{tmp_path / 'cam'}/00001-0.png",
        f"{tmp_path / 'cam'}/00002-1.png",
        None,
    ]
    with Image.open(records[0]["explanation"]) as file:
        assert file.size == (448, 224)


def test_the_class_to_explain_can_be_chosen(run_predict, image_folder, tmp_path):
    pytest.importorskip("captum")
    picture, pictures = image_folder / "0.png", {}
    _, out, _ = run_predict(picture, "--json", "--top", "10", "--explain", tmp_path / "cam")
    record = json.loads(out)
    pictures[""] = Path(record["explanation"]).read_bytes()
    for name in (line["class"] for line in record["top"]):
        folder = tmp_path / name
        code, out, _ = run_predict(picture, "--json", "--explain", folder, "--explain-class", name)
        assert (code, json.loads(out)["class"]) == (0, record["class"])  # the answer stays
        pictures[name] = Path(json.loads(out)["explanation"]).read_bytes()
    assert pictures[""] == pictures[record["class"]]
    assert len(set(pictures.values())) > 1


def test_a_class_to_explain_that_is_unknown_or_without_a_folder_is_refused(
    run_predict, image_folder, tmp_path
):
    pytest.importorskip("captum")
    code, out, sentence = run_predict(image_folder, "--explain-class", "x")
    assert (code, out, sentence) == (
        2,
        "",
        "residua: --explain-class only applies with --explain: add --explain DIR, or leave "
        "--explain-class out",
    )
    options = ["--explain", tmp_path / "maps", "--explain-class", "nothing"]
    code, out, sentence = run_predict(image_folder, *options)
    assert (code, out) == (2, "")
    assert sentence.startswith("residua: there is no class 'nothing': choose from ")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["{empty}"],
            1,
            "residua: no image was found in {empty}: give image files, or folders of them",
        ),
        (["x.png", "--top", "0"], 2, "residua: --top 0 is invalid: give 1 or more"),
        (
            ["x.png", "--json", "--csv"],
            2,
            "residua: --json and --csv cannot be combined: give one of them",
        ),
        (
            ["x.png", "y"],
            1,
            "residua: there is no file or folder x.png or y: give image files, or folders of them",
        ),
    ],
)
def test_usage_errors_give_one_line(run_predict, tmp_path, arguments, code, sentence):
    (tmp_path / "empty").mkdir()
    words = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    exit_code, _, last = run_predict(*words)
    assert (exit_code, last) == (code, sentence.format(empty=tmp_path / "empty"))


def test_a_folder_without_a_model_gives_a_one_line_error(run_predict, image_folder, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    code, _, last = run_predict(image_folder, model=tmp_path / "net.onnx")
    assert code == 1
    assert last.startswith(f"residua: {tmp_path / 'net.onnx'} is an ONNX file")
    code, _, last = run_predict(image_folder, model=image_folder)
    assert (code, last) == (
        1,
        f"residua: {image_folder} is not a model folder: it has no config.json",
    )


def test_files_that_are_passed_over_are_said_and_images_without_a_suffix_are_classified(
    run_predict, image_folder, capsys
):
    (image_folder / "2.png").rename(image_folder / "half.png")
    (image_folder / "0.png").rename(image_folder / "IMG_0")
    (image_folder / "notes.txt").touch()
    (image_folder / "film.mp4").touch()
    (image_folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    code, out, last = run_predict(image_folder, "--json")
    records = {line["path"].rpartition("/")[2]: line for line in map(json.loads, out.splitlines())}
    assert sorted(records) == ["1.png", "IMG_0", "a.heic", "half.png"]
    assert [name for name, record in records.items() if "error" in record] == ["a.heic", "half.png"]
    assert (code, last) == (1, "residua: 2 of 4 files could not be read")
    for name in ("1.png", "IMG_0", "a.heic", "half.png"):
        (image_folder / name).unlink()
    code, _, last = run_predict(image_folder)
    assert (code, last) == (
        1,
        f"residua: no image was found in {image_folder}: give image files, or folders of them",
    )


def test_the_files_passed_over_are_named_on_standard_error(model_folder, image_folder, capfd):
    for name in ("notes.txt", "more.txt", "film.mp4", "LICENSE"):
        (image_folder / name).touch()
    (image_folder / "2.png").unlink()
    assert main(["predict", str(model_folder), str(image_folder), "--engine", "torch"]) == 0
    assert capfd.readouterr().err.splitlines()[-1] == (
        "residua: 4 files passed over: 2 .txt, 1 .mp4, 1 without a known suffix"
    )


def test_an_image_of_too_many_pixels_names_the_option(run_predict, image_folder):
    code, out, _ = run_predict(image_folder / "0.png", "--max-pixels", "107")
    assert (code, out) == (
        1,
        f"not read: {image_folder / '0.png'} has 108 pixels, more than the limit of 107 "
        "(--max-pixels)\n",
    )
    assert run_predict(image_folder / "0.png", "--max-pixels", "108")[0] == 0
    for value in ("0", "-5"):
        code, _, last = run_predict(image_folder / "0.png", f"--max-pixels={value}")
        assert (code, last) == (2, f"residua: --max-pixels {value} is invalid: give 1 or more")


def test_images_are_sorted_into_folders_and_each_way_of_printing_says_where(
    run_predict, image_folder, tmp_path
):
    target = tmp_path / "sorted"
    options = ("--sort-into", target, "--unsure-below", "0")
    code, out, last = run_predict(image_folder, *options, "--json")
    first, second, third = map(json.loads, out.splitlines())
    assert (code, last) == (1, "residua: 1 of 3 files could not be read")
    for record, name in ((first, "0.png"), (second, "1.png")):
        assert record["sorted_to"] == str(target / record["class"] / name)
        with open(record["sorted_to"], "rb") as copy:
            assert copy.read() == (image_folder / name).read_bytes()
    assert "sorted_to" not in third
    assert sum(path.is_file() for path in target.rglob("*")) == 2
    shutil.rmtree(target)
    _, out, _ = run_predict(image_folder, *options, "--csv", "--link")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["sorted_to"] for row in rows] == [first["sorted_to"], second["sorted_to"], ""]
    assert os.readlink(first["sorted_to"]) == str(image_folder / "0.png")


def test_images_of_low_probability_are_unsure_and_the_last_line_counts_all(
    run_predict, image_folder, tmp_path
):
    (image_folder / "2.png").unlink()
    target = tmp_path / "a" / "sorted"
    code, _, last = run_predict(image_folder, "--sort-into", target, "--unsure-below", "1")
    assert (code, last) == (0, f"residua: sorted 2 images into {target}: 2 unsure")
    assert sorted(os.listdir(target / "unsure")) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--link"],
            "--link only applies with --sort-into: add --sort-into DIR, or leave --link out",
        ),
        (
            ["--unsure-below", "0"],
            "--unsure-below only applies with --sort-into: add --sort-into DIR, or leave "
            "--unsure-below out",
        ),
        (
            ["--sort-into", "{tmp}/s", "--unsure-below", "1.5"],
            "--unsure-below 1.5 is invalid: give a probability from 0 to 1",
        ),
        (
            ["--sort-into", "{tmp}/s", "--explain", "{tmp}/s/maps"],
            "--explain {tmp}/s/maps is inside --sort-into {tmp}/s: choose a folder outside of it",
        ),
        (
            ["--sort-into", "{tmp}"],
            "{tmp} is not empty (it holds images): choose a new or an empty folder for --sort-into",
        ),
        (
            ["--sort-into", "{tmp}/images/s"],
            "{tmp}/images/s is inside {tmp}/images, whose images are classified: "
            "choose a folder for --sort-into outside of it",
        ),
    ],
)
def test_sorting_that_is_impossible_is_refused_before_any_image(
    run_predict, image_folder, tmp_path, arguments, sentence
):
    words = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run_predict(image_folder, *words) == (2, "", f"residua: {sentence.format(tmp=tmp_path)}")
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("2.png", "1 of 1 files could not be read"), ("missing.png", "there is no file or folder ")],
)
def test_without_a_readable_image_no_folder_is_made(
    run_predict, image_folder, tmp_path, name, problem
):
    code, _, last = run_predict(image_folder / name, "--sort-into", tmp_path / "sorted")
    assert (code, last.startswith(f"residua: {problem}")) == (1, True), last
    assert os.listdir(tmp_path) == ["images"]

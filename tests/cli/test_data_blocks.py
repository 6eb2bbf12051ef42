"""Every command that reads labelled images says first what it understood of them."""

import json

import pytest

from residua.cli.main import main
from tests.data.sources.test_image_folder import write_image_folder

COUNTS = {"ant": 12, "bee": 8}
SPLIT_COUNTS = {"train/ant": 9, "train/bee": 5, "test/ant": 3, "test/bee": 3}
BY_CONTENT = "(by the images' content, as nothing else names them)"
SHORT = ["--steps", "1", "--set", "batch_size=4", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path):
    folder = write_image_folder(tmp_path / "photos", COUNTS)
    (folder / "bee" / "notes.txt").write_text("not an image")
    return folder


def read_block(capsys, folder, counted="20 images"):
    """Return the further lines of the block, and the output."""
    captured = capsys.readouterr()
    first, *lines = captured.err[captured.err.index("residua: data ") :].splitlines()
    assert first == f"residua: data {folder}: {counted} in 2 classes"
    return [line.strip() for line in lines if line.startswith("  ")], captured.out


def test_pack_lists_all_files_and_what_it_passes_over(photos, tmp_path, capsys):
    assert main(["data", "pack", str(photos), "--out", str(tmp_path / "pack"), "--json"]) == 0
    lines, out = read_block(capsys, photos, "21 files")
    assert lines == ["classes   files: ant 12, bee 9", "splits    all 21"]
    facts = json.loads(out)
    assert (facts["classes"], facts["splits"]) == ({"ant": 12, "bee": 9}, {"all": 21})
    assert (facts["split_from"], facts["photos"]) == ("content", 21)
    assert facts["problems"] == []  # with no size, nothing is decoded


def test_a_pack_of_split_photographs_names_their_splits(tmp_path, capsys):
    folder = write_image_folder(tmp_path / "photos", SPLIT_COUNTS)
    assert main(["data", "pack", str(folder), "--out", str(tmp_path / "pack")]) == 0
    lines, _ = read_block(capsys, folder, "20 files")
    assert lines[1] == "splits    train 14, test 6 (by the folders' names)"


def test_bench_names_the_photographs_that_it_measures(photos, capsys):
    assert main(["data", "bench", str(photos), "--size", "16", "--device", "cpu", "--json"]) == 0
    lines, out = read_block(capsys, photos, "21 files")
    assert lines[0] == "classes   files: ant 12, bee 9"
    assert json.loads(out)["classes"] == {"ant": 12, "bee": 9}


def test_a_study_counts_the_images_of_each_split(photos, tmp_path, capsys):
    options = ["--families", "resnet", "--depths", "8", "--seeds", "0", "--size", "16", *SHORT]
    out = ["--out", str(tmp_path / "study"), "--workers", "1", "--json"]
    assert main(["study", "--data", str(photos), *options, *out]) == 0
    lines, out = read_block(capsys, photos)
    facts = json.loads(out)
    splits = ", ".join(f"{name} {count}" for name, count in facts["splits"].items())
    assert lines[1] == f"splits    {splits} {BY_CONTENT}"
    assert sum(facts["splits"].values()) == 20
    assert sum(facts["classes"].values()) == facts["splits"]["train"]


def test_a_study_in_folds_says_how_many_images_are_divided(tmp_path, capsys):
    options = ["--families", "resnet", "--depths", "8", *SHORT, "--folds", "2", "--workers", "1"]
    assert main(["study", *options, "--out", str(tmp_path / "study")]) == 0
    assert "the 1,438 images of train and dev are divided into 2 folds" in capsys.readouterr().err


def test_int8_says_which_images_calibrate_it_and_which_are_left(photos, tmp_path, capsys):
    words = ["export", "cifar-resnet20", "--to", "onnx", "--int8", "--json"]
    assert main([*words, "--images", str(photos), "--out", str(tmp_path / "a.onnx")]) == 0
    lines, out = read_block(capsys, photos)
    assert "int8 is calibrated on 10 images, and compared with fp32 on 10 others" in lines[3]
    facts = json.loads(out)
    assert (facts["split"], facts["splits"], facts["images"]) == ("all", {"all": 20}, 10)
    folder = write_image_folder(tmp_path / "split", SPLIT_COUNTS)
    options = ["--images", str(folder), "--out", str(tmp_path / "b.onnx")]
    assert main([*words[:-1], *options]) == 0
    lines, out = read_block(capsys, folder, "15 images")  # dev images of train serve for neither
    assert lines[1] == "splits    train 9, test 6 (by the folders' names)"
    assert lines[2].endswith(
        "int8 is calibrated on 9 images of train, and compared with fp32 on 6 others"
    )
    assert "of 6 test images of split" in out


def test_int8_of_images_without_labels_says_that_they_have_none(photos, tmp_path, capsys):
    words = [
        "export",
        "cifar-resnet20",
        "--to",
        "onnx",
        "--int8",
        "--out",
        str(tmp_path / "a.onnx"),
    ]
    assert main([*words, "--images", str(photos / "ant")]) == 0
    captured = capsys.readouterr()
    assert f"data {photos / 'ant'}: 12 images without labels" in captured.err
    assert "of 6 held-out images of ant" in captured.out


def test_serve_says_which_images_its_page_shows(photos, capsys, monkeypatch):
    monkeypatch.setattr("residua.deploy.serve_until_stopped", lambda *words: None)
    assert main(["serve", "cifar-resnet20", "--port", "0", "--images", str(photos)]) == 0
    assert read_block(capsys, photos)[0][-1] == "skipped   1 not an image"

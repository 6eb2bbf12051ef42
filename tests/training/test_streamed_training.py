"""Training on photographs that are decoded when needed: what it learns, records and resumes."""

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.fold import Fold
from residua.config.photo_storage import PHOTO_STORAGES
from residua.config.recipes import recipe
from residua.data.crop_prefetcher import CropRequest
from residua.data.read import read_split
from residua.data.sources.resolve import resolve_dataset
from residua.data.streamed_images import StreamedImages
from residua.errors import DataError
from residua.net.model_folder import read_model_config
from residua.record import RunRecord
from residua.training import data_bench
from residua.training.progress import TrainingProgress
from tests.cli_runner import run_cli
from tests.data.faulty_photos import CLASS_CHANNELS, make_picture
from tests.training.interrupted_runs import run_interrupted
from tests.training.short_runs import (
    load_last_weights,
    read_metrics_without_times,
)

SMALL = ["--model", "cifar-resnet8", "--size", "16", "--precision", "fp32"]
SHORT = [*SMALL, "--steps", "12", "--set", "batch_size=8", "--save-every", "1"]


@pytest.fixture(autouse=True)
def isolate_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Three classes with 12 training images, 4 dev and 4 test images each, in different sizes."""
    root = tmp_path_factory.mktemp("streamed") / "pets"
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for name, channel in CLASS_CHANNELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = make_picture(1000 * channel + 100 * len(split) + i, channel)
                picture = picture.resize((48 + 5 * i, 40)).rotate(90 * (i % 2), expand=True)
                picture.save(root / split / name / f"{i:02}.jpg", quality=95)
    return root


@pytest.fixture(autouse=True)
def threads_end():
    """No run leaves threads that decode behind, however it ends."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding")]


@pytest.mark.parametrize("storage", PHOTO_STORAGES)
def test_an_interrupted_run_is_bit_identical_and_keeps_its_storage(
    storage, photo_folder, tmp_path, capsys
):
    options = [*SHORT, "--storage", storage]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, out, _ = run_cli(capsys, "train", photo_folder, *options, "--out", whole, "--json")
    assert code == 0
    result = json.loads(out)
    assert 0 <= result["data_wait"] <= 1
    assert result["peak_memory_bytes"] > 2**20
    for steps in (3, 4):
        run_interrupted(options, photo_folder, parts, steps)
    resumed = ["train", photo_folder, *SHORT, "--out", parts, "--resume"]  # the record says how
    other = "raw" if storage == "squares" else "squares"
    code, _, error = run_cli(capsys, *resumed, "--storage", other)
    assert code == 2
    assert f"was started with --storage {storage}, not {other}" in error
    assert run_cli(capsys, *resumed)[0] == 0
    weights, resumed_weights = (load_last_weights(folder) for folder in (whole, parts))
    for name, x in weights.items():
        assert torch.equal(x, resumed_weights[name]), name
    assert read_metrics_without_times(whole) == read_metrics_without_times(parts)
    environment = RunRecord(parts).read_run_json()["environment"]
    assert environment.get("storage", "squares") == storage
    assert ("storage" in environment) == (storage != "squares")  # as older versions recorded it


def test_a_run_is_resumed_with_its_storage_without_its_folder(
    photo_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["train", photo_folder, *SHORT, "--json"]
    code, out, _ = run_cli(capsys, *words, "--storage", "files")
    assert code == 0
    folder = Path(json.loads(out)["folder"])
    path = RunRecord(folder).run_json_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": None}))

    def refuse_to_choose(*_):
        raise AssertionError("the record says how photographs are kept")

    monkeypatch.setattr("residua.training.storage_choice.choose_storage", refuse_to_choose)
    code, out, error = run_cli(capsys, *words, "--resume")
    assert (code, Path(json.loads(out)["folder"])) == (0, folder), error
    assert "storage" not in error
    assert RunRecord(folder).read_run_json()["environment"]["storage"] == "files"


def test_storage_is_chosen_for_photographs_and_said(photo_folder, tmp_path, capsys):
    assert main(["train", str(photo_folder), *SHORT, "--out", str(tmp_path / "r")]) == 0
    error = capsys.readouterr().err
    assert "storage raw: whole photographs are kept as pixels" in error
    assert "(override: --storage)" in error
    assert read_model_config(tmp_path / "r" / "last").scaled_decoding


def test_a_storage_that_does_not_apply_is_refused(photo_folder, capsys):
    for arguments, sentence in (
        (["digits", "--storage", "raw"], "--storage raw does not apply to digits"),
        ([photo_folder, "--storage", "jpg"], "there is no storage 'jpg': did you mean 'jpeg'?"),
        ([photo_folder, "--model", "vlad", "--storage", "raw"], "--storage does not apply to"),
    ):
        code, _, error = run_cli(capsys, "train", *arguments)
        assert code == 2
        assert sentence in error


def test_a_photograph_that_vanishes_while_training_stops_the_run_in_one_sentence(
    photo_folder, tmp_path
):
    copy = tmp_path / "pets"
    shutil.copytree(photo_folder, copy)

    def delete_photos(report):
        for path in (copy / "train").glob("*/*.jpg"):
            path.unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"\.jpg .*cannot be read: No such file"):
        residua.train(
            "cifar-resnet8",
            str(copy),
            steps=40,
            recipe=replace(recipe("photos"), batch_size=8),
            size=16,
            storage="files",
            quiet=True,
            on_progress=delete_photos,
        )


def test_a_run_whose_photographs_vanished_goes_on_once_they_are_back(
    photo_folder, tmp_path, capsys, monkeypatch
):
    copy, away, out = tmp_path / "pets", tmp_path / "away", tmp_path / "run"
    shutil.copytree(photo_folder, copy)
    words = ["train", copy, *SHORT, "--storage", "files", "--out", out]
    count_step = TrainingProgress.add_step

    def move_photos(progress, *results):
        if progress.step == 1:
            (copy / "train").rename(away)
        count_step(progress, *results)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "add_step", move_photos)
        code, _, error = run_cli(capsys, *words)
    assert code == 1
    way_on = f"repeat the command with --resume and --out {out}; to train without it, choose"
    assert f"No such file or directory: once the file is back as it was, {way_on}" in error
    away.rename(copy / "train")
    code, _, error = run_cli(capsys, *words, "--resume")
    assert code == 0, error


def test_folds_of_whole_photographs_are_those_of_squares(photo_folder):
    squares = resolve_dataset(str(photo_folder), (3, 16, 16))
    raw = replace(squares, storage="raw")
    for number in (1, 2, 3):
        fold = Fold(number, 3)
        for split in ("train", "dev", "test"):
            expected = read_split(squares.hold_out_fold(fold), split)
            streamed = read_split(raw.hold_out_fold(fold), split)
            assert isinstance(streamed, StreamedImages)
            assert torch.equal(streamed.labels, expected.labels)
            difference = streamed[:].pixels.float() - expected.pixels
            assert difference.abs().mean() < 4  # JPEG files are decoded at a reduced size


def test_a_transform_from_python_gets_whole_photographs(photo_folder):
    shapes = set()

    def look(image, rng):
        shapes.add(image.shape)
        return image

    result = residua.train(
        "cifar-resnet8", str(photo_folder), steps=3, size=16, transform=look, quiet=True
    )
    assert result.metrics["steps"] == 3
    assert {min(height, width) for height, width, _ in shapes} == {20}
    assert len(shapes) > 4


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--profile"]])
def test_plans_and_profiles_take_photographs_that_are_decoded_when_needed(
    arguments, photo_folder, tmp_path, capsys
):
    out = [] if "--dry-run" in arguments else ["--out", tmp_path]
    options = [*SHORT, "--storage", "files", *arguments, *out, "--json"]
    code, out, error = run_cli(capsys, "train", photo_folder, *options)
    assert code == 0, error


def test_a_range_test_takes_photographs_that_are_decoded_when_needed(photo_folder, capsys):
    options = ["--model", "cifar-resnet8", "--size", "16", "--steps", "100", "--batch-size", "8"]
    code, _, error = run_cli(capsys, "find-lr", photo_folder, *options, "--storage", "raw")
    assert code == 0, error


@pytest.mark.parametrize("storage", ["raw", "files"])
def test_the_bench_gives_rates_and_what_binds(storage, photo_folder, capsys, monkeypatch):
    monkeypatch.setattr("residua.training.data_bench.MEASURED_SECONDS", 0.05)
    command = ["data", "bench", photo_folder, "--size", "16", "--storage", storage]
    code, out, _ = run_cli(capsys, *command, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["bound"] in ("decoding", "augmentation")
    assert facts["storage"] == storage
    assert facts["decode_images_per_second"] > 0
    assert facts["batch_images_per_second"] > 0
    assert facts["step_images_per_second"] is None
    code, out, _ = run_cli(capsys, *command, "--model", "cifar-resnet8")
    assert code == 0
    assert out.splitlines()[1].startswith("decoded")
    assert "cifar-resnet8, batch size 9" in out
    assert out.splitlines()[-1].split(" binds: ")[0] in ("Decoding", "Augmentation", "Step")


def test_a_full_disk_does_not_matter_to_the_bench(photo_folder, capsys, monkeypatch):
    monkeypatch.setattr("residua.training.data_bench.MEASURED_SECONDS", 0.05)
    monkeypatch.setattr("residua.data.photo_storage.free_disk_bytes", lambda folder: 0)
    code, out, error = run_cli(capsys, "data", "bench", photo_folder, "--size", "16", "--json")
    assert code == 0, error
    assert json.loads(out)["storage"] == "raw"


def test_the_rate_of_decoding_is_that_of_a_batch_whose_images_are_mixed_with_others():
    """Of a batch of 4 images with mixup, 8 are decoded."""
    request = CropRequest(torch.zeros(4), (torch.arange(4), torch.arange(4)))
    prefetcher = SimpleNamespace(take=lambda step: (request, torch.zeros(8, 1)))
    batches = SimpleNamespace(prefetcher=prefetcher, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_bench, "time_calls", lambda call, warmup: (call(0), (2.0, 10))[1])
        assert data_bench.measure_decode_rate(batches) == 20


def test_the_bench_lets_the_system_forget_the_files_that_it_has_read(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"content")
    advice = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: advice.append(rest))
    assert data_bench.UncachedFile(tmp_path / "a.jpg").read_bytes() == b"content"
    assert advice == [(0, 0, os.POSIX_FADV_DONTNEED)]


def test_a_bench_that_makes_no_sense_is_refused_in_one_sentence(photo_folder, tmp_path, capsys):
    (tmp_path / "e" / "cat").mkdir(parents=True)
    (tmp_path / "e" / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "e" / name / "x.jpg").write_bytes(b"\xff\xd8\xff damaged")
    for arguments, expected, sentence in (
        ([photo_folder, "--storage", "squares"], 2, "squares are in memory"),
        ([photo_folder, "--fix", tmp_path / "t.csv"], 2, "--fix does not apply to data bench"),
        ([photo_folder, "--model", "vlad"], 2, "vlad"),
        (["cifar10"], 1, "there is no folder or table cifar10"),
        ([tmp_path / "e"], 1, "can be decoded"),
    ):
        code, _, error = run_cli(capsys, "data", "bench", *arguments)
        assert (code, sentence in error) == (expected, True), error


def write_off_center_photos(root):
    """Photographs of 80 x 40 pixels with a patch in the colour of its class.

    In training photographs, it lies outside the middle square, and in the others in its center.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 16)):
        for name, channel in CLASS_CHANNELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                levels = rng.integers(60, 120, (40, 80, 3), dtype=np.uint8)
                left = (33, (1, 64)[i % 2])[split == "train"]
                top = rng.integers(2, 24)
                levels[top : top + 14, left : left + 14, channel] += 130
                Image.fromarray(levels).save(root / split / name / f"{i:02}.png")


def test_crops_of_whole_photographs_learn_what_lies_outside_the_middle_square(tmp_path, capsys):
    write_off_center_photos(tmp_path / "photos")
    recipe = ["--epochs", "12", "--set", "batch_size=24", "--set", "augment.area=0.1"]
    errors = {}
    for storage in ("raw", "squares"):
        options = [*SMALL, *recipe, "--storage", storage, "--out", tmp_path / storage, "--json"]
        code, out, error = run_cli(capsys, "train", tmp_path / "photos", *options)
        assert code == 0, error
        errors[storage] = json.loads(out)["test_error"]
    assert errors["raw"] < 0.2, errors
    assert errors["squares"] > 0.4, errors  # guessing gives 0.67

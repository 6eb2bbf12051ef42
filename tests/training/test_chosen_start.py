"""Training on photographs with nothing chosen starts from published weights, or says why not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.published_weights import PublishedWeights
from residua.data.sources.image_folder import list_image_folder
from residua.data.sources.listing import ImageEntry, ImageListing
from residua.errors import RecordError
from residua.net.model_folder import find_model_folder, read_model_config
from residua.record import RunRecord
from residua.training import auto_config
from residua.training.auto_config import (
    choose_config_for_photos,
    choose_image_size,
)
from residua.training.chosen_start import describe_chosen_weights
from residua.training.network_table import look_up_network
from tests.training.short_runs import CPU_FP32
from tests.weight_publisher import PATH_ON_HUB, publish_weights

QUICKLY = ("--size", "16", "--steps", "2", "--batch-size", "4")
NAME = "resnet18.a1_in1k"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A publisher of small weights under the name that `resnet18` stands for."""
    monkeypatch.chdir(tmp_path)
    with publish_weights(tmp_path, monkeypatch) as publisher:
        publisher.offer(name=NAME, side=224, resize=256)
        rng = np.random.default_rng(0)
        for label, name in enumerate(("lion", "tiger")):
            for i in range(12):
                pixels = rng.integers(100 * label, 100 * label + 100, (48, 48, 3), np.uint8)
                path = tmp_path / "photos" / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        yield publisher


def train(capsys, *words, expected_code=0):
    """Train on the photographs; return the JSON, or None after an error, and what was said."""
    code = main(["train", "photos", *QUICKLY, *words, "--json"])
    printed = capsys.readouterr()
    assert code == expected_code, printed.err
    return json.loads(printed.out) if code == 0 else None, printed.err


def forget_result(folder):
    """Make a run look as if it had been interrupted."""
    path = RunRecord(Path(folder)).run_json_path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": None}))


def test_published_weights_are_fetched_said_and_recorded(publisher, capsys):
    facts, said = train(capsys)
    assert facts["weights_from"] == {"name": NAME, "sha256": publisher.sha256}
    assert facts["model"] == "cifar-resnet8"
    (line,) = [line for line in said.splitlines() if "starts from the weights" in line]
    assert line == (
        f"residua: starts from the weights {NAME} (SHA-256 {publisher.sha256[:12]}..., licence "
        "apache-2.0) (override: --from)"
    )
    folder = Path(facts["folder"])
    assert RunRecord(folder).read_weights_origin() == facts["weights_from"]
    assert RunRecord(folder).read_run().start == publisher.sha256[:16]
    config = read_model_config(folder / "last")
    assert config.mean == (0.5, 0.4, 0.3)
    assert config.classes == ("lion", "tiger")
    assert config.published_as == ""


def test_the_page_of_a_run_names_the_weights_that_it_started_from(publisher, capsys, tmp_path):
    facts, _ = train(capsys)
    assert main(["report", facts["folder"]]) == 0
    page = (Path(facts["folder"]) / "report.html").read_text()
    assert f"From the weights {NAME} (SHA-256 {publisher.sha256[:12]}…)." in page
    capsys.readouterr()
    scratch, _ = train(capsys, "--from", "none", "--model", "cifar-resnet8")
    assert main(["report", scratch["folder"]]) == 0
    assert "From the weights" not in (Path(scratch["folder"]) / "report.html").read_text()


def test_without_the_weights_the_run_starts_from_scratch_and_says_what_that_costs(
    publisher, capsys, monkeypatch
):
    monkeypatch.setenv("RESIDUA_MIRROR", NOWHERE)
    facts, said = train(capsys)
    assert facts["weights_from"] is None
    assert facts["model"] == "resnet18"
    assert f"starts from random weights, because {NAME} cannot be fetched ({NOWHERE}/owner" in said
    assert "takes many more of them, and more time, for the same accuracy" in said


def test_offline_decides_without_the_network(publisher, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that the end of the test undoes the option
    _, said = train(capsys, "--offline", "--dry-run")
    assert "(offline, as HF_HUB_OFFLINE or the command line asks)" in said
    assert publisher.asked == []


@pytest.mark.parametrize("words", [("--from", "none"), ("--model", "cifar-resnet8")])
def test_random_weights_and_a_network_can_be_asked_for(publisher, capsys, words):
    facts, said = train(capsys, *words)
    assert facts["weights_from"] is None
    assert "starts from" not in said
    assert publisher.asked == []


def test_weights_that_are_named_must_be_there(publisher, capsys, monkeypatch):
    monkeypatch.setenv("RESIDUA_MIRROR", NOWHERE)
    _, said = train(capsys, "--from", "resnet18", expected_code=1)
    assert f"{NAME} cannot be fetched from {NOWHERE}" in said
    assert not Path("runs").exists()
    _, said = train(capsys, "--freeze", expected_code=2)
    assert f"--freeze needs pretrained weights, and {NAME} cannot be had ({NOWHERE}/owner" in said


@pytest.mark.parametrize("mirror", ["mirror", "http://[::1"])
def test_a_mirror_that_is_no_url_is_an_error_and_no_other_run(
    publisher, capsys, monkeypatch, mirror
):
    monkeypatch.setenv("RESIDUA_MIRROR", mirror)
    _, said = train(capsys, "--dry-run", expected_code=2)
    assert said == f"residua: RESIDUA_MIRROR={mirror} is not a URL: write https://HOST/PATH\n"


def test_an_empty_from_is_an_error(publisher, capsys):
    _, said = train(capsys, "--from", "", "--dry-run", expected_code=2)
    assert "--from names no weights: give some, or none for random weights" in said


def test_a_named_network_starts_from_random_weights_which_is_said(publisher, capsys):
    _, said = train(capsys, "--model", "resnet18", "--dry-run")
    assert "starts from random weights; published ones are named resnet18 (override" in said
    _, said = train(capsys, "--model", "resnet18", "--from", "none", "--dry-run")
    assert "starts from" not in said


def test_weights_without_sum_and_licence_are_named_alone():
    weights = PublishedWeights(name="a.v1", network="resnet18", address="https://a.b/c.pth")
    assert describe_chosen_weights(weights) == "starts from the weights a.v1"


def test_a_path_that_is_taken_for_a_name_is_said_once_and_recorded_as_a_path(publisher, capsys):
    shutil.copytree(find_model_folder("resnet18"), "resnet18")
    facts, said = train(capsys, "--from", "resnet18")
    assert said.count("is taken as a path") == 1
    assert facts["weights_from"]["name"] == str(Path("resnet18").absolute())


def test_the_sizes_of_the_photographs_are_read_once(publisher, capsys, monkeypatch):
    opened, read_entry_bytes = [], auto_config.read_entry_bytes
    monkeypatch.setattr(
        auto_config, "read_entry_bytes", lambda e: opened.append(e) or read_entry_bytes(e)
    )
    train(capsys, "--dry-run")
    assert len(opened) == 24


def test_the_table_after_training_names_the_weights(publisher, capsys):
    assert main(["train", "photos", *QUICKLY]) == 0
    assert f"  {NAME} (SHA-256 {publisher.sha256[:12]}...)\n" in capsys.readouterr().out


def test_weights_that_turn_out_wrong_end_the_command_with_a_way_on(publisher, capsys):
    publisher.server.files[PATH_ON_HUB] = b"page of a proxy"
    _, said = train(capsys, expected_code=1)
    assert "nothing was kept" in said
    assert said.endswith("; or add --from none to start from random weights\n")
    assert not Path("runs").exists()


def test_a_named_start_is_the_same_run_as_the_chosen_one(publisher, capsys):
    chosen, _ = train(capsys)
    named, _ = train(capsys, "--from", "resnet18")
    assert named["folder"] == chosen["folder"]
    assert not named["trained"]


def test_a_start_from_a_path_is_recorded_with_its_sum(publisher, capsys):
    train(capsys, "--model", "cifar-resnet8", "--out", "first")
    second, _ = train(capsys, "--from", "first", "--out", "second")
    assert second["weights_from"]["name"] == str(Path("first/last"))
    weights = read_model_config(Path("first/last")).weights
    assert second["weights_from"]["sha256"] == weights


@pytest.mark.parametrize("out", [(), ("--out", "run")])
def test_a_resumed_run_keeps_its_weights_or_fails(publisher, capsys, monkeypatch, out):
    facts, _ = train(capsys, *out)
    forget_result(facts["folder"])
    again, said = train(capsys, *out, "--resume")
    assert (again["folder"], again["trained"]) == (facts["folder"], True)
    assert again["weights_from"] == facts["weights_from"]
    assert again["test_error"] == facts["test_error"]

    forget_result(facts["folder"])
    main(["cache", "clear"])
    monkeypatch.setenv("RESIDUA_MIRROR", NOWHERE)
    _, said = train(capsys, *out, "--resume", expected_code=1)
    assert f"{NAME} cannot be" in said


def test_a_resumed_run_does_not_start_from_weights_that_changed(publisher, capsys):
    train(capsys, "--out", "run")
    forget_result("run")
    main(["cache", "clear"])
    publisher.net.stem[0].weight.data += 1
    publisher.publish()
    publisher.offer(name=NAME, side=224, resize=256)
    _, said = train(capsys, "--out", "run", "--resume", expected_code=1)
    assert "put the former weights back" in said


@pytest.mark.parametrize("out", [(), ("--out", "run")])
def test_a_run_from_scratch_is_resumed_from_scratch(publisher, capsys, monkeypatch, out):
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        facts, _ = train(capsys, *out)
    forget_result(facts["folder"])
    again, _ = train(capsys, *out, "--resume")
    assert (again["folder"], again["weights_from"]) == (facts["folder"], None)
    assert again["test_error"] == facts["test_error"]


def test_python_chooses_as_the_command_does(publisher, tmp_path, monkeypatch):
    options = {"size": 16, "steps": 2, "quiet": True}
    result = residua.train(None, "photos", out=tmp_path / "run", **options)
    assert result.metrics["weights_from"] == {"name": NAME, "sha256": publisher.sha256}
    scratch = residua.train(None, "photos", from_="none", **options)
    assert scratch.metrics["weights_from"] is None
    monkeypatch.setenv("RESIDUA_MIRROR", NOWHERE)
    main(["cache", "clear"])
    with pytest.raises(RecordError, match="cannot be fetched"):
        residua.train(None, "photos", from_="resnet18", **options)


def test_the_network_follows_from_the_table_and_the_reason_prints_it(publisher):
    listing = list_image_folder(Path("photos").resolve())
    chosen = choose_config_for_photos(listing, CPU_FP32, finetune=True)
    assert chosen.model_name == "resnet18"
    assert chosen.reasons["model"] == (
        "network resnet18: 24 photographs on a CPU (below 100,000 resnet18 on a CPU and resnet50 "
        "on a GPU; from there resnet18 on a CPU and resnet101 on a GPU)"
    )
    assert look_up_network(99_999, "a GPU") == "resnet50"
    assert look_up_network(100_000, "a GPU") == "resnet101"


def test_few_photographs_get_250_steps_from_weights_and_the_reason_says_so(publisher):
    listing = list_image_folder(Path("photos").resolve())
    chosen = choose_config_for_photos(listing, CPU_FP32, finetune=True)
    assert (chosen.recipe.steps, chosen.recipe.epochs, chosen.recipe.batch_size) == (250, 0, 6)
    assert chosen.reasons["recipe"] == (
        "recipe tuning, 250 steps (not the 36 of 15 epochs, which are too few), batch size 6 (not "
        "its 32): training starts from trained weights, and a batch holds at most a quarter of the "
        "24 images"
    )
    scratch = choose_config_for_photos(listing, CPU_FP32)
    assert (scratch.recipe.steps, scratch.recipe.epochs) == (0, 100)


@pytest.mark.parametrize(
    ("count", "has_splits", "steps", "epochs"),
    [(533, True, 250, 0), (534, True, 0, 15), (800, False, 250, 0), (1000, False, 0, 15)],
)
def test_the_steps_are_those_of_the_images_that_are_trained_on(count, has_splits, steps, epochs):
    split = "train" if has_splits else ""
    entries = [ImageEntry(Path(), f"{i}", i % 2, split) for i in range(count)]
    held_out = [ImageEntry(Path(), f"d{i}", i % 2, "dev") for i in range(10 * has_splits)]
    listing = ImageListing("photos", ("a", "b"), (*entries, *held_out), ())
    recipe = choose_config_for_photos(
        listing, CPU_FP32, finetune=True, image_size=96, shorter_side=96
    ).recipe
    assert (recipe.steps, recipe.epochs) == (steps, epochs)


def test_a_run_that_began_with_fewer_steps_is_resumed_with_them(publisher, capsys, monkeypatch):
    options = ["train", "photos", "--size", "16", "--out", "run", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("residua.training.chosen_start.MIN_TUNING_STEPS", 0)
        assert main(options) == 0
    forget_result("run")
    assert main([*options, "--resume"]) == 0
    begun, resumed = map(json.loads, capsys.readouterr().out.splitlines())
    assert (resumed["trained"], resumed["steps"]) == (True, begun["steps"])
    assert begun["steps"] < 250


@pytest.mark.parametrize("start", [(), ("--from", NAME)])
def test_a_run_that_began_with_fewer_steps_is_found_without_its_folder(
    publisher, capsys, monkeypatch, start
):
    options = ["train", "photos", "--size", "16", "--json", *start]
    with monkeypatch.context() as patch:
        patch.setattr("residua.training.chosen_start.MIN_TUNING_STEPS", 0)
        assert main(options) == 0
    begun = json.loads(capsys.readouterr().out)
    forget_result(begun["folder"])
    assert main([*options, "--resume"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert (resumed["trained"], resumed["folder"]) == (True, begun["folder"])


@pytest.mark.parametrize(
    ("images", "device", "shorter_side", "side"),
    [
        (100, "a CPU", 500, 224),
        (100, "a CPU", 130, 160),
        (1200, "a CPU", 500, 128),
        (20_000, "a CPU", 500, 96),
        (20_000, "a GPU", 500, 224),
    ],
)
def test_the_image_size_for_weights_is_what_the_device_affords(images, device, shorter_side, side):
    assert choose_image_size(images, shorter_side, device, finetune=True) == side

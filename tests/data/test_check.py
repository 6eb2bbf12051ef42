"""Forty faults of twenty kinds: each is named by check, and none kills a training."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from residua.cli.main import COMMANDS, main
from residua.data.alike import alike, buckets, grey, hashed
from residua.data.check import check
from residua.data.listing import shown
from residua.record import Record
from tests.data.faults import picture, planted, sound

LEFT_OUT = ("truncated", "damaged", "empty", "not an image", "too large", "link outside", "broken link", "no file", "no class")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty") / "photos"
    return root, planted(root)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_forty_faults_of_twenty_kinds_are_each_named(faulty, tmp_path, capsys):
    root, faults = faulty
    assert sum(map(len, faults.values())) >= 40
    assert len(faults) >= 20
    assert main(["data", "check", str(root), "--json", "--out", str(tmp_path / "c")]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = {(problem["kind"], problem["path"]) for problem in facts["problems"]}
    wanted = {(kind, shown(path)) for kind, paths in faults.items() for path in paths}
    assert wanted <= found, wanted - found
    assert found == wanted, found - wanted
    assert "hidden" not in json.dumps(facts)
    assert facts == json.loads((tmp_path / "c" / "check.json").read_text()) | {"page": str(tmp_path / "c" / "check.html")}
    assert set(facts["classes"]) == {"Cat", "bird", "cat", "dog"}
    page = (tmp_path / "c" / "check.html").read_text()
    assert "train/cat/half.jpg" in page
    assert page.count("data:image/jpeg;base64,") > 20


def test_a_training_names_the_same_faults_and_ends(faulty, tmp_path, capsys, cached):
    root, faults = faulty
    out = tmp_path / "run"
    options = ["--model", "cifar-resnet8", "--size", "16", "--steps", "4", "--precision", "fp32", "--out", str(out)]
    assert main(["train", str(root), *options, "--json"]) == 0
    said = capsys.readouterr()
    assert set(json.loads(said.out)) >= {"train_error", "dev_error", "test_error"}
    lost = {problem["path"] for problem in Record(out).left_out()}
    for kind in LEFT_OUT:
        assert {shown(path) for path in faults[kind]} <= lost, kind
    assert "left out: " in said.err
    config = json.loads((out / "last" / "config.json").read_text())
    assert config["classes"] == ["Cat", "bird", "cat", "dog"]
    assert config["resize"] == 20


@pytest.mark.skipif("predict" not in COMMANDS, reason="there is no predict here")
def test_a_prediction_names_the_same_faults_and_does_the_rest(faulty, tmp_path, capsys, cached):
    root, faults = faulty
    out = tmp_path / "run"
    options = ["--model", "cifar-resnet8", "--size", "16", "--steps", "4", "--precision", "fp32", "--out", str(out)]
    assert main(["train", str(root), *options]) == 0
    capsys.readouterr()
    assert main(["predict", str(out), str(root / "train" / "cat"), str(root / "train" / "dog"), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = {line["path"].rpartition("/")[2] for line in lines if "error" in line}
    for kind in ("truncated", "damaged", "empty", "not an image", "too large"):
        wanted = [path for path in faults[kind] if path.startswith(("train/cat/", "train/dog/")) and not path.endswith(".txt")]
        assert wanted
        assert {path.rpartition("/")[2] for path in wanted} <= failed, kind  # a folder's .txt is not taken for an image
    assert sum("probability" in line for line in lines) >= 24


def test_a_sound_folder_has_no_problems(tmp_path, capsys):
    sound(tmp_path / "photos")
    assert main(["data", "check", str(tmp_path / "photos"), "--out", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.startswith("51 images of 3 classes can be decoded, no problems")
    facts = json.loads((tmp_path / "c" / "check.json").read_text())
    assert facts["classes"]["bird"] == {"test": 5, "train": 12}
    assert facts["width"] == [48, 48, 48]
    pixels = np.stack([np.asarray(Image.open(path)) for path in (tmp_path / "photos").rglob("*.png")]) / 255
    assert np.allclose(facts["mean"], pixels.mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(facts["std"], pixels.std((0, 1, 2)), atol=1e-4)


def test_a_fix_is_a_table_that_has_no_problems_and_moves_nothing(faulty, tmp_path):
    root, _ = faulty
    before = sorted(path for path in root.rglob("*") if not path.is_symlink())
    table = tmp_path / "clean.csv"
    assert main(["data", "check", str(root), "--fix", str(table), "--out", str(tmp_path / "c")]) == 0
    assert sorted(path for path in root.rglob("*") if not path.is_symlink()) == before
    again = check(table)
    harmful = {"duplicate", "near duplicate", "leakage", "two classes", "missing", *LEFT_OUT}
    assert not {problem.kind for problem in again.problems} & harmful
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len(again.seen) == len(rows) > 40


def test_near_copies_among_ten_thousand_are_found_without_comparing_all():
    rng = np.random.default_rng(0)
    hashes = [int(value) for value in rng.integers(0, 2**64, 10_000, dtype=np.uint64)]
    greys = [bytes(row) for row in rng.integers(0, 256, (10_000, 256), dtype=np.uint8)]
    hashes[7000], greys[7000] = hashes[30] ^ 0b1001 ^ 1 << 60 ^ 1 << 40, greys[30]
    hashes[8000] = hashes[40]  # the same hash alone is not enough
    hashes[9000], greys[9000] = hashes[50] ^ 0b11111, greys[50]  # five bits are too many
    assert alike(hashes, greys) == [(30, 7000)]
    compared = sum(len(bucket) * (len(bucket) - 1) // 2 for bucket in buckets(hashes))
    assert compared < 50_000, compared  # of 50 million pairs


def test_a_hash_knows_a_picture_after_resizing_and_compression():
    for seed in range(10):
        one = picture(seed, size=(96, 80))
        small, other = one.resize((60, 50)), picture(seed + 100, size=(96, 80))
        assert (hashed(one) ^ hashed(small)).bit_count() <= 4
        assert (hashed(one) ^ hashed(other)).bit_count() > 10
        assert len(grey(one)) == 256

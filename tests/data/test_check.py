"""Forty faults of twenty kinds: each is reported by the check, and none stops a training."""

import csv
import json
import re
import shlex
import shutil
import time
from html import unescape

import numpy as np
import pytest
from PIL import Image

from residua.cli.main import COMMANDS, main
from residua.data.check import check_dataset
from residua.data.near_duplicates import (
    compute_difference_hash,
    find_near_duplicates,
    group_by_hash_band,
    make_grey_thumbnail,
)
from residua.data.sources.listing import escape_unprintable
from residua.data.sources.resolve import list_image_dataset
from residua.record import RunRecord
from tests.data.faulty_photos import (
    encode_image,
    make_picture,
    write_clean_folder,
    write_faulty_folder,
)

SKIPPED_KINDS = (
    "truncated",
    "damaged",
    "empty",
    "not an image",
    "too large",
    "link loop",
    "broken link",
    "no file",
    "no class",
)


@pytest.fixture(scope="module")
def faulty_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty") / "photos"
    return root, write_faulty_folder(root)


@pytest.fixture
def isolated_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_data_check_reports_each_of_forty_faults_of_twenty_kinds(faulty_folder, tmp_path, capsys):
    root, faults = faulty_folder
    assert sum(map(len, faults.values())) >= 40
    assert len(faults) >= 20
    assert main(["data", "check", str(root), "--json", "--out", str(tmp_path / "c")]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = {(problem["kind"], problem["path"]) for problem in facts["problems"]}
    wanted = {(kind, escape_unprintable(path)) for kind, paths in faults.items() for path in paths}
    assert wanted <= found, wanted - found
    assert found == wanted, found - wanted
    assert "hidden" not in json.dumps(facts)
    assert facts == json.loads((tmp_path / "c" / "check.json").read_text()) | {
        "page": str(tmp_path / "c" / "check.html")
    }
    assert set(facts["classes"]) == {"Cat", "bird", "cat", "dog"}
    page = (tmp_path / "c" / "check.html").read_text()
    assert "train/cat/half.jpg" in page
    assert page.count("data:image/jpeg;base64,") > 20


def test_training_reports_the_same_faults_and_finishes(
    faulty_folder, tmp_path, capsys, isolated_cache
):
    root, faults = faulty_folder
    out = tmp_path / "run"
    options = [
        "--model",
        "cifar-resnet8",
        "--size",
        "16",
        "--steps",
        "4",
        "--precision",
        "fp32",
        "--out",
        str(out),
    ]
    assert main(["train", str(root), *options, "--json"]) == 0
    captured = capsys.readouterr()
    assert set(json.loads(captured.out)) >= {"train_error", "dev_error", "test_error"}
    skipped_paths = {problem["path"] for problem in RunRecord(out).read_skipped_images()}
    for kind in SKIPPED_KINDS:
        assert {escape_unprintable(path) for path in faults[kind]} <= skipped_paths, kind
    assert "skipped: " in captured.err
    config = json.loads((out / "last" / "config.json").read_text())
    assert config["classes"] == ["Cat", "bird", "cat", "dog"]
    assert config["resize"] == 20


@pytest.mark.skipif("predict" not in COMMANDS, reason="there is no predict here")
def test_prediction_reports_the_same_faults_and_classifies_the_other_images(
    faulty_folder, tmp_path, capsys, isolated_cache
):
    root, faults = faulty_folder
    out = tmp_path / "run"
    options = [
        "--model",
        "cifar-resnet8",
        "--size",
        "16",
        "--steps",
        "4",
        "--precision",
        "fp32",
        "--out",
        str(out),
    ]
    assert main(["train", str(root), *options]) == 0
    capsys.readouterr()
    assert (
        main(
            [
                "predict",
                str(out),
                str(root / "train" / "cat"),
                str(root / "train" / "dog"),
                "--json",
            ]
        )
        == 1
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = {line["path"].rpartition("/")[2] for line in lines if "error" in line}
    for kind in ("truncated", "damaged", "empty", "not an image", "too large"):
        wanted = [
            path
            for path in faults[kind]
            if path.startswith(("train/cat/", "train/dog/")) and not path.endswith(".txt")
        ]
        assert wanted
        assert {path.rpartition("/")[2] for path in wanted} <= failed, (
            kind
        )  # a folder's .txt is not taken for an image
    assert sum("probability" in line for line in lines) >= 24


def test_a_clean_folder_has_no_problems(tmp_path, capsys):
    write_clean_folder(tmp_path / "photos")
    assert main(["data", "check", str(tmp_path / "photos"), "--out", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.startswith("51 usable images in 3 classes, no problems")
    facts = json.loads((tmp_path / "c" / "check.json").read_text())
    assert facts["classes"]["bird"] == {"test": 5, "train": 12}
    assert facts["width"] == [48, 48, 48]
    pixels = (
        np.stack([np.asarray(Image.open(path)) for path in (tmp_path / "photos").rglob("*.png")])
        / 255
    )
    assert np.allclose(facts["mean"], pixels.mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(facts["std"], pixels.std((0, 1, 2)), atol=1e-4)


def test_the_fixed_table_has_no_problems_and_no_file_is_moved(faulty_folder, tmp_path):
    root, _ = faulty_folder
    before = sorted(path for path in root.rglob("*") if not path.is_symlink())
    table = tmp_path / "clean.csv"
    assert (
        main(["data", "check", str(root), "--fix", str(table), "--out", str(tmp_path / "c")]) == 0
    )
    assert sorted(path for path in root.rglob("*") if not path.is_symlink()) == before
    again = check_dataset(list_image_dataset(table))
    harmful = {"duplicate", "near duplicate", "leakage", "two classes", "missing", *SKIPPED_KINDS}
    assert not {problem.kind for problem in again.problems} & harmful
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len(again.images) == len(rows) > 40
    assert repr(again).startswith(f"DatasetCheck({again.listing.location}: {len(rows)} images, ")


def test_the_commands_of_the_page_make_the_table_and_duplicates_name_their_originals(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "my photos"
    write_clean_folder(photos)
    [first, *_] = sorted((photos / "train" / "cat").iterdir())
    shutil.copyfile(first, photos / "train" / "cat" / "zz.png")
    (photos / "train" / "dog" / "empty.png").touch()
    assert main(["data", "check", "my photos", "--out", "c", "--max-pixels", "9000"]) == 0
    facts = json.loads((tmp_path / "c" / "check.json").read_text())
    assert facts["duplicates"] == [
        {"path": "train/cat/zz.png", "original": f"train/cat/{first.name}"}
    ]
    assert facts["sizes"]["shorter_sides"] == [[32, 64, 52]]
    page = unescape((tmp_path / "c" / "check.html").read_text())
    assert "by the folders' names</dd>" in page
    commands = re.findall(r'<div class="command"><code>(.*?)</code>', page)
    assert commands == [
        "residua data check 'my photos' --max-pixels 9000 --fix my-photos-usable.csv",
        "residua train my-photos-usable.csv --max-pixels 9000",
    ]
    assert main([*shlex.split(commands[0])[1:], "--out", "d"]) == 0
    table = (tmp_path / "my-photos-usable.csv").read_text()
    assert table.count("\n") == 52  # a head and 51 images
    assert "zz.png" not in table
    page = (tmp_path / "d" / "check.html").read_text()
    assert re.findall(r'<div class="command"><code>(.*?)</code>', page) == commands[1:]
    assert page.count('<div class="pictures"><img') == 3  # of each class


def test_near_duplicates_among_ten_thousand_are_found_without_comparing_all_pairs():
    rng = np.random.default_rng(0)
    hashes = [int(value) for value in rng.integers(0, 2**64, 10_000, dtype=np.uint64)]
    greys = [bytes(row) for row in rng.integers(0, 256, (10_000, 256), dtype=np.uint8)]
    hashes[7000], greys[7000] = hashes[30] ^ 0b1001 ^ 1 << 60 ^ 1 << 40, greys[30]
    hashes[8000] = hashes[40]  # the same hash alone is not enough
    hashes[9000], greys[9000] = hashes[50] ^ 0b11111, greys[50]  # five bits are too many
    assert find_near_duplicates(hashes, greys) == [(30, 7000)]
    compared = sum(len(bucket) * (len(bucket) - 1) // 2 for bucket in group_by_hash_band(hashes))
    assert compared < 50_000, compared  # of 50 million pairs


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_few_near_duplicates(count):
    greys = [bytes([100] * 256)] * count
    assert find_near_duplicates([7] * count, greys) == [(0, 1)] * (count == 2)


def test_many_images_with_the_same_hash_are_compared_in_bounded_time():
    """Dark images with a black background have the hash 0 in common."""
    rng = np.random.default_rng(0)
    count = 3000
    greys = [bytes(row) for row in rng.integers(0, 256, (count, 256), dtype=np.uint8)]
    greys[2500] = bytes(min(level + 8, 255) for level in greys[100])
    greys[2900] = bytes(min(level + 20, 255) for level in greys[100])
    start = time.process_time()
    assert find_near_duplicates([0] * count, greys) == [(100, 2500)]
    assert find_near_duplicates([0] * count, [bytes([i % 7] * 256) for i in range(count)]) == [
        (0, i) for i in range(1, count)
    ]
    assert time.process_time() - start < 8


def test_near_duplicates_equal_those_of_a_comparison_of_all_pairs():
    rng = np.random.default_rng(1)
    count = 250
    hashes = [int(value) for value in rng.integers(0, 12, count) * 0x0101_0101_0101]
    base = rng.integers(0, 256, (4, 256))
    rows = base[rng.integers(0, 4, count)] + rng.integers(-11, 12, (count, 256))
    greys = rows.clip(0, 255).astype(np.uint8)
    wanted = {}
    for j in range(count):
        for i in range(j):
            is_near = (hashes[i] ^ hashes[j]).bit_count() <= 4
            difference = np.abs(greys[i].astype(int) - greys[j]).mean()
            if is_near and difference <= 8:
                wanted.setdefault(j, i)
    found = find_near_duplicates(hashes, [bytes(row) for row in greys])
    assert found == [(i, j) for j, i in wanted.items()]
    assert 0 < len(found) < count - 4


def test_a_check_without_a_decodable_image_reports_all_problems(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(2):
            content = encode_image(make_picture(i))[: 300 + i]
            (tmp_path / "d" / name / f"{i}.jpg").write_bytes(content)
    out, clean = tmp_path / "o", tmp_path / "clean.csv"
    arguments = ["data", "check", str(tmp_path / "d"), "--out", str(out), "--fix", str(clean)]
    assert main(arguments) == 0
    assert "0 usable images in 2 classes, 6 problems" in capsys.readouterr().out
    facts = json.loads((out / "check.json").read_text())
    assert (facts["images"], facts["mean"], facts["width"]) == (0, [], [])
    assert sorted({problem["kind"] for problem in facts["problems"]}) == ["tiny class", "truncated"]
    assert clean.read_text() == "path,label,split\n"
    options = ["--model", "cifar-resnet8", "--size", "16", "--steps", "2", "--out"]
    assert main(["train", str(tmp_path / "d"), *options, str(tmp_path / "r")]) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "d has no usable image: " in last_line
    assert not (tmp_path / "r").exists()


def test_the_perceptual_hash_survives_resizing():
    for seed in range(10):
        one = make_picture(seed, size=(96, 80))
        small, other = one.resize((60, 50)), make_picture(seed + 100, size=(96, 80))
        assert (compute_difference_hash(one) ^ compute_difference_hash(small)).bit_count() <= 4
        assert (compute_difference_hash(one) ^ compute_difference_hash(other)).bit_count() > 10
        assert len(make_grey_thumbnail(one)) == 256

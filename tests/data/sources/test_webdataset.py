"""Shards of samples: their images, classes and splits; their pixels equal those of files."""

import io
import json
import os
import tarfile
import time

import pytest
import torch

from residua.cli.main import main
from residua.config.model import ImagePreprocessing
from residua.data.check import check_dataset
from residua.data.image_cache import load_or_decode_images
from residua.data.read import read_split
from residua.data.sources.resolve import list_image_dataset, resolve_dataset
from residua.data.sources.shard_index import find_shard_index
from residua.data.sources.shard_samples import list_shard_samples
from residua.data.sources.webdataset import read_class_list
from residua.errors import DataError
from tests.data.faulty_photos import CLASS_CHANNELS, encode_image, make_picture, write_clean_folder


@pytest.fixture(autouse=True)
def isolate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_or_decode_images.cache_clear()


def write_shard(path, files):
    """Write a tar archive with members such as {"0.jpg": bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def make_samples(count, seed=0, label=lambda c: str(c).encode(), kind="cls"):
    """Members for `count` images of each of three classes, with a label file for each image."""
    return {
        name: content
        for i in range(3 * count)
        for name, content in (
            (f"{i:04}.png", encode_image(make_picture(seed + i, i % 3), "PNG")),
            (f"{i:04}.{kind}", label(i % 3)),
        )
    }


def list_entries(listing):
    return [(entry.name, entry.label, entry.split) for entry in listing.entries]


def test_shards_equal_the_same_images_in_a_folder(tmp_path):
    """Every split has the same images and labels; only their order is that of the archives."""
    write_clean_folder(tmp_path / "files")
    for part in ("train", "val"):
        for half in (0, 1):
            members = {}
            for name in CLASS_CHANNELS:
                for path in sorted((tmp_path / "files" / part / name).iterdir())[half::2]:
                    members |= {
                        f"{name}{path.name}": path.read_bytes(),
                        f"{name}{path.stem}.cls": name.encode(),
                    }
            write_shard(tmp_path / "shards" / f"pets-{part}-{half:06}.tar", members)
    files, shards = [
        resolve_dataset(str(tmp_path / place), (3, 24, 24)) for place in ("files", "shards")
    ]
    assert (shards.classes, shards.num_images, shards.kind, shards.name) == (
        files.classes,
        files.num_images,
        "folder",
        "shards",
    )
    for split in ("train", "dev", "test"):
        one, other = [
            sorted(
                (x.numpy().tobytes(), int(y))
                for x, y in zip(images.pixels, images.labels, strict=True)
            )
            for images in (read_split(files, split), read_split(shards, split))
        ]
        assert one == other


def test_labels_come_from_numbers_names_or_a_json_file(tmp_path):
    plain = list_image_dataset(write_shard(tmp_path / "a.tar", make_samples(4)))
    named = list_image_dataset(
        write_shard(tmp_path / "b.tar", make_samples(4, label=lambda c: f"{'zba'[c]}\n".encode()))
    )
    say = lambda c: json.dumps({"caption": "?", "label": int(c) + 9}).encode()  # noqa: E731
    said = list_image_dataset(
        write_shard(tmp_path / "c.tar", make_samples(4, label=say, kind="json"))
    )
    assert (plain.classes, named.classes, said.classes) == (
        ("0", "1", "2"),
        ("a", "b", "z"),
        ("9", "10", "11"),
    )
    assert list_entries(plain)[:2] == [("a.tar/0000.png", 0, ""), ("a.tar/0001.png", 1, "")]
    assert [entry.label for entry in named.entries[:3]] == [2, 1, 0]


@pytest.mark.parametrize("name", ["classes.txt", "classnames.txt"])
def test_a_file_next_to_the_shards_gives_the_class_names(tmp_path, name):
    write_shard(
        tmp_path / "d" / "0.tar",
        make_samples(2) | {"x.png": b"x", "x.cls": b"3", "y.png": b"y", "y.cls": b"cat"},
    )
    (tmp_path / "d" / name).write_text("dog\ncat\nbird\n")
    found = list_image_dataset(tmp_path / "d")
    assert found.classes == ("dog", "cat", "bird")
    assert list_entries(found)[-1] == ("0.tar/y.png", 1, "")
    assert [(p.path, p.kind) for p in found.problems] == [("0.tar/x.png", "no class")]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("0.tar", "1.tar"), ("", "")),
        (("train-0.tar",), ("",)),
        (("train-0.tar", "val-0.tar"), ("train", "test")),
        (
            ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar", "x_test.tar"),
            ("train", "dev", "test"),
        ),
        (("test/0.tar", "train/0.tar"), ("test", "train")),
    ],
    ids=str,
)
def test_shard_and_folder_names_determine_the_splits(tmp_path, names, wanted):
    for seed, name in enumerate(names):
        write_shard(tmp_path / "d" / name, make_samples(2, 100 * seed))
    found = {
        name.rpartition("/")[0]: part
        for name, _, part in list_entries(list_image_dataset(tmp_path / "d"))
    }
    assert tuple(found[name] for name in names) == wanted


def test_the_splits_come_from_the_shards_or_from_the_content(tmp_path):
    write_shard(tmp_path / "d" / "train-0.tar", make_samples(2))
    assert list_image_dataset(tmp_path / "d").split_source == "content"
    write_shard(tmp_path / "d" / "test-0.tar", make_samples(1, 50))
    assert list_image_dataset(tmp_path / "d").split_source == "shards"


@pytest.mark.parametrize("other", ["holdout-000.tar", "private/0.tar", "train-test-0.tar", "0.tar"])
def test_shards_without_a_split_beside_others_are_refused(tmp_path, other):
    write_shard(tmp_path / "d" / "train-000.tar", make_samples(2))
    write_shard(tmp_path / "d" / "val-000.tar", make_samples(1, 30))
    write_shard(tmp_path / "d" / other, make_samples(1, 50))
    with pytest.raises(DataError) as caught:
        list_image_dataset(tmp_path / "d")
    assert str(caught.value) == (
        f"{tmp_path / 'd'} has shards of the split dev and train, but other shards "
        f"({other}, 3 images) have no split in their names: move them elsewhere, or name "
        f"them after "
        "a split, train (or training), dev (or val, valid, validation, development), test "
        "(or testing)"
    )


@pytest.mark.parametrize("other", ["holdout-000.tar", "eval_set-0.tar", "private/0.tar"])
def test_shards_named_like_a_held_out_split_beside_others_are_refused(tmp_path, other):
    write_shard(tmp_path / "d" / "shard-000.tar", make_samples(2))
    write_shard(tmp_path / "d" / other, make_samples(1, 50))
    with pytest.raises(
        DataError, match="named like a held-out split .* beside shard-000.tar: name"
    ):
        list_image_dataset(tmp_path / "d")
    (tmp_path / "d" / "shard-000.tar").unlink()
    assert list_image_dataset(tmp_path / "d").split_source == "content"


def test_labels_that_look_equal_are_one_class(tmp_path):
    texts = ("cat", "cat\u00a0", "\ufeff cat\u200b\n")
    members = make_samples(1, label=lambda c: texts[c].encode())
    members |= {"z.png": encode_image(make_picture(9), "PNG"), "z.cls": b"guinea\tpig"}
    assert list_image_dataset(write_shard(tmp_path / "0.tar", members)).classes == (
        "cat",
        "guinea pig",
    )


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.TAR.ZST", "a.zip", "a.tar.xz"])
def test_packed_archives_are_named_with_what_to_do(tmp_path, name):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"\x1f\x8b")
    for place in (tmp_path / "d", tmp_path / "d" / name):
        with pytest.raises(DataError, match="must be unpacked first: unpack shards of samples to"):
            list_image_dataset(place)


def test_packed_archives_and_images_beside_shards_are_reported(tmp_path):
    write_shard(tmp_path / "d" / "0.tar", make_samples(2))
    for name in ("1.tar.gz", "2.tar.gz", "a.jpg", "README.md"):
        (tmp_path / "d" / name).write_bytes(b"x")
    problems = list_image_dataset(tmp_path / "d").problems
    assert [(p.path, p.kind, p.count) for p in problems] == [
        ("*.gz", "left out", 2),
        ("*.jpg", "left out", 1),
    ]


def test_shards_behind_links_are_read(tmp_path):
    """The cache of the Hugging Face hub stores files as links."""
    write_shard(tmp_path / "blobs" / "0a1b", make_samples(2))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0.tar").symlink_to(tmp_path / "blobs" / "0a1b")
    assert len(list_image_dataset(tmp_path / "d").entries) == 6


def test_a_list_of_a_hundred_thousand_classes_is_read_in_linear_time(tmp_path):
    write_shard(tmp_path / "0.tar", make_samples(2))
    names = [f"class {i}" for i in range(100_000)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    start = time.perf_counter()
    assert read_class_list(tmp_path) == tuple(names)
    assert time.perf_counter() - start < 2


def test_archives_inside_a_folder_of_classes_are_ignored(tmp_path):
    write_clean_folder(tmp_path / "d")
    write_shard(tmp_path / "d" / "backup.tar", make_samples(2))
    write_shard(tmp_path / "d" / "train" / "cat.tar", make_samples(2))
    assert len(list_image_dataset(tmp_path / "d").entries) == 51


def test_faulty_samples_are_reported_and_the_others_are_used(tmp_path, capsys):
    intact_jpeg = encode_image(make_picture(501))
    faulty_files = {
        "a/half.jpg": intact_jpeg[: len(intact_jpeg) // 2],
        "a/half.cls": b"0",
        "b.png": b"no image",
        "b.cls": b"1",
        "c.jpg": intact_jpeg,
        "d.cls": b"2",
        "e.json": b"[" * 100_000,
        "e.jpg": intact_jpeg,
        "f.png": encode_image(make_picture(508)),
        "f.cls": b"0",
        ".hidden.png": b"x",
        "readme": b"",
    }
    path = write_shard(tmp_path / "d" / "train-0.tar", make_samples(12) | faulty_files)
    write_shard(tmp_path / "d" / "val-0.tar", make_samples(4, 700))
    found = {
        (problem.kind, problem.path)
        for problem in check_dataset(list_image_dataset(tmp_path / "d")).problems
    }
    assert found == {
        ("truncated", "train-0.tar/a/half.jpg"),
        ("not an image", "train-0.tar/b.png"),
        ("no class", "train-0.tar/c.jpg"),
        ("no image", "train-0.tar/d"),
        ("no class", "train-0.tar/e.jpg"),
        ("wrong extension", "train-0.tar/f.png"),
        ("no image", "train-0.tar/readme"),
    }
    options = [
        "--model",
        "cifar-resnet8",
        "--size",
        "16",
        "--steps",
        "2",
        "--set",
        "batch_size=8",
        "--precision",
        "fp32",
    ]
    assert main(["train", str(tmp_path / "d"), *options, "--out", str(tmp_path / "r")]) == 0
    assert "skipped: train-0.tar/a/half.jpg is truncated" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "r"), str(tmp_path / "d")]) == 0
    assert "of 12 test images wrong" in capsys.readouterr().out
    assert (
        main(
            [
                "data",
                "check",
                str(path.parent),
                "--fix",
                str(tmp_path / "t.csv"),
                "--out",
                str(tmp_path / "c"),
            ]
        )
        == 2
    )
    assert "the images of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoil",
    [lambda c: c[: len(c) // 2 + 100], lambda c: c[: len(c) // 2] + b"?" * (len(c) - len(c) // 2)],
)
def test_a_damaged_shard_is_read_up_to_the_damage(tmp_path, spoil):
    path = write_shard(tmp_path / "d" / "train-0.tar", make_samples(20))
    path.write_bytes(spoil(path.read_bytes()))
    write_shard(tmp_path / "d" / "train-1.tar", make_samples(4, 700))
    found = list_image_dataset(tmp_path / "d")
    assert ("train-0.tar", "damaged") in {(p.path, p.kind) for p in found.problems}
    assert 12 + 20 < len(found.entries) < 12 + 40
    images = load_or_decode_images(found, ImagePreprocessing((3, 16, 16), 16))
    assert len(images.labels) in (len(found.entries), len(found.entries) - 1)


def test_a_shard_member_cannot_reach_files_outside(tmp_path):
    (tmp_path / "secret.png").write_bytes(encode_image(make_picture(1), "PNG"))
    path = tmp_path / "d" / "0.tar"
    write_shard(
        path,
        make_samples(3)
        | {"../secret.png": encode_image(make_picture(2), "PNG"), "../secret.cls": b"0"},
    )
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(link)
    listing = list_image_dataset(path.parent)
    [entry] = [entry for entry in listing.entries if "secret" in entry.name]
    assert (entry.name, entry.read_bytes()) == (
        "0.tar/../secret.png",
        encode_image(make_picture(2), "PNG"),
    )
    assert all(entry.path.is_relative_to(path) for entry in listing.entries)
    assert not any("link" in name or "hard" in name for name, _, _ in list_entries(listing))


def test_no_pickle_in_a_shard_is_loaded(tmp_path):
    import pickle

    forged = pickle.dumps({"label": 1})
    found = list_image_dataset(
        write_shard(
            tmp_path / "0.tar",
            make_samples(3) | {"p.png": b"x", "p.pyd": forged, "p.pickle": forged, "p.pth": forged},
        )
    )
    assert [(p.path, p.kind) for p in found.problems] == [("0.tar/p.png", "no class")]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            {},
            "holds shards, but no image with a class: store each sample as KEY.jpg next to KEY.cls",
        ),
        ({"a.png": b"x"}, r"0.tar/a.png has no label next to it, in .cls or .json"),
        (
            {"a.png": encode_image(make_picture(1), "PNG"), "a.cls": b"1"},
            "holds only one class, 1",
        ),
    ],
    ids=str,
)
def test_shards_that_are_no_data_set_give_a_one_line_error(tmp_path, members, sentence):
    with pytest.raises(DataError, match=sentence):
        list_image_dataset(write_shard(tmp_path / "d" / "0.tar", members).parent)


def test_a_file_that_is_no_archive_is_reported(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"0.tar is damaged, and is read up to the damage: .+"):
        list_image_dataset(tmp_path / "d")


def test_a_changed_shard_is_read_again(tmp_path):
    path = write_shard(tmp_path / "d" / "0.tar", make_samples(3))
    view = ImagePreprocessing((3, 16, 16), 16)
    first = load_or_decode_images(list_image_dataset(path.parent), view)
    write_shard(path, make_samples(4, 50))
    again = load_or_decode_images(list_image_dataset(path.parent), view)
    assert (len(first.labels), len(again.labels)) == (9, 12)
    assert not torch.equal(first.pixels[:2], again.pixels[:2])


def age_shard(path, seconds=100.0):
    os.utime(path, (time.time() - seconds,) * 2)
    list_shard_samples.cache_clear()


def test_the_headers_of_a_shard_are_read_once_until_it_changes(tmp_path, monkeypatch, capsys):
    path = write_shard(tmp_path / "d" / "0.tar", make_samples(3) | {"x.png": b"x"})
    age_shard(path)
    first = list_image_dataset(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr("residua.data.sources.shard_index.list_shard_samples", None)
        assert list_image_dataset(path.parent) == first
        assert [problem.path for problem in first.problems] == ["0.tar/x.png"]
    write_shard(path, make_samples(4, 50))
    age_shard(path, 50.0)
    assert len(list_image_dataset(path.parent).entries) == 12
    kept = find_shard_index(str(path))
    kept.write_bytes(kept.read_bytes()[:-1])
    list_shard_samples.cache_clear()
    assert len(list_image_dataset(path.parent).entries) == 12
    assert f"the kept list of {path} is damaged" in capsys.readouterr().err


def test_a_shard_that_may_still_be_written_is_not_kept(tmp_path):
    path = write_shard(tmp_path / "d" / "0.tar", make_samples(3))
    list_image_dataset(path.parent)
    assert not find_shard_index(str(path)).exists()


def test_a_duplicate_class_name_and_an_empty_line_are_refused(tmp_path):
    write_shard(tmp_path / "0.tar", make_samples(4))
    for text, why in (
        ("crane\nchurch\ncrane", "line 3 of .* repeats crane"),
        ("a\n\nb", "line 2 of .* is empty"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=why):
            list_image_dataset(tmp_path)


def test_samples_before_a_forged_member_size_are_used(tmp_path):
    forged = tarfile.TarInfo("huge.png")
    forged.size = 2**42
    path = write_shard(tmp_path / "0.tar", make_samples(4))
    with tarfile.open(path) as tar:
        for _ in tar:
            pass
        end = tar.offset
    path.write_bytes(path.read_bytes()[:end] + forged.tobuf())
    listing = list_image_dataset(tmp_path)
    assert len(listing.entries) == 12
    [problem] = listing.problems
    assert (problem.path, problem.kind) == ("0.tar", "damaged")
    assert "huge.png would reach" in problem.detail


def test_numeric_labels_of_any_length_are_sorted_as_numbers(tmp_path):
    labels = ("10", "9" * 5000, "9")
    write_shard(tmp_path / "0.tar", make_samples(4, label=lambda c: labels[c].encode()))
    assert list_image_dataset(tmp_path).classes == ("9", "10", "9" * 5000)


def test_a_duplicate_key_is_reported(tmp_path):
    path = write_shard(tmp_path / "0.tar", make_samples(4))
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("0000.png"), io.BytesIO())
    listing = list_image_dataset(tmp_path)
    assert [(p.path, p.kind) for p in listing.problems] == [("0.tar/0000.png", "doubled")]
    assert len(listing.entries) == 12


def test_hidden_folders_do_not_hide_shards_and_an_empty_label_falls_back_to_json(tmp_path):
    members = make_samples(4)
    members |= {"0000.cls": b" ", "0000.json": b'{"label": 2}'}
    write_shard(tmp_path / "train/0.tar", members)
    (tmp_path / "train/.cache").mkdir()
    assert list_entries(list_image_dataset(tmp_path))[0] == ("train/0.tar/0000.png", 2, "")

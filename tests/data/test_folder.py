"""Folders and tables of photographs: what is in them, and one sentence where they are none."""

import os

import pytest
import torch
from PIL import Image

from residua.cli.main import main
from residua.data.folder import data_of, listed, side_kept
from residua.data.gallery import PARTS, assigned, digest_of, gathered
from residua.data.image import decode, prepared
from residua.data.read import read
from residua.errors import DataError, UsageError
from residua.spec.model import View
from tests.data.faults import bytes_of, picture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gathered.cache_clear()
    return tmp_path / "cache" / "residua" / "images"


def filled(root, counts, size=(40, 32)):
    """`{"train/cat": 3}` images in folders."""
    for seed, (place, count) in enumerate(counts.items()):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(100 * seed + i, size=size).save(root / place / f"{i}.png")
    return root


def parts(listing):
    return {(entry.name, entry.part) for entry in listing.entries}


def test_classes_are_sorted_by_name_and_named_in_the_data_set(tmp_path):
    root = filled(tmp_path / "my photos", {f"train/{name}": 2 for name in ("10", "2", "ähre", "b")} | {"val/2": 1})
    data = data_of(str(root), (3, 32, 32))
    assert data.classes == ("10", "2", "b", "ähre")
    assert (data.name, data.kind, data.resize, data.images, data.dev) == ("my-photos", "folder", 36, 8, 1)
    assert data.input == (3, 32, 32)


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        ({"train/a": 1, "train/b": 1, "val/a": 1}, {"train": "train", "val": "test"}),
        ({"train/a": 1, "train/b": 1, "test/a": 1}, {"train": "train", "test": "test"}),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "test/b": 1}, {"train": "train", "val": "dev", "test": "test"}),
        ({"train/a": 1, "train/b": 1}, {"train": ""}),
        ({"a": 1, "b": 1}, {"a": "", "b": ""}),
    ],
)
def test_the_folders_say_what_is_trained_on_and_what_is_held_out(tmp_path, folders, wanted):
    found = listed(filled(tmp_path / "d", folders))
    assert {name.split("/")[0]: part for name, part in parts(found)} == wanted
    assert found.classes == ("a", "b")


def test_images_lie_at_any_depth_and_hidden_files_are_no_part(tmp_path):
    root = filled(tmp_path / "d", {"a/x/y": 1, "a": 1, "b": 1, ".git": 1, "b/.cache": 1, "__MACOSX/b": 1})
    (root / "b" / "Thumbs.db").write_bytes(b"?")
    assert [entry.name for entry in listed(root).entries] == ["a/0.png", "a/x/y/0.png", "b/0.png"]


def test_links_are_followed_inside_only(tmp_path):
    root = filled(tmp_path / "d", {"a": 1, "b": 1})
    os.symlink(root / "a" / "0.png", root / "b" / "inside.png")
    os.symlink("/etc/hostname", root / "b" / "outside.png")
    found = listed(root)
    assert [entry.name for entry in found.entries] == ["a/0.png", "b/0.png", "b/inside.png"]
    assert [(p.path, p.kind) for p in found.problems] == [("b/outside.png", "link outside")]


def test_a_table_says_paths_labels_and_splits(tmp_path):
    root = filled(tmp_path / "d", {"x": 4})
    (root / "t.csv").write_text(
        '\ufefflabel,Path,split\nb,x/0.png,train\na,x/1.png,train\n"a",x/2.png,val\nb,x/gone.png,val\n', encoding="utf-8"
    )
    found = listed(root / "t.csv")
    assert found.classes == ("a", "b")
    assert [(e.name, e.label, e.part) for e in found.entries] == [
        ("x/0.png", 1, "train"), ("x/1.png", 0, "train"), ("x/2.png", 0, "test"),
    ]  # fmt: skip
    assert [(p.path, p.kind) for p in found.problems] == [("x/gone.png", "missing")]


BAD = {
    "an empty folder": ({}, "holds no folder of images: a class is a folder of its images"),
    "one class": ({"cat": 3}, "holds one class, cat: there must be two at least"),
    "one class to train on": ({"train/cat": 3, "train/dog": 0, "val/dog": 2}, "holds one class, cat"),
    "classes without files": ({"cat": 0, "dog": 0}, "holds no images: put those of each class into its folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_data_set_ends_in_a_sentence(tmp_path, capsys, name):
    counts, sentence = BAD[name]
    (tmp_path / "d").mkdir()
    filled(tmp_path / "d", counts)
    for command in (["train"], ["data", "check"]):
        assert main([*command, str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_other_bad_places_end_in_a_sentence(tmp_path, capsys):
    def said(place):
        code = main(["train", str(place), "--out", str(tmp_path / "o")])
        return code, capsys.readouterr().err

    assert said(tmp_path / "gone") == (1, f"residua: there is no folder or table {tmp_path / 'gone'}\n")
    assert said("cifar11") == (2, "residua: no data set 'cifar11': did you mean 'cifar10'?\n")
    (tmp_path / "x.png").write_bytes(bytes_of(picture(1), "PNG"))
    assert said(tmp_path / "x.png") == (
        1, f"residua: {tmp_path / 'x.png'} is a file: give a folder of classes, or a table that ends in .csv, .tsv, .parquet\n",
    )  # fmt: skip
    (tmp_path / "t.csv").write_text("path,label\na.png,a\nb.png,b\n")
    assert "names 2 files, and none of them is there: paths are relative to" in said(tmp_path / "t.csv")[1]
    (tmp_path / "t.csv").write_text("name,kind\na.png,a\n")
    assert "has the columns name, kind: one must be called path and one label" in said(tmp_path / "t.csv")[1]
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    assert "is no table of text" in said(tmp_path / "t.csv")[1]
    (tmp_path / "t.csv").write_text("")
    assert "is empty: it wants a line path,label" in said(tmp_path / "t.csv")[1]


def test_a_folder_of_damaged_images_alone_ends_in_a_sentence(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "x.png").write_bytes(b"no image")
    assert main(["train", str(tmp_path / "d"), "--model", "cifar-resnet8", "--size", "8", "--out", str(tmp_path / "o")]) == 1
    assert "leaves no images for the train part" in capsys.readouterr().err.splitlines()[-1]


def test_a_class_with_one_image_is_named_and_trained_on(tmp_path):
    root = filled(tmp_path / "d", {"a": 12, "b": 12, "c": 1})
    found = gathered(listed(root), View((3, 16, 16), 16))
    assert [(p.path, p.kind) for p in found.problems] == [("c", "tiny class")]
    assert 2 in found.part("train")[1]


def test_the_split_is_by_content_and_never_changes(tmp_path):
    root = filled(tmp_path / "d", {"a": 60, "b": 60})

    def split():
        listing = listed(root)
        digests = [digest_of(entry) for entry in listing.entries]
        return dict(zip(digests, assigned(list(listing.entries), digests), strict=True))

    before = split()
    shares = {part: sum(found == part for found in before.values()) / 120 for part in PARTS}
    assert 0.1 < shares["test"] < 0.3
    assert 0 < shares["dev"] < 0.12
    for path in sorted((root / "a").iterdir()):
        path.rename(path.with_name(f"renamed {path.name}"))
    assert split() == before
    picture(7777).save(root / "b" / "new.png")
    (root / "a" / "copy.png").write_bytes((root / "a" / "renamed 3.png").read_bytes())
    after = split()
    assert {digest: after[digest] for digest in before} == before


def test_every_class_has_images_to_train_on_and_to_test(tmp_path):
    root = filled(tmp_path / "d", {str(c): 2 for c in range(20)})
    listing = listed(root)
    found = assigned(list(listing.entries), [digest_of(entry) for entry in listing.entries])
    for label in range(20):
        held = {part for entry, part in zip(listing.entries, found, strict=True) if entry.label == label}
        assert held == {"train", "test"} or (held == {"dev", "test"}), label
    assert found.count("dev") <= 1


@pytest.mark.parametrize("side", [32, 64, 96, 128, 224])
def test_the_middle_of_a_square_is_what_a_prediction_sees_to_the_bit(tmp_path, side):
    kept = side_kept(side)
    assert 1.1 < kept / side < 1.2
    for i, size in enumerate([(301, 200), (200, 301), (250, 333), (300, 300), (111, 97)]):
        picture(i, size=size).save(tmp_path / "x.png")
        image = decode(tmp_path / "x.png")
        square = prepared(image, View((3, kept, kept), kept))
        edge = (kept - side) // 2
        middle = square[:, edge : edge + side, edge : edge + side]
        assert torch.equal(middle, prepared(image, View((3, side, side), kept))), size


def test_images_are_decoded_once_and_then_come_from_the_cache(tmp_path, cache):
    root = filled(tmp_path / "d", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    (root / "train" / "a" / "bad.png").write_bytes(b"no image")
    data = data_of(str(root), (3, 24, 24))
    first = read(data, "train")
    assert first.pixels.shape[1:] == (3, 28, 28)
    assert read(data, "test").pixels.shape == (4, 3, 24, 24)
    [kept] = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    gathered.cache_clear()
    again = read(data, "train")
    assert torch.equal(again.pixels, first.pixels)
    assert torch.equal(again.labels, first.labels)
    assert [(p.path, p.kind) for p in gathered(listed(root), View((3, 28, 28), 28)).problems if p.kind != "tiny class"] == [
        ("train/a/bad.png", "not an image")
    ]
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [stamp]
    cut = (kept / "pixels.npy").read_bytes()[:1000]
    (kept / "pixels.npy").unlink()  # what is mapped already stays as it is
    (kept / "pixels.npy").write_bytes(cut)
    gathered.cache_clear()
    assert torch.equal(read(data, "train").pixels, first.pixels)
    picture(999).save(root / "train" / "b" / "0.png")  # other content under the same name
    assert not torch.equal(read(data, "train").pixels, first.pixels)
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_a_sentence_and_no_training(tmp_path, cache, capsys):
    root = filled(tmp_path / "d", {"train/a": 4, "train/b": 4, "val/a": 2})
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file stands where the folder would")
    assert len(read(data_of(str(root), (3, 24, 24)), "train")) == 7
    assert "the decoded images were not kept in" in capsys.readouterr().err


def test_squares_are_of_the_files_they_are_said_to_be(tmp_path):
    root = filled(tmp_path / "d", {"train/a": 5, "train/b": 5, "val/b": 3})
    listing = listed(root)
    gallery = gathered(listing, View((3, 28, 28), 28))
    assert gallery.counts.sum() == 13
    wanted = {(prepared(decode(entry.path), View((3, 28, 28), 28)).numpy().tobytes(), entry.label) for entry in listing.entries}
    assert {(x.numpy().tobytes(), int(y)) for x, y in zip(gallery.pixels, gallery.labels, strict=True)} == wanted
    assert gallery.part("test")[1].tolist() == [1, 1, 1]


def test_photographs_are_cut_to_squares(tmp_path):
    root = filled(tmp_path / "d", {"a": 2, "b": 2})
    with pytest.raises(UsageError, match=r"cut to squares in grey or in colour, not to \(3, 32, 64\)"):
        data_of(str(root), (3, 32, 64))
    assert data_of(str(root), (1, 32, 32)).mean == (0.449,)
    assert data_of(str(root), (3 * 32 * 32,)).input == (3, 32, 32)


def test_a_grey_network_gets_grey_squares(tmp_path):
    root = filled(tmp_path / "d", {"train/a": 3, "train/b": 3, "val/b": 2})
    assert read(data_of(str(root), (1, 24, 24)), "train").pixels.shape[1:] == (1, 28, 28)


def test_a_name_of_a_data_set_stays_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert data_of("digits").kind == "sklearn"
    with pytest.raises(DataError, match="holds no folder of images"):
        data_of("./digits")


def test_odd_photographs_stand_in_one_gallery(tmp_path):
    root = filled(tmp_path / "d", {"train/a": 2, "train/b": 2, "val/b": 2})
    for mode, name in (("L", "grey.png"), ("P", "palette.gif"), ("RGBA", "alpha.png"), ("CMYK", "print.tif")):
        Image.open(root / "val/b/0.png").convert(mode).save(root / "train" / "a" / name)
    assert len(read(data_of(str(root), (3, 24, 24)), "train")) + len(read(data_of(str(root), (3, 24, 24)), "dev")) == 8

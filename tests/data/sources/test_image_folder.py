"""Folders and tables of photos: their contents, and a one-line error if there is no data set."""

import json
import os

import pytest
import torch
from PIL import Image

from residua.cli.main import main
from residua.config.model import ImagePreprocessing
from residua.data.decode import decode_image, preprocess_image
from residua.data.image_cache import hash_entry_content, load_or_decode_images
from residua.data.read import read_split
from residua.data.sources.resolve import cached_image_side, list_image_dataset, resolve_dataset
from residua.data.splits import SPLIT_ORDER, assign_splits
from residua.errors import DataError, UsageError
from tests.cli_runner import run_cli
from tests.data.faulty_photos import encode_image, make_picture


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_or_decode_images.cache_clear()
    return tmp_path / "cache" / "residua" / "images"


def write_image_folder(root, counts, size=(40, 32)):
    """Write images into folders, for example {"train/cat": 3} for three."""
    for seed, (subfolder, count) in enumerate(counts.items()):
        (root / subfolder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            make_picture(100 * seed + i, size=size).save(root / subfolder / f"{i}.png")
    return root


def list_names_and_splits(listing):
    return {(entry.name, entry.split) for entry in listing.entries}


def test_classes_are_sorted_by_name_and_listed_in_the_data_set(tmp_path):
    root = write_image_folder(
        tmp_path / "my photos",
        {f"train/{name}": 2 for name in ("10", "2", "ähre", "b")} | {"val/2": 1},
    )
    data = resolve_dataset(str(root), (3, 32, 32))
    assert data.classes == ("10", "2", "b", "ähre")
    assert (data.name, data.kind, data.resize, data.num_images, data.num_dev_images) == (
        "my-photos",
        "folder",
        36,
        8,
        2,
    )
    assert data.input == (3, 32, 32)


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        ({"train/a": 1, "train/b": 1, "val/a": 1}, {"train": "train", "val": "test"}),
        ({"train/a": 1, "train/b": 1, "test/a": 1}, {"train": "train", "test": "test"}),
        (
            {"train/a": 1, "train/b": 1, "val/a": 1, "test/b": 1},
            {"train": "train", "val": "dev", "test": "test"},
        ),
        ({"train/a": 1, "train/b": 1}, {"train": ""}),
        ({"a": 1, "b": 1}, {"a": "", "b": ""}),
    ],
)
def test_folder_names_determine_the_splits(tmp_path, folders, wanted):
    found = list_image_dataset(write_image_folder(tmp_path / "d", folders))
    assert {name.split("/")[0]: part for name, part in list_names_and_splits(found)} == wanted
    assert found.classes == ("a", "b")


def test_images_are_found_at_any_depth_and_hidden_files_are_ignored(tmp_path):
    root = write_image_folder(
        tmp_path / "d", {"a/x/y": 1, "a": 1, "b": 1, ".git": 1, "b/.cache": 1, "__MACOSX/b": 1}
    )
    (root / "b" / "Thumbs.db").write_bytes(b"?")
    assert [entry.name for entry in list_image_dataset(root).entries] == [
        "a/0.png",
        "a/x/y/0.png",
        "b/0.png",
    ]


def test_links_to_files_and_folders_anywhere_are_followed_but_not_in_circles(tmp_path):
    root = write_image_folder(tmp_path / "d", {"a": 1, "b": 1})
    elsewhere = write_image_folder(tmp_path / "elsewhere", {"c": 1, "more/deep": 1})
    os.symlink(root / "a" / "0.png", root / "b" / "inside.png")
    os.symlink(elsewhere / "c" / "0.png", root / "b" / "outside.png")
    os.symlink(elsewhere / "c", root / "c")
    os.symlink(elsewhere / "more", root / "a" / "more")
    os.symlink(root, root / "a" / "up")
    os.symlink("nowhere", root / "a" / "broken.png")
    found = list_image_dataset(root)
    assert found.classes == ("a", "b", "c")
    assert [entry.name for entry in found.entries] == [
        "a/0.png",
        "a/more/deep/0.png",
        "b/0.png",
        "b/inside.png",
        "b/outside.png",
        "c/0.png",
    ]
    assert {(p.path, p.kind) for p in found.problems} == {
        ("a/up", "link loop"),
        ("a/broken.png", "broken link"),
    }


def test_a_link_in_a_linked_class_back_to_the_data_set_is_not_followed(tmp_path):
    root, far = tmp_path / "d", write_image_folder(tmp_path / "far", {"x": 2, "y": 3})
    root.mkdir()
    os.symlink(far / "x", root / "first")
    os.symlink(far / "y", root / "second")
    os.symlink(root, far / "y" / "back")
    found = list_image_dataset(root)
    assert [entry.name.partition("/")[0] for entry in found.entries] == ["first"] * 2 + [
        "second"
    ] * 3
    assert [(p.path, p.kind) for p in found.problems] == [("second/back", "link loop")]


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_link_from_beside_the_classes_to_a_folder_above_is_no_class(tmp_path, split):
    root = write_image_folder(tmp_path / "d", {f"{split}a": 2, f"{split}b": 2, f"{split}c": 2})
    os.symlink("..", root / split / "loop")
    os.symlink(root, root / split / "again")
    found = list_image_dataset(root)
    assert found.classes == ("a", "b", "c")
    assert len(found.entries) == 6
    assert [(p.path, p.kind) for p in found.problems] == [
        (f"{split}again", "link loop"),
        (f"{split}loop", "link loop"),
    ]


def test_a_table_gives_paths_labels_and_splits(tmp_path):
    root = write_image_folder(tmp_path / "d", {"x": 4})
    (root / "t.csv").write_text(
        "\ufefflabel,Path,split\nb,x/0.png,train\na,x/1.png,train\n"
        '"a",x/2.png,val\nb,x/gone.png,val\n',
        encoding="utf-8",
    )
    found = list_image_dataset(root / "t.csv")
    assert found.classes == ("a", "b")
    assert [(e.name, e.label, e.split) for e in found.entries] == [
        ("x/0.png", 1, "train"),
        ("x/1.png", 0, "train"),
        ("x/2.png", 0, "test"),
    ]
    assert [(p.path, p.kind) for p in found.problems] == [("x/gone.png", "missing")]


INVALID_FOLDERS = {
    "an empty folder": (
        {},
        "contains no image folders: put the images of each class into a folder of their own",
    ),
    "one class": ({"cat": 3}, "holds only one class, cat: give at least two classes"),
    "one class to train on": (
        {"train/cat": 3, "train/dog": 0, "val/dog": 2},
        "holds only one class, cat",
    ),
    "classes without files": (
        {"cat": 0, "dog": 0},
        "contains no images: put the images of each class into the folder of that class",
    ),
}


@pytest.mark.parametrize("name", INVALID_FOLDERS)
def test_a_folder_that_is_no_data_set_gives_a_one_line_error(tmp_path, capsys, name):
    counts, sentence = INVALID_FOLDERS[name]
    (tmp_path / "d").mkdir()
    write_image_folder(tmp_path / "d", counts)
    for command in (["train"], ["data", "check"]):
        assert main([*command, str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_other_invalid_data_arguments_give_a_one_line_error(tmp_path, capsys):
    def run_train(place):
        code = main(["train", str(place), "--out", str(tmp_path / "o")])
        return code, capsys.readouterr().err

    assert run_train(tmp_path / "gone") == (
        1,
        f"residua: there is no folder or table {tmp_path / 'gone'}: check the path\n",
    )
    assert run_train("cifar11") == (
        2,
        "residua: there is no data set 'cifar11': did you mean 'cifar10'?\n",
    )
    (tmp_path / "x.png").write_bytes(encode_image(make_picture(1), "PNG"))
    assert run_train(tmp_path / "x.png") == (
        1,
        f"residua: {tmp_path / 'x.png'} is a file: give a folder of classes, "
        "or a table whose name ends in .csv, .tsv, .parquet\n",
    )
    (tmp_path / "t.csv").write_text("path,label\na.png,a\nb.png,b\n")
    assert (
        "lists 2 files, and none of them exists: paths are relative to"
        in run_train(tmp_path / "t.csv")[1]
    )
    (tmp_path / "t.csv").write_text("name,kind\na.png,a\n")
    assert (
        "has the columns name, kind, but needs one of paths and one of classes"
        in run_train(tmp_path / "t.csv")[1]
    )
    (tmp_path / "t.csv").write_bytes(b"path,label\n\x81\x8d,a\n")
    assert "is not a text table" in run_train(tmp_path / "t.csv")[1]
    (tmp_path / "t.csv").write_text("")
    assert "is empty: it needs the header path,label" in run_train(tmp_path / "t.csv")[1]


def test_a_folder_of_only_damaged_images_gives_a_one_line_error(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "x.png").write_bytes(b"no image")
    assert (
        main(
            [
                "train",
                str(tmp_path / "d"),
                "--model",
                "cifar-resnet8",
                "--size",
                "8",
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 1
    )
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "holds no image to train on: give at least two classes, each a folder of its images; "
            "these files are none: a/x.png, b/x.png"
        )
    )


def test_images_of_several_subfolders_are_said_to_be_of_the_outer_folder(tmp_path):
    counts = {"pug/2023": 2, "pug/2024/may": 2, "husky/2024": 3, "husky": 1, "rex/a": 2, "rex/b": 2}
    listing = list_image_dataset(write_image_folder(tmp_path / "d", counts))
    assert listing.classes == ("husky", "pug", "rex")
    assert listing.notes == (
        "images in subfolders are of the class that the outer folder names: husky (2024), "
        "pug (2023, 2024), rex (a, b)",
    )
    wrapped = write_image_folder(tmp_path / "e", {"cat/images": 2, "dog/images": 2})
    assert list_image_dataset(wrapped).notes == ()


def test_classes_inside_the_only_folder_are_named(tmp_path):
    counts = {f"{split}/images/{name}": 2 for split in ("train", "test") for name in ("ant", "bee")}
    with pytest.raises(DataError, match="only one class, images, with the folders ant, bee: give"):
        resolve_dataset(str(write_image_folder(tmp_path / "d", counts)), (3, 32, 32))


def test_a_class_with_one_image_is_reported_and_used_for_training(tmp_path):
    root = write_image_folder(tmp_path / "d", {"a": 12, "b": 12, "c": 1})
    found = load_or_decode_images(list_image_dataset(root), ImagePreprocessing((3, 16, 16), 16))
    assert [(p.path, p.kind) for p in found.problems] == [("c", "tiny class")]
    assert 2 in found.split_tensors("train")[1]


def test_the_split_depends_on_content_and_is_stable(tmp_path):
    root = write_image_folder(tmp_path / "d", {"a": 60, "b": 60})

    def split_by_digest():
        listing = list_image_dataset(root)
        digests = [hash_entry_content(entry) for entry in listing.entries]
        return dict(zip(digests, assign_splits(list(listing.entries), digests), strict=True))

    before = split_by_digest()
    shares = {part: sum(found == part for found in before.values()) / 120 for part in SPLIT_ORDER}
    assert 0.1 < shares["test"] < 0.3
    assert 0.15 < shares["dev"] < 0.25
    for path in sorted((root / "a").iterdir()):
        path.rename(path.with_name(f"renamed {path.name}"))
    assert split_by_digest() == before
    make_picture(7777).save(root / "b" / "new.png")
    (root / "a" / "copy.png").write_bytes((root / "a" / "renamed 3.png").read_bytes())
    after = split_by_digest()
    assert {digest: after[digest] for digest in before} == before


def test_every_class_has_training_images_and_held_out_images(tmp_path):
    root = write_image_folder(tmp_path / "d", {str(c): 2 for c in range(20)})
    listing = list_image_dataset(root)
    splits = assign_splits(
        list(listing.entries), [hash_entry_content(entry) for entry in listing.entries]
    )
    for label in range(20):
        held = {
            part
            for entry, part in zip(listing.entries, splits, strict=True)
            if entry.label == label
        }
        assert held == {"train", "test"} or (held == {"dev", "test"}), label
    assert splits.count("dev") <= 1


@pytest.mark.parametrize("side", [32, 64, 96, 128, 224])
def test_the_center_crop_of_a_stored_square_equals_the_input_of_a_prediction(tmp_path, side):
    stored_side = cached_image_side(side)
    assert 1.1 < stored_side / side < 1.2
    for i, size in enumerate([(301, 200), (200, 301), (250, 333), (300, 300), (111, 97)]):
        make_picture(i, size=size).save(tmp_path / "x.png")
        image = decode_image(tmp_path / "x.png")
        square = preprocess_image(
            image, ImagePreprocessing((3, stored_side, stored_side), stored_side)
        )
        edge = (stored_side - side) // 2
        middle = square[:, edge : edge + side, edge : edge + side]
        assert torch.equal(
            middle, preprocess_image(image, ImagePreprocessing((3, side, side), stored_side))
        ), size


def test_images_are_decoded_once_and_then_read_from_the_cache(tmp_path, cache_folder):
    root = write_image_folder(tmp_path / "d", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    (root / "train" / "a" / "bad.png").write_bytes(b"no image")
    data = resolve_dataset(str(root), (3, 24, 24))
    first = read_split(data, "train")
    assert first.pixels.shape[1:] == (3, 28, 28)
    assert read_split(data, "test").pixels.shape == (4, 3, 24, 24)
    [cache_entry] = cache_folder.iterdir()
    stamp = cache_entry.stat().st_mtime_ns
    load_or_decode_images.cache_clear()
    again = read_split(data, "train")
    assert torch.equal(again.pixels, first.pixels)
    assert torch.equal(again.labels, first.labels)
    assert [
        (p.path, p.kind)
        for p in load_or_decode_images(
            list_image_dataset(root), ImagePreprocessing((3, 28, 28), 28)
        ).problems
        if p.kind != "tiny class"
    ] == [("train/a/bad.png", "not an image")]
    assert [path.stat().st_mtime_ns for path in cache_folder.iterdir()] == [stamp]
    cut = (cache_entry / "pixels.npy").read_bytes()[:1000]
    (cache_entry / "pixels.npy").unlink()  # what is mapped already stays as it is
    (cache_entry / "pixels.npy").write_bytes(cut)
    load_or_decode_images.cache_clear()
    assert torch.equal(read_split(data, "train").pixels, first.pixels)
    make_picture(999).save(root / "train" / "b" / "0.png")  # other content under the same name
    changed = resolve_dataset(str(root), (3, 24, 24))
    assert not torch.equal(read_split(changed, "train").pixels, first.pixels)
    assert len(list(cache_folder.iterdir())) == 2


def test_an_unwritable_cache_gives_a_warning_and_training_continues(tmp_path, cache_folder, capsys):
    root = write_image_folder(tmp_path / "d", {"train/a": 4, "train/b": 4, "val/a": 2})
    cache_folder.parent.mkdir(parents=True)
    cache_folder.write_bytes(b"a file stands where the folder would")
    assert len(read_split(resolve_dataset(str(root), (3, 24, 24)), "train")) == 6
    assert "decoded images are not cached in" in capsys.readouterr().err


def test_cached_squares_belong_to_the_listed_files(tmp_path):
    root = write_image_folder(tmp_path / "d", {"train/a": 5, "train/b": 5, "val/b": 3})
    listing = list_image_dataset(root)
    gallery = load_or_decode_images(listing, ImagePreprocessing((3, 28, 28), 28))
    assert gallery.split_counts.sum() == 13
    wanted = {
        (
            preprocess_image(decode_image(entry.path), ImagePreprocessing((3, 28, 28), 28))
            .numpy()
            .tobytes(),
            entry.label,
        )
        for entry in listing.entries
    }
    assert {
        (x.numpy().tobytes(), int(y)) for x, y in zip(gallery.pixels, gallery.labels, strict=True)
    } == wanted
    assert gallery.split_tensors("test")[1].tolist() == [1, 1, 1]


def test_photos_are_cropped_to_squares(tmp_path):
    root = write_image_folder(tmp_path / "d", {"a": 2, "b": 2})
    with pytest.raises(
        UsageError, match=r"photos cannot be cropped to \(3, 32, 64\): the input must be square"
    ):
        resolve_dataset(str(root), (3, 32, 64))
    assert resolve_dataset(str(root), (1, 32, 32)).mean == (0.449,)
    assert resolve_dataset(str(root), (3 * 32 * 32,)).input == (3, 32, 32)


def test_a_grayscale_network_gets_grayscale_squares(tmp_path):
    root = write_image_folder(tmp_path / "d", {"train/a": 3, "train/b": 3, "val/b": 2})
    assert read_split(resolve_dataset(str(root), (1, 24, 24)), "train").pixels.shape[1:] == (
        1,
        28,
        28,
    )


def test_a_data_set_name_wins_over_a_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert resolve_dataset("digits").kind == "sklearn"
    with pytest.raises(DataError, match="contains no image folders"):
        resolve_dataset("./digits")


def test_photos_of_unusual_modes_are_cached_together(tmp_path):
    root = write_image_folder(tmp_path / "d", {"train/a": 2, "train/b": 2, "val/b": 2})
    for mode, name in (
        ("L", "grey.png"),
        ("P", "palette.gif"),
        ("RGBA", "alpha.png"),
        ("CMYK", "print.tif"),
    ):
        Image.open(root / "val/b/0.png").convert(mode).save(root / "train" / "a" / name)
    assert (
        len(read_split(resolve_dataset(str(root), (3, 24, 24)), "train"))
        + len(read_split(resolve_dataset(str(root), (3, 24, 24)), "dev"))
        == 8
    )


def test_all_images_of_a_class_without_one_to_train_on_are_counted_as_skipped(tmp_path, capsys):
    counts = {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2, "test/c": 3}
    root = write_image_folder(tmp_path / "d", counts)
    (root / "train" / "c").mkdir()
    (root / "train" / "c" / "torn.png").write_bytes(b"no image")
    _, out, err = run_cli(capsys, "data", "check", root, "--out", tmp_path / "check", "--json")
    facts = json.loads(out)
    assert sum(facts["splits"].values()) == 12
    assert facts["skipped"] == {"empty class": 4}
    assert "c holds 4 files, but no image to train on" in err

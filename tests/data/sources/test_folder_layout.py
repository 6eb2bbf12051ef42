"""Folders of photos: which are splits, which are classes, which are left out, and what is said."""

import pytest

from residua.data.sources.listing import parse_split_name
from residua.data.sources.resolve import list_image_dataset
from residua.errors import DataError
from tests.data.sources.test_image_folder import write_image_folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training set", "train"),
        ("TRAIN", "train"),
        ("seg_train", "train"),
        ("TrainImages", "train"),
        ("trainset", "train"),
        ("train2017", "train"),
        ("Validation", "dev"),
        ("val_images", "dev"),
        ("valid", "dev"),
        ("dev-set", "dev"),
        ("Test set", "test"),
        ("testData", "test"),
        ("my.testing.images", "test"),
        ("trains", ""),
        ("strain", ""),
        ("contest", ""),
        ("valley", ""),
        ("device", ""),
        ("train_test", ""),
        ("evaluation", ""),
        ("holdout", ""),
        ("", ""),
    ],
)
def test_a_word_of_a_folders_name_says_its_split(name, split):
    assert parse_split_name(name) == split


def list_splits(root):
    """The splits of a listing's entries: {name of the top folder: split}."""
    listing = list_image_dataset(root)
    return listing, {entry.name.split("/")[0]: entry.split for entry in listing.entries}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training set", "Test set"),
        ("Train_images", "Test_images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("TRAIN", "VALID"),
        ("flowers-train", "flowers-val"),
    ],
)
def test_split_folders_are_known_by_a_word_of_their_name(tmp_path, train, test):
    folders = {f"{folder}/{name}": 2 for folder in (train, test) for name in ("cat", "dog")}
    listing, splits = list_splits(write_image_folder(tmp_path / "d", folders))
    assert listing.classes == ("cat", "dog")
    assert splits == {train.split("/")[0]: "train", test.split("/")[0]: "test"}
    assert listing.split_source == "folders"
    assert listing.problems == ()


def test_folders_beside_the_splits_are_left_out_and_named_with_their_number_of_files(tmp_path):
    listing, splits = list_splits(
        write_image_folder(
            tmp_path / "d",
            {
                **{f"train/{name}": 3 for name in ("cat", "dog")},
                **{f"test/{name}": 1 for name in ("cat", "dog")},
                **{f"evaluation/{name}": 2 for name in ("cat", "dog")},
                "sketches": 5,
            },
        )
    )
    assert splits == {"train": "train", "test": "test"}
    assert {(p.path, p.kind, p.count) for p in listing.problems} == {
        ("evaluation", "left out", 4),
        ("sketches", "left out", 5),
    }


def test_an_evaluation_folder_beside_a_single_split_is_left_out_and_named(tmp_path):
    folders = {f"{folder}/{name}": 2 for folder in ("train", "evaluation") for name in ("a", "b")}
    listing, splits = list_splits(write_image_folder(tmp_path / "d", folders))
    assert splits == {"train": ""}
    assert listing.split_source == "content"
    assert [(p.path, p.count) for p in listing.problems] == [("evaluation", 4)]


@pytest.mark.parametrize("count", [0, 3])
def test_a_test_folder_without_classes_is_no_split_and_is_named_if_it_has_images(tmp_path, count):
    root = write_image_folder(tmp_path / "d", {"train/a": 2, "train/b": 2, "test": count})
    listing, splits = list_splits(root)
    assert splits == {"train": ""}
    assert [p.path for p in listing.problems] == (["test"] if count else [])
    if count:
        assert "classify them with residua predict" in listing.problems[0].detail


@pytest.mark.parametrize("name", ["train", "training", "test", "validation"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    listing, _ = list_splits(write_image_folder(tmp_path / "d", {name: 3, "bus": 3, "car": 3}))
    assert listing.classes == tuple(sorted([name, "bus", "car"]))
    assert len(listing.entries) == 9
    assert listing.split_source == "content"


AMBIGUOUS_FOLDERS = {
    "classes beside a train folder with subfolders": (
        {"bus": 4, "car": 2, "train/steam": 3, "train/diesel": 3},
        r"the folder 'train' may be the training split \(it holds the folders diesel, steam\) "
        r"or a class \(beside bus with 4 files, car with 2 files\): if it is the split, move "
        r"bus, car "
        "elsewhere; if it is a class, rename train",
    ),
    "held-out images beside folders that are no splits": (
        {"Learn/cat": 3, "Learn/dog": 3, "unseen": 3},
        r"holds unseen, which is named like a held-out split, beside Learn: name the split "
        "folders train, val and test, or rename unseen if it is a class",
    ),
    "unknown words for the splits": (
        {f"{outer}/{inner}": 2 for outer in ("Learn", "Exam") for inner in ("cat", "dog")},
        r"the folders Exam, Learn of .* contain the same subfolders \(cat, dog\): if cat, dog are "
        "the classes, rename Exam, Learn to train, val and test; if Exam, Learn are the classes",
    ),
    "unknown words for some splits": (
        {"Learn/cat": 2, "Learn/dog": 2, "unseen/cat": 2, "unseen/dog": 2, "more/dog": 1},
        r"the folders Learn, more, unseen of .* contain the same subfolders \(cat, dog\)",
    ),
    "folds that share one class": (
        {"fold1/cat": 2, "fold1/dog": 2, "fold_2/cat": 2, "fold_2/bird": 2},
        "the folders fold1, fold_2 of .* are named like folds, and share the subfolders cat: put "
        "all images of a class into one folder",
    ),
    "equal folders below a single one": (
        {f"{outer}/x/{inner}": 2 for outer in ("fall", "spring") for inner in ("cat", "dog")},
        r"the folders fall, spring of .* contain the same subfolders \(cat, dog\)",
    ),
    "splits below the classes": (
        {f"{outer}/{inner}": 2 for outer in ("cat", "dog") for inner in ("train", "test")},
        "that each hold the splits test, train: put the splits above the classes",
    ),
    "splits without classes": (
        {"train": 4, "test": 4, "idle": 4},
        "holds test, train, which are named like splits, but no train folder with one folder for "
        "each class: .*, or rename test, train if they are classes",
    ),
    "held-out splits alone": (
        {f"{outer}/{inner}": 2 for outer in ("val", "test") for inner in ("cat", "dog")},
        "holds only images of held-out splits: add training images, e.g. train/CLASS/image.jpg",
    ),
    "classes beside a test folder of classes": (
        {"cat": 3, "dog": 3, "test/cat": 2, "test/dog": 2},
        r"holds the split test \(folders cat, dog\) next to cat, dog, but no train folder",
    ),
    "held-out images beside images of an unknown split": (
        {f"{outer}/{inner}": 2 for outer in ("unseen/unseen", "testing/testing") for inner in "ab"},
        r"holds the split testing/testing \(folders a, b\) next to unseen, but no train folder",
    ),
    "two test folders": (
        {f"{outer}/{inner}": 2 for outer in ("train", "test", "Test set") for inner in "ab"},
        "has two folders for the test split, Test set and test: rename or move one of them",
    ),
}


@pytest.mark.parametrize(("folders", "sentence"), AMBIGUOUS_FOLDERS.values(), ids=AMBIGUOUS_FOLDERS)
def test_a_layout_that_can_be_read_in_two_ways_is_refused_with_both_readings(
    tmp_path, folders, sentence
):
    with pytest.raises(DataError, match=sentence):
        list_image_dataset(write_image_folder(tmp_path / "d", folders))


def test_images_beside_the_splits_are_skipped_and_said_to_be(tmp_path):
    root = write_image_folder(tmp_path / "d", {"train/a": 2, "train/b": 2, "test/a": 1, "": 2})
    (root / "README.md").write_text("no photograph")
    listing, _ = list_splits(root)
    assert len(listing.entries) == 5
    assert [(p.path, p.kind) for p in listing.problems] == [
        ("0.png", "no class"),
        ("1.png", "no class"),
    ]


def test_classes_may_have_one_subfolder_of_the_same_name_or_images_beside_it(tmp_path):
    root = write_image_folder(tmp_path / "d", {"train/a/images": 2, "train/b/images": 2})
    assert list_image_dataset(root).classes == ("a", "b")
    root = write_image_folder(tmp_path / "e", {"a/x": 1, "a/y": 1, "b/x": 1, "b/y": 1, "a": 1})
    assert list_image_dataset(root).classes == ("a", "b")


@pytest.mark.parametrize(
    "litter",
    [
        *("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
        *("__pycache__", "__macosx", "LOST+FOUND", ".git", "@Recycle"),
    ],
)
def test_folders_of_systems_and_network_drives_are_neither_classes_nor_images(tmp_path, litter):
    root = write_image_folder(
        tmp_path / "d", {"cat": 2, "dog": 2, litter: 2, f"{litter}/cat": 1, f"cat/{litter}": 2}
    )
    (root / "dog" / "THUMBS.DB").write_bytes(b"x")
    listing = list_image_dataset(root)
    assert listing.classes == ("cat", "dog")
    assert [entry.name for entry in listing.entries] == [
        f"{name}/{i}.png" for name in ("cat", "dog") for i in range(2)
    ]


@pytest.mark.parametrize("output", ["runs/a/run.json", "runs/check-d/check.json", "best/run.json"])
def test_folders_that_residua_wrote_are_no_classes(tmp_path, output):
    root = write_image_folder(tmp_path / "d", {"cat": 2, "dog": 2})
    (root / output).parent.mkdir(parents=True)
    (root / output).write_text("{}")
    listing = list_image_dataset(root)
    assert listing.classes == ("cat", "dog")
    assert [(p.path, p.kind) for p in listing.problems] == [(output.split("/")[0], "own output")]


def test_a_folder_without_any_image_is_no_class(tmp_path):
    root = write_image_folder(tmp_path / "d", {"cat": 2, "dog": 2, "notes": 0})
    (root / "notes" / "a.txt").write_text("no image")
    listing = list_image_dataset(root)
    assert listing.classes == ("cat", "dog")
    assert [(p.path, p.kind, p.count) for p in listing.problems] == [("notes", "empty class", 1)]


def test_fifteen_hundred_nested_folders_are_walked(tmp_path):
    root = write_image_folder(tmp_path / "d", {"cat": 1, "dog": 1})
    deep = root / "cat"
    for _ in range(300):
        deep = deep / "x"
    deep.mkdir(parents=True)
    (root / "cat" / "0.png").rename(deep / "deep.png")
    assert len(list_image_dataset(root).entries) == 2


@pytest.mark.parametrize("beside", ["loop", "readme.txt", "empty"])
def test_a_split_folder_inside_its_split_is_unwrapped_whatever_holds_no_image_beside_it(
    tmp_path, beside
):
    root = write_image_folder(
        tmp_path / "d",
        {f"{s}/{s}/{c}": 2 for s in ("01_train", "02_test") for c in ("cat", "dog")},
    )
    for split in ("01_train", "02_test"):
        path = root / split / beside
        if beside == "loop":
            path.symlink_to("..")
        elif beside == "empty":
            path.mkdir()
        else:
            path.write_text("how they were taken")
    listing, splits = list_splits(root)
    assert listing.classes == ("cat", "dog")
    assert splits == {"01_train": "train", "02_test": "test"}

"""Tables of images as people and programs write them: read with a note, or refused."""

import csv
import os
import time

import pytest

from residua.cli.main import main
from residua.data.check import check_dataset
from residua.data.sources.resolve import list_image_dataset
from residua.data.sources.table import list_image_table
from residua.errors import DataError
from tests.data.faulty_photos import make_picture

LABELS = ("cat", "dog", "cat", "dog")
KNOWN_SPLITS = (
    r"train \(or training\), dev \(or val, valid, validation, development\), test \(or testing\)"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x").mkdir()
    for i in range(4):
        make_picture(i).save(tmp_path / "x" / f"{i}.png")
    return tmp_path


def write_table(folder, text, encoding="utf-8", name="t.csv"):
    content = text if isinstance(text, bytes) else text.encode(encoding)
    (folder / name).write_bytes(content)
    return folder / name


def list_rows(listing):
    return [(entry.name, listing.classes[entry.label]) for entry in listing.entries]


def join_rows(header, separator=",", path="x/{}.png"):
    rows = [separator.join((path.format(i), label)) for i, label in enumerate(LABELS)]
    return "\n".join([header, *rows] if header else rows) + "\n"


WANTED = [(f"x/{i}.png", label) for i, label in enumerate(LABELS)]
SPELLINGS = {
    "semicolons": (join_rows("path;label", ";"), "utf-8", ["separated by semicolons"]),
    "tabs": (join_rows("path\tlabel", "\t"), "utf-8", ["separated by tabs"]),
    "vertical bars": (join_rows("path|label", "|"), "utf-8", ["separated by vertical bars"]),
    "Excel's first line": ("sep=;\n" + join_rows("path;label", ";"), "utf-8", ["semicolons"]),
    "UTF-8 with a mark": (join_rows("path,label"), "utf-8-sig", []),
    "UTF-16": (join_rows("path,label"), "utf-16", ["encoded in UTF-16"]),
    "UTF-16 without a mark": (join_rows("path,label"), "utf-16-le", ["taken for UTF-16-LE"]),
    "UTF-16 of the other order": (join_rows("path,label"), "utf-16-be", ["taken for UTF-16-BE"]),
    "UTF-32": (join_rows("path,label"), "utf-32", ["encoded in UTF-32"]),
    "no header": (join_rows(""), "utf-8", ["no header: its first column is taken for the path"]),
    "no header, tabs": (join_rows("", "\t"), "utf-8", ["tabs", "no header"]),
    "backslashes": (join_rows("path,label", path="x\\{}.png"), "utf-8", ["backslashes"]),
    "file_name": (join_rows("file_name,label"), "utf-8", ["from the column file_name"]),
    "Image Path": (join_rows("Image Path,label"), "utf-8", ["from the column Image Path"]),
    "filename,target": (join_rows("filename,target"), "utf-8", ["its classes from target"]),
    "img,class_name": (join_rows("img,class_name"), "utf-8", ["img, and its classes from class"]),
    "blanks": (join_rows(" path , label ", " , "), "utf-8", []),
    "Windows line ends": (join_rows("path,label").replace("\n", "\r\n"), "utf-8", []),
    "empty rows": (join_rows("path,label").replace("\n", "\n\n,\n"), "utf-8", []),
    "quotes": (join_rows('"path","label"').replace("cat", '"cat"'), "utf-8", []),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_table_is_read_in_every_spelling_and_guesses_are_said(folder, name):
    text, encoding, wanted_notes = SPELLINGS[name]
    found = list_image_table(write_table(folder, text, encoding))
    assert list_rows(found) == WANTED
    assert len(found.notes) == len(wanted_notes)
    for note, part in zip(found.notes, wanted_notes, strict=True):
        assert note.startswith("t.csv: ")
        assert part in note
    assert not found.problems


def test_a_table_in_windows_1252_is_read_and_its_guessed_letters_are_shown(folder):
    found = list_image_table(
        write_table(folder, join_rows("path,label").replace("cat", "café"), "cp1252")
    )
    assert found.classes == ("café", "dog")
    assert found.notes == ("t.csv: it is not UTF-8, and is taken for Windows-1252, e.g. café",)


def test_absolute_paths_and_paths_with_a_comma_are_read(folder):
    os.rename(folder / "x" / "0.png", folder / "x" / "0, left.png")
    text = f'path,label\n"x/0, left.png",cat\n{folder}/x/1.png,dog\n'
    assert list_rows(list_image_table(write_table(folder, text))) == [
        (f"{folder}/x/1.png", "dog"),
        ("x/0, left.png", "cat"),
    ]


def test_labels_and_splits_that_look_equal_are_equal(folder):
    labels = ("cat", " cat ", "cat\u00a0", "\u200bcat\ufeff")
    splits = ("train", " train", "Train\u00a0", "test ")
    rows = [f"x/{i}.png,{label},{splits[i]}" for i, label in enumerate(labels)]
    found = list_image_table(write_table(folder, "\n".join(["path,label,split", *rows])))
    assert found.classes == ("cat",)
    assert [entry.split for entry in found.entries] == ["train", "train", "train", "test"]
    assert found.split_source == "column"
    inner = "path,label\nx/0.png,guinea\u00a0 pig\nx/1.png,guinea pig\n"
    assert list_image_table(write_table(folder, inner)).classes == ("guinea pig",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "path,label,split\nx/0.png,a,train\nx/1.png,a,holdout\nx/2.png,b,eval\nx/3.png,b,eval",
            r"^3 of 4 rows of .* have an unknown split \(holdout, eval\): use "
            rf"{KNOWN_SPLITS}$",
        ),
        ("path,label,split\nx/0.png,a,private\nx/1.png,b,private", "2 of 2 rows of .* have an unk"),
        ("path,label,split\nx/0.png,a,0\nx/1.png,b,1", r"2 of 2 rows of .* split \(0, 1\)"),
        (
            "path,label,split\nx/0.png,a,train\nx/1.png,a,\nx/2.png,b, \u00a0\nx/3.png,b,test",
            "2 of 4 rows of .* have no split: leave all splits empty, or give every row one "
            "of train",
        ),
        (
            "path,label,subset\nx/0.png,a,train\nx/1.png,b,holdout",
            "1 of 2 rows of .* have an unkno",
        ),
        ("path,label,is_valid\nx/0.png,a,True", "held-out rows in the column is_valid"),
        ("path,label,is_train,is_test\nx/0.png,a,1,0", "column is_train and is_test"),
        ("path,label,set,usage\nx/0.png,a,train,test", "column set and usage"),
        ("img,image_path,label\nx/0.png,x/0.png,a", "columns img and image_path, either of whi"),
        ("path,target,labels\nx/0.png,1,a", "columns target and labels, either of which may ho"),
        ("path,label,label\nx/0.png,1,a", "columns label and label, either of which may hold th"),
        (
            "name,kind\na.png,a\nb.png,b",
            "has the columns name, kind, but needs one of paths and one of classes",
        ),
        ("x/0.png,cat,dog\nx/1.png,dog,cat", "no header, and its columns may be understood in"),
        ("x/0.png,train,test\nx/1.png,val,test", "no header, and its columns may be understood"),
        ("x/0.png,x/1.png\nx/2.png,x/3.png", "no header, and its columns may be understood"),
        ("x;0.png,a;b\nx;1.png,a;c", "none of them exists"),
        ("a.png|x.png;b\nd.png|x.png;e", "separated by semicolons or vertical bars: put cells"),
        ("path,label\nx/0.png,cat,striped", r"row with 3 cells \(x/0.png \| cat \| striped\)"),
        ('path,label\nx/0.png,"cat\nx/1.png,dog\n', "not a text table: line 3: unexpected end"),
        ('path,label\nx/0.png,"cat\nx/1.png,"dog"\n', "not a text table: line 3: "),
        (b"PK\x03\x04\x00\x00 no table", "not a text table"),
        (b"path,label\n\x81\x8d,a\n", "its byte 11 is not text in Windows-1252"),
        (b"path,label\na\0.png,b\n\n", "its byte 20 is not text in UTF-16-BE"),
        ("", "is empty: it needs the header path,label"),
        ("\n\n , \n", "is empty: it needs the header path,label"),
    ],
)
def test_a_table_that_may_mean_two_things_is_refused(folder, text, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        list_image_table(write_table(folder, text))
    assert "\n" not in str(caught.value)


def test_a_split_column_of_another_name_is_used_if_it_names_splits(folder):
    text = "filepaths,labels,data set\nx/0.png,a,train\nx/1.png,b,train\nx/2.png,a,test\n"
    found = list_image_table(write_table(folder, text))
    assert [entry.split for entry in found.entries] == ["train", "train", "test"]
    assert "t.csv: its splits are taken from the column data_set" in found.notes
    text = "path,label,dataset\nx/0.png,a,Oxford\nx/1.png,b,Stanford\n"
    assert {e.split for e in list_image_table(write_table(folder, text)).entries} == {""}
    text = "path,label,fold\nx/0.png,a,1\nx/1.png,b,2\n"
    [note] = list_image_table(write_table(folder, text)).notes
    assert note == "t.csv: its column fold is not used, and splits are made by content"


def test_a_second_column_of_classes_is_said_to_be_unused(folder):
    text = "path,label,class_name\nx/0.png,0,cat\nx/1.png,1,dog\n"
    found = list_image_table(write_table(folder, text))
    assert found.classes == ("0", "1")
    assert found.notes == ("t.csv: of its columns label and class_name, only label is used",)


def test_a_table_of_held_out_rows_is_not_trained_on(folder):
    rows = [f"x/{i}.png,{label},test" for i, label in enumerate(LABELS)]
    path = write_table(folder, "\n".join(["path,label,split", *rows]))
    assert {entry.split for entry in list_image_table(path).entries} == {"test"}
    with pytest.raises(DataError, match="holds only images of held-out splits"):
        list_image_dataset(path)


def test_rows_without_a_path_or_a_label_are_counted(folder):
    text = "path,label\nx/0.png,cat\nx/1.png,\n,dog\nx/2.png,\u200b\nx/3.png,dog\n"
    found = list_image_table(write_table(folder, text))
    assert len(found.entries) == 2
    assert [(p.path, p.kind, p.detail, p.count) for p in found.problems] == [
        ("t.csv", "no class", "has 3 rows without a path or a label, which are skipped", 3)
    ]


def test_a_file_in_several_rows_is_one_image_of_its_first_row(folder):
    (folder / "link.png").symlink_to(folder / "x" / "2.png")
    os.link(folder / "x" / "3.png", folder / "hard.png")
    rows = [
        *("x/0.png,cat", "x/0.png,cat", "./x/0.png,cat"),
        *("x/1.png,cat", "x/1.png,dog", "x/../x/1.png,bird"),
        *("x/2.png,dog", "link.png,dog", "hard.png,dog", "x/3.png,dog"),
    ]
    found = list_image_table(write_table(folder, "\n".join(["path,label", *rows])))
    assert list_rows(found) == [
        ("hard.png", "dog"),
        ("x/0.png", "cat"),
        ("x/1.png", "cat"),
        ("x/2.png", "dog"),
    ]
    assert {(p.path, p.kind, p.detail) for p in found.problems} == {
        ("x/0.png", "listed twice", "is the same file as ./x/0.png, and is used once"),
        ("x/1.png", "listed twice", "is the same file as x/../x/1.png, and is used once"),
        ("x/1.png", "two labels", "is listed as cat and as dog, bird: the first one is used"),
        ("x/2.png", "listed twice", "is the same file as link.png, and is used once"),
        ("hard.png", "listed twice", "is the same file as x/3.png, and is used once"),
    }
    assert found.notes == (
        "t.csv: 1 of its files are listed as different classes, e.g. x/1.png as cat and as dog, "
        "bird: the first one is used",
    )


def test_a_file_that_is_listed_to_train_on_and_as_held_out_is_held_out(folder):
    rows = ["x/0.png,cat,train", "x/1.png,dog,train", "x/1.png,dog,test", "x/2.png,dog,train"]
    found = list_image_table(write_table(folder, "\n".join(["path,label,split", *rows])))
    assert [entry.split for entry in found.entries] == ["train", "test", "train"]
    [problem] = [p for p in found.problems if p.kind == "two splits"]
    assert problem.detail == "is listed in the splits test and train: it is used in test"


def test_the_fixed_table_keeps_one_row_of_each_file_that_is_listed_twice(folder, tmp_path):
    rows = [f"x/{i}.png,{label}" for i, label in enumerate(LABELS)]
    path = write_table(folder, "\n".join(["path,label", *rows, *rows, *rows]))
    clean = tmp_path / "clean.csv"
    out = ["--out", str(tmp_path / "o")]
    assert main(["data", "check", str(path), "--fix", str(clean), *out]) == 0
    with open(clean, newline="", encoding="utf-8") as file:
        fixed = [(row["path"], row["label"]) for row in csv.DictReader(file)]
    assert fixed == WANTED
    assert list_rows(list_image_table(clean)) == WANTED


def test_the_fixed_table_drops_one_of_two_copies_with_the_same_printed_name(tmp_path):
    """Two names may be printed alike: their problems must not be mixed up."""
    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
    make_picture(1).save(tmp_path / "d" / "cat" / "e\u0301.png")
    make_picture(2).save(tmp_path / "d" / "cat" / "\u00e9.png")
    make_picture(3).save(tmp_path / "d" / "dog" / "x.png")
    make_picture(1).save(tmp_path / "d" / "cat" / "a.png")
    usable = list(check_dataset(list_image_dataset(tmp_path / "d")).iterate_usable_entries())
    assert sorted(entry.path.name for entry in usable) == ["a.png", "x.png", "\u00e9.png"]


def test_names_with_blanks_at_their_ends_survive_the_fixed_table(tmp_path):
    names = (" first.png", "last .png", "=1+1.png", "'quoted.png", "a,b.png", "c;d.png")
    for seed, name in enumerate(names):
        (tmp_path / "d" / "ab"[seed % 2]).mkdir(parents=True, exist_ok=True)
        make_picture(seed).save(tmp_path / "d" / "ab"[seed % 2] / name)
    listing = list_image_dataset(tmp_path / "d")
    clean = tmp_path / "d" / "a" / "clean.csv"
    out = ["--out", str(tmp_path / "o")]
    assert main(["data", "check", str(tmp_path / "d"), "--fix", str(clean), *out]) == 0
    again = list_image_table(clean)
    assert not again.problems
    assert {entry.path.resolve() for entry in again.entries} == {
        entry.path for entry in listing.entries
    }


def test_a_table_of_ten_thousand_classes_is_listed_in_linear_time(tmp_path):
    count = 10_000
    for i in range(count):
        os.close(os.open(tmp_path / f"{i}.png", os.O_CREAT))
    rows = [f"{i}.png,class {i}" for i in range(count)]
    path = write_table(tmp_path, "\n".join(["path,label", *rows]))
    start = time.perf_counter()
    found = list_image_table(path)
    assert time.perf_counter() - start < 4
    assert len(found.classes) == count

"""Hugging Face data sets and parquet: found by the types of their columns, and trained on as the same files are."""

import json
import os
import warnings

import pytest
import torch

from residua.cli.main import main
from residua.data.check import check
from residua.data.folder import data_of, listed
from residua.data.gallery import gathered
from residua.data.read import read
from residua.data.rows import listing_of
from residua.errors import DataError, UsageError
from residua.spec.model import View
from tests.data.faults import COLOURS, bytes_of, picture, sound

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    datasets = pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

datasets.disable_progress_bars()
NAMES = list(COLOURS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gathered.cache_clear()
    listing_of.cache_clear()


def contents(count, seed=0):
    return [bytes_of(picture(seed + i, i % 3), "PNG") for i in range(3 * count)]


def split(count, seed=0, labels=None, **columns):
    """So many images of each of three classes, as the library holds them."""
    images = [{"bytes": content, "path": None} for content in contents(count, seed)]
    labels = [i % 3 for i in range(3 * count)] if labels is None else labels
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES), **columns}
    values = {"picture": images, "kind": labels, **dict.fromkeys(columns, labels)}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def told(listing):
    return [(entry.name, entry.label, entry.part) for entry in listing.entries]


def test_a_saved_data_set_is_the_data_that_the_same_files_are(tmp_path, capsys):
    sound(tmp_path / "files")
    parts = {}
    for part, name in (("train", "train"), ("val", "validation")):
        paths = sorted((tmp_path / "files" / part).rglob("*.png"))
        values = {"image": [str(path) for path in paths], "label": [NAMES.index(path.parent.name) for path in paths]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
        parts[name] = datasets.Dataset.from_dict(values, features=features).shuffle(seed=1)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    files, rows = [data_of(str(tmp_path / place), (3, 24, 24)) for place in ("files", "pets")]
    assert (rows.classes, rows.images, rows.kind, rows.name) == (files.classes, files.images, "folder", "pets")
    for name in ("train", "dev", "test"):
        one, other = [
            sorted((x.numpy().tobytes(), int(y)) for x, y in zip(images.pixels, images.labels, strict=True))
            for images in (read(files, name), read(rows, name))
        ]
        assert one == other
    assert not check(tmp_path / "pets").problems
    options = ["--model", "cifar-resnet8", "--size", "16", "--steps", "2", "--set", "batch_size=8", "--precision", "fp32"]
    assert main(["train", str(tmp_path / "pets"), *options, "--out", str(tmp_path / "r")]) == 0
    assert main(["evaluate", str(tmp_path / "r"), str(tmp_path / "pets"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["count"] == 15


def test_splits_are_those_that_have_a_name_for_it(tmp_path):
    parts = {"train": split(2), "validation": split(1, 50), "test": split(1, 60, [-1, 0, 1]), "unsupervised": split(1, 70)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found = listed(tmp_path / "d")
    assert told(found)[0] == ("train/0", 0, "train")
    assert told(found)[-2:] == [("test/1", 0, "test"), ("test/2", 1, "test")]
    assert {part for _, _, part in told(found)} == {"train", "dev", "test"}
    assert [(p.path, p.kind, p.detail) for p in found.problems] == [
        ("test", "no class", "has 1 rows without a label, which are left out"),
        ("unsupervised", "other split", "is no split to train, validate or test on, and is left out"),
    ]
    split(4).save_to_disk(tmp_path / "one")
    assert {part for _, _, part in told(listed(tmp_path / "one"))} == {""}


def test_columns_are_found_by_their_types_and_an_unclear_choice_is_refused(tmp_path):
    def classes(name, table):
        table.save_to_disk(tmp_path / name)
        return listed(tmp_path / name).classes

    assert classes("a", split(2)) == ("bird", "cat", "dog")
    assert classes("b", split(2, label=datasets.ClassLabel(names=["x", "y", "z"]))) == ("x", "y", "z")  # its usual name
    assert classes("c", split(2).cast_column("kind", datasets.Value("int64")).rename_column("kind", "label")) == ("0", "1", "2")
    with pytest.raises(
        DataError, match=r"d has 2 columns of labels, kind, coarse: rename the one that is meant label, and save_to"
    ):
        classes("d", split(2, coarse=datasets.ClassLabel(names=NAMES)))
    with pytest.raises(DataError, match=r"e has the columns picture, of which none is of labels"):
        classes("e", split(2).remove_columns("kind"))
    with pytest.raises(DataError, match=r"f has the columns kind, of which none is of images"):
        classes("f", split(2).remove_columns("picture"))
    two = split(2)
    with pytest.raises(DataError, match=r"g has 2 columns of images, picture, mask: rename the one that is meant image"):
        classes("g", two.add_column("mask", two.with_format("arrow")[:].column("picture").to_pylist(), feature=datasets.Image()))


def test_a_parquet_file_of_images_is_read_with_and_without_the_librarys_types(tmp_path):
    pixels = {}
    split(4).to_parquet(tmp_path / "typed.parquet")
    rows = {"image": [{"bytes": content, "path": "a.png"} for content in contents(4)], "label": [NAMES[i % 3] for i in range(12)]}
    parquet.write_table(pa.table(rows), tmp_path / "struct.parquet")
    parquet.write_table(pa.table(rows | {"image": contents(4)}), tmp_path / "bytes.parquet")
    for name in ("typed", "struct", "bytes"):
        found = listed(tmp_path / f"{name}.parquet")
        assert found.classes == ("bird", "cat", "dog")
        assert [label for _, label, _ in told(found)] == [0, 1, 2] * 4
        assert found.name == name
        pixels[name] = gathered(found, View((3, 16, 16), 16)).pixels
    assert torch.equal(pixels["typed"], pixels["struct"])
    assert torch.equal(pixels["typed"], pixels["bytes"])


def test_a_damaged_row_is_named_and_left_out(tmp_path):
    rows = {"image": [*contents(4), b"no image", contents(1, 90)[0][:-200], None], "label": [NAMES[i % 3] for i in range(15)]}
    parquet.write_table(pa.table(rows), tmp_path / "d.parquet")
    found = gathered(listed(tmp_path / "d.parquet"), View((3, 16, 16), 16))
    assert [(p.path, p.kind) for p in found.problems if p.kind != "tiny class"] == [
        ("train/12", "not an image"), ("train/13", "truncated"), ("train/14", "unreadable"),
    ]  # fmt: skip
    assert len(found.pixels) == 12


def test_a_row_that_names_a_file_of_the_users_is_not_followed(tmp_path):
    picture(1).save(tmp_path / "mine.png")
    values = {"image": [*({"bytes": c, "path": None} for c in contents(2)), {"bytes": None, "path": str(tmp_path / "mine.png")}]}
    parquet.write_table(pa.table(values | {"label": [NAMES[i % 3] for i in range(7)]}), tmp_path / "d.parquet")
    [problem] = [p for p in check(tmp_path / "d.parquet").problems if p.path == "train/6"]
    assert problem.kind == "unreadable"
    assert problem.detail.endswith("mine.png, a file of another place")


def test_a_parquet_table_of_paths_is_a_table(tmp_path):
    sound(tmp_path / "d")
    paths = sorted((tmp_path / "d").rglob("*.png"))
    rows = {
        "number": list(range(len(paths))), "Label": [path.parent.name for path in paths],
        "path": [str(path.relative_to(tmp_path)) for path in paths], "split": [path.parts[-3] for path in paths],
    }  # fmt: skip
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    text = "\n".join(["path,label,split", *(",".join(row) for row in zip(rows["path"], rows["Label"], rows["split"], strict=True))])
    (tmp_path / "t.csv").write_text(text)
    one, other = listed(tmp_path / "t.parquet"), listed(tmp_path / "t.csv")
    assert (one.classes, one.entries, one.problems) == (other.classes, other.entries, other.problems)
    assert {part for _, _, part in told(one)} == {"train", "test"}
    parquet.write_table(pa.table({"name": ["a"], "kind": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"has the columns name, kind: one must be called path and one label"):
        listed(tmp_path / "other.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"no.parquet cannot be read as parquet: .+"):
        listed(tmp_path / "no.parquet")


def test_a_data_set_of_the_hub_is_asked_for_by_name_and_configuration(tmp_path, monkeypatch):
    asked = []

    def load(name, config=None):
        asked.append((name, config))
        if name == "me/many":
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\nExample of usage:\n\t?"
            )
        return datasets.DatasetDict({"train": split(4), "test": split(2, 50)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = data_of("hf:me/pets", (3, 16, 16))
    assert (data.name, data.folder, data.classes, data.images) == ("pets", "hf:me/pets", ("bird", "cat", "dog"), 12)
    assert data_of("hf:me/pets:small").name == "pets-small"
    assert len(read(data, "test")) == 6
    assert asked == [("me/pets", None), ("me/pets", "small")]  # each once
    with pytest.raises(DataError, match=r"hf:me/many cannot be read: Config name is missing. Please .* configs: \['a', 'b'\]$"):
        data_of("hf:me/many")


def test_without_the_library_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs datasets, which is not installed: pip install 'residua\[datasets\]'"):
        data_of("hf:me/pets")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"a parquet table needs pyarrow, .*: pip install 'residua\[datasets\]'"):
        data_of(str(tmp_path / "t.parquet"))


def test_a_data_set_without_a_network_ends_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert main(["train", "hf:nobody/nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("residua: hf:nobody/nothing cannot be read: ")
    assert error.count("\n") == 1
    assert os.environ.get("HF_TOKEN", "?") not in error

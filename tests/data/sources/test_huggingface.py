"""Hugging Face data sets and parquet: columns found by type, pixels equal to those of files."""

import json
import os
import warnings

import pytest
import torch

from residua.cli.main import main
from residua.config.model import ImagePreprocessing
from residua.data.check import check_dataset
from residua.data.digest_index import get_index
from residua.data.image_cache import hash_listing, load_or_decode_images
from residua.data.read import read_split
from residua.data.sources.huggingface import (
    ImageColumn,
    list_huggingface_cached,
    list_huggingface_dataset,
)
from residua.data.sources.resolve import list_image_dataset, resolve_dataset
from residua.errors import DataError, UsageError
from tests.data.faulty_photos import CLASS_CHANNELS, encode_image, make_picture, write_clean_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    datasets = pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

datasets.disable_progress_bars()
CLASS_NAMES = list(CLASS_CHANNELS)


@pytest.fixture(autouse=True)
def isolate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_or_decode_images.cache_clear()
    list_huggingface_cached.cache_clear()


def make_png_files(count, seed=0):
    return [encode_image(make_picture(seed + i, i % 3), "PNG") for i in range(3 * count)]


def make_split(count, seed=0, labels=None, **columns):
    """A table of the datasets library with `count` images of each of three classes."""
    images = [{"bytes": content, "path": None} for content in make_png_files(count, seed)]
    labels = [i % 3 for i in range(3 * count)] if labels is None else labels
    features = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=CLASS_NAMES),
        **columns,
    }
    values = {"picture": images, "kind": labels, **dict.fromkeys(columns, labels)}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def list_entries(listing):
    return [(entry.name, entry.label, entry.split) for entry in listing.entries]


def test_a_saved_data_set_equals_the_same_images_in_a_folder(tmp_path, capsys):
    write_clean_folder(tmp_path / "files")
    parts = {}
    for part, name in (("train", "train"), ("val", "validation")):
        paths = sorted((tmp_path / "files" / part).rglob("*.png"))
        values = {
            "image": [str(path) for path in paths],
            "label": [CLASS_NAMES.index(path.parent.name) for path in paths],
        }
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASS_NAMES)}
        )
        parts[name] = datasets.Dataset.from_dict(values, features=features).shuffle(seed=1)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    files, rows = [
        resolve_dataset(str(tmp_path / place), (3, 24, 24)) for place in ("files", "pets")
    ]
    assert (rows.classes, rows.num_images, rows.kind, rows.name) == (
        files.classes,
        files.num_images,
        "folder",
        "pets",
    )
    for name in ("train", "dev", "test"):
        one, other = [
            sorted(
                (x.numpy().tobytes(), int(y))
                for x, y in zip(images.pixels, images.labels, strict=True)
            )
            for images in (read_split(files, name), read_split(rows, name))
        ]
        assert one == other
    assert not check_dataset(list_image_dataset(tmp_path / "pets")).problems
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
    assert main(["train", str(tmp_path / "pets"), *options, "--out", str(tmp_path / "r")]) == 0
    assert main(["evaluate", str(tmp_path / "r"), str(tmp_path / "pets"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["count"] == 15


def test_splits_are_recognised_by_their_names(tmp_path):
    parts = {
        "train": make_split(2),
        "validation": make_split(1, 50),
        "test": make_split(1, 60, [-1, 0, 1]),
        "unsupervised": make_split(1, 70),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found = list_image_dataset(tmp_path / "d")
    assert list_entries(found)[0] == ("train/0", 0, "train")
    assert list_entries(found)[-2:] == [("test/1", 0, "test"), ("test/2", 1, "test")]
    assert {part for _, _, part in list_entries(found)} == {"train", "dev", "test"}
    assert [(p.path, p.kind, p.detail) for p in found.problems] == [
        ("test", "no class", "has 1 rows without a label, which are skipped"),
        (
            "unsupervised",
            "other split",
            "is not a training, validation or test split, and is skipped",
        ),
    ]
    make_split(4).save_to_disk(tmp_path / "one")
    assert {part for _, _, part in list_entries(list_image_dataset(tmp_path / "one"))} == {""}


def test_columns_are_chosen_by_type_and_an_ambiguous_choice_is_refused(tmp_path):
    def list_classes(name, table):
        table.save_to_disk(tmp_path / name)
        return list_image_dataset(tmp_path / name).classes

    assert list_classes("a", make_split(2)) == ("bird", "cat", "dog")
    assert list_classes("b", make_split(2, label=datasets.ClassLabel(names=["x", "y", "z"]))) == (
        "x",
        "y",
        "z",
    )  # its usual name
    assert list_classes(
        "c",
        make_split(2).cast_column("kind", datasets.Value("int64")).rename_column("kind", "label"),
    ) == ("0", "1", "2")
    with pytest.raises(
        DataError,
        match=r"d has 2 columns of labels, kind, coarse: "
        r"rename the right one to 'label', and save the data",
    ):
        list_classes("d", make_split(2, coarse=datasets.ClassLabel(names=CLASS_NAMES)))
    with pytest.raises(
        DataError, match=r"e has the columns picture, and none of them holds labels"
    ):
        list_classes("e", make_split(2).remove_columns("kind"))
    with pytest.raises(DataError, match=r"f has the columns kind, and none of them holds images"):
        list_classes("f", make_split(2).remove_columns("picture"))
    two = make_split(2)
    with pytest.raises(
        DataError,
        match=r"g has 2 columns of images, picture, mask: rename the right one to 'image'",
    ):
        list_classes(
            "g",
            two.add_column(
                "mask",
                two.with_format("arrow")[:].column("picture").to_pylist(),
                feature=datasets.Image(),
            ),
        )


def test_a_parquet_file_of_images_is_read_with_and_without_huggingface_feature_types(tmp_path):
    pixels = {}
    make_split(4).to_parquet(tmp_path / "typed.parquet")
    rows = {
        "image": [{"bytes": content, "path": "a.png"} for content in make_png_files(4)],
        "label": [CLASS_NAMES[i % 3] for i in range(12)],
    }
    parquet.write_table(pa.table(rows), tmp_path / "struct.parquet")
    parquet.write_table(pa.table(rows | {"image": make_png_files(4)}), tmp_path / "bytes.parquet")
    for name in ("typed", "struct", "bytes"):
        found = list_image_dataset(tmp_path / f"{name}.parquet")
        assert found.classes == ("bird", "cat", "dog")
        assert [label for _, label, _ in list_entries(found)] == [0, 1, 2] * 4
        assert found.name == name
        pixels[name] = load_or_decode_images(found, ImagePreprocessing((3, 16, 16), 16)).pixels
    assert torch.equal(pixels["typed"], pixels["struct"])
    assert torch.equal(pixels["typed"], pixels["bytes"])


def test_a_damaged_row_is_reported_and_skipped(tmp_path):
    rows = {
        "image": [*make_png_files(4), b"no image", make_png_files(1, 90)[0][:-200], None],
        "label": [CLASS_NAMES[i % 3] for i in range(15)],
    }
    parquet.write_table(pa.table(rows), tmp_path / "d.parquet")
    found = load_or_decode_images(
        list_image_dataset(tmp_path / "d.parquet"), ImagePreprocessing((3, 16, 16), 16)
    )
    assert [(p.path, p.kind) for p in found.problems if p.kind != "tiny class"] == [
        ("train/12", "not an image"),
        ("train/13", "truncated"),
        ("train/14", "unreadable"),
    ]
    assert len(found.pixels) == 12


def test_a_row_that_points_to_a_local_file_is_not_followed(tmp_path):
    make_picture(1).save(tmp_path / "mine.png")
    values = {
        "image": [
            *({"bytes": c, "path": None} for c in make_png_files(2)),
            {"bytes": None, "path": str(tmp_path / "mine.png")},
        ]
    }
    parquet.write_table(
        pa.table(values | {"label": [CLASS_NAMES[i % 3] for i in range(7)]}), tmp_path / "d.parquet"
    )
    [problem] = [
        p
        for p in check_dataset(list_image_dataset(tmp_path / "d.parquet")).problems
        if p.path == "train/6"
    ]
    assert problem.kind == "unreadable"
    assert problem.detail.endswith(
        "mine.png, which is not read because it is outside the cache folders of Hugging Face"
    )


def test_a_parquet_table_of_paths_is_read_like_a_csv_table(tmp_path):
    write_clean_folder(tmp_path / "d")
    paths = sorted((tmp_path / "d").rglob("*.png"))
    rows = {
        "number": list(range(len(paths))),
        "Label": [path.parent.name for path in paths],
        "path": [str(path.relative_to(tmp_path)) for path in paths],
        "split": [path.parts[-3] for path in paths],
    }
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    text = "\n".join(
        [
            "path,label,split",
            *(
                ",".join(row)
                for row in zip(rows["path"], rows["Label"], rows["split"], strict=True)
            ),
        ]
    )
    (tmp_path / "t.csv").write_text(text)
    one, other = list_image_dataset(tmp_path / "t.parquet"), list_image_dataset(tmp_path / "t.csv")
    assert (one.classes, one.entries, one.problems) == (
        other.classes,
        other.entries,
        other.problems,
    )
    assert {part for _, _, part in list_entries(one)} == {"train", "test"}
    parquet.write_table(pa.table({"name": ["a"], "kind": ["b"]}), tmp_path / "other.parquet")
    with pytest.raises(
        DataError, match=r"has the columns name, kind, but needs one of paths and one of classes"
    ):
        list_image_dataset(tmp_path / "other.parquet")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"no.parquet cannot be read as parquet: .+"):
        list_image_dataset(tmp_path / "no.parquet")


def write_parquet_splits(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_split(2, 100 * seed).to_parquet(root / name)
    return root


@pytest.mark.parametrize(
    "names",
    [
        [f"data/{name}.parquet" for name in ("train-0-of-2", "train-1-of-2", "test-0-of-1")],
        ("train.parquet", "train-2.parquet", "test.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
    ],
    ids=["data", "flat", "folders"],
)
def test_a_downloaded_folder_of_parquet_files_is_read(tmp_path, names):
    root = write_parquet_splits(tmp_path / "d", *names)
    (root / "README.md").write_text("---\n---\n")
    found = list_image_dataset(root)
    assert found.classes == ("bird", "cat", "dog")
    assert (found.name, found.split_source) == ("d", "dataset")
    assert sorted(part for _, _, part in list_entries(found)) == ["test"] * 6 + ["train"] * 12
    # the same images as in the files one by one
    contents = [e.read_bytes() for e in found.entries if e.split == "test"]
    one = list_image_dataset(root / names[2])
    assert contents == [entry.read_bytes() for entry in one.entries]


def test_parquet_files_without_splits_are_split_by_content(tmp_path):
    root = write_parquet_splits(tmp_path / "d", "part-0.parquet", "part-1.parquet")
    found = list_image_dataset(root)
    assert ({part for _, _, part in list_entries(found)}, len(found.entries)) == ({""}, 12)
    assert found.split_source == "content"


def test_ambiguous_folders_of_parquet_files_are_refused(tmp_path):
    root = write_parquet_splits(tmp_path / "a", "data/train-0.parquet", "data/holdout-0.parquet")
    with pytest.raises(
        DataError, match=r"1 of 2 parquet files in .* have no split in their names \(holdout-0.parq"
    ):
        list_image_dataset(root)
    root = write_parquet_splits(tmp_path / "b", "en/train-0.parquet", "fr/train-0.parquet")
    with pytest.raises(DataError, match=r"parquet files in the folders en, fr: give one of them"):
        list_image_dataset(root)


def test_a_parquet_file_beside_folders_of_classes_does_not_hide_them(tmp_path):
    write_clean_folder(tmp_path / "d")
    make_split(2).to_parquet(tmp_path / "d" / "train" / "extra.parquet")
    assert len(list_image_dataset(tmp_path / "d" / "train").entries) == 36


def test_splits_that_are_used_together_are_said(tmp_path):
    parts = {"train": make_split(2), "train_extra": make_split(1, 50), "test": make_split(1, 60)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    found = list_image_dataset(tmp_path / "d")
    assert found.notes == ("the splits train and train_extra are both used as the train split",)
    assert sum(part == "train" for _, _, part in list_entries(found)) == 9


def test_a_split_without_labels_is_reported(tmp_path):
    parts = {"train": make_split(2), "test": make_split(1, 60).remove_columns("kind")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    [problem] = list_image_dataset(tmp_path / "d").problems
    assert (problem.path, problem.detail, problem.count) == (
        "test",
        "has no column kind, and is skipped",
        3,
    )


def test_labels_in_text_that_look_equal_are_one_class(tmp_path):
    rows = {"image": make_png_files(1), "label": ["cat", "cat\u00a0", " dog"]}
    parquet.write_table(pa.table(rows), tmp_path / "d.parquet")
    assert list_image_dataset(tmp_path / "d.parquet").classes == ("cat", "dog")


def test_a_hub_data_set_is_loaded_by_name_and_configuration(tmp_path, monkeypatch):
    requests = []

    def load_from_hub(name, config=None):
        requests.append((name, config))
        if name == "me/many":
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\n"
                "Example of usage:\n\t?"
            )
        return datasets.DatasetDict({"train": make_split(4), "test": make_split(2, 50)})

    monkeypatch.setattr(datasets, "load_dataset", load_from_hub)
    data = resolve_dataset("hf:me/pets", (3, 16, 16))
    assert (data.name, data.folder, data.classes, data.num_images) == (
        "pets",
        "hf:me/pets",
        ("bird", "cat", "dog"),
        12,
    )
    assert resolve_dataset("hf:me/pets:small").name == "pets-small"
    assert len(read_split(data, "test")) == 6
    assert requests == [("me/pets", None), ("me/pets", "small")]  # each once
    with pytest.raises(
        DataError,
        match=r"hf:me/many cannot be read: Config name is missing. "
        r"Please .* configs: \['a', 'b'\]$",
    ):
        resolve_dataset("hf:me/many")


@pytest.mark.parametrize("name", ["..", "../pets", "/pets", "pets", "./pets", "", "a/../pets"])
def test_a_prefix_without_a_hub_name_reads_no_local_folder(tmp_path, monkeypatch, name):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    monkeypatch.setattr(datasets, "load_dataset", None)  # so that calling it would fail
    with pytest.raises(
        UsageError, match=r"is not a name on the Hugging Face hub: .*|hf: names no data set"
    ):
        resolve_dataset(f"hf:{name}")


def test_a_hub_name_is_not_read_from_a_folder_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "me" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(
        UsageError,
        match="hf:me/pets names a data set on the Hugging Face hub, but me/pets is also on this "
        "machine: give me/pets to read the local one, or start the command in another folder",
    ):
        resolve_dataset("hf:me/pets")


def test_without_the_datasets_library_the_error_gives_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match="needs datasets, which is not installed: pip install datasets",
    ):
        resolve_dataset("hf:me/pets")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="a parquet table needs pyarrow, .*: pip install pyarrow"):
        resolve_dataset(str(tmp_path / "t.parquet"))


def test_loading_a_hub_data_set_offline_gives_a_one_line_error(monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert main(["train", "hf:nobody/nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("residua: hf:nobody/nothing cannot be read: ")
    assert error.count("\n") == 1
    assert os.environ.get("HF_TOKEN", "?") not in error


def test_the_images_of_a_parquet_file_are_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    table = {"image": make_png_files(4), "label": [i % 3 for i in range(12)]}
    parquet.write_table(pa.table(table), path)
    first = hash_listing(list_image_dataset(path))
    age_cached_tables(tmp_path)
    for _ in range(2):
        digests = hash_listing(list_image_dataset(path))
        hash_listing.cache_clear()
        get_index.cache_clear()
        list_huggingface_cached.cache_clear()
    assert digests == first
    monkeypatch.setattr(ImageColumn, "read_row_bytes", lambda self, row: 1 / 0)
    [entry, *_] = list_huggingface_dataset(str(path)).entries
    assert entry.size_and_mtime != (0, 0)
    assert hash_listing(list_huggingface_dataset(str(path))) == first


def test_an_image_file_that_a_row_names_may_be_edited(tmp_path, monkeypatch):
    mine = tmp_path / "hub" / "mine.png"
    mine.parent.mkdir()
    make_picture(1).save(mine)
    monkeypatch.setattr(
        "residua.data.sources.huggingface.list_huggingface_cache_folders",
        lambda: [mine.parent.resolve()],
    )
    images = [
        *({"bytes": content, "path": None} for content in make_png_files(2)),
        {"bytes": None, "path": str(mine)},
    ]
    path = tmp_path / "d.parquet"
    parquet.write_table(pa.table({"image": images, "label": [i % 3 for i in range(7)]}), path)
    hash_listing(list_image_dataset(path))
    age_cached_tables(tmp_path)
    first = hash_listing(list_image_dataset(path))
    make_picture(2).save(mine)
    list_huggingface_cached.cache_clear()
    hash_listing.cache_clear()
    get_index.cache_clear()
    second = hash_listing(list_image_dataset(path))
    assert (second[:6], second[6] != first[6]) == (first[:6], True)


def age_cached_tables(folder):
    """Digests of files that were just written are not kept."""
    for file in folder.rglob("*.arrow"):
        os.utime(file, (1e9, 1e9))
    list_huggingface_cached.cache_clear()
    hash_listing.cache_clear()

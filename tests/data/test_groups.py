"""Groups of images, e.g. of a patient: a group is in one split, or that is said."""

import csv
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from residua.cli.main import main
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.papers import network
from residua.data.check import check_dataset, format_usable_csv
from residua.data.image_cache import hash_listing, load_or_decode_images
from residua.data.seen_images import encode_digests
from residua.data.sources.listing import ImageEntry
from residua.data.sources.resolve import dataset_from_listing, list_image_dataset
from residua.data.splits import assign_splits, make_unit_keys
from residua.data.unseen_images import choose_images
from residua.errors import DataError
from tests.data.faulty_photos import make_picture

IMAGES, PATIENTS = 60, 15


def split_by_hand(rng, images, groups, classes):
    """Make entries and digests of random images, some of them copies, some without a group."""
    pool = [rng.bytes(32).hex() for _ in range(images)]
    digests = [pool[i] for i in rng.integers(0, images, images)]
    names = [f"g{i}" if i else "" for i in rng.integers(0, groups, images)]
    labels = rng.integers(0, classes, images).tolist()
    entries = [
        ImageEntry(Path(), "", label, "", group=name)
        for label, name in zip(labels, names, strict=True)
    ]
    return entries, digests


def label_components(entries, digests):
    """Number the sets of images that groups and copies connect, by scipy."""
    places = defaultdict(list)
    for i, (entry, digest) in enumerate(zip(entries, digests, strict=True)):
        places["copy", digest].append(i)
        if entry.group:
            places["group", entry.group].append(i)
    pairs = [(found[0], i) for found in places.values() for i in found]
    rows, columns = zip(*pairs, strict=True)
    size = len(entries)
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def test_images_that_groups_or_copies_connect_have_one_key_and_one_split():
    rng = np.random.default_rng(0)
    for _ in range(200):
        entries, digests = split_by_hand(rng, 40, int(rng.integers(2, 30)), 3)
        components = label_components(entries, digests)
        keys = make_unit_keys([entry.group for entry in entries], digests)
        assert len(set(zip(components, keys, strict=True))) == len(set(components))
        assert len(set(keys)) == len(set(components))
        splits = assign_splits(entries, digests)
        assert len(set(zip(components, splits, strict=True))) == len(set(components))
        labels = [entry.label for entry in entries]
        trained = {label for label, s in zip(labels, splits, strict=True) if s == "train"}
        assert trained == set(labels)


def test_a_class_of_several_groups_has_images_to_test():
    for number in range(50):
        names = [f"{number}-{i}" for i in range(4) for _ in range(3)]
        entries = [ImageEntry(Path(), "", 0, "", group=name) for name in names]
        digests = [np.random.default_rng(i).bytes(32).hex() for i in range(len(names))]
        assert {"train", "test"} <= set(assign_splits(entries, digests))


def test_the_split_of_a_group_does_not_depend_on_its_images():
    names = [f"p{i % 40}" for i in range(400)]
    entries = [ImageEntry(Path(), "", i % 2, "", group=name) for i, name in enumerate(names)]
    by_group = []
    for seed in (0, 1):
        digests = [np.random.default_rng((seed, i)).bytes(32).hex() for i in range(400)]
        by_group.append(dict(zip(names, assign_splits(entries, digests), strict=True)))
    assert by_group[0] == by_group[1]


def write_table(folder, column="patient_id", splits=None, name="t.csv"):
    """Write photographs of 15 patients, and a table of them; return the table's path."""
    header = ["path", "label", column, *(["split"] if splits else [])]
    rows = [",".join(header)]
    for i in range(IMAGES):
        if not (folder / f"{i}.png").exists():
            make_picture(i).save(folder / f"{i}.png")
        row = [f"{i}.png", "ab"[i % 2], f"p{i // 4}", *([splits[i]] if splits else [])]
        rows.append(",".join(row))
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    write_table(folder)
    return folder


@pytest.mark.parametrize(
    ("column", "is_said"),
    [("group", False), ("Patient ID", True), ("subject", True), ("lesion_id", True)],
)
def test_a_column_of_groups_is_found_by_its_name(folder, column, is_said):
    listing = list_image_dataset(write_table(folder, column, name=f"{column}.csv"))
    assert len({entry.group for entry in listing.entries}) == PATIENTS
    assert any("its groups are taken from the column" in n for n in listing.notes) == is_said


def test_other_columns_name_no_groups(folder):
    listing = list_image_dataset(write_table(folder, "camera", name="camera.csv"))
    assert {entry.group for entry in listing.entries} == {""}


def test_two_columns_of_groups_are_refused_unless_one_is_called_group(folder):
    text = (folder / "t.csv").read_text().splitlines()
    for header, is_clear in (("path,label,patient_id,lesion_id", 0), ("path,label,group,site", 1)):
        rows = [header, *(f"{row},{i % 9}" for i, row in enumerate(text[1:]))]
        (folder / "two.csv").write_text("\n".join(rows) + "\n")
        if is_clear:
            listing = list_image_dataset(folder / "two.csv")
            assert {entry.group for entry in listing.entries} == {f"p{i}" for i in range(15)}
            continue
        with pytest.raises(DataError, match="patient_id and lesion_id, .*call one of them group"):
            list_image_dataset(folder / "two.csv")


def test_names_of_splits_in_the_column_group_are_not_taken_for_groups(folder):
    path = folder / "words.csv"
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i % 3 else 'test'}" for i in range(IMAGES)]
    path.write_text("\n".join(["path,label,group", *rows]) + "\n")
    with pytest.raises(DataError, match="names of splits in its column group: call it split"):
        list_image_dataset(path)


def test_data_check_counts_the_groups_and_keeps_them_in_the_csv(folder, tmp_path, capsys):
    arguments = ["data", "check", str(folder / "t.csv"), "--json", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--fix", str(tmp_path / "clean.csv")]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (facts["groups"], facts["split_from"]) == (PATIENTS, "content")
    assert "15 groups, each in one split" in printed.err
    assert "15 groups, each in one split" in (tmp_path / "out" / "check.html").read_text()
    with (tmp_path / "clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stems = {row["path"].rpartition("/")[2].partition(".")[0]: row["group"] for row in rows}
    assert stems == {stem: f"p{int(stem) // 4}" for stem in stems}


def test_no_group_is_on_two_sides_of_the_decoded_images(folder):
    listing = list_image_dataset(folder / "t.csv")
    group_by_name = {entry.name: entry.group for entry in listing.entries}
    images = load_or_decode_images(listing, ImagePreprocessing((3, 8, 8), 8))
    groups = [
        {group_by_name[name] for name in images.names[images.split_slice(split)]}
        for split in ("train", "dev", "test")
    ]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == PATIENTS


def test_images_that_were_cached_without_groups_are_split_again_with_them(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    grouped = list_image_dataset(folder / "t.csv")
    ungrouped = replace(
        grouped, entries=tuple(replace(entry, group="") for entry in grouped.entries)
    )
    sides = []
    for listing in (ungrouped, grouped):
        images = load_or_decode_images(listing, ImagePreprocessing((3, 9, 9), 9))
        sides.append({*images.names[images.split_slice("test")]})
        splits = assign_splits([*listing.entries], list(hash_listing(listing)))
        names = {e.name for e, s in zip(listing.entries, splits, strict=True) if s == "test"}
        assert sides[-1] == names
    assert sides[0] != sides[1]


def test_splits_of_the_table_that_separate_groups_are_said_with_counts(folder):
    splits = ["train"] * 38 + ["test"] * 22  # the patient p9 has two images on each side
    listing = list_image_dataset(write_table(folder, splits=splits, name="own.csv"))
    checked = check_dataset(listing)
    [problem] = [p for p in checked.problems if p.kind == "split group"]
    assert (problem.path, problem.count) == ("p9", 4)
    assert problem.detail.endswith("in several splits: test 2, train 2")
    assert any("1 of its 15 groups, with 4 images, are in several" in n for n in listing.notes)
    whole = ["train"] * 40 + ["test"] * 20
    listing = list_image_dataset(write_table(folder, splits=whole, name="whole.csv"))
    assert not any("several splits" in note for note in listing.notes)
    assert not [p for p in listing.problems if p.kind == "split group"]


def test_dev_images_are_whole_groups_of_the_tables_training_images(folder):
    splits = ["train"] * 40 + ["test"] * 20
    listing = list_image_dataset(write_table(folder, splits=splits, name="whole.csv"))
    entries = [*listing.entries]
    chosen = assign_splits(entries, list(hash_listing(listing)))
    sides = defaultdict(set)
    for entry, split in zip(entries, chosen, strict=True):
        sides[entry.group].add(split)
    assert {frozenset(side) for side in sides.values()} == {
        frozenset({"train"}),
        frozenset({"dev"}),
        frozenset({"test"}),
    }


def test_a_file_in_two_groups_is_a_problem(folder):
    text = (folder / "t.csv").read_text()
    (folder / "twice.csv").write_text(text + "0.png,a,p7\n")
    listing = list_image_dataset(folder / "twice.csv")
    [problem] = [p for p in listing.problems if p.kind == "two groups"]
    assert problem.detail == "is listed in the groups p0 and p7: the first one is used"


def test_too_few_groups_to_hold_out_are_refused(folder, capsys):
    path = folder / "few.csv"
    rows = [f"{i}.png,{'ab'[i % 2]},{i % 2}" for i in range(IMAGES)]
    path.write_text("\n".join(["path,label,group", *rows]) + "\n")
    assert main(["train", str(path), "--model", "resnet18", "--size", "16", "--dry-run"]) == 1
    assert "its 2 groups are too few to hold out whole ones" in capsys.readouterr().err


def test_new_images_of_a_known_group_do_not_count_as_unseen(folder):
    listing = list_image_dataset(folder / "t.csv")
    digests = dict(zip((e.name for e in listing.entries), hash_listing(listing), strict=True))
    config = ModelConfig(
        network=network("cifar-resnet8", classes=2),
        classes=("a", "b"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        train_digests=encode_digests([digests["0.png"], digests["4.png"]]),
    )
    dataset = dataset_from_listing(listing, (3, 32, 32))
    choice = choose_images(dataset, None, config)
    chosen = {entry.group for entry in choice.dataset.listing.entries}
    assert chosen == {f"p{i}" for i in range(2, PATIENTS)}
    assert "6 others are of the same groups" in choice.reason
    ungrouped = tuple(replace(entry, group="") for entry in listing.entries)
    plain = replace(dataset, listing=replace(listing, entries=ungrouped))
    assert len(choose_images(plain, None, config).dataset.listing.entries) == IMAGES - 2


def test_a_parquet_table_of_images_names_groups(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [make_picture(i) for i in range(24)],
        "label": [i % 2 for i in range(24)],
        "patient_id": [i // 3 for i in range(24)],
    }
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["a", "b"]),
        patient_id=datasets.Value("int64"),
    )
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "t.parquet")
    listing = list_image_dataset(tmp_path / "t.parquet")
    assert [entry.group for entry in listing.entries] == [str(i // 3) for i in range(24)]
    assert listing.notes == ("its groups are taken from the column patient_id",)
    words = {**rows, "patient_id": ["train" if i % 3 else "test" for i in range(24)]}
    features["patient_id"] = datasets.Value("string")
    datasets.Dataset.from_dict(words, features).to_parquet(tmp_path / "words.parquet")
    listing = list_image_dataset(tmp_path / "words.parquet")
    assert {entry.group for entry in listing.entries} == {""}
    assert listing.notes == ("its column patient_id holds names of splits, and is not used",)


def test_the_csv_without_groups_has_no_column_of_them(folder, tmp_path):
    listing = list_image_dataset(write_table(folder, "camera", name="camera.csv"))
    text = format_usable_csv(check_dataset(listing), tmp_path / "clean.csv")
    assert text.splitlines()[0] == "path,label,split"

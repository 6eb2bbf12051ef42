"""ImageNet in each layout in which it is found, compared with torchvision's ImageNet."""

import csv
import hashlib
import io
import os
import random
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import residua
from residua.analysis.network_lesions import LesionSampling
from residua.analysis.run_lesion import run_lesion_study
from residua.analysis.run_signals import resolve_network_with_data
from residua.api.network_signals import resolve_signals_data
from residua.api.studies import make_study, resolve_lesion_data
from residua.cli.main import main
from residua.config.imagenet_classes import read_imagenet_classes
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.data.sources.imagenet import COUNTS, list_imagenet
from residua.data.sources.imagenet_labels import KIT, KIT_ARCHIVE
from residua.data.sources.resolve import list_image_dataset, resolve_dataset
from residua.errors import DataError, UsageError
from residua.net.build import build
from residua.net.model_folder import find_model_folder, read_model_config, save_pretrained
from residua.record import RunRecord
from residua.studies.study_data import choose_study_data, resolve_study_dataset
from residua.training.data_settings import keep_data_settings_of_run
from residua.training.initial_weights import was_trained_on_imagenet
from residua.training.run_request import RunRequest, resolve_run
from tests.cli_runner import run_cli
from tests.third_party import torchvision
from tests.training.short_runs import CPU_FP32
from tests.weight_publisher import publish_weights

SYNSETS = sorted(read_imagenet_classes())
NAMES = read_imagenet_classes()


def make_jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


JPEG = make_jpeg(0)


def add_to_tar(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def make_tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            add_to_tar(archive, name, content)
    return file.getvalue()


def make_kit_files(truth, numbers):
    """The files of a development kit: `numbers` are the ILSVRC2012_IDs by synset id."""
    rows = [(numbers[s], s, NAMES[s], "", 0) for s in sorted(numbers, key=lambda s: numbers[s])]
    rows += [(1001, "n00001740", "entity", "", 2), (1002, "n00001930", "object", "", 3)]
    fields = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.array(rows, dtype=[*fields, ("num_children", "i4")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    lines = "".join(f"{numbers[synset]}\n" for synset in truth)
    return {
        f"{KIT}/data/meta.mat": meta.getvalue(),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": lines.encode(),
    }


@pytest.fixture(scope="module")
def truth():
    """The synset id of each validation photograph, in the order of their names."""
    return random.Random(1).sample(SYNSETS, len(SYNSETS))


@pytest.fixture(scope="module")
def kit_files(truth):
    order = random.Random(2).sample(SYNSETS, len(SYNSETS))
    return make_kit_files(truth, {synset: number for number, synset in enumerate(order, 1)})


@pytest.fixture(scope="module")
def archives(truth, kit_files, tmp_path_factory):
    """A folder of the three archives as they are downloaded, with tiny contents."""
    root = tmp_path_factory.mktemp("imagenet") / "archives"
    root.mkdir()
    parts = {
        f"{synset}.tar": make_tar(
            {f"{synset}_{i}.JPEG": JPEG + f"{synset} {i}".encode() for i in range(2)}
        )
        for synset in SYNSETS
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(make_tar(parts))
    val = {f"ILSVRC2012_val_{i:08}.JPEG": JPEG for i in range(1, len(truth) + 1)}
    (root / "ILSVRC2012_img_val.tar").write_bytes(make_tar(val))
    with tarfile.open(root / KIT_ARCHIVE, "w:gz") as archive:
        for name, content in kit_files.items():
            add_to_tar(archive, name, content)
    return root


@pytest.fixture(scope="module")
def unpacked(archives, tmp_path_factory):
    """The folders that torchvision's ImageNet makes from the archives, and its samples by split."""
    root = tmp_path_factory.mktemp("imagenet") / "unpacked"
    shutil.copytree(archives, root)
    module = torchvision.datasets.imagenet
    before = dict(module.ARCHIVE_META)
    module.ARCHIVE_META = {
        split: (name, hashlib.md5((root / name).read_bytes()).hexdigest())
        for split, (name, _) in before.items()
    }
    try:
        samples = {}
        for split in ("train", "val"):
            dataset = torchvision.datasets.ImageNet(str(root), split)
            samples[split] = {os.path.relpath(path, root): y for path, y in dataset.samples}
            assert dataset.wnids == SYNSETS
    finally:
        module.ARCHIVE_META = before
    for archive in root.glob("*.tar*"):
        archive.unlink()
    return root, samples


@pytest.fixture(scope="module")
def flat(unpacked, tmp_path_factory):
    """The training folders, and the validation photographs in one folder, without labels."""
    root = tmp_path_factory.mktemp("imagenet") / "flat"
    root.mkdir()
    (root / "train").symlink_to(unpacked[0] / "train")
    (root / "val").mkdir()
    for path in unpacked[0].glob("val/*/*.JPEG"):
        os.link(path, root / "val" / path.name)
    return root


def group_by_split(listing):
    groups = {"train": {}, "test": {}}
    for entry in listing.entries:
        groups[entry.split][entry.name] = entry.label
    return groups


def by_stem(samples):
    return {os.path.basename(name): label for name, label in samples.items()}


def test_the_folders_have_the_samples_and_labels_of_torchvision(unpacked):
    root, samples = unpacked
    groups = group_by_split(list_imagenet(root))
    assert groups == {"train": samples["train"], "test": samples["val"]}
    assert len(groups["train"]) == 2000


def test_the_archives_are_read_in_place_with_the_labels_of_torchvision(archives, unpacked):
    samples, listing = unpacked[1], list_imagenet(archives)
    groups = group_by_split(listing)
    assert groups["train"] == samples["train"]
    assert by_stem(groups["test"]) == by_stem(samples["val"])
    contents = {entry.name: entry.read_bytes() for entry in listing.entries}
    assert contents[f"train/{SYNSETS[5]}/{SYNSETS[5]}_1.JPEG"] == JPEG + f"{SYNSETS[5]} 1".encode()
    assert all(content.startswith(JPEG) for content in contents.values())
    assert listing.problems == ()


def test_archives_of_classes_are_read_as_their_folders_are(archives, unpacked, tmp_path):
    (tmp_path / "train").mkdir()
    with tarfile.open(archives / "ILSVRC2012_img_train.tar") as archive:
        archive.extractall(tmp_path / "train", filter="data")
    assert group_by_split(list_imagenet(tmp_path))["train"] == unpacked[1]["train"]


def test_the_numbers_of_the_development_kit_are_not_the_order_of_synsets(
    flat, unpacked, kit_files, tmp_path
):
    root = tmp_path / "imagenet"
    shutil.copytree(flat, root, symlinks=True)
    for name, content in kit_files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    labels = by_stem(group_by_split(list_imagenet(root))["test"])
    assert labels == by_stem(unpacked[1]["val"])
    numbers = kit_files[f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt"].split()
    as_numbered = [int(number) - 1 for number in numbers]
    assert as_numbered != [label for _, label in sorted(labels.items())]


def test_the_layout_and_table_of_kaggle_are_read(flat, truth, unpacked, tmp_path):
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    data.parent.mkdir(parents=True)
    shutil.copytree(flat, data, symlinks=True)
    (data / "test").mkdir()
    (data / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(JPEG)
    with open(tmp_path / "LOC_val_solution.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        for number, synset in enumerate(truth, 1):
            writer.writerow([f"ILSVRC2012_val_{number:08}", f"{synset} 85 1 499 272 "])
    for place in (tmp_path, tmp_path / "ILSVRC", data):
        groups = group_by_split(list_imagenet(place))
        assert groups["train"] == unpacked[1]["train"]
        assert by_stem(groups["test"]) == by_stem(unpacked[1]["val"])


def test_classes_have_the_names_of_published_weights_and_train_and_test_are_noted(unpacked):
    data = resolve_dataset("imagenet", data_dir=unpacked[0])
    assert data.name == data.folder == "imagenet"
    assert data.classes == tuple(NAMES[synset] for synset in SYNSETS)
    assert data.classes[:2] == ("tench", "goldfish")
    notes = " ".join(data.listing.notes)
    assert f"is read from {unpacked[0]}" in notes
    assert "validation photographs of ILSVRC2012 are the test split" in notes
    assert f"2,000 training photographs were found, and ILSVRC2012 has {COUNTS['train']:,}" in notes
    listing = list_image_dataset("imagenet", data.classes[::-1], data_dir=unpacked[0])
    labels = {entry.name: entry.label for entry in listing.entries}
    first = f"train/{SYNSETS[0]}/{SYNSETS[0]}_0.JPEG"
    assert labels[first] == 999  # as in a model with its classes in reverse


def test_a_hundredth_of_the_training_photographs_is_held_out(unpacked, tmp_path):
    data = resolve_dataset("imagenet", data_dir=unpacked[0])
    kept = keep_data_settings_of_run(data, RunRecord(tmp_path / "run"))
    assert kept.listing.dev_share == 0.01


def test_validation_photographs_alone_can_be_evaluated_but_not_trained_on(unpacked, tmp_path):
    (tmp_path / "val").symlink_to(unpacked[0] / "val")
    model = tuple(NAMES[synset] for synset in SYNSETS)
    listing = list_image_dataset("imagenet", model, data_dir=tmp_path)
    assert {entry.split for entry in listing.entries} == {"test"}
    with pytest.raises(DataError, match="holds only images of held-out splits"):
        list_image_dataset("imagenet", data_dir=tmp_path)


def test_the_usual_recipe_of_imagenet_starts_from_random_weights(unpacked):
    data = resolve_dataset("imagenet", data_dir=unpacked[0])
    resolved = resolve_run(RunRequest(), data, CPU_FP32)
    assert resolved.run.recipe == recipe("imagenet-90")
    assert resolved.run.network.name == "resnet50,stride=3x3"  # as in torchvision
    assert resolved.run.dataset == "imagenet"
    assert (resolved.dataset.input, resolved.dataset.resize) == ((3, 224, 224), 256)
    assert resolved.weights_path is None
    small = resolve_run(RunRequest(model="resnet18", size=64), data, CPU_FP32)
    assert (small.run.network.name, small.dataset.input) == ("resnet18", (3, 64, 64))


@pytest.fixture
def broken(flat, kit_files, tmp_path):
    """A folder of the flat layout that may be changed, and a function that gives it a kit."""
    root = tmp_path / "imagenet"
    (root / "val").mkdir(parents=True)
    (root / "train").symlink_to(flat / "train")
    for path in sorted((flat / "val").iterdir())[:20]:
        os.link(path, root / "val" / path.name)

    def write_kit(files):
        with tarfile.open(root / KIT_ARCHIVE, "w:gz") as archive:
            for name, content in files.items():
                add_to_tar(archive, name, content)

    return root, write_kit


def test_validation_photographs_without_labels_are_refused(broken):
    with pytest.raises(DataError, match=f"have no labels: put {KIT_ARCHIVE}, or Kaggle's"):
        list_imagenet(broken[0])


def test_a_kit_that_does_not_fit_is_refused(broken, kit_files):
    root, write_kit = broken
    meta, lines = list(kit_files)
    short = b"\n".join(kit_files[lines].split()[:7])
    write_kit(kit_files | {lines: short})
    with pytest.raises(DataError, match=r"no label for 13 of 20 validation .*_00000008"):
        list_imagenet(root)
    write_kit(kit_files | {lines: b"1001\n" * 50})
    with pytest.raises(
        DataError, match=r"line 1 of .* is 1001, which is no class of its meta\.mat"
    ):
        list_imagenet(root)
    write_kit({meta: b"not a matrix", lines: kit_files[lines]})
    with pytest.raises(DataError, match=r"meta\.mat of .* cannot be read"):
        list_imagenet(root)
    write_kit({lines: kit_files[lines]})
    with pytest.raises(DataError, match=r"lacks data/meta\.mat"):
        list_imagenet(root)
    (root / KIT_ARCHIVE).write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DataError, match="cannot be read .*: get it again"):
        list_imagenet(root)


def test_labels_of_another_year_are_refused(broken):
    root, _ = broken
    rows = [f"ILSVRC2012_val_{i:08},n99999999 1 2 3 4\n" for i in range(1, 30)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    with pytest.raises(DataError, match="as n99999999, which is no class of ILSVRC2012"):
        list_imagenet(root)
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_1\n")
    with pytest.raises(DataError, match=r"line 2 of .* has no label"):
        list_imagenet(root)


def test_missing_classes_are_named_and_other_folders_left_out(unpacked, tmp_path):
    (tmp_path / "train").mkdir()
    for synset in SYNSETS[3:]:
        (tmp_path / "train" / synset).symlink_to(unpacked[0] / "train" / synset)
    with pytest.raises(DataError, match=f"lack 3 of ImageNet's 1,000 classes .{SYNSETS[0]}, "):
        list_imagenet(tmp_path)
    for synset in SYNSETS[:3]:
        (tmp_path / "train" / synset).symlink_to(unpacked[0] / "train" / synset)
    (tmp_path / "train" / "n99999999").mkdir()
    [problem] = list_imagenet(tmp_path).problems
    assert (problem.path, problem.kind) == ("train/n99999999", "left out")


def test_a_damaged_archive_is_read_up_to_the_damage(archives, tmp_path):
    for name in ("ILSVRC2012_img_val.tar", KIT_ARCHIVE):
        shutil.copy(archives / name, tmp_path / name)
    archive = tmp_path / "ILSVRC2012_img_val.tar"
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    listing = list_imagenet(tmp_path)
    assert 400 < len(listing.entries) < 600
    [problem] = listing.problems
    assert "is damaged, and is read up to the damage" in problem.detail


def test_a_place_without_imagenet_is_refused_with_the_layouts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESIDUA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    code, _, error = run_cli(capsys, "train", "imagenet", "--data-dir", tmp_path / "empty")
    assert (code, "which does not hold ImageNet: give the folder of train/SYNSET" in error) == (
        1,
        True,
    )
    code, _, error = run_cli(capsys, "train", "imagenet")
    assert (code, "from image-net.org or Kaggle" in error) == (1, True)
    with pytest.raises(UsageError, match="did you mean 'imagenet'"):
        resolve_dataset("imagnet")


def test_a_folder_of_photographs_called_imagenet_is_still_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cats", "dogs"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "imagenet" / name / f"{i}.jpg").write_bytes(make_jpeg(i))
    assert resolve_dataset("imagenet").classes == ("cats", "dogs")


def test_imagenet_is_trained_on_and_evaluated_by_its_name(unpacked, tmp_path, capsys, monkeypatch):
    """A few steps at a tiny size, found by $RESIDUA_DATA, then an evaluation with --data-dir."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RESIDUA_DATA", str(unpacked[0]))
    words = ["--model", "cifar-resnet8", "--size", "8", "--steps", "2", "--set", "batch_size=8"]
    words += ["--precision", "fp32", "--out", tmp_path / "run", "--json"]
    code, _, error = run_cli(capsys, "train", "imagenet", *words)
    assert code == 0, error
    run = RunRecord(tmp_path / "run").read_run()
    assert (run.dataset, run.recipe.name) == ("imagenet", "imagenet-90")
    monkeypatch.delenv("RESIDUA_DATA")
    result = residua.load(tmp_path / "run").evaluate(
        "imagenet", data_dir=unpacked[0], split="test", quiet=True
    )
    assert result.count == 1000


@pytest.fixture(scope="module")
def published_model(tmp_path_factory):
    """A small model that says it is published weights for ImageNet."""
    config = ModelConfig(
        network=network("cifar-resnet8", input=(3, 8, 8), classes=len(NAMES)),
        classes=tuple(NAMES.values()),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        published_as="tiny.in1k",
    )
    folder = tmp_path_factory.mktemp("published") / "model"
    save_pretrained(build(config.network), config, folder)
    return folder


def test_dev_images_of_imagenet_are_refused_for_weights_that_have_learned_them(
    unpacked, published_model, capsys
):
    words = ["evaluate", published_model, "imagenet", "--data-dir", unpacked[0]]
    for option in (["--calibrate"], ["--split=dev"]):
        code, _, error = run_cli(capsys, *words, *option)
        assert code == 1
        assert "the weights tiny.in1k were trained on all training images of ImageNet" in error
        assert f"leave {' '.join(option)} out" in error
    with pytest.raises(DataError, match="leave split=dev out"):
        residua.load(published_model).evaluate("imagenet", split="dev", data_dir=unpacked[0])


def test_a_run_from_weights_of_imagenet_says_that_they_know_its_dev_images(
    unpacked, tmp_path, capsys, monkeypatch
):
    with publish_weights(tmp_path, monkeypatch) as publisher:
        publisher.offer()
        known = read_model_config(find_model_folder("tiny.v1"))
        config = replace(known, published_as="", weights_from="tiny.v1")
        assert not was_trained_on_imagenet(config, "imagenet")  # of three classes
        publisher.offer(name="tiny.in1k", class_names=[])
        assert was_trained_on_imagenet(replace(config, weights_from="tiny.in1k"), "imagenet")
        assert not was_trained_on_imagenet(replace(config, weights_from="tiny.in1k"), "photos")
    monkeypatch.setattr("residua.training.run.was_trained_on_imagenet", lambda *_: True)
    words = ["--model", "cifar-resnet8", "--size", "8", "--steps", "1", "--set", "batch_size=8"]
    words += ["--data-dir", unpacked[0], "--storage", "squares", "--out", tmp_path / "run"]
    assert main(["train", "imagenet", *map(str, words)]) == 0
    error = capsys.readouterr().err
    assert "were trained on all training images of ImageNet" in error
    assert "use the folder last, not best" in error


def test_the_place_of_imagenet_is_that_of_each_command_that_takes_it(
    unpacked, published_model, monkeypatch
):
    place = unpacked[0]
    examined = resolve_network_with_data(str(published_model), "imagenet", 0, place)
    assert examined.data.name == "imagenet"
    assert resolve_network_with_data("resnet18", "imagenet", 0, place).data.name == "imagenet"
    config = read_model_config(published_model)
    assert resolve_lesion_data("imagenet", config, place).name == "imagenet"
    assert resolve_signals_data("imagenet", config, place).name == "imagenet"
    with pytest.raises(StopIteration):  # after the data set
        monkeypatch.setattr("residua.analysis.run_lesion.check_compatibility", stop)
        run_lesion_study(
            [published_model],
            "imagenet",
            "test",
            CPU_FP32,
            LesionSampling(),
            data_dir=place,
            on_progress=stop,
        )


def stop(*_, **__):
    raise StopIteration


def test_a_study_of_imagenet_has_its_place_its_size_and_its_recipe(unpacked):
    chosen = choose_study_data("imagenet", None, "cpu", unpacked[0])
    assert (chosen.recipe.name, chosen.size) == ("imagenet-90", 224)
    assert chosen.dataset.name == "imagenet"
    study = make_study(chosen, ["resnet"], [20], [0], chosen.recipe, 0)
    assert resolve_study_dataset(study, unpacked[0]).input == (3, 224, 224)

"""The cache of decoded photos: bit-identical to memory, written completely or not at all.

It takes little memory for any number of images.
"""

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residua.cli.main import main
from residua.config.augmentation import Augmentation
from residua.config.model import ImagePreprocessing
from residua.config.papers import network
from residua.data.batches import TrainingBatches
from residua.data.image_cache import load_or_decode_images
from residua.data.images import Images
from residua.data.pixel_file import memory_map_images, open_cache_writer
from residua.data.preprocessed_images import read_preprocessed_split
from residua.data.read import read_split
from residua.data.sources.resolve import list_image_dataset, resolve_dataset
from residua.errors import DataError
from residua.net.build import build
from residua.training.evaluate import evaluate_network
from residua.training.memory import (
    describe_memory,
    disk_backed_bytes,
    estimate_memory_on_machine,
    require_enough_memory,
)
from tests.data.faulty_photos import (
    CLASS_CHANNELS,
    make_picture,
    write_clean_folder,
    write_faulty_folder,
)
from tests.training.short_runs import CPU_FP32

VIEW = ImagePreprocessing((3, 28, 28), 28)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_or_decode_images.cache_clear()
    return tmp_path / "cache" / "residua" / "images"


def load_from_disk_and_memory(listing, monkeypatch, capsys):
    """The images decoded to disk, and those decoded to memory because the disk is full."""
    disk = load_or_decode_images(listing, VIEW)
    load_or_decode_images.cache_clear()
    monkeypatch.setattr("residua.data.image_cache.load_cached_images", lambda where, quiet: None)
    monkeypatch.setattr("residua.data.image_cache.free_disk_bytes", lambda folder: 0)
    memory = load_or_decode_images(listing, VIEW)
    assert "decoded images are not cached in" in capsys.readouterr().err
    return disk, memory


@pytest.mark.parametrize("make", [write_clean_folder, write_faulty_folder])
def test_images_cached_on_disk_and_in_memory_are_bit_identical(tmp_path, monkeypatch, capsys, make):
    make(tmp_path / "d")
    disk, memory = load_from_disk_and_memory(
        list_image_dataset(tmp_path / "d"), monkeypatch, capsys
    )
    assert torch.equal(disk.pixels, memory.pixels)
    assert torch.equal(disk.labels, memory.labels)
    assert (disk.names, disk.problems, disk.split_counts.tolist()) == (
        memory.names,
        memory.problems,
        memory.split_counts.tolist(),
    )
    one, other = Images(*disk.split_tensors("train")), Images(*memory.split_tensors("train"))
    assert one.fingerprint == other.fingerprint
    for augment in (Augmentation(pad=2), Augmentation(pad=0, area=0.3, colour=0.3, cut=4)):
        ours, theirs = [
            TrainingBatches(images, 8, augment, (0.5,) * 3, (0.2,) * 3, 3, crop_size=(24, 24))
            for images in (one, other)
        ]
        for step in range(6):
            assert all(
                torch.equal(x, y)
                for x, y in zip(ours.make_batch(step), theirs.make_batch(step), strict=True)
            )
    net = build(network("cifar-resnet8", input=(3, 24, 24), classes=len(CLASS_CHANNELS) + 2))
    scores = [
        evaluate_network(net, images.center_crop((24, 24)), (0.5,) * 3, (0.2,) * 3, CPU_FP32)
        for images in (one, other)
    ]
    assert scores[0] == scores[1]


def test_images_too_large_to_pad_in_advance_are_padded_per_batch(monkeypatch):
    images = Images(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20))
    batches_by_limit = []
    for most in (2**31, 100):
        monkeypatch.setattr("residua.data.batches.MAX_PREPADDED_BYTES", most)
        batches_by_limit.append(
            TrainingBatches(images, 6, Augmentation(pad=2), (0.4,) * 3, (0.2,) * 3, 1)
        )
    assert [batches.pixels.shape[2] for batches in batches_by_limit] == [12, 8]
    for step in range(8):
        assert torch.equal(
            batches_by_limit[0].make_batch(step)[0], batches_by_limit[1].make_batch(step)[0]
        )


def test_splits_are_assigned_as_if_damaged_files_did_not_exist(tmp_path):
    for name, count in (("a", 30), ("b", 30), ("c", 2)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(count):
            make_picture(100 * ord(name) + i).save(tmp_path / "d" / name / f"{i:02}.png")
    (tmp_path / "d" / "c" / "00.png").write_bytes(b"no image")
    with_damaged_file = load_or_decode_images(list_image_dataset(tmp_path / "d"), VIEW)
    (tmp_path / "d" / "c" / "00.png").unlink()
    without_damaged_file = load_or_decode_images(list_image_dataset(tmp_path / "d"), VIEW)
    assert torch.equal(with_damaged_file.pixels, without_damaged_file.pixels)
    assert with_damaged_file.names == without_damaged_file.names
    assert with_damaged_file.split_counts.tolist() == without_damaged_file.split_counts.tolist()


def test_a_failed_cache_write_leaves_no_files(tmp_path):
    with (
        pytest.raises(OSError, match="No space left"),
        open_cache_writer(tmp_path / "c" / "x", (3, 4, 4), "d") as (writer, _),
    ):
        writer.write_image(0, torch.zeros(3, 4, 4, dtype=torch.uint8))
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list((tmp_path / "c").glob("*")) == []


def test_finishing_with_a_count_keeps_that_many_first_images(tmp_path):
    pixels = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    with open_cache_writer(tmp_path / "x", (3, 4, 6), "d") as (writer, index):
        for i in (3, 0, 1, 2, 4):
            writer.write_image(i, pixels[i])
        writer.truncate_to_count(4)
        index["names"] = ["a"]
    found, known = memory_map_images(tmp_path / "x")
    assert torch.equal(found, pixels[:4])
    assert known == {"names": ["a"]}
    assert (tmp_path / "x" / "pixels.npy").stat().st_size % 72 == (128 % 72)


def test_a_full_disk_gives_a_one_line_error_with_a_size_that_fits(tmp_path, monkeypatch, capsys):
    write_clean_folder(tmp_path / "d")
    for module in ("image_cache", "space"):
        monkeypatch.setattr(f"residua.data.{module}.free_memory_bytes", lambda: 100_000)
    monkeypatch.setattr("residua.data.image_cache.free_disk_bytes", lambda folder: 100_000)
    options = [
        "--model",
        "cifar-resnet8",
        "--size",
        "64",
        "--steps",
        "1",
        "--storage",
        "squares",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["train", str(tmp_path / "d"), *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "residua: 51 photographs need 1 MiB, which is more than the free memory allows, and "
        "they "
        "cannot be cached in "
    )
    assert error.endswith(
        "(No space left on device): set XDG_CACHE_HOME to a folder with more space, or train with "
        "--size 21"
    )
    assert not (tmp_path / "o").exists()
    assert main(["train", str(tmp_path / "d"), *options[:2], "--size", "21", *options[4:]]) == 0


def test_a_data_set_larger_than_memory_is_accepted_and_reported_as_read_from_disk(
    tmp_path, monkeypatch
):
    from tests.training.short_runs import make_digits_run

    write_clean_folder(tmp_path / "d")
    spec = network("cifar-resnet8", input=(3, 24, 24), classes=3)
    run = replace(make_digits_run(), network=spec, dataset=str(tmp_path / "d"))
    data, planned = resolve_dataset(run.dataset, spec.input), build(spec).plan
    estimate_in_memory = estimate_memory_on_machine(run, planned, data, CPU_FP32)
    assert disk_backed_bytes(data, CPU_FP32) == 0
    monkeypatch.setattr(
        "residua.training.memory.available_memory", lambda device: 2 * 36 * 3 * 28 * 28 - 1
    )
    assert disk_backed_bytes(data, CPU_FP32) == 36 * 3 * 28 * 28
    assert (
        estimate_in_memory.data - estimate_memory_on_machine(run, planned, data, CPU_FP32).data
        == 36 * 3 * 28 * 28
    )
    assert describe_memory(run, planned, data, CPU_FP32).endswith(
        "; 0 MiB of images are read from disk as needed"
    )
    monkeypatch.setattr(
        "residua.training.memory.disk_backed_bytes", lambda data, machine: 10**15
    )  # as if they were that many
    require_enough_memory(run, planned, data, CPU_FP32)


LIMITED_MEMORY_SCRIPT = """
import resource, sys, torch
from residua.data.batches import TrainingBatches
from residua.data.sources.resolve import resolve_dataset
from residua.data.read import read_split
from residua.config.augmentation import Augmentation

def private_bytes():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmData")]
    return 1024 * int(line.split()[1])

torch.set_num_threads(1)
data = resolve_dataset(sys.argv[1], (3, 224, 224))
resource.setrlimit(resource.RLIMIT_DATA, (private_bytes() + 128 * 2**20,) * 2)
images = read_split(data, "train")
augment = Augmentation(pad=0, area=0.5)
batches = TrainingBatches(images, 4, augment, data.mean, data.std, 0, crop_size=(224, 224))
print(images.pixels.nbytes, images.fingerprint)
print([len(batches.make_batch(step)[1]) for step in range(5)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by the system's own means")
def test_decoding_hashing_and_batching_take_little_memory_for_any_number_of_images(tmp_path):
    """268 MiB of images in a process that may allocate only 128 MiB more than it has."""
    for part, count in (("train", 1900), ("val", 6)):
        for name in ("a", "b"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for i in range(count // 2):
                seed = 10_000 * (part == "val") + 2 * i + (name == "b")
                make_picture(seed, size=(8, 8)).save(tmp_path / "d" / part / name / f"{i:04}.bmp")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_MEMORY_SCRIPT, str(tmp_path / "d")],
        capture_output=True,
        text=True,
        cwd=Path.cwd(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 2 * 128 * 2**20
    assert (
        json.loads(next((tmp_path / "cache").rglob("index.json")).read_text())["index"]["counts"][2]
        == 6
    )


def test_a_second_process_waits_and_reads_the_cache_of_the_first(tmp_path, cache_folder):
    write_clean_folder(tmp_path / "d")
    code = (
        "import sys; from residua.data.sources.resolve import resolve_dataset; "
        "from residua.data.read import read_split; "
        "read_split(resolve_dataset(sys.argv[1]), 'dev')"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[1].count(b"Error") for process in processes] == [0, 0]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list(cache_folder.iterdir())) == 1


def test_splits_are_views_of_one_memory_mapped_file(tmp_path):
    write_clean_folder(tmp_path / "d")
    data = resolve_dataset(str(tmp_path / "d"), (3, 24, 24))
    [train, dev] = [read_split(data, split) for split in ("train", "dev")]
    assert train.pixels.untyped_storage().data_ptr() == dev.pixels.untyped_storage().data_ptr()
    with pytest.raises(DataError, match="there is no folder or table"):
        list_image_dataset(tmp_path / "gone")


@pytest.mark.parametrize(("start", "end"), [(72, 76), (0, 6), (10, 60), (8, 200), (20, 21)])
def test_a_cache_whose_header_is_damaged_is_decoded_again(tmp_path, start, end):
    write_clean_folder(tmp_path / "d")
    whole = load_or_decode_images(list_image_dataset(tmp_path / "d"), VIEW).pixels.clone()
    [file] = (tmp_path / "cache").rglob("pixels.npy")
    content = file.read_bytes()
    file.write_bytes(content[:start] + content[end:])
    load_or_decode_images.cache_clear()
    again = load_or_decode_images(list_image_dataset(tmp_path / "d"), VIEW)
    assert torch.equal(again.pixels, whole)


@pytest.mark.parametrize("split", ["dev", "test", "train"])
def test_of_a_large_data_set_only_the_split_that_is_evaluated_is_decoded(
    split, tmp_path, monkeypatch
):
    write_clean_folder(tmp_path / "d")
    (tmp_path / "d" / "val").rename(tmp_path / "d" / "test")
    shutil.copytree(tmp_path / "d" / "test", tmp_path / "d" / "val")
    data = resolve_dataset(str(tmp_path / "d"), (3, 24, 24))
    view = ImagePreprocessing((3, 24, 24), 28)
    expected = read_preprocessed_split(data, split, view)
    decoded = []
    monkeypatch.setattr("residua.data.preprocessed_images.MAX_DECODED_TOGETHER", 10)
    monkeypatch.setattr(
        "residua.data.preprocessed_images.load_or_decode_images",
        lambda listing, view: (
            decoded.append(len(listing.entries)) or load_or_decode_images(listing, view)
        ),
    )
    read = read_preprocessed_split(data, split, view)
    assert decoded == [51 if split == "train" else 15]
    assert read.names == expected.names
    assert torch.equal(read.images.pixels, expected.images.pixels)
    assert torch.equal(read.images.labels, expected.images.labels)

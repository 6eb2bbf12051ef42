"""Decoded images on disk: the same bits as in memory, whole or not at all, and in little memory however many they are."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residua.cli.main import main
from residua.data.batches import Batches
from residua.data.folder import data_of, listed
from residua.data.gallery import gathered
from residua.data.read import Images, read
from residua.data.store import loaded, writing
from residua.errors import DataError
from residua.net.build import build
from residua.spec.model import View
from residua.spec.papers import network
from residua.spec.recipe import Augment
from residua.train.evaluate import evaluate
from residua.train.memory import bytes_on_disk, foreseen, refuse_too_large, sentence
from tests.data.faults import COLOURS, picture, planted, sound
from tests.train.runs import CPU

VIEW = View((3, 28, 28), 28)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gathered.cache_clear()
    return tmp_path / "cache" / "residua" / "images"


def both(listing, monkeypatch, capsys):
    """The gallery from disk, and the one in memory where no disk has room."""
    disk = gathered(listing, VIEW)
    gathered.cache_clear()
    monkeypatch.setattr("residua.data.gallery.kept", lambda where: None)
    monkeypatch.setattr("residua.data.gallery.free_disk", lambda folder: 0)
    memory = gathered(listing, VIEW)
    assert "the decoded images were not kept in" in capsys.readouterr().err
    return disk, memory


@pytest.mark.parametrize("make", [sound, planted])
def test_images_on_disk_are_those_in_memory_to_the_bit(tmp_path, monkeypatch, capsys, make):
    make(tmp_path / "d")
    disk, memory = both(listed(tmp_path / "d"), monkeypatch, capsys)
    assert torch.equal(disk.pixels, memory.pixels)
    assert torch.equal(disk.labels, memory.labels)
    assert (disk.names, disk.problems, disk.counts.tolist()) == (memory.names, memory.problems, memory.counts.tolist())
    one, other = Images(*disk.part("train")), Images(*memory.part("train"))
    assert one.fingerprint == other.fingerprint
    for augment in (Augment(pad=2), Augment(pad=0, area=0.3, colour=0.3, cut=4)):
        ours, theirs = [Batches(images, 8, augment, (0.5,) * 3, (0.2,) * 3, 3, size=(24, 24)) for images in (one, other)]
        for step in range(6):
            assert all(torch.equal(x, y) for x, y in zip(ours.at(step), theirs.at(step), strict=True))
    net = build(network("cifar-resnet8", input=(3, 24, 24), classes=len(COLOURS) + 2))
    scores = [evaluate(net, images.middle((24, 24)), (0.5,) * 3, (0.2,) * 3, CPU) for images in (one, other)]
    assert scores[0] == scores[1]


def test_what_is_too_large_to_be_padded_at_once_is_padded_a_batch_at_a_time(monkeypatch):
    images = Images(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20))
    made = []
    for most in (2**31, 100):
        monkeypatch.setattr("residua.data.batches.PADDED", most)
        made.append(Batches(images, 6, Augment(pad=2), (0.4,) * 3, (0.2,) * 3, 1))
    assert [batches.pixels.shape[2] for batches in made] == [12, 8]
    for step in range(8):
        assert torch.equal(made[0].at(step)[0], made[1].at(step)[0])


def test_a_damaged_file_that_changes_the_parts_of_others_leaves_them_as_if_it_were_not_there(tmp_path):
    for name, count in (("a", 30), ("b", 30), ("c", 2)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(count):
            picture(100 * ord(name) + i).save(tmp_path / "d" / name / f"{i:02}.png")
    (tmp_path / "d" / "c" / "00.png").write_bytes(b"no image")
    found = gathered(listed(tmp_path / "d"), VIEW)
    (tmp_path / "d" / "c" / "00.png").unlink()
    without = gathered(listed(tmp_path / "d"), VIEW)
    assert torch.equal(found.pixels, without.pixels)
    assert found.names == without.names
    assert found.counts.tolist() == without.counts.tolist()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="No space left"), writing(tmp_path / "c" / "x", (3, 4, 4)) as (writer, _):
        writer.put(0, torch.zeros(3, 4, 4, dtype=torch.uint8))
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_file_holds_the_first_images_and_as_many_as_are_said(tmp_path):
    pixels = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    with writing(tmp_path / "x", (3, 4, 6)) as (writer, index):
        for i in (3, 0, 1, 2, 4):
            writer.put(i, pixels[i])
        writer.finish(4)
        index["names"] = ["a"]
    found, known = loaded(tmp_path / "x")
    assert torch.equal(found, pixels[:4])
    assert known == {"names": ["a"]}
    assert (tmp_path / "x" / "pixels.npy").stat().st_size % 72 == (128 % 72)


def test_a_disk_without_room_ends_in_a_sentence_that_says_what_fits(tmp_path, monkeypatch, capsys):
    sound(tmp_path / "d")
    monkeypatch.setattr("residua.data.gallery.free_memory", lambda: 100_000)
    monkeypatch.setattr("residua.data.gallery.free_disk", lambda folder: 100_000)
    options = ["--model", "cifar-resnet8", "--size", "64", "--steps", "1", "--out", str(tmp_path / "o")]
    assert main(["train", str(tmp_path / "d"), *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("residua: 51 photographs of 72 x 72 pixels need 1 MiB, for which there is no room in ")
    assert error.endswith(
        "(No space left on device), nor in memory: make room, set XDG_CACHE_HOME to another disk, or train with --size 21"
    )
    assert not (tmp_path / "o").exists()
    assert main(["train", str(tmp_path / "d"), *options[:2], "--size", "21", *options[4:]]) == 0


def test_a_set_beyond_memory_is_not_refused_but_said_to_be_read_from_disk(tmp_path, monkeypatch):
    from tests.train.runs import digits_run

    sound(tmp_path / "d")
    spec = network("cifar-resnet8", input=(3, 24, 24), classes=3)
    run = replace(digits_run(), network=spec, dataset=str(tmp_path / "d"))
    data, planned = data_of(run.dataset, spec.input), build(spec).plan
    whole = foreseen(run, planned, CPU)
    assert bytes_on_disk(data, CPU) == 0
    monkeypatch.setattr("residua.train.memory.available", lambda device: 2 * 36 * 3 * 28 * 28 - 1)
    assert bytes_on_disk(data, CPU) == 36 * 3 * 28 * 28
    assert whole.data - foreseen(run, planned, CPU).data == 36 * 3 * 28 * 28
    assert sentence(run, planned, CPU).endswith("; 0 MiB of images are read from the disk again and again")
    monkeypatch.setattr("residua.train.memory.bytes_on_disk", lambda data, machine: 10**15)  # as if they were that many
    refuse_too_large(run, planned, CPU)


BOUNDED = """
import resource, sys, torch
from residua.data.batches import Batches
from residua.data.folder import data_of
from residua.data.read import read
from residua.spec.recipe import Augment

def private():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmData")]
    return 1024 * int(line.split()[1])

torch.set_num_threads(1)
data = data_of(sys.argv[1], (3, 224, 224))
resource.setrlimit(resource.RLIMIT_DATA, (private() + 128 * 2**20,) * 2)
images = read(data, "train")
batches = Batches(images, 4, Augment(pad=0, area=0.5), data.mean, data.std, 0, size=(224, 224))
print(images.pixels.nbytes, images.fingerprint, [len(batches.at(step)[1]) for step in range(5)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by the system's own means")
def test_decoding_hashing_and_batches_take_little_memory_however_many_images_there_are(tmp_path):
    """268 MiB of images in a process that may take 128 MiB more than it has."""
    for part, count in (("train", 1500), ("val", 6)):
        for name in ("a", "b"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for i in range(count // 2):
                seed = 10_000 * (part == "val") + 2 * i + (name == "b")
                picture(seed, size=(8, 8)).save(tmp_path / "d" / part / name / f"{i:04}.bmp")
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path / "d")], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 2 * 128 * 2**20
    assert json.loads(next((tmp_path / "cache").rglob("index.json")).read_text())["counts"][2] == 6


def test_a_second_process_waits_and_then_reads_what_the_first_has_decoded(tmp_path, cache):
    sound(tmp_path / "d")
    code = (
        "import sys; from residua.data.folder import data_of; from residua.data.read import read; read(data_of(sys.argv[1]), 'dev')"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")], stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1].count(b"Error") for process in started] == [0, 0]
    assert [process.returncode for process in started] == [0, 0]
    assert len(list(cache.iterdir())) == 1


def test_a_part_that_is_asked_for_is_a_view_of_the_file(tmp_path):
    sound(tmp_path / "d")
    data = data_of(str(tmp_path / "d"), (3, 24, 24))
    [train, dev] = [read(data, split) for split in ("train", "dev")]
    assert train.pixels.untyped_storage().data_ptr() == dev.pixels.untyped_storage().data_ptr()
    with pytest.raises(DataError, match="there is no folder or table"):
        listed(tmp_path / "gone")

"""Digests are kept between processes: each file is read once, and every change is noticed."""

import hashlib
import os
import shutil
import time
import tracemalloc

import numpy as np
import pytest

from residua.config.model import ImagePreprocessing
from residua.data import decode_listing, digest_index
from residua.data.checked_arrays import decode_checked_arrays, encode_checked_arrays
from residua.data.digest_index import find_digest_file, get_index, hash_entries, make_digest_keys
from residua.data.image_cache import hash_listing, load_or_decode_images
from residua.data.sources.image_folder import list_image_folder
from tests.data.faulty_photos import write_clean_folder
from tests.forks import run_at_once

HOUR_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def forget_all(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    start_new_process()


def start_new_process():
    """Forget what a process remembers."""
    get_index.cache_clear()
    hash_listing.cache_clear()


def write_file(path, content, age=3600.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)


def write_folder(root, age=3600.0):
    for name in ("cat", "dog"):
        for i in range(5):
            write_file(root / name / f"{i}.jpg", f"{name} {i}".encode(), age)
    return root


def hash_folder(root):
    """The digests of a folder's files by name, and the names of the files that were read."""
    start_new_process()
    read = []

    def hash_entry(entry):
        read.append(entry.name)
        try:
            return hashlib.sha256(entry.read_bytes()).hexdigest()
        except OSError:
            return ""

    listing = list_image_folder(root)
    digests = hash_entries(listing.location, listing.entries, hash_entry)
    names = [entry.name for entry in listing.entries]
    return dict(zip(names, digests, strict=True)), sorted(read)


def compute_by_hand(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.jpg")
    }


def test_the_next_process_reads_no_file_again(tmp_path):
    root = write_folder(tmp_path / "d")
    first, read = hash_folder(root)
    assert (first, len(read)) == (compute_by_hand(root), 10)
    assert hash_folder(root) == (first, [])


def test_added_removed_changed_and_renamed_files_are_noticed(tmp_path):
    root = write_folder(tmp_path / "d")
    hash_folder(root)
    write_file(root / "cat" / "new.jpg", b"new")
    (root / "cat" / "0.jpg").unlink()
    write_file(root / "cat" / "1.jpg", b"changed, and longer")
    write_file(root / "cat" / "2.jpg", b"CAT 2", age=1800.0)  # of the same size
    (root / "dog" / "3.jpg").rename(root / "dog" / "renamed.jpg")
    digests, read = hash_folder(root)
    assert digests == compute_by_hand(root)
    assert read == ["cat/1.jpg", "cat/2.jpg", "cat/new.jpg", "dog/renamed.jpg"]


def test_a_file_that_was_just_modified_is_read_again(tmp_path):
    """It may be changed once more at the same time of the file system's clock."""
    root = write_folder(tmp_path / "d")
    path = root / "cat" / "0.jpg"
    write_file(path, b"one", age=0.0)
    now = os.stat(path).st_mtime_ns
    hash_folder(root)
    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))
    digests, read = hash_folder(root)
    assert read == ["cat/0.jpg"]
    assert digests == compute_by_hand(root)


def test_an_unreadable_file_is_tried_again(tmp_path):
    root = write_folder(tmp_path / "d")
    listing = list_image_folder(root)
    hash_entries(listing.location, listing.entries, lambda entry: "")
    assert hash_folder(root)[0] == compute_by_hand(root)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        lambda content: content.replace(b"arrays 1", b"arrays 0"),
        lambda content: b"",
    ],
)
def test_a_damaged_index_is_said_and_made_again(tmp_path, capsys, spoil):
    root = write_folder(tmp_path / "d")
    digests, _ = hash_folder(root)
    path = find_digest_file(str(root))
    path.write_bytes(spoil(path.read_bytes()))
    assert hash_folder(root)[0] == digests
    assert f"the digests in {path} cannot be used, and the files are read again" in (
        capsys.readouterr().err
    )
    assert hash_folder(root) == (digests, [])


def test_a_cache_that_cannot_be_written_is_said_and_changes_nothing(tmp_path, capsys, monkeypatch):
    root = write_folder(tmp_path / "d")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert hash_folder(root)[0] == compute_by_hand(root)
    assert "digests of the files are not kept in" in capsys.readouterr().err


def test_processes_that_start_at_once_read_each_file_once(tmp_path):
    root = write_folder(tmp_path / "d")

    def count_reads():
        (tmp_path / f"{os.getpid()}.count").write_text(str(len(hash_folder(root)[1])))

    run_at_once([count_reads] * 3)
    counts = [int(path.read_text()) for path in tmp_path.glob("*.count")]
    assert sorted(counts) == [0, 0, 10]


def test_records_of_files_that_are_gone_are_dropped_when_they_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(digest_index, "MIN_KEPT_RECORDS", 20)
    root = write_folder(tmp_path / "d")
    for i in range(10):
        for path in root.rglob("*.jpg"):
            write_file(path, path.read_bytes(), age=100.0 + i)
        hash_folder(root)
    assert len(get_index(find_digest_file(str(root))).keys) <= 40
    assert hash_folder(root) == (compute_by_hand(root), [])


def test_hashing_that_was_interrupted_goes_on_where_it_was(tmp_path):
    root = write_folder(tmp_path / "d")
    listing = list_image_folder(root)
    read = []

    def hash_some(entry):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(entry.name)
        return hashlib.sha256(entry.read_bytes()).hexdigest()

    with pytest.raises(KeyboardInterrupt):
        hash_entries(listing.location, listing.entries, hash_some)
    digests, read_later = hash_folder(root)
    assert digests == compute_by_hand(root)
    assert len(read_later) < 10


def test_names_that_are_no_utf8_have_keys_of_their_own(tmp_path):
    root = write_folder(tmp_path / "d")
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        path = os.path.join(os.fsencode(root / "cat"), name)
        with open(path, "wb") as file:
            file.write(name)
        os.utime(path, (HOUR_AGO, HOUR_AGO))
    keys = make_digest_keys(list_image_folder(root).entries)
    assert len(np.unique(keys[:, 0])) == 12


@pytest.mark.parametrize("dtype", ["|u1", "<i4", "<i8", "<u8"])
def test_arrays_come_back_as_they_were(dtype):
    array = np.arange(12).astype(dtype).reshape(3, 4)
    facts, arrays = decode_checked_arrays(encode_checked_arrays({"a": [1]}, {"x": array}))
    assert facts == {"a": [1]}
    assert arrays["x"].dtype == np.dtype(dtype)
    assert (arrays["x"] == array).all()


@pytest.mark.parametrize(
    "array",
    [["x", "<i8", [2**40]], ["x", "|O", [1]], ["x", "<i8", [-1]], ["x", "<i8", "3"], ["x"], 7],
    ids=str,
)
def test_a_forged_header_of_arrays_is_refused(array):
    import json

    header = json.dumps({"facts": {}, "arrays": [array]}).encode()
    body = len(header).to_bytes(8, "little") + header + bytes(100)
    forged = b"residua arrays 1\n" + hashlib.sha256(body).hexdigest().encode() + body
    with pytest.raises(ValueError, match="damaged|incomplete"):
        decode_checked_arrays(forged)


def test_a_known_folder_takes_little_time_and_memory_for_each_file(tmp_path):
    """At most 50 microseconds and 1 KiB: a million files take less than a minute and 1 GiB."""
    for i in range(4000):
        write_file(tmp_path / "d" / f"{i % 8}" / f"{i}.jpg", b"%d" % i)
    first, _ = hash_folder(tmp_path / "d")
    start = time.process_time()
    known, read = hash_folder(tmp_path / "d")
    seconds = time.process_time() - start
    tracemalloc.start()
    listing = list_image_folder(tmp_path / "d")
    digests = hash_listing(listing)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (known, read, len(digests)) == (first, [], 4000)
    assert (seconds < 0.2, peak < 4000 * 1024) == (True, True), (seconds, peak)


def test_files_that_change_after_they_were_hashed_are_named_and_not_used(tmp_path):
    """A folder that loses, changes and gains files while it is read."""
    root = tmp_path / "d"
    write_clean_folder(root)
    listing = list_image_folder(root)
    hash_listing(listing)
    (root / "train" / "cat" / "00.png").unlink()
    shutil.copy(root / "train" / "cat" / "02.png", root / "train" / "cat" / "01.png")
    shutil.copy(root / "train" / "cat" / "02.png", root / "train" / "cat" / "new.png")
    load_or_decode_images.cache_clear()
    images = load_or_decode_images(listing, ImagePreprocessing((3, 16, 16), 16))
    assert {(problem.path, problem.kind) for problem in images.problems} == {
        ("train/cat/00.png", "unreadable"),
        ("train/cat/01.png", "changed"),
    }
    assert len(images.names) == len(set(images.names)) == 49
    assert "train/cat/new.png" not in images.names
    load_or_decode_images.cache_clear()
    again = load_or_decode_images(list_image_folder(root), ImagePreprocessing((3, 16, 16), 16))
    assert (len(again.names), again.problems) == (51, ())


def test_a_photograph_that_takes_long_to_decode_delays_no_other(tmp_path, monkeypatch):
    """Its place in the order stays, and the others are decoded meanwhile."""
    root = tmp_path / "d"
    write_clean_folder(root)
    listing = list_image_folder(root)
    slow_name, finished = listing.entries[0].name, []

    def decode(entry, *arguments):
        if entry.name == slow_name:
            deadline = time.monotonic() + 10
            while len(finished) < 8 and time.monotonic() < deadline:
                time.sleep(0.01)
        finished.append(entry.name)
        return original(entry, *arguments)

    original = decode_listing.encode_entry
    monkeypatch.setattr(decode_listing, "encode_entry", decode)
    monkeypatch.setattr("residua.data.threads.count_available_cores", lambda: 2)
    load_or_decode_images.cache_clear()
    images = load_or_decode_images(listing, ImagePreprocessing((3, 16, 16), 16))
    assert len(images.names) == 51
    assert finished.index(slow_name) >= 8

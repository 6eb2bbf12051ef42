"""Data sets on servers: the same photos as on disk, whatever the server does, or one sentence."""

import errno
import itertools
import random
import shutil
import signal
import tarfile
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from residua.cli.main import main
from residua.config.model import ImagePreprocessing
from residua.data.image_cache import hash_listing, load_or_decode_images
from residua.data.pack import pack_dataset
from residua.data.pack_plan import PackOptions
from residua.data.sources import (
    remote_cache,
    remote_dataset,
    remote_files,
    remote_retries,
    remote_transport,
)
from residua.data.sources.packed import PACK_INDEX
from residua.data.sources.remote_cache import RemoteCache, list_cached_ranges, open_remote_cache
from residua.data.sources.remote_http import find_login, note_unreadable_logins, pool
from residua.data.sources.remote_transport import RemoteObject
from residua.data.sources.remote_urls import (
    expand_urls,
    identify_url,
    is_remote_url,
    show_url,
)
from residua.data.sources.resolve import list_image_dataset
from residua.data.streamed_images import FilledTensor
from residua.data.threads import map_in_threads, stream_in_threads
from residua.errors import DataError, UsageError
from tests.data.faulty_photos import write_clean_folder
from tests.data.faulty_server import FAULTS, run_faulty_server

VIEW = ImagePreprocessing((3, 24, 24), 28)
SMALL_SHARD_MIB = 3 * 6400 / 2**20


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    """A folder of photos, d, and its pack, p, without the caches of other tests."""
    root = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        write_clean_folder(root / "d")
        options = replace(PackOptions(), shard_mib=SMALL_SHARD_MIB)
        listing = list_image_dataset(root / "d")
        pack_dataset(listing, root / "p", options, lambda done, total: None)
    return root


@pytest.fixture
def site(tmp_path, monkeypatch, packed_folder):
    """A server of a copy of the pack, and small times."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RESIDUA_REMOTE_SECONDS", "20")
    monkeypatch.setattr(remote_transport, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(remote_retries, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote_retries, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(remote_files, "CHUNK_BYTES", 4096)
    shutil.copytree(packed_folder / "p", tmp_path / "site" / "p")
    start_new_process()
    with run_faulty_server(tmp_path / "site") as server:
        server.local = tmp_path / "site" / "p"
        yield server
        pool.close_idle()


def start_new_process():
    load_or_decode_images.cache_clear()
    hash_listing.cache_clear()
    open_remote_cache.cache_clear()
    remote_retries.last_notes.clear()


def read_all(listing):
    return {entry.name: entry.read_bytes() for entry in listing.entries}


def list_pack(site):
    return list_image_dataset(f"{site.url}/p")


def name_all_shards(site):
    return "::".join(f"{site.url}/p/{path.name}" for path in sorted(site.local.glob("*.tar")))


def test_a_pack_on_a_server_is_the_pack_on_the_disk(site):
    remote, local = list_pack(site), list_image_dataset(site.local)
    facts = [
        ([(e.name, e.label, e.split) for e in one.entries], one.classes, hash_listing(one))
        for one in (remote, local)
    ]
    assert facts[0] == facts[1]
    assert read_all(remote) == read_all(local)


def test_a_pack_is_listed_from_its_index_alone(site):
    list_pack(site)
    count = len(list(site.local.glob("*.tar")))
    assert {range_ for path, range_ in site.asked if path.endswith(".tar")} == {"bytes=0-0"}
    assert len(site.asked) < count + 10


def test_shards_on_a_server_are_those_on_the_disk(site):
    (site.local / PACK_INDEX).unlink()
    remote, local = list_image_dataset(name_all_shards(site)), list_image_dataset(site.local)
    assert [(e.name, e.label, e.split) for e in remote.entries] == [
        (e.name, e.label, e.split) for e in local.entries
    ]
    assert (remote.classes, hash_listing(remote)) == (local.classes, hash_listing(local))


def test_the_headers_of_shards_on_a_server_are_read_once(site, monkeypatch):
    first = list_image_dataset(name_all_shards(site))
    monkeypatch.setattr("residua.data.sources.shard_index.list_samples_in_file", None)
    assert list_image_dataset(name_all_shards(site)) == first
    site.version = "2"
    with pytest.raises(TypeError):
        list_image_dataset(name_all_shards(site))


@pytest.mark.parametrize("kind", ["pack", "shards"])
def test_every_photo_comes_once_whatever_the_server_does(site, kind, packed_folder):
    """Half of all answers are faulty; the pixels are those of the folder, and none is left out."""
    generator = random.Random(7)
    site.faults = [generator.choice([*FAULTS, *[""] * len(FAULTS)]) for _ in range(400)]
    location = f"{site.url}/p" if kind == "pack" else name_all_shards(site)
    found = load_or_decode_images(list_image_dataset(location), VIEW)
    local = load_or_decode_images(list_image_dataset(packed_folder / "d"), VIEW)
    assert (len(found.names), len(set(found.names)), found.problems) == (51, 51, ())
    assert sorted(found.digests) == sorted(local.digests)
    by_digest = dict(zip(local.digests, local.pixels, strict=True))
    assert all(
        torch.equal(by_digest[digest], pixels)
        for digest, pixels in zip(found.digests, found.pixels, strict=True)
    )
    assert len(site.faults) < 350


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_passes(site, fault):
    listing = list_pack(site)
    entry = listing.entries[0]
    expected = list_image_dataset(site.local).entries[0].read_bytes()
    site.faults = [fault] * 3
    assert entry.read_bytes() == expected


def test_an_interrupted_answer_goes_on_where_it_broke_off(site):
    file = remote_files.require_file(f"{site.url}/p/train-000000.tar")
    site.asked.clear()
    site.faults = ["truncate"]
    content = remote_files.read_with_retries(file, 0, 4000)
    assert content == (site.local / "train-000000.tar").read_bytes()[:4000]
    assert [range_ for _, range_ in site.asked] == ["bytes=0-3999", "bytes=2000-3999"]


def make_claim(file):
    return remote_retries.WholeFileClaim(file.url)


@pytest.mark.parametrize("in_chunks", [False, True])
def test_an_answer_that_is_slow_but_complete_is_used(site, monkeypatch, in_chunks):
    monkeypatch.setattr(remote_transport, "MIN_BYTES_PER_SECOND", 1e9)
    file = remote_files.require_file(f"{site.url}/p/train-000000.tar")
    site.asked.clear()
    site.faults = ["slow end"]
    content = remote_files.read_with_retries(
        file, 0, 4000, make_claim(file).take if in_chunks else None
    )
    assert content == (site.local / "train-000000.tar").read_bytes()[:4000]
    assert len(site.asked) == 1


def test_an_answer_that_breaks_off_after_what_was_needed_is_not_asked_for_again(site):
    file = remote_files.require_file(f"{site.url}/p/train-000000.tar")
    site.asked.clear()
    site.version = "no range"
    site.faults = ["truncate"]
    file = replace(file, tag="")
    content = remote_files.read_with_retries(file, 0, 2000, make_claim(file).take)
    assert content == (site.local / "train-000000.tar").read_bytes()[:2000]
    assert len(site.asked) == 1


def test_a_photo_that_is_damaged_in_a_shard_on_a_server_is_left_out_by_name(site):
    shard = site.local / "train-000000.tar"
    with tarfile.open(shard) as tar:
        member = next(m for m in tar if m.name.endswith(".png"))
    with open(shard, "r+b") as file:
        file.seek(member.offset_data + member.size // 2)
        file.write(bytes(60))
    listing = list_pack(site)
    images = load_or_decode_images(listing, ImagePreprocessing((3, 24, 24), 28))
    [problem] = [problem for problem in images.problems if problem.kind == "unreadable"]
    assert problem.detail == (
        "cannot be read: its bytes are not those that its index states: upload its shard again"
    )
    assert len(images.names) == len(listing.entries) - 1


def test_threads_that_wait_for_a_silent_server_end_at_once_when_nobody_needs_them(site):
    file = remote_files.require_file(f"{site.url}/p/train-000000.tar")
    site.delay = 5.0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test process ignores it
    results = stream_in_threads(
        lambda start: remote_files.read_with_retries(file, start, start + 10),
        range(0, 1000, 10),
        "",
        threads=4,
    )
    began = time.monotonic()
    threading.Timer(0.5, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert time.monotonic() - began < 3
    signal.signal(signal.SIGINT, before)
    site.delay = 0.0
    content = remote_files.read_with_retries(file, 0, 10)
    assert content == (site.local / "train-000000.tar").read_bytes()[:10]


def test_a_server_that_sends_byte_by_byte_is_asked_again(site):
    file = remote_files.require_file(f"{site.url}/p/train-000000.tar")
    site.faults = ["trickle"]
    began = time.monotonic()
    content = remote_files.read_with_retries(file, 0, 4000)
    assert content == (site.local / "train-000000.tar").read_bytes()[:4000]
    assert time.monotonic() - began < 4


def test_training_from_a_faulty_server_gives_the_bits_of_the_folder(
    site, tmp_path, packed_folder, monkeypatch, capsys
):
    weights = []
    for place in (str(packed_folder / "d"), f"{site.url}/p"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{len(weights)}"))
        start_new_process()
        site.faults = ["500", "", "drop", "truncate"] * 20
        out = tmp_path / f"run-{len(weights)}"
        words = ["--model", "cifar-resnet8", "--size", "16", "--steps", "3", "--precision", "fp32"]
        words += ["--set", "batch_size=8", "--device", "cpu", "--out", str(out)]
        assert main(["train", place, *words]) == 0
        weights.append(load_file(out / "last" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    again = ["train", f"{site.url}/p?token=new", *words, "--resume"]
    assert main(again) == 0
    assert main(["evaluate", str(out), f"{site.url}/p"]) == 0
    assert "of 15 test images wrong" in capsys.readouterr().out


def test_a_server_that_ignores_ranges_sends_each_shard_about_once(site):
    listing = list_pack(site)
    site.version, site.sent = "no range", 0
    listing = list_pack(site)
    site.sent = 0
    for entry in listing.entries:
        entry.read_bytes()
    assert site.sent <= 1.5 * sum(path.stat().st_size for path in site.local.glob("*.tar"))
    assert read_all(listing) == read_all(list_image_dataset(site.local))


def test_many_threads_take_a_whole_shard_from_one_answer_and_the_user_is_told(
    site, capsys, monkeypatch
):
    remote_transport.note_ignored_ranges.cache_clear()
    path = site.local / "test-000000.tar"
    site.version = "no range"
    [shard] = remote_files.make_shards([remote_files.require_file(f"{site.url}/p/{path.name}")])
    site.faults = ["slow end"]
    written, write = [], RemoteCache.write
    monkeypatch.setattr(
        RemoteCache, "write", lambda *words: (written.append(words[2]), write(*words))
    )
    content, chunks = path.read_bytes(), range(0, path.stat().st_size, 4096)
    found = map_in_threads(
        lambda start: remote_files.read_shard_range(shard, start, start + 100), chunks, "", 8
    )
    assert found == [content[start : start + 100] for start in chunks]
    assert len(written) <= len(chunks) + 1  # each chunk, and that of the thread that read them
    assert capsys.readouterr().err.count("ignores ranges, so that whole files are read") == 1


def test_a_thread_that_asked_before_another_had_kept_the_shard_takes_it_from_the_cache(
    site, monkeypatch
):
    path = site.local / "test-000000.tar"
    site.version = "no range"
    [shard] = remote_files.make_shards([remote_files.require_file(f"{site.url}/p/{path.name}")])
    remote_files.read_shard_range(shard, 0, 100)
    read, answers = RemoteCache.read, []

    def miss_once(*words):
        answers.append(read(*words) if answers else None)
        return answers[-1]

    monkeypatch.setattr(RemoteCache, "read", miss_once)
    monkeypatch.setattr(RemoteCache, "write", lambda *words: pytest.fail("the shard came again"))
    assert remote_files.read_shard_range(shard, 4096, 4200) == path.read_bytes()[4096:4200]
    assert len(answers) == 3  # before the request, with its answer, and once more


def test_a_second_process_reads_photos_from_the_local_cache(site):
    first = read_all(list_pack(site))
    start_new_process()
    site.asked.clear()
    assert read_all(list_pack(site)) == first
    assert {r for path, r in site.asked if path.endswith(".tar")} == {"bytes=0-0"}


def test_a_damaged_cache_is_read_again(site, tmp_path):
    first = read_all(list_pack(site))
    for _, _, path in list_cached_ranges(tmp_path / "cache" / "residua" / "remote"):
        with open(path, "r+b") as file:
            file.seek(50)
            file.write(b"????")
    assert read_all(list_pack(site)) == first


@pytest.mark.parametrize("limit_kib", [0, 5, 30])
def test_a_full_cache_forgets_what_is_old_and_stays_within_its_limit(
    site, tmp_path, monkeypatch, limit_kib
):
    monkeypatch.setenv("RESIDUA_REMOTE_CACHE_GIB", str(limit_kib / 2**20))
    expected = read_all(list_image_dataset(site.local))
    listing = list_pack(site)
    for _ in range(2):
        for entry in listing.entries:
            assert entry.read_bytes() == expected[entry.name]
            kept = list_cached_ranges(tmp_path / "cache" / "residua" / "remote")
            assert sum(size for _, size, _ in kept) <= limit_kib * 1024


def test_photos_are_fetched_alone_if_the_data_set_does_not_fit_into_the_cache(site, monkeypatch):
    monkeypatch.setenv("RESIDUA_REMOTE_CACHE_GIB", str(30 / 2**20))
    listing = list_pack(site)
    shutil.rmtree(remote_files.get_remote_cache().folder, ignore_errors=True)
    site.sent = 0
    read_all(listing)
    assert site.sent == sum(entry.embedded_file.length for entry in listing.entries)


def test_what_is_used_stays_longest_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_cache, "TOUCH_SECONDS", -1.0)
    cache = RemoteCache(tmp_path, 1000)
    files = [RemoteObject(f"https://h/{i}", 200, "a") for i in range(6)]
    for file in files[:4]:
        cache.write(file, 0, bytes(200))
    assert cache.read(files[0], 0, 200) == bytes(200)
    cache.write(files[4], 0, bytes(200))
    assert cache.read(files[0], 0, 200) is not None
    assert cache.read(files[1], 0, 200) is None


def test_caches_of_several_processes_stay_within_one_limit(tmp_path):
    caches = [RemoteCache(tmp_path, 100_000) for _ in range(4)]
    for number in range(400):
        file = RemoteObject(f"https://h/{number}", 1000, "a")
        caches[number % 4].write(file, 0, bytes(1000))
    kept = sum(size for _, size, _ in list_cached_ranges(tmp_path))
    assert 50_000 < kept < 125_000


def test_a_full_disk_is_said_and_the_run_goes_on(site, monkeypatch, capsys):
    listing = list_pack(site)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote_cache.os, "replace", fail)
    monkeypatch.setattr(remote_files.get_remote_cache(), "paused_until", 0.0)
    contents = [entry.read_bytes() for entry in listing.entries]
    monkeypatch.undo()
    assert contents == [entry.read_bytes() for entry in list_image_dataset(site.local).entries]
    said = capsys.readouterr().err
    assert said.count("is not kept in") == 1
    assert "No space left on device" in said


def test_a_shard_that_was_copied_to_the_server_again_is_used_further(site):
    listing, expected = list_pack(site), read_all(list_image_dataset(site.local))
    site.version = "2"
    assert read_all(listing) == expected


@pytest.mark.parametrize(
    ("location", "change"),
    [
        ("p", lambda content: bytes(len(content))),
        ("p", lambda content: content[:2000]),
        ("p/train-000000.tar", lambda content: bytes(len(content))),
        ("p/train-000000.tar", lambda content: content + bytes(512)),
    ],
)
def test_a_shard_that_changes_meanwhile_ends_in_one_sentence(site, location, change):
    path = site.local / "train-000000.tar"
    listing = list_image_dataset(f"{site.url}/{location}")
    shutil.rmtree(remote_files.get_remote_cache().folder, ignore_errors=True)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match="train-000000.tar was changed on the server while it was"):
        read_all(listing)


def test_a_pack_whose_shard_grew_meanwhile_is_read_to_its_end(site):
    listing, expected = list_pack(site), read_all(list_image_dataset(site.local))
    path = site.local / "train-000000.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    assert read_all(listing) == expected


@pytest.mark.parametrize("version", ["1", None])
def test_shards_that_differ_only_in_the_query_are_not_mixed(site, version):
    local = [list_image_dataset(path) for path in sorted(site.local.glob("train-*.tar"))[:2]]
    for number in (0, 1):
        path = site.local / f"train-00000{number}.tar"
        path.write_bytes(path.read_bytes() + bytes(20_000 - path.stat().st_size))
    site.version, site.script = version, "/get.tar"
    listing = list_image_dataset(f"{site.url}/get.tar?token=s3&id=p/train-{{000000..000001}}.tar")
    contents = [entry.read_bytes() for entry in listing.entries]
    assert contents == [entry.read_bytes() for one in local for entry in one.entries]
    assert len({entry.name for entry in listing.entries}) == len(listing.entries)


def test_a_file_without_a_version_is_not_taken_from_the_cache_of_another_process(site, monkeypatch):
    site.version = None
    path = site.local / "train-000000.tar"
    first = read_all(list_image_dataset(f"{site.url}/p/train-000000.tar"))
    path.write_bytes(path.read_bytes().replace(b"IEND", b"IENX"))
    monkeypatch.setattr(remote_cache, "PROCESS_TAG", "another process")
    start_new_process()
    assert read_all(list_image_dataset(f"{site.url}/p/train-000000.tar")) != first


def test_copies_of_a_pack_with_versions_of_their_own_are_one_data_set(site):
    listing, expected = list_pack(site), read_all(list_image_dataset(site.local))
    site.versions = itertools.cycle("abc")
    assert read_all(listing) == expected


def test_a_file_that_changes_with_each_answer_ends_in_one_sentence(site, monkeypatch):
    entry = list_pack(site).entries[0]
    path = site.folder / "p" / "train-000000.tar"

    def change(file, *arguments):
        path.write_bytes(path.read_bytes() + bytes(512))
        raise remote_transport.ChangedRemoteError(replace(file, size=file.size + 512))

    monkeypatch.setattr(remote_files, "iter_remote_range", change)
    with pytest.raises(DataError, match="was changed on the server while it was in use"):
        entry.read_bytes()


def test_a_shard_of_another_size_than_its_index_says_is_refused(site):
    path = site.local / "train-000000.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(DataError, match="bytes, but .* when it was packed: copy it there again"):
        list_pack(site)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_expires_ends_in_one_sentence_and_a_new_one_goes_on(site, status):
    location = f"{site.url}/p?token=secret1"
    listing = list_image_dataset(location)
    first = listing.entries[0].read_bytes()
    site.status = status
    with pytest.raises(DataError) as caught:
        read_all(listing)
    assert "may have expired; renew it, and start the same command again" in str(caught.value)
    assert "secret1" not in str(caught.value)
    site.status = 0
    site.asked.clear()
    renewed = list_image_dataset(f"{site.url}/p?token=secret2")
    assert renewed.location == listing.location == f"{site.url}/p"  # as runs record it
    assert renewed.entries[0].read_bytes() == first
    assert {r for path, r in site.asked if path.endswith(".tar")} == {"bytes=0-0"}  # cached


def test_a_server_that_never_answers_is_given_up_in_one_sentence(site, monkeypatch, capsys):
    listing = list_pack(site)
    monkeypatch.setenv("RESIDUA_REMOTE_SECONDS", "0.1")
    site.status = 503
    with pytest.raises(DataError, match="cannot be read: HTTP 503, for 0 seconds; start the same"):
        listing.entries[0].read_bytes()
    monkeypatch.setattr(remote_files, "FIRST_PATIENCE", 0.1)
    assert main(["data", "check", f"{site.url}/p"]) == 1
    assert "HTTP 503" in capsys.readouterr().err


def test_retry_after_is_heeded():
    assert remote_transport.parse_retry_after("7") == 7
    assert remote_transport.parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert remote_transport.parse_retry_after("soon") == 0


def test_what_is_not_there_is_named(site):
    for place, sentence in (
        ("/q", "holds no index.residua: give a folder that residua data pack wrote"),
        ("/p/no-{0..1}.tar", "there is no .*/p/no-0.tar: check the address"),
        ("/p/photos.zip", "holds no index.residua"),
    ):
        with pytest.raises(DataError, match=sentence):
            list_image_dataset(f"{site.url}{place}")


def test_a_damaged_index_on_a_server_is_named(site):
    path = site.local / PACK_INDEX
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="index.residua cannot be read: its checksum is wrong"):
        list_pack(site)


def test_offline_nothing_is_asked(site, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="cannot be read .offline"):
        list_pack(site)
    assert site.asked == []


def test_many_threads_fetch_each_chunk_once(site):
    [shard] = remote_files.make_shards([remote_files.require_file(f"{site.url}/p/test-000000.tar")])
    site.asked.clear()
    content = (site.local / "test-000000.tar").read_bytes()
    found = {}

    def read(number):
        found[number] = remote_files.read_shard_range(shard, 100, 9000)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(found.values()) == {content[100:9000]}
    assert len(site.asked) == 3


def test_threads_that_need_one_chunk_share_one_patience(site, monkeypatch):
    monkeypatch.setenv("RESIDUA_REMOTE_SECONDS", "0.5")
    [shard] = remote_files.make_shards([remote_files.require_file(f"{site.url}/p/test-000000.tar")])
    site.status, began, errors = 503, time.monotonic(), []

    def read():
        with pytest.raises(DataError) as caught:
            remote_files.read_shard_range(shard, 0, 100)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=read) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(errors) == 6
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("how", ["rows", "map"])
def test_threads_that_wait_for_a_server_end_when_the_reader_is_closed(site, monkeypatch, how):
    monkeypatch.setattr(remote_retries, "LONGEST_PAUSE", 60.0)
    entries = list_pack(site).entries[:8]
    shutil.rmtree(remote_files.get_remote_cache().folder, ignore_errors=True)
    site.status, began = 503, time.monotonic()

    def read(i):
        if i == 7:
            time.sleep(0.5)
            raise KeyboardInterrupt
        return torch.frombuffer(bytearray(entries[i].read_bytes()), dtype=torch.uint8)

    def read_all_rows():
        if how == "map":
            map_in_threads(read, [7, *range(7)], "reading", 8)
            return
        with ThreadPoolExecutor(8) as pool:
            rows = FilledTensor((8, 10), read, pool)
            time.sleep(0.5)
            rows.cancel()

    with suppress(KeyboardInterrupt):
        read_all_rows()
    assert time.monotonic() - began < 5


def test_photos_are_fetched_many_at_a_time_before_they_are_decoded(site, monkeypatch):
    """A server that takes 50 ms for each answer, and one core that decodes."""
    monkeypatch.setattr("residua.data.threads.count_available_cores", lambda: 1)
    monkeypatch.setenv("RESIDUA_REMOTE_CACHE_GIB", str(100 / 2**20))
    listing = list_pack(site)
    site.delay, site.most_at_once = 0.05, 0
    found = load_or_decode_images(listing, VIEW)
    assert (len(found.names), found.problems) == (51, ())
    assert site.most_at_once >= 8


def test_parquet_files_on_a_server_are_those_on_the_disk(site):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    entries = list_image_dataset(site.local).entries
    for split in ("train", "test"):
        rows = [entry for entry in entries if entry.split == split]
        table = {"image": [e.read_bytes() for e in rows], "label": [f"c{e.label}" for e in rows]}
        parquet.write_table(pyarrow.table(table), site.folder / f"{split}.parquet")
    site.faults = ["", "", "drop", "truncate"]
    remote = list_image_dataset(f"{site.url}/{{train,test}}.parquet")
    local = list_image_dataset(site.folder / "train.parquet")
    assert (len(remote.entries), remote.classes) == (51, ("c0", "c1", "c2"))
    assert {e.read_bytes() for e in local.entries} <= {e.read_bytes() for e in remote.entries}


def test_parquet_files_are_streamed_and_copied_again_if_they_have_no_version(site, monkeypatch):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    entries = list_image_dataset(site.local).entries[:12]
    table = {"image": [e.read_bytes() for e in entries], "label": [i % 2 for i in range(12)]}
    path, url = site.folder / "train.parquet", f"{site.url}/train.parquet"
    parquet.write_table(pyarrow.table(table), path, compression="none")
    monkeypatch.setattr(remote_transport, "DOWNLOAD_BLOCK_SIZE", 4096)
    monkeypatch.setattr(remote_files, "read_with_retries", None)
    monkeypatch.setattr(remote_dataset, "read_whole_file", None)
    site.version = None
    assert {e.read_bytes() for e in list_image_dataset(url).entries} == set(table["image"])
    table["image"].reverse()
    parquet.write_table(pyarrow.table(table), path, compression="none")
    monkeypatch.setattr(remote_dataset, "PROCESS_TAG", "another process")
    listed = [entry.read_bytes() for entry in list_image_dataset(url).entries]
    assert listed == table["image"]


@pytest.fixture
def storage(site):
    """The pack in the memory of fsspec, in place of a storage server such as S3."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in site.local.iterdir():
        memory.pipe_file(f"/bucket/p/{path.name}", path.read_bytes())
    yield memory
    memory.store.clear()


def test_a_pack_and_shards_on_a_storage_server_are_those_on_the_disk(site, storage):
    local = list_image_dataset(site.local)
    assert read_all(list_image_dataset("memory://bucket/p")) == read_all(local)
    shards = list_image_dataset("memory://bucket/p/train-{000000..000003}.tar")
    assert {e.read_bytes() for e in shards.entries} <= set(read_all(local).values())


def test_errors_of_a_storage_server_pass_or_end_in_one_sentence(site, storage, monkeypatch):
    listing = list_image_dataset("memory://bucket/p")
    expected = list_image_dataset(site.local).entries[0].read_bytes()
    read, failures = type(storage).cat_file, [OSError("slow down"), TimeoutError(), b"short"]

    def fail_sometimes(self, path, start=None, end=None, **keywords):
        if not failures:
            return read(self, path, start, end, **keywords)
        if isinstance(failure := failures.pop(), bytes):
            return failure
        raise failure

    monkeypatch.setattr(type(storage), "cat_file", fail_sometimes)
    assert listing.entries[0].read_bytes() == expected
    shutil.rmtree(remote_files.get_remote_cache().folder)
    failures.append(PermissionError("ExpiredToken"))
    with pytest.raises(DataError, match="may not be read .ExpiredToken.: the token"):
        listing.entries[0].read_bytes()
    storage.store.clear()
    with pytest.raises(DataError, match="is not on the server any more"):
        listing.entries[0].read_bytes()


def test_a_storage_library_that_is_missing_is_named(site):
    with pytest.raises(UsageError, match="oss:// needs another package: "):
        list_image_dataset("oss://bucket/p")


@pytest.mark.parametrize(
    ("pattern", "urls"),
    [
        ("s3://b/{08..11}.tar", ["08", "09", "10", "11"]),
        ("s3://b/{a,b}{0..1}.tar", ["a0", "a1", "b0", "b1"]),
        ("s3://b/x.tar::s3://b/y.tar", ["x", "y"]),
    ],
)
def test_patterns_stand_for_addresses(pattern, urls):
    assert expand_urls(pattern) == [f"s3://b/{name}.tar" for name in urls]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("s3://b/{0..999999999}.tar", "too many shards"),
        ("s3://b/{0..999}{0..999}.tar", "stands for 1,000,000 shards"),
        ("s3://b/{9..1}.tar", "counts down"),
        ("s3://b/1.tar::2.tar", "2.tar is no address"),
        ("https://me:secret@h/1.tar", "put them into ~/.netrc"),
        ("s3://b/{1,1}.tar", "names a shard twice"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        expand_urls(pattern)
    assert "secret" not in str(caught.value)


def test_texts_that_are_addresses():
    assert is_remote_url("https://h/a.tar")
    assert is_remote_url("S3://b/a")
    assert not any(map(is_remote_url, ["hf:o/n", "a/b", "file:///etc/passwd", "ftp://h/a"]))
    assert show_url("https://h/a.tar?sig=1") == "https://h/a.tar"


def test_a_file_is_identified_by_its_address_without_what_signs_it():
    signed = (
        "X-Amz-Signature=1&X-Amz-Date=2",
        "Expires=1&Signature=2&Key-Pair-Id=3",
        "sv=1&se=2&sig=3",
        "token=1",
    )
    assert {identify_url(f"https://h/a.tar?{query}") for query in signed} == {"https://h/a.tar"}
    names = {identify_url(f"https://h/a.tar?id={i}&{query}") for i in (0, 1) for query in signed}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("RESIDUA_REMOTE_CACHE_GIB", "much"), ("RESIDUA_REMOTE_SECONDS", "-1")]
)
def test_settings_that_are_no_numbers_are_refused(site, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}={value} is invalid: give a number of"):
        list_image_dataset(name_all_shards(site))


def test_the_name_and_password_of_netrc_are_sent_to_their_server(site, tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password p@ss\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    remote_files.require_file(f"{site.url}/p/{PACK_INDEX}")
    assert site.authorizations == [f"Basic {b64encode(b'me:p@ss').decode()}"]


@pytest.mark.parametrize(
    ("line", "query"),
    [("default login me password p", ""), ("machine 127.0.0.1 login me password p", "?sig=1")],
)
def test_a_password_goes_only_to_a_server_that_is_named_and_needs_it(
    site, tmp_path, monkeypatch, line, query
):
    (tmp_path / ".netrc").write_text(f"{line}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    remote_files.require_file(f"{site.url}/p/{PACK_INDEX}{query}")
    assert site.authorizations == [None]


def test_a_password_is_not_sent_in_plain_text(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine h.example login me password p\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_login(urlsplit("https://h.example/a.tar")) == ("me", "p")
    assert find_login(urlsplit("http://h.example/a.tar")) is None


def test_a_netrc_that_cannot_be_read_is_said_once(site, tmp_path, monkeypatch, capsys):
    (tmp_path / ".netrc").write_bytes("machine h login mé password ü\n".encode("utf-16"))
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    note_unreadable_logins.cache_clear()
    for _ in range(2):
        remote_files.require_file(f"{site.url}/p/{PACK_INDEX}")
    assert capsys.readouterr().err.count(".netrc cannot be read (") == 1


def test_a_connection_is_kept_for_the_next_request(site):
    for _ in range(5):
        remote_files.require_file(f"{site.url}/p/{PACK_INDEX}")
    assert len(site.connections) == 1


def test_redirects_and_proxies_are_followed(site, monkeypatch):
    site.moved["/q/x.tar"] = f"{site.url}/p/test-000000.tar"
    file = remote_files.require_file(f"{site.url}/q/x.tar")
    content = (site.local / "test-000000.tar").read_bytes()
    assert remote_files.read_with_retries(file, 500, 3000) == content[500:3000]
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    away = remote_files.require_file("http://nowhere.invalid/p/test-000000.tar")
    assert remote_files.read_with_retries(away, 500, 3000) == content[500:3000]


def test_a_shard_is_a_file_that_tarfile_reads(site):
    [shard] = remote_files.make_shards([remote_files.require_file(f"{site.url}/p/test-000000.tar")])
    with tarfile.open(fileobj=remote_files.RemoteReader(shard)) as ours:
        names = ours.getnames()
        content = ours.extractfile(names[2]).read()
    with tarfile.open(site.local / "test-000000.tar") as theirs:
        assert (names, content) == (theirs.getnames(), theirs.extractfile(names[2]).read())
    assert np.frombuffer(content[:1], np.uint8)

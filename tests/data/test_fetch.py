"""Fetching from a server on this machine: whole, cut, altered, from mirrors, and not at all."""

import gzip
import io
import os
import re
import tarfile
import threading
from dataclasses import replace
from hashlib import md5

import pytest

from residua.data.fetch import located
from residua.errors import DataError
from residua.spec.dataset import Archive, File, dataset
from tests.data.site import served

CONTENTS = {name: os.urandom(40_000) for name in ("data_batch_1", "data_batch_2", "test_batch")}


@pytest.fixture
def site():
    with served() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RESIDUA_DATA", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "residua"


def sum_of(content):
    return md5(content, usedforsecurity=False).hexdigest()


def tar_of(contents, folder="cifar-10-batches-py"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def small_cifar(archive, *urls):
    """CIFAR-10 in three small files, in an archive of those bytes."""
    files = [File(name, sum_of(content)) for name, content in CONTENTS.items()]
    return replace(
        dataset("cifar10"), train=tuple(files[:2]), test=tuple(files[2:]), archives=(Archive(urls, sum_of(archive)),)
    )  # fmt: skip


def write(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def published(site):
    """The site holds the archive of a small CIFAR-10 at /a.tar.gz."""
    archive = tar_of(CONTENTS)
    site.files["/a.tar.gz"] = archive
    return small_cifar(archive, f"{site.url}/a.tar.gz")


def test_files_are_found_in_the_folder_given_before_any_other(tmp_path, cache, monkeypatch):
    data = small_cifar(b"")
    given, said = [write(tmp_path / name / data.folder, CONTENTS) for name in ("given", "said")]
    write(cache / data.folder, CONTENTS)
    monkeypatch.setenv("RESIDUA_DATA", str(said.parent))
    assert located(data, given.parent) == given
    assert located(data) == said
    monkeypatch.delenv("RESIDUA_DATA")
    assert located(data) == cache / data.folder


def test_a_folder_without_the_data_set_is_passed_over(tmp_path, cache, monkeypatch):
    data = small_cifar(b"")
    said = write(tmp_path / "said" / data.folder, CONTENTS)
    monkeypatch.setenv("RESIDUA_DATA", str(said.parent))
    (tmp_path / "other" / "data_batch_1").mkdir(parents=True)  # a folder of that name is not the file
    assert located(data, tmp_path / "other") == said


def test_the_data_sets_own_folder_can_be_given_too(tmp_path, cache):
    folder = write(tmp_path / "anywhere", CONTENTS)
    assert located(small_cifar(b""), folder) == folder


def test_packed_files_count_as_there(tmp_path, cache):
    folder = write(tmp_path / "mnist", {f"{file.name}.gz": b"" for file in dataset("mnist").train})
    assert located(dataset("mnist"), tmp_path, dataset("mnist").train) == folder


def test_a_given_folder_that_does_not_exist_is_named(tmp_path, cache, monkeypatch):
    gone = tmp_path / "gone"
    with pytest.raises(
        DataError, match=r"^--data-dir is .*gone, which is not a folder: give the one that holds cifar-10-batches-py$"
    ):
        located(dataset("cifar10"), gone)
    monkeypatch.setenv("RESIDUA_DATA", str(gone))
    with pytest.raises(DataError, match=r"^RESIDUA_DATA is .*gone, which is not a folder"):
        located(dataset("cifar10"))


def test_missing_files_of_a_users_folder_are_named_and_nothing_is_fetched(tmp_path, cache, site, published):
    folder = write(tmp_path / "data" / published.folder, {"data_batch_2": b""})
    sentence = r"lacks data_batch_1, test_batch of cifar10: add what is missing, or give another --data-dir$"
    for given in (folder, folder.parent):
        with pytest.raises(DataError, match=sentence):
            located(published, given)
    assert not site.asked


def test_only_the_files_asked_for_must_be_there(tmp_path, cache):
    data = small_cifar(b"")
    folder = write(tmp_path / data.folder, dict.fromkeys(("data_batch_1", "data_batch_2"), b""))
    assert located(data, tmp_path, data.train) == folder
    with pytest.raises(DataError, match="lacks test_batch of cifar10"):
        located(data, tmp_path, data.test)


def test_an_absent_data_set_is_fetched_into_the_cache_once(cache, site, published, capfd):
    folder = located(published)
    assert folder == cache / "cifar-10-batches-py"
    assert read_all(folder) == CONTENTS
    assert not (cache / ".cifar-10-batches-py.download").exists()
    assert located(published) == folder
    assert site.asked == [("/a.tar.gz", None)]
    assert re.search(r"a\.tar\.gz: 100%.*B/s", capfd.readouterr().err)


def test_files_packed_alone_stay_packed(cache, site):
    contents = {
        file.name: gzip.compress(file.name.encode()) for part in ("train", "test") for file in getattr(dataset("mnist"), part)
    }
    site.files.update({f"/{name}.gz": content for name, content in contents.items()})
    archives = tuple(Archive((f"{site.url}/{name}.gz",), sum_of(content)) for name, content in contents.items())
    assert read_all(located(replace(dataset("mnist"), archives=archives))) == {f"{n}.gz": c for n, c in contents.items()}


def test_a_cut_download_goes_on_where_it_was_cut(cache, site, published):
    site.cuts = [50_000, 20_000]
    assert read_all(located(published)) == CONTENTS
    assert [asked for _, asked in site.asked] == [None, "bytes=50000-", "bytes=70000-"]


def test_a_later_try_goes_on_where_an_earlier_one_ended(cache, site, published):
    site.cuts = [50_000, 0]
    with pytest.raises(DataError, match=r"a\.tar\.gz \(cut after 50,000 of [\d,]+ bytes\)"):
        located(published)
    assert not (cache / published.folder).exists()
    assert read_all(located(published)) == CONTENTS
    assert site.asked[-1] == ("/a.tar.gz", "bytes=50000-")


def test_a_server_that_knows_no_ranges_sends_the_whole_again(cache, site, published):
    site.cuts, site.ranges = [50_000], False
    assert read_all(located(published)) == CONTENTS
    assert site.asked[-1] == ("/a.tar.gz", "bytes=50000-")


def test_a_server_that_states_no_length_is_believed_by_the_checksum(cache, site, published):
    site.length = False
    assert read_all(located(published)) == CONTENTS


def part_of(cache, content):
    downloads = cache / ".cifar-10-batches-py.download"
    downloads.mkdir(parents=True)
    (downloads / "a.tar.gz.part").write_bytes(content)


def test_a_download_complete_but_not_unpacked_is_not_repeated(cache, site, published):
    part_of(cache, site.files["/a.tar.gz"])
    assert read_all(located(published)) == CONTENTS
    assert not site.asked


@pytest.mark.parametrize("length", [100, 1_000_000])
def test_a_spoilt_part_is_thrown_away(cache, site, published, length):
    part_of(cache, bytes(length))
    assert read_all(located(published)) == CONTENTS
    assert [asked for _, asked in site.asked] == [f"bytes={length}-", None]


def test_an_archive_with_a_wrong_checksum_is_not_put_in_place(cache, site, published):
    right, site.files["/a.tar.gz"] = site.files["/a.tar.gz"], b"another"
    sentence = rf"a\.tar\.gz \(its MD5 sum is {sum_of(b'another')}, not {sum_of(right)}\)"
    with pytest.raises(DataError, match=sentence):
        located(published)
    assert not (cache / published.folder).exists()
    assert len(site.asked) == 1
    site.files["/a.tar.gz"] = right
    assert read_all(located(published)) == CONTENTS


def test_a_mirror_goes_on_with_what_the_first_address_began(cache, site, published):
    site.files["/mirror/a.tar.gz"] = site.files["/a.tar.gz"]
    site.cuts = [50_000, 0]
    urls = (f"{site.url}/none.tar.gz", f"{site.url}/a.tar.gz", f"{site.url}/mirror/a.tar.gz")
    data = replace(published, archives=(replace(published.archives[0], urls=urls),))
    assert read_all(located(data)) == CONTENTS
    assert [path for path, _ in site.asked] == ["/none.tar.gz", "/a.tar.gz", "/a.tar.gz", "/mirror/a.tar.gz"]
    assert site.asked[-1][1] == "bytes=50000-"


def test_offline_one_sentence_says_what_was_tried_and_what_to_do(tmp_path, cache, site):
    url = f"{site.url}/a.tar.gz"
    site.shutdown()
    site.server_close()
    with pytest.raises(DataError) as caught:
        located(small_cifar(b"", url, f"{site.url}/mirror/a.tar.gz"), tmp_path)
    assert re.fullmatch(
        rf"cifar10 is not in {tmp_path} or {cache}, and fetching it failed from {url} \(Connection refused\), "
        rf"{site.url}/mirror/a\.tar\.gz \(Connection refused\): try again later, or download it yourself and give the folder "
        r"that holds cifar-10-batches-py by --data-dir or RESIDUA_DATA",
        str(caught.value),
    )


def test_a_page_that_is_gone_is_said_by_its_number(cache, site):
    with pytest.raises(DataError, match=r"/a\.tar\.gz \(HTTP Error 404: Not Found\)"):
        located(small_cifar(b"", f"{site.url}/a.tar.gz"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_archive_is_not_put_in_place(cache, site, share):
    archive = tar_of(CONTENTS)
    site.files["/a.tar.gz"] = archive = archive[: int(share * len(archive))]
    with pytest.raises(DataError, match=r"^a\.tar\.gz of cifar10 is damaged \(.*\): nothing was put in place$"):
        located(small_cifar(archive, f"{site.url}/a.tar.gz"))
    assert not list(cache.glob("cifar*"))


def test_an_archive_without_all_files_is_not_put_in_place(cache, site):
    site.files["/a.tar.gz"] = archive = tar_of({"data_batch_1": b"", "test_batch": b""})
    with pytest.raises(DataError, match=r"^what was fetched of cifar10 lacks data_batch_2: nothing was put in place$"):
        located(small_cifar(archive, f"{site.url}/a.tar.gz"))
    assert not list(cache.glob("cifar*"))


def test_an_archive_writes_only_regular_files_of_the_names_expected(tmp_path, cache, site):
    packed = io.BytesIO(gzip.decompress(tar_of(CONTENTS)))
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for name in ("../../../outside", str(tmp_path / "outside"), "cifar-10-batches-py/stranger"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        tar.addfile(link)
    site.files["/a.tar.gz"] = archive = gzip.compress(packed.getvalue())
    assert read_all(located(small_cifar(archive, f"{site.url}/a.tar.gz"))) == CONTENTS
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_file_lost_from_the_cache_is_fetched_anew(cache, site, published):
    folder = located(published)
    (folder / "data_batch_2").unlink()
    assert read_all(located(published)) == CONTENTS


def test_several_at_once_fetch_it_once(cache, site, published):
    found = []
    threads = [threading.Thread(target=lambda: found.append(located(published))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / published.folder] * 4
    assert read_all(found[0]) == CONTENTS
    assert len(site.asked) == 1
    assert sorted(path.name for path in cache.iterdir()) == ["cifar-10-batches-py"]


def test_a_cache_that_cannot_be_written_is_named(cache, published):
    cache.parent.mkdir()
    cache.touch()
    with pytest.raises(DataError, match=r"^cifar10 cannot be written to .*: .*; set XDG_CACHE_HOME to another folder$"):
        located(published)


def test_every_data_set_that_is_fetched_states_all_checksums():
    for name in ("cifar10", "cifar100", "mnist", "fashion-mnist"):
        data = dataset(name)
        for listed in (*data.train, *data.test, *data.archives):
            assert re.fullmatch("[0-9a-f]{32}", listed.md5), listed
        assert all(re.fullmatch(r"https?://[^/]+/.+\.gz", url) for archive in data.archives for url in archive.urls)

"""Downloads from a local server: complete, interrupted, altered, from mirrors and offline."""

import gzip
import io
import os
import re
import tarfile
import threading
from dataclasses import replace
from hashlib import md5

import pytest

from residua.config.dataset import DataFile, DownloadArchive, get_dataset
from residua.data.sources.download import find_or_download
from residua.errors import DataError
from tests.data.file_server import run_file_server

FILE_CONTENTS = {
    name: os.urandom(40_000) for name in ("data_batch_1", "data_batch_2", "test_batch")
}


@pytest.fixture
def file_server():
    with run_file_server() as server:
        yield server


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RESIDUA_DATA", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "residua"


def compute_md5(content):
    return md5(content, usedforsecurity=False).hexdigest()


def make_tar(contents, folder="cifar-10-batches-py"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_small_cifar(archive, *urls):
    """A CIFAR-10 data set of three small files, with the checksum of the bytes `archive`."""
    files = [DataFile(name, compute_md5(content)) for name, content in FILE_CONTENTS.items()]
    return replace(
        get_dataset("cifar10"),
        train=tuple(files[:2]),
        test=tuple(files[2:]),
        archives=(DownloadArchive(urls, compute_md5(archive)),),
    )


def write_files(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def published_cifar(file_server):
    """A small CIFAR-10 whose archive the server holds at /a.tar.gz."""
    archive = make_tar(FILE_CONTENTS)
    file_server.files["/a.tar.gz"] = archive
    return make_small_cifar(archive, f"{file_server.url}/a.tar.gz")


def test_the_given_folder_is_searched_before_any_other(tmp_path, cache_folder, monkeypatch):
    data = make_small_cifar(b"")
    given, said = [
        write_files(tmp_path / name / data.folder, FILE_CONTENTS) for name in ("given", "said")
    ]
    write_files(cache_folder / data.folder, FILE_CONTENTS)
    monkeypatch.setenv("RESIDUA_DATA", str(said.parent))
    assert find_or_download(data, given.parent) == given
    assert find_or_download(data) == said
    monkeypatch.delenv("RESIDUA_DATA")
    assert find_or_download(data) == cache_folder / data.folder


def test_a_folder_without_the_data_set_is_skipped(tmp_path, cache_folder, monkeypatch):
    data = make_small_cifar(b"")
    said = write_files(tmp_path / "said" / data.folder, FILE_CONTENTS)
    monkeypatch.setenv("RESIDUA_DATA", str(said.parent))
    (tmp_path / "other" / "data_batch_1").mkdir(
        parents=True
    )  # a folder of that name is not the file
    assert find_or_download(data, tmp_path / "other") == said


def test_the_folder_of_the_data_set_itself_can_be_given(tmp_path, cache_folder):
    folder = write_files(tmp_path / "anywhere", FILE_CONTENTS)
    assert find_or_download(make_small_cifar(b""), folder) == folder


def test_compressed_files_count_as_present(tmp_path, cache_folder):
    folder = write_files(
        tmp_path / "mnist", {f"{file.name}.gz": b"" for file in get_dataset("mnist").train}
    )
    assert find_or_download(get_dataset("mnist"), tmp_path, get_dataset("mnist").train) == folder


def test_a_given_folder_that_does_not_exist_is_reported(tmp_path, cache_folder, monkeypatch):
    gone = tmp_path / "gone"
    with pytest.raises(
        DataError,
        match=r"^--data-dir is .*gone, which is not a folder: "
        r"give the folder that holds cifar-10-batches-py$",
    ):
        find_or_download(get_dataset("cifar10"), gone)
    monkeypatch.setenv("RESIDUA_DATA", str(gone))
    with pytest.raises(DataError, match=r"^RESIDUA_DATA is .*gone, which is not a folder"):
        find_or_download(get_dataset("cifar10"))


def test_missing_files_in_a_given_folder_are_reported_and_not_downloaded(
    tmp_path, cache_folder, file_server, published_cifar
):
    folder = write_files(tmp_path / "data" / published_cifar.folder, {"data_batch_2": b""})
    sentence = (
        r"lacks data_batch_1, test_batch of cifar10: "
        r"add what is missing, or give another --data-dir$"
    )
    for given in (folder, folder.parent):
        with pytest.raises(DataError, match=sentence):
            find_or_download(published_cifar, given)
    assert not file_server.asked


def test_only_the_requested_files_must_exist(tmp_path, cache_folder):
    data = make_small_cifar(b"")
    folder = write_files(
        tmp_path / data.folder, dict.fromkeys(("data_batch_1", "data_batch_2"), b"")
    )
    assert find_or_download(data, tmp_path, data.train) == folder
    with pytest.raises(DataError, match="lacks test_batch of cifar10"):
        find_or_download(data, tmp_path, data.test)


def test_a_missing_data_set_is_downloaded_into_the_cache_once(
    cache_folder, file_server, published_cifar, capfd
):
    folder = find_or_download(published_cifar)
    assert folder == cache_folder / "cifar-10-batches-py"
    assert read_files(folder) == FILE_CONTENTS
    assert not (cache_folder / ".cifar-10-batches-py.download").exists()
    assert find_or_download(published_cifar) == folder
    assert file_server.asked == [("/a.tar.gz", None)]
    assert re.search(r"a\.tar\.gz: 100%.*B/s", capfd.readouterr().err)


def test_single_compressed_files_stay_compressed(cache_folder, file_server):
    contents = {
        file.name: gzip.compress(file.name.encode())
        for part in ("train", "test")
        for file in getattr(get_dataset("mnist"), part)
    }
    file_server.files.update({f"/{name}.gz": content for name, content in contents.items()})
    archives = tuple(
        DownloadArchive((f"{file_server.url}/{name}.gz",), compute_md5(content))
        for name, content in contents.items()
    )
    assert read_files(find_or_download(replace(get_dataset("mnist"), archives=archives))) == {
        f"{n}.gz": c for n, c in contents.items()
    }


def test_an_interrupted_download_resumes_where_it_stopped(
    cache_folder, file_server, published_cifar
):
    file_server.cuts = [50_000, 20_000]
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS
    assert [asked for _, asked in file_server.asked] == [None, "bytes=50000-", "bytes=70000-"]


def test_a_later_attempt_resumes_an_earlier_download(cache_folder, file_server, published_cifar):
    file_server.cuts = [50_000, 0]
    with pytest.raises(
        DataError, match=(r"a\.tar\.gz \(the connection ended after 50,000 of [\d,]+ bytes\)")
    ):
        find_or_download(published_cifar)
    assert not (cache_folder / published_cifar.folder).exists()
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS
    assert file_server.asked[-1] == ("/a.tar.gz", "bytes=50000-")


def test_without_range_support_the_whole_file_is_downloaded_again(
    cache_folder, file_server, published_cifar
):
    file_server.cuts, file_server.ranges = [50_000], False
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS
    assert file_server.asked[-1] == ("/a.tar.gz", "bytes=50000-")


def test_without_a_content_length_the_checksum_decides(cache_folder, file_server, published_cifar):
    file_server.length = False
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS


def write_partial_download(cache, content):
    downloads = cache / ".cifar-10-batches-py.download"
    downloads.mkdir(parents=True)
    (downloads / "a.tar.gz.part").write_bytes(content)


def test_a_complete_download_that_was_not_unpacked_is_not_repeated(
    cache_folder, file_server, published_cifar
):
    write_partial_download(cache_folder, file_server.files["/a.tar.gz"])
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS
    assert not file_server.asked


@pytest.mark.parametrize("length", [100, 1_000_000])
def test_a_corrupt_partial_download_is_discarded(
    cache_folder, file_server, published_cifar, length
):
    write_partial_download(cache_folder, bytes(length))
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS
    assert [asked for _, asked in file_server.asked] == [f"bytes={length}-", None]


def test_an_archive_with_a_wrong_checksum_is_not_installed(
    cache_folder, file_server, published_cifar
):
    right, file_server.files["/a.tar.gz"] = file_server.files["/a.tar.gz"], b"another"
    sentence = (
        rf"a\.tar\.gz \(the MD5 sum of a\.tar\.gz is {compute_md5(b'another')}, not "
        rf"{compute_md5(right)}\)"
    )
    with pytest.raises(DataError, match=sentence):
        find_or_download(published_cifar)
    assert not (cache_folder / published_cifar.folder).exists()
    assert len(file_server.asked) == 1
    file_server.files["/a.tar.gz"] = right
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS


def test_a_mirror_resumes_the_download_that_the_first_url_began(
    cache_folder, file_server, published_cifar
):
    file_server.files["/mirror/a.tar.gz"] = file_server.files["/a.tar.gz"]
    file_server.cuts = [50_000, 0]
    urls = (
        f"{file_server.url}/none.tar.gz",
        f"{file_server.url}/a.tar.gz",
        f"{file_server.url}/mirror/a.tar.gz",
    )
    data = replace(published_cifar, archives=(replace(published_cifar.archives[0], urls=urls),))
    assert read_files(find_or_download(data)) == FILE_CONTENTS
    assert [path for path, _ in file_server.asked] == [
        "/none.tar.gz",
        "/a.tar.gz",
        "/a.tar.gz",
        "/mirror/a.tar.gz",
    ]
    assert file_server.asked[-1][1] == "bytes=50000-"


def test_offline_the_error_says_what_was_tried_and_what_to_do(tmp_path, cache_folder, file_server):
    url = f"{file_server.url}/a.tar.gz"
    file_server.shutdown()
    file_server.server_close()
    with pytest.raises(DataError) as caught:
        find_or_download(make_small_cifar(b"", url, f"{file_server.url}/mirror/a.tar.gz"), tmp_path)
    assert re.fullmatch(
        rf"cifar10 is not in {tmp_path} or {cache_folder}, and could not be downloaded from "
        rf"{url} \(Connection refused\), "
        rf"{file_server.url}/mirror/a\.tar\.gz \(Connection refused\): "
        r"try again later, or download it yourself and set --data-dir or RESIDUA_DATA "
        r"to the folder that contains cifar-10-batches-py",
        str(caught.value),
    )


def test_a_missing_url_is_reported_with_its_http_status(cache_folder, file_server):
    with pytest.raises(DataError, match=r"/a\.tar\.gz \(HTTP Error 404: Not Found\)"):
        find_or_download(make_small_cifar(b"", f"{file_server.url}/a.tar.gz"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_archive_is_not_installed(cache_folder, file_server, share):
    archive = make_tar(FILE_CONTENTS)
    file_server.files["/a.tar.gz"] = archive = archive[: int(share * len(archive))]
    with pytest.raises(
        DataError, match=r"^a\.tar\.gz of cifar10 is damaged \(.*\): nothing was installed$"
    ):
        find_or_download(make_small_cifar(archive, f"{file_server.url}/a.tar.gz"))
    assert not list(cache_folder.glob("cifar*"))


def test_an_archive_with_missing_files_is_not_installed(cache_folder, file_server):
    file_server.files["/a.tar.gz"] = archive = make_tar({"data_batch_1": b"", "test_batch": b""})
    with pytest.raises(
        DataError,
        match=r"^the download of cifar10 lacks data_batch_2: nothing was installed$",
    ):
        find_or_download(make_small_cifar(archive, f"{file_server.url}/a.tar.gz"))
    assert not list(cache_folder.glob("cifar*"))


def test_only_regular_files_with_expected_names_are_unpacked(tmp_path, cache_folder, file_server):
    packed = io.BytesIO(gzip.decompress(make_tar(FILE_CONTENTS)))
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for name in ("../../../outside", str(tmp_path / "outside"), "cifar-10-batches-py/stranger"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        tar.addfile(link)
    file_server.files["/a.tar.gz"] = archive = gzip.compress(packed.getvalue())
    assert (
        read_files(find_or_download(make_small_cifar(archive, f"{file_server.url}/a.tar.gz")))
        == FILE_CONTENTS
    )
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_file_missing_from_the_cache_is_downloaded_again(
    cache_folder, file_server, published_cifar
):
    folder = find_or_download(published_cifar)
    (folder / "data_batch_2").unlink()
    assert read_files(find_or_download(published_cifar)) == FILE_CONTENTS


def test_concurrent_readers_download_a_data_set_once(cache_folder, file_server, published_cifar):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(find_or_download(published_cifar)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache_folder / published_cifar.folder] * 4
    assert read_files(found[0]) == FILE_CONTENTS
    assert len(file_server.asked) == 1
    assert sorted(path.name for path in cache_folder.iterdir()) == ["cifar-10-batches-py"]


def test_an_unwritable_cache_is_reported(cache_folder, published_cifar):
    cache_folder.parent.mkdir()
    cache_folder.touch()
    with pytest.raises(
        DataError,
        match=r"^cifar10 cannot be written to .*: .*; set XDG_CACHE_HOME to another folder$",
    ):
        find_or_download(published_cifar)


def test_every_downloadable_data_set_has_all_checksums():
    for name in ("cifar10", "cifar100", "mnist", "fashion-mnist"):
        data = get_dataset(name)
        for listed in (*data.train, *data.test, *data.archives):
            assert re.fullmatch("[0-9a-f]{32}", listed.md5), listed
        assert all(
            re.fullmatch(r"https?://[^/]+/.+\.gz", url)
            for archive in data.archives
            for url in archive.urls
        )

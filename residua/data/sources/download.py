"""Where a data set's files are: in a folder of the user's, in the cache, or fetched from the publisher into it."""

import gzip
import hashlib
import os
import shutil
import ssl
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from http.client import HTTPResponse as Response
from itertools import count
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from residua.config.dataset import DataFile, Dataset, DownloadArchive
from residua.errors import DataError
from residua.files import atomic_write, delete_path, try_lock_folder

DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte
DOWNLOAD_BLOCK_SIZE = 1 << 18  # bytes
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def find_or_download(
    dataset: Dataset, data_dir: Path | None = None, files: tuple[DataFile, ...] = ()
) -> Path:
    """The folder that holds `files`, by default all of the data set's.

    Looked for in `folder`, then $RESIDUA_DATA, then the cache; found nowhere, all are fetched into the cache.
    Each of these is a folder of data sets, or the data set's own.  Raises DataError with what to do.
    """
    files = files or dataset.train + dataset.test
    user_folders = list_user_data_folders(data_dir)
    for option_name, place in user_folders:
        if not place.is_dir():
            raise DataError(
                f"{option_name} is {place}, which is not a folder: give the one that holds {dataset.folder}"
            )
        if dataset_folder := find_dataset_folder(place, dataset, files):
            if missing_names := list_missing_files(dataset_folder, files):
                raise DataError(
                    f"{dataset_folder} lacks {', '.join(missing_names)} of {dataset.name}: add what is missing, or give another {option_name}"
                )
            return dataset_folder
    cached_folder = get_cache_dir() / dataset.folder
    if list_missing_files(cached_folder, files):
        download_dataset(dataset, cached_folder, [place for _, place in user_folders])
    return cached_folder


def list_user_data_folders(data_dir: Path | None) -> list[tuple[str, Path]]:
    """Where the user says the data are, first choice first, and how it was said."""
    options = [("--data-dir", data_dir), ("RESIDUA_DATA", os.environ.get("RESIDUA_DATA"))]
    return [(title, Path(place).expanduser()) for title, place in options if place]


def get_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "residua"


def find_dataset_folder(parent: Path, dataset: Dataset, files: tuple[DataFile, ...]) -> Path | None:
    """The data set's folder in `place`, or `place` where it is that folder itself."""
    if (parent / dataset.folder).is_dir():
        return parent / dataset.folder
    return parent if len(list_missing_files(parent, files)) < len(files) else None


def list_missing_files(folder: Path, files: tuple[DataFile, ...]) -> list[str]:
    """Names of the files that are in `folder` neither as they are nor packed."""
    return [
        file.name
        for file in files
        if not any((folder / name).is_file() for name in (file.name, file.name + ".gz"))
    ]


def download_dataset(dataset: Dataset, target: Path, searched: list[Path]) -> None:
    """Download the data set and put its folder at `home`, whole or not at all.

    What is downloaded so far is kept beside it, and the next try goes on from there.
    """
    downloads = target.with_name(f".{dataset.folder}.download")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold_folder_lock(target.parent):
            if not list_missing_files(
                target, dataset.train + dataset.test
            ):  # another process was here meanwhile
                return
            downloads.mkdir(exist_ok=True)
            archive_files = [
                download_archive(dataset, archive, downloads, [*searched, target.parent])
                for archive in dataset.archives
            ]
            with atomic_write(target) as staging:
                staging.mkdir()
                for archive, archive_file in zip(dataset.archives, archive_files, strict=True):
                    unpack_archive(dataset, archive, archive_file, staging)
                if missing_names := list_missing_files(staging, dataset.train + dataset.test):
                    raise DataError(
                        f"what was fetched of {dataset.name} lacks {', '.join(missing_names)}: nothing was put in place"
                    )
            delete_path(downloads)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{dataset.name} cannot be written to {target}: {reason}; set XDG_CACHE_HOME to another folder"
        ) from error


@contextmanager
def hold_folder_lock(folder: Path) -> Iterator[None]:
    """Wait until no other process here holds `folder`, saying so, and hold it."""
    for attempt in count():
        with try_lock_folder(folder) as acquired:
            if acquired:
                yield
                return
        if not attempt:
            print(f"waiting for another process that writes to {folder}", file=sys.stderr)
        time.sleep(0.5)


def download_archive(
    dataset: Dataset, archive: DownloadArchive, downloads: Path, searched: list[Path]
) -> Path:
    """The archive's file in `downloads`, its checksum right; every address is tried in turn."""
    partial_file = downloads / f"{archive.name}.part"
    failures = []
    for url in archive.urls:
        if compute_file_md5(partial_file) == archive.md5:
            return partial_file
        try:
            download_and_verify(url, archive, partial_file)
            return partial_file
        except NETWORK_ERRORS as error:
            failures.append(f"{url} ({describe_network_error(error)})")
        except DataError as error:
            failures.append(f"{url} ({error})")
    raise DataError(
        f"{dataset.name} is not in {' or '.join(map(str, searched))}, and fetching it failed from {', '.join(failures)}: "
        f"try again later, or download it yourself and give the folder that holds {dataset.folder} "
        "by --data-dir or RESIDUA_DATA"
    )


def download_and_verify(url: str, archive: DownloadArchive, partial_file: Path) -> None:
    """Complete `part` from one address; DataError where that gives other bytes than the archive's."""
    for _ in range(
        2 if partial_file.exists() else 1
    ):  # what an earlier try left may be at fault: then once more from nothing
        download_with_retries(url, partial_file)
        if (actual_md5 := compute_file_md5(partial_file)) == archive.md5:
            return
        delete_path(partial_file)
    raise DataError(f"its MD5 sum is {actual_md5}, not {archive.md5}")


def download_with_retries(url: str, partial_file: Path) -> None:
    """Go on after a cut for as long as each time brings more."""
    while True:
        size_before = file_size_or_zero(partial_file)
        try:
            return download_remaining_bytes(url, partial_file)
        except NETWORK_ERRORS:
            if file_size_or_zero(partial_file) <= size_before:
                raise


def download_remaining_bytes(url: str, partial_file: Path) -> None:
    """Append to `part` what it lacks, or write it anew where the server sends the whole; ConnectionError when cut."""
    size_before = file_size_or_zero(partial_file)
    request = Request(
        url,
        headers={
            "User-Agent": "residua",
            **({"Range": f"bytes={size_before}-"} if size_before else {}),
        },
    )
    try:
        response: Response = urlopen(request, timeout=DOWNLOAD_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and size_before:  # nothing is left to send: the checksum decides
            return
        raise
    with closing(response), open(partial_file, "ab" if response.status == 206 else "wb") as file:
        start = file.tell()
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        with tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=url.rsplit("/", 1)[1],
            mininterval=0.5,
        ) as bar:
            while block := response.read(DOWNLOAD_BLOCK_SIZE):
                file.write(block)
                bar.update(len(block))
        if total and file.tell() < total:
            raise ConnectionError(f"cut after {file.tell():,} of {total:,} bytes")


def unpack_archive(
    dataset: Dataset, archive: DownloadArchive, archive_file: Path, folder: Path
) -> None:
    """The data set's files out of a tar archive; a file packed alone stays packed."""
    if not archive.name.endswith((".tar.gz", ".tgz")):
        shutil.copyfile(archive_file, folder / archive.name)
        return
    expected = {f"{dataset.folder}/{file.name}": file.name for file in dataset.train + dataset.test}
    try:
        with tarfile.open(archive_file) as tar:
            for member in tar:
                if (
                    member.isreg()
                    and (name := expected.get(member.name))
                    and (source := tar.extractfile(member))
                ):
                    with (
                        source,
                        open(folder / name, "wb") as file,
                    ):  # where to is ours to say, not the archive's
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{archive.name} of {dataset.name} is damaged ({error}): nothing was put in place"
        ) from error


def describe_network_error(error: Exception) -> str:
    """The system's own words where an error wraps one of its errors."""
    cause = (
        error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    )
    return str(getattr(cause, "strerror", None) or cause)


def file_size_or_zero(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def compute_file_md5(path: Path) -> str:
    """The MD5 sum of a file, empty where there is none."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

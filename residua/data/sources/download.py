"""Find the files of published data sets in folders or the cache, or download them."""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from residua.cache_folder import get_cache_dir as get_cache_dir
from residua.config.dataset import DataFile, Dataset, DownloadArchive
from residua.data.checksums import compute_md5
from residua.downloads import (
    NETWORK_ERRORS,
    OFFLINE_REASON,
    describe_network_error,
    download_with_retries,
    is_offline,
)
from residua.errors import DataError
from residua.files import atomic_write, delete_path, hold_output_lock


def find_or_download(
    dataset: Dataset, data_dir: Path | None = None, files: tuple[DataFile, ...] = ()
) -> Path:
    """Return the folder that holds `files`, by default all files of the data set.

    The function searches `data_dir`, $RESIDUA_DATA and the cache, in this order.  `data_dir` and
    $RESIDUA_DATA may be the data set's own folder or its parent.  If no place has the data set, it
    is downloaded into the cache.  Raises DataError if `data_dir` or $RESIDUA_DATA is not a folder
    or holds only a part of `files`, or if the download fails.
    """
    files = files or dataset.train + dataset.test
    user_folders = list_user_data_folders(data_dir)
    for option_name, folder in user_folders:
        if not folder.is_dir():
            raise DataError(
                f"{option_name} is {folder}, which is not a folder: "
                f"give the folder that holds {dataset.folder}"
            )
        if dataset_folder := find_dataset_folder(folder, dataset, files):
            if missing_names := list_missing_files(dataset_folder, files):
                raise DataError(
                    f"{dataset_folder} lacks {', '.join(missing_names)} of {dataset.name}: "
                    f"add what is missing, or give another {option_name}"
                )
            return dataset_folder
    cached_folder = get_cache_dir() / dataset.folder
    if list_missing_files(cached_folder, files) or partial_download_folder(cached_folder).exists():
        download_dataset(dataset, cached_folder, [folder for _, folder in user_folders])
    return cached_folder


def list_user_data_folders(data_dir: Path | None) -> list[tuple[str, Path]]:
    """List the user's data folders, first choice first: (option or variable, folder)."""
    options = [("--data-dir", data_dir), ("RESIDUA_DATA", os.environ.get("RESIDUA_DATA"))]
    return [(title, Path(os.path.expanduser(folder))) for title, folder in options if folder]


def find_dataset_folder(parent: Path, dataset: Dataset, files: tuple[DataFile, ...]) -> Path | None:
    """Find the data set's folder in `parent`, or else `parent` itself if it holds any of `files`.

    Returns None if there is no such folder and no such file.
    """
    if (parent / dataset.folder).is_dir():
        return parent / dataset.folder
    return parent if len(list_missing_files(parent, files)) < len(files) else None


def list_missing_files(folder: Path, files: tuple[DataFile, ...]) -> list[str]:
    """List those of `files` that `folder` lacks, both as they are and compressed as .gz."""
    return [
        file.name
        for file in files
        if not any((folder / name).is_file() for name in (file.name, file.name + ".gz"))
    ]


def download_dataset(dataset: Dataset, target: Path, searched: list[Path]) -> None:
    """Download the data set into the folder `target`, which appears only once it is complete.

    A partial download is kept next to `target`, and the next attempt resumes it.  Raises DataError
    if the download fails; the message names the folders in `searched`.
    """
    downloads = partial_download_folder(target)
    expected_files = dataset.train + dataset.test
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold_output_lock(target):
            # Another process may have downloaded it while this one waited for the lock.
            if not list_missing_files(target, expected_files):
                delete_path(downloads)  # a process that was killed after the download left it
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
                if missing_names := list_missing_files(staging, expected_files):
                    raise DataError(
                        f"the download of {dataset.name} lacks {', '.join(missing_names)}: "
                        "nothing was installed"
                    )
            delete_path(downloads)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{dataset.name} cannot be written to {target}: {reason}; "
            "set XDG_CACHE_HOME to another folder"
        ) from error


def partial_download_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.download")


def download_archive(
    dataset: Dataset, archive: DownloadArchive, downloads: Path, searched: list[Path]
) -> Path:
    """Download an archive into `downloads`, trying its URLs in turn, and verify its checksum."""
    if is_offline():
        raise DataError(
            f"{dataset.name} is not in {' or '.join(map(str, searched))}, and cannot be downloaded "
            f"({OFFLINE_REASON}): set --data-dir or RESIDUA_DATA to the folder that contains "
            f"{dataset.folder}"
        )
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
        f"{dataset.name} is not in {' or '.join(map(str, searched))}, and could not be downloaded "
        f"from {', '.join(failures)}: try again later, or download it yourself and set --data-dir "
        f"or RESIDUA_DATA to the folder that contains {dataset.folder}"
    )


def download_and_verify(url: str, archive: DownloadArchive, partial_file: Path) -> None:
    """Complete `partial_file` from one URL.  Raises DataError if the checksum is wrong."""
    # The file may continue an earlier attempt that was damaged: then start over once.
    for _ in range(2 if partial_file.exists() else 1):
        download_with_retries(url, partial_file)
        if (actual_md5 := compute_file_md5(partial_file)) == archive.md5:
            return
        delete_path(partial_file)
    raise DataError(f"the MD5 sum of {archive.name} is {actual_md5}, not {archive.md5}")


def unpack_archive(
    dataset: Dataset, archive: DownloadArchive, archive_file: Path, folder: Path
) -> None:
    """Extract the data set's files from a tar archive, or copy any other archive file as it is."""
    if not archive.name.endswith((".tar.gz", ".tgz")):
        shutil.copyfile(archive_file, folder / archive.name)
        return
    expected = {f"{dataset.folder}/{file.name}": file.name for file in dataset.train + dataset.test}
    try:
        with tarfile.open(archive_file) as tar:
            for member in tar:
                name = expected.get(member.name)
                # Regular files only, to our own names: an archive must not choose paths or links.
                if name and member.isreg() and (source := tar.extractfile(member)):
                    with source, open(folder / name, "wb") as file:
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{archive.name} of {dataset.name} is damaged ({error}): nothing was installed"
        ) from error


def compute_file_md5(path: Path) -> str:
    """Compute the MD5 sum of a file; "" if the file does not exist."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        return compute_md5(file)

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

from residua.errors import DataError
from residua.files import alone, remove, written_aside
from residua.spec.dataset import Archive, Dataset, File

PATIENCE = 30.0  # seconds without a byte
BLOCK = 1 << 18  # bytes
NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def located(dataset: Dataset, folder: Path | None = None, files: tuple[File, ...] = ()) -> Path:
    """The folder that holds `files`, by default all of the data set's.

    Looked for in `folder`, then $RESIDUA_DATA, then the cache; found nowhere, all are fetched into the cache.
    Each of these is a folder of data sets, or the data set's own.  Raises DataError with what to do.
    """
    files = files or dataset.train + dataset.test
    given = given_places(folder)
    for title, place in given:
        if not place.is_dir():
            raise DataError(f"{title} is {place}, which is not a folder: give the one that holds {dataset.folder}")
        if found := within(place, dataset, files):
            if lost := missing(found, files):
                raise DataError(f"{found} lacks {', '.join(lost)} of {dataset.name}: add what is missing, or give another {title}")
            return found
    home = cache() / dataset.folder
    if missing(home, files):
        fetch(dataset, home, [place for _, place in given])
    return home


def given_places(folder: Path | None) -> list[tuple[str, Path]]:
    """Where the user says the data are, first choice first, and how it was said."""
    said = [("--data-dir", folder), ("RESIDUA_DATA", os.environ.get("RESIDUA_DATA"))]
    return [(title, Path(place).expanduser()) for title, place in said if place]


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "residua"


def within(place: Path, dataset: Dataset, files: tuple[File, ...]) -> Path | None:
    """The data set's folder in `place`, or `place` where it is that folder itself."""
    if (place / dataset.folder).is_dir():
        return place / dataset.folder
    return place if len(missing(place, files)) < len(files) else None


def missing(folder: Path, files: tuple[File, ...]) -> list[str]:
    """Names of the files that are in `folder` neither as they are nor packed."""
    return [file.name for file in files if not any((folder / name).is_file() for name in (file.name, file.name + ".gz"))]


def fetch(dataset: Dataset, home: Path, searched: list[Path]) -> None:
    """Download the data set and put its folder at `home`, whole or not at all.

    What is downloaded so far is kept beside it, and the next try goes on from there.
    """
    downloads = home.with_name(f".{dataset.folder}.download")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(home.parent):
            if not missing(home, dataset.train + dataset.test):  # another process was here meanwhile
                return
            downloads.mkdir(exist_ok=True)
            parts = [downloaded(dataset, archive, downloads, [*searched, home.parent]) for archive in dataset.archives]
            with written_aside(home) as aside:
                aside.mkdir()
                for archive, part in zip(dataset.archives, parts, strict=True):
                    unpack(dataset, archive, part, aside)
                if lost := missing(aside, dataset.train + dataset.test):
                    raise DataError(f"what was fetched of {dataset.name} lacks {', '.join(lost)}: nothing was put in place")
            remove(downloads)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{dataset.name} cannot be written to {home}: {reason}; set XDG_CACHE_HOME to another folder") from error


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process here holds `folder`, saying so, and hold it."""
    for tries in count():
        with alone(folder) as free:
            if free:
                yield
                return
        if not tries:
            print(f"waiting for another process that writes to {folder}", file=sys.stderr)
        time.sleep(0.5)


def downloaded(dataset: Dataset, archive: Archive, downloads: Path, searched: list[Path]) -> Path:
    """The archive's file in `downloads`, its checksum right; every address is tried in turn."""
    part = downloads / f"{archive.name}.part"
    failures = []
    for url in archive.urls:
        if md5(part) == archive.md5:
            return part
        try:
            attempt(url, archive, part)
            return part
        except NETWORK as error:
            failures.append(f"{url} ({why(error)})")
        except DataError as error:
            failures.append(f"{url} ({error})")
    raise DataError(
        f"{dataset.name} is not in {' or '.join(map(str, searched))}, and fetching it failed from {', '.join(failures)}: "
        f"try again later, or download it yourself and give the folder that holds {dataset.folder} "
        "by --data-dir or RESIDUA_DATA"
    )


def attempt(url: str, archive: Archive, part: Path) -> None:
    """Complete `part` from one address; DataError where that gives other bytes than the archive's."""
    for _ in range(2 if part.exists() else 1):  # what an earlier try left may be at fault: then once more from nothing
        receive_all(url, part)
        if (found := md5(part)) == archive.md5:
            return
        remove(part)
    raise DataError(f"its MD5 sum is {found}, not {archive.md5}")


def receive_all(url: str, part: Path) -> None:
    """Go on after a cut for as long as each time brings more."""
    while True:
        before = size(part)
        try:
            return receive(url, part)
        except NETWORK:
            if size(part) <= before:
                raise


def receive(url: str, part: Path) -> None:
    """Append to `part` what it lacks, or write it anew where the server sends the whole; ConnectionError when cut."""
    before = size(part)
    request = Request(url, headers={"User-Agent": "residua", **({"Range": f"bytes={before}-"} if before else {})})
    try:
        response: Response = urlopen(request, timeout=PATIENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416 and before:  # nothing is left to send: the checksum decides
            return
        raise
    with closing(response), open(part, "ab" if response.status == 206 else "wb") as file:
        start = file.tell()
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[1], mininterval=0.5) as bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        if total and file.tell() < total:
            raise ConnectionError(f"cut after {file.tell():,} of {total:,} bytes")


def unpack(dataset: Dataset, archive: Archive, part: Path, folder: Path) -> None:
    """The data set's files out of a tar archive; a file packed alone stays packed."""
    if not archive.name.endswith((".tar.gz", ".tgz")):
        shutil.copyfile(part, folder / archive.name)
        return
    expected = {f"{dataset.folder}/{file.name}": file.name for file in dataset.train + dataset.test}
    try:
        with tarfile.open(part) as tar:
            for member in tar:
                if member.isreg() and (name := expected.get(member.name)) and (source := tar.extractfile(member)):
                    with source, open(folder / name, "wb") as file:  # where to is ours to say, not the archive's
                        shutil.copyfileobj(source, file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.name} of {dataset.name} is damaged ({error}): nothing was put in place") from error


def why(error: Exception) -> str:
    """The system's own words where an error wraps one of its errors."""
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return str(getattr(cause, "strerror", None) or cause)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def md5(path: Path) -> str:
    """The MD5 sum of a file, empty where there is none."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

"""Read a range of bytes of a file on a server, once; `remote_retries` tries again.

HTTP is read with the standard library, through proxies and with own certificates as downloads are,
and other servers through fsspec.  Every answer is compared with what is asked for: its place, and
the size and version of the file.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from http.client import HTTPResponse, InvalidURL
from ssl import SSLCertVerificationError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from residua.data.sources.remote_http import open_remote_url
from residua.data.sources.remote_urls import HTTP_SCHEMES, show_url
from residua.data.threads import get_stop_event
from residua.downloads import (
    DOWNLOAD_BLOCK_SIZE,
    NETWORK_ERRORS,
    OFFLINE_REASON,
    describe_network_error,
    is_offline,
    read_content_length,
    tell_user,
)
from residua.errors import DataError, UsageError
from residua.extras import require_extra

SILENT_SECONDS = 30.0  # without a byte, after which a request is given up
MIN_BYTES_PER_SECOND = 2**14  # of an answer, after the first `SILENT_SECONDS`; our choice
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a second later
REFUSED_STATUS = (401, 403, 407)
MISSING_STATUS = (404, 410)


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """A file on a server, as it was when it was found."""

    url: str
    size: int  # in bytes
    tag: str  # the server's name of its version, or its time of modification; "" if unknown

    @property
    def is_http(self) -> bool:
        """Whether the file is read over HTTP, and not through fsspec."""
        return is_http_url(self.url)


class PassingError(Exception):
    """A request failed in a way that may pass; `wait` are seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class ChangedRemoteError(Exception):
    """The file on the server is another one than when it was found; `now` is that file."""

    def __init__(self, now: RemoteObject) -> None:
        super().__init__(f"{show_url(now.url)} was changed on the server")
        self.now = now


class IgnoredRangeError(Exception):
    """The server sends a whole file in place of a range, and the caller does not take it."""


def is_http_url(url: str) -> bool:
    return urlsplit(url).scheme.lower() in HTTP_SCHEMES


def find_remote_object(url: str) -> RemoteObject | None:
    """Ask the server for a file's size and version; None if there is no such file.

    Raises PassingError, or DataError if the server refuses.
    """
    require_network(url)
    if not is_http_url(url):
        return find_stored_object(url)
    try:
        # GET, because addresses that are signed for reading refuse HEAD
        with open_remote_url(url, "0-0", SILENT_SECONDS) as response:
            found = describe_response(url, response)
            if response.status == 206:
                response.read(2)  # so that the connection can be kept
            return found
    except HTTPError as error:
        error.close()
        if error.code in MISSING_STATUS:
            return None
        if error.code == 416:
            return RemoteObject(url, 0, "")
        raise translate_http_error(url, error) from error
    except NETWORK_ERRORS as error:
        raise translate_network_error(url, error) from error


def iter_remote_range(
    file: RemoteObject, start: int, stop: int, takes_whole: Callable[[], bool] = lambda: True
) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes from `start` to `stop` in blocks, each with its position.

    A server that ignores ranges sends the whole file: then the positions begin at 0, and go on to
    the end of the file.  Raises PassingError, ChangedRemoteError, DataError if the server refuses,
    and IgnoredRangeError if the server sends the whole file and `takes_whole()` is false.
    """
    require_network(file.url)
    if not file.is_http:
        yield start, read_stored_range(file, start, stop)
        return
    try:
        with open_remote_url(file.url, f"{start}-{stop - 1}", SILENT_SECONDS) as response:
            now = describe_response(file.url, response)
            if now.size != file.size or (now.tag != file.tag and now.tag and file.tag):
                raise ChangedRemoteError(now)
            if response.status != 206 and stop - start < file.size:
                note_ignored_ranges(urlsplit(file.url).netloc)
                if not takes_whole():
                    raise IgnoredRangeError(file.url)
            position = find_first_position(response, start)
            end = stop if response.status == 206 else file.size
            deadline = time.monotonic() + SILENT_SECONDS + (end - position) / MIN_BYTES_PER_SECOND
            while position < end:
                # what has arrived, so that a slow server is noticed before a block is full
                block = response.read1(min(DOWNLOAD_BLOCK_SIZE, end - position))
                if not block:
                    raise PassingError(f"the connection ended {end - position:,} bytes too early")
                if position + len(block) == end:
                    response.read(1)  # marks the answer as read, so that the connection can be kept
                yield position, block
                position += len(block)
                if position < end and get_stop_event().is_set():
                    raise PassingError("reading was stopped")
                if position < end and time.monotonic() > deadline:
                    raise PassingError("the server sends too slowly")
    except HTTPError as error:
        error.close()
        if error.code == 416:
            raise ChangedRemoteError(RemoteObject(file.url, -1, "")) from error
        raise translate_http_error(file.url, error) from error
    except NETWORK_ERRORS as error:
        raise translate_network_error(file.url, error) from error


@cache
def note_ignored_ranges(server: str) -> None:
    """Say once for each server that it costs more bytes than it need."""
    tell_user(
        f"{server} ignores ranges, so that whole files are read from it: put the data on a server "
        "that answers ranges with HTTP 206, or copy it to this machine"
    )


def describe_response(url: str, response: HTTPResponse) -> RemoteObject:
    """Read a file's size and version from the headers of an answer."""
    headers = response.headers
    if response.status == 206:
        match = re.fullmatch(r"bytes \d+-\d+/(\d{1,18})", headers.get("Content-Range", ""))
        if not match:
            raise PassingError("the answer does not say which bytes it holds")
        size = int(match[1])
    else:
        size = read_content_length(headers)
        if not size:
            raise DataError(
                f"{show_url(url)} cannot be read in parts: its server states no length; download "
                "it, and give the local file"
            )
    return RemoteObject(url, size, headers.get("ETag") or headers.get("Last-Modified") or "")


def find_first_position(response: HTTPResponse, start: int) -> int:
    """Return the position of an answer's first byte; PassingError if it is not one asked for."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != start:
        raise PassingError("the answer holds other bytes than those that were asked for")
    return start


def translate_http_error(url: str, error: HTTPError) -> Exception:
    """Return the exception for an HTTP status: PassingError, or a DataError with the way on."""
    shown, status = show_url(url), f"HTTP {error.code}"
    if error.code in PASSING_STATUS:
        return PassingError(status, parse_retry_after(error.headers.get("Retry-After", "")))
    if error.code in REFUSED_STATUS:
        return make_refused_error(url, status)
    if error.code in MISSING_STATUS:
        return DataError(f"{shown} is not on the server any more ({status}): put it there again")
    return DataError(f"{shown} cannot be read: {status} {error.reason}; check the address")


def translate_network_error(url: str, error: Exception) -> Exception:
    """Return the exception for a failed connection: a DataError if it will never succeed."""
    reason = describe_network_error(error)
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, InvalidURL | SSLCertVerificationError):
        return DataError(f"{show_url(url)} cannot be read: {reason}; check the address")
    return PassingError(reason)


def make_refused_error(url: str, reason: str) -> DataError:
    """Make the error for a token that has expired, or that does not allow to read a file."""
    return DataError(
        f"{show_url(url)} may not be read ({reason}): the token or the signed address may have "
        "expired; renew it, and start the same command again, a run with --resume"
    )


def parse_retry_after(text: str) -> float:
    """Return the seconds that a server asks to wait, as a number or a date; 0 if it does not."""
    if re.fullmatch(r"\d{1,6}", text):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0


def require_network(url: str) -> None:
    """Raise DataError if the user forbids the use of the network."""
    if is_offline():
        raise DataError(
            f"{show_url(url)} is not in the cache, and cannot be read ({OFFLINE_REASON}): go on "
            "with a network, or give local data"
        )


@lru_cache(maxsize=8)
def open_storage(scheme: str) -> Any:
    """Open the file system of fsspec for a scheme; UsageError if a package is missing."""
    require_extra("a remote data set")
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{scheme}:// needs another package: {error}") from error


def find_stored_object(url: str) -> RemoteObject | None:
    """Ask a storage server for a file's size and version; None if there is no such file."""
    storage = open_storage(urlsplit(url).scheme)
    try:
        info = storage.info(url)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except Exception as error:  # each library raises its own kinds
        raise translate_storage_error(url, error) from error
    if info.get("type") == "directory":
        return None
    tags = (info.get(key) for key in ("ETag", "etag", "generation", "LastModified", "created"))
    return RemoteObject(url, int(info["size"] or 0), str(next(filter(None, tags), "")))


def read_stored_range(file: RemoteObject, start: int, stop: int) -> bytes:
    """Read bytes of a file of a storage server."""
    try:
        content = open_storage(urlsplit(file.url).scheme).cat_file(file.url, start, stop)
    except FileNotFoundError as error:
        raise DataError(
            f"{show_url(file.url)} is not on the server any more: put it there again"
        ) from error
    except Exception as error:  # each library raises its own kinds
        raise translate_storage_error(file.url, error) from error
    if len(content) != stop - start:
        now = find_stored_object(file.url)
        if now is not None and now.size != file.size:
            raise ChangedRemoteError(now)
        raise PassingError(f"{stop - start - len(content):,} bytes are missing")
    return bytes(content)


def translate_storage_error(url: str, error: Exception) -> Exception:
    """Return the exception for an error of a storage library."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return make_refused_error(url, reason)
    if isinstance(error, UsageError | DataError):
        return error
    return PassingError(reason)

"""Download files over HTTP: resumed where they broke off, through proxies and own certificates."""

import os
import re
import shutil
import ssl
import sys
from base64 import b64encode
from contextlib import closing
from errno import ENOSPC
from functools import lru_cache
from http.client import HTTPException, HTTPMessage
from http.client import HTTPResponse as Response
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from tqdm import tqdm

DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte
DOWNLOAD_BLOCK_SIZE = 1 << 18  # bytes
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OFFLINE_WORDS = ("1", "ON", "YES", "TRUE")
OFFLINE_REASON = "offline, as HF_HUB_OFFLINE or the command line asks"


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE, or the option `--offline`, forbids the use of the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE_WORDS


def forbid_network() -> None:
    """Let this process, and those that it starts, use no network: the option `--offline`."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def tell_user(message: str) -> None:
    """Print a note on standard error; of the processes that torchrun started, one prints it."""
    is_started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not is_started_by_torchrun or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"residua: {message}", file=sys.stderr)


class RedirectRecorder(HTTPRedirectHandler):
    """Follows redirects, and keeps their headers.

    The Hugging Face hub states the SHA-256 of a file there, where it refers to its file servers.
    """

    def __init__(self) -> None:
        self.answers: list[HTTPMessage] = []

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.answers.append(headers)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if request is not None and authorization and is_same_server(request, req):
            request.add_unredirected_header("Authorization", authorization)
        return request


def is_same_server(request: Request, other: Request) -> bool:
    """Return whether two requests go to the same server, which may thus see the same password."""
    return (request.type, request.host) == (other.type, other.host)


def open_url(
    url: str,
    *,
    byte_range: str = "",
    timeout: float = DOWNLOAD_TIMEOUT,
    method: str = "GET",
    recorder: RedirectRecorder | None = None,
) -> Response:
    """Open a URL; proxies and certificates are those of the usual environment variables.

    These are http_proxy, https_proxy and no_proxy, and for certificates SSL_CERT_FILE,
    REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE.  `byte_range` are the bytes to ask for: "100-" for all but
    the first 100.  A name and a password in the URL, as in https://NAME:PASSWORD@HOST, are sent as
    basic authentication.
    """
    url, authorization = split_password(url)
    headers = {"User-Agent": "residua"}
    if byte_range:
        headers["Range"] = f"bytes={byte_range}"
    opener = build_opener(HTTPSHandler(context=make_ssl_context()), recorder or RedirectRecorder())
    request = Request(quote_url(url), headers=headers, method=method)
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    response: Response = opener.open(request, timeout=timeout)
    return response


def split_password(url: str) -> tuple[str, str]:
    """Split a URL into the one without name and password, and the header that has them; or ""."""
    parts = urlsplit(url)
    userinfo, at, server = parts.netloc.rpartition("@")
    if not at:
        return url, ""
    encoded = b64encode(unquote(userinfo).encode()).decode()
    return urlunsplit(parts._replace(netloc=server)), f"Basic {encoded}"


def hide_password(url: str) -> str:
    """Return a URL as it may be shown: *** stands for a name and a password in it."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", url)


def quote_url(url: str) -> str:
    """Return a URL in ASCII: a path with other characters is quoted, and so is a host."""
    parts = urlsplit(url)
    try:
        server = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    except UnicodeError as error:
        raise URLError(f"{parts.netloc} cannot be the name of a server") from error
    path, query = (quote(text, safe="/%:=&?~+!$,;'@()*[]") for text in (parts.path, parts.query))
    return urlunsplit(parts._replace(netloc=server, path=path, query=query))


def make_ssl_context() -> ssl.SSLContext:
    """Make a context that trusts the system's certificates, or those that a variable names."""
    settings = [(name, os.environ.get(name, "")) for name in CERTIFICATE_VARIABLES]
    return load_certificates(tuple(settings))


@lru_cache(maxsize=4)
def load_certificates(settings: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    """Load the certificates that the first variable with a value names, or the system's.

    This takes tens of milliseconds, so that the result is kept for later requests.
    """
    for name, path in settings:
        if path:
            is_folder = Path(path).is_dir()
            try:
                return ssl.create_default_context(
                    cafile=None if is_folder else path, capath=path if is_folder else None
                )
            except (OSError, ssl.SSLError) as error:
                raise URLError(f"the certificates in {name}={path} cannot be read") from error
    return ssl.create_default_context()


def download_with_retries(url: str, partial_file: Path, label: str = "") -> None:
    """Download a file; resume after network errors for as long as each attempt adds bytes.

    `label` is the name beside the progress bar; by default it is the last part of the URL.
    """
    while True:
        size_before = file_size_or_zero(partial_file)
        try:
            return download_remaining_bytes(url, partial_file, label or url.rsplit("/", 1)[1])
        except NETWORK_ERRORS:
            if file_size_or_zero(partial_file) <= size_before:
                raise


def download_remaining_bytes(url: str, partial_file: Path, label: str) -> None:
    """Append the missing bytes to `partial_file`, or replace it if the server sends all bytes.

    Raises ConnectionError if the connection ends before the announced length, and OSError if the
    disk has no room for it.
    """
    size_before = file_size_or_zero(partial_file)
    try:
        response = open_url(url, byte_range=f"{size_before}-" if size_before else "")
    except HTTPError as error:
        error.close()
        if error.code == 416 and size_before:  # no bytes remain: the checksum decides
            return
        raise
    with closing(response), open(partial_file, "ab" if response.status == 206 else "wb") as file:
        start = file.tell()
        length = read_content_length(response.headers)
        total = start + length if length else None
        require_free_space(partial_file, length)
        with tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=label,
            mininterval=0.5,
        ) as bar:
            while block := response.read(DOWNLOAD_BLOCK_SIZE):
                file.write(block)
                bar.update(len(block))
        if total and file.tell() < total:
            raise ConnectionError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def read_content_length(headers: HTTPMessage) -> int:
    """Read the number of bytes that a server announces; 0 if it announces none, or nonsense."""
    length = str(headers.get("Content-Length", ""))
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0


def require_free_space(file: Path, byte_count: int) -> None:
    """Raise OSError if the disk of `file` has no room for `byte_count` more bytes."""
    if byte_count > shutil.disk_usage(file.parent).free:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(file))


def describe_network_error(error: Exception) -> str:
    """Return the operating system's message if the error contains one, else the error's own."""
    cause: object = error
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        cause = error.reason
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({cause.verify_message}); if your network inspects "
            "connections, set SSL_CERT_FILE to its certificates"
        )
    return str(getattr(cause, "strerror", None) or cause)


def file_size_or_zero(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

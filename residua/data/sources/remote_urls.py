"""Addresses of data on servers: which texts are addresses, and which files they stand for."""

import re
from itertools import product
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from residua.data.checksums import compute_sha256
from residua.errors import UsageError

HTTP_SCHEMES = ("http", "https")
STORAGE_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "oss", "memory")  # of fsspec
URL_SEPARATOR = "::"  # between several addresses, as in WebDataset
MAX_URLS = 100_000
SIGNATURE_WORDS: tuple[str, ...] = (
    "signature",
    "credential",
    "token",
    "expires",
    "policy",
    "accessid",
)
SIGNATURE_WORDS += ("accesskeyid", "key-pair-id", "secret", "password")  # in names of parameters
SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-")
SAS_NAMES: tuple[str, ...] = (
    "sig",
    "sv",
    "se",
    "st",
    "sr",
    "sp",
    "spr",
    "sip",
    "ss",
    "srt",
)  # of Azure
SAS_NAMES += ("skoid", "sktid", "skt", "ske", "sks", "skv")
RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
CHOICE = re.compile(r"\{([^{}]+)\}")


def is_remote_url(text: str) -> bool:
    """Return whether a text is an address of data on a server, such as https://HOST/0.tar."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in (*HTTP_SCHEMES, *STORAGE_SCHEMES)


def expand_urls(text: str) -> list[str]:
    """Return the addresses for which a text stands, in order.

    `{000..123}` stands for all numbers between two, with as many digits; `{train,val}` for each
    word; `::` separates addresses.  Raises UsageError if they are too many, or hold a password.
    """
    urls: list[str] = []
    for pattern in text.split(URL_SEPARATOR):
        if not is_remote_url(pattern):
            raise UsageError(f"{pattern} is no address: begin it with https:// or s3://")
        if "@" in urlsplit(pattern).netloc:
            raise UsageError(
                "the address of a data set holds a name or a password, and runs record it: put "
                "them into ~/.netrc"
            )
        urls += expand_braces(pattern)
    if len(set(urls)) < len(urls):
        raise UsageError(f"{text} names a shard twice: name each once")
    return urls


def expand_braces(pattern: str) -> list[str]:
    """Return the texts for which a pattern with braces stands; UsageError if they are too many."""
    pieces = re.split(r"(\{[^{}]+\})", pattern)
    choices = [expand_one_brace(piece) for piece in pieces]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_URLS:
        raise UsageError(f"{pattern} stands for {count:,} shards: name at most {MAX_URLS:,}")
    return ["".join(parts) for parts in product(*choices)]


def expand_one_brace(piece: str) -> list[str]:
    """Return the texts for which one pair of braces stands, or the text itself without braces."""
    if match := RANGE.fullmatch(piece):
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise UsageError(f"{piece} counts down: write the smaller number first")
        if last - first >= MAX_URLS:
            raise UsageError(f"{piece} stands for too many shards: name at most {MAX_URLS:,}")
        return [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    match = CHOICE.fullmatch(piece)
    return match[1].split(",") if match else [piece]


def get_url_path(url: str) -> str:
    """Return the path of an address, without its server and its query."""
    return urlsplit(url).path


def get_url_suffix(url: str) -> str:
    """Return the suffix of the file that an address names, in lower case: `.tar`."""
    return PurePosixPath(get_url_path(url)).suffix.lower()


def join_url(folder: str, name: str) -> str:
    """Return the address of a file in a folder; a query, such as a signature, is kept."""
    parts = urlsplit(folder)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def get_url_folder(url: str) -> str:
    """Return the address of the folder that holds a file; a query is kept."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rpartition("/")[0]).geturl()


def split_query(url: str) -> tuple[list[str], list[str]]:
    """Split the query of an address: what names the file, and what signs the address."""
    parameters = [text for text in urlsplit(url).query.split("&") if text]
    names = [unquote(text.partition("=")[0]).lower() for text in parameters]
    is_sas = "sig" in names
    signs = [
        name.startswith(SIGNATURE_PREFIXES)
        or any(word in name for word in SIGNATURE_WORDS)
        or (is_sas and name in SAS_NAMES)
        for name in names
    ]
    pairs = list(zip(parameters, signs, strict=True))
    return [text for text, is_signing in pairs if not is_signing], [t for t, s in pairs if s]


def identify_url(url: str) -> str:
    """Return the text that stands for the file of an address, whatever token signs it.

    The query is hashed, since it may hold a secret.
    """
    naming, _ = split_query(url)
    query = f"?{compute_sha256('&'.join(naming).encode())[:32]}" if naming else ""
    return show_url(url) + query


def show_url(url: str) -> str:
    """Return an address as it may be shown and recorded: without its query, which may be signed."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def show_location(location: str) -> str:
    """Return addresses as runs record them: without queries, so that a token may be renewed."""
    return URL_SEPARATOR.join(map(show_url, location.split(URL_SEPARATOR)))

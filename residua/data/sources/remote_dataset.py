"""Data sets on servers: packed folders, WebDataset shards and parquet files, by their addresses.

The index of a packed folder is read first, so that listing a data set of any size takes one
request.  The headers of other shards are spread over the whole shards, which are read once for
them, and into the local cache if they fit.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from residua.cache_folder import get_cache_dir
from residua.data.checksums import compute_sha256
from residua.data.sources.huggingface import list_huggingface_dataset
from residua.data.sources.huggingface_files import PARQUET_SUFFIX
from residua.data.sources.listing import EmbeddedFile, ImageListing, escape_unprintable
from residua.data.sources.packed import (
    MAX_INDEX_BYTES,
    PACK_INDEX,
    PackedPlace,
    decode_pack_index,
    make_packed_listing,
)
from residua.data.sources.remote_cache import PROCESS_TAG
from residua.data.sources.remote_files import (
    RemoteFile,
    RemoteReader,
    RemoteShard,
    find_file,
    make_changed_error,
    make_shards,
    make_stamp,
    read_with_retries,
    require_file,
)
from residua.data.sources.remote_retries import try_again
from residua.data.sources.remote_transport import (
    ChangedRemoteError,
    RemoteObject,
    iter_remote_range,
)
from residua.data.sources.remote_urls import (
    expand_urls,
    get_url_folder,
    get_url_path,
    get_url_suffix,
    identify_url,
    join_url,
    show_location,
    show_url,
)
from residua.data.sources.shard_index import load_or_list_remote_samples
from residua.data.sources.webdataset import (
    CLASS_LIST_FILES,
    SHARD_SUFFIX,
    ShardContents,
    make_shard_listing,
    parse_class_list,
)
from residua.data.threads import map_in_threads
from residua.errors import DataError, UsageError
from residua.files import atomic_write

MAX_CLASS_LIST_BYTES = 2**26
WAITING_THREADS = 16  # more than there are cores, because they wait for the server
copied_versions: dict[Path, str] = {}  # of parquet files, by this process
LAST_URL_PARTS = 2  # of a shard's address, that are its name: its folder may name its split


def list_remote_dataset(location: str) -> ImageListing:
    """List the photos at an address, or at several; nothing but indexes and headers is read.

    An address is that of a packed folder, of shards (`.tar`) or of parquet files; `{000..123}`
    stands for numbers, and `::` separates addresses.  Raises DataError if something is missing, or
    if the server gives nothing for too long, and UsageError for an address that cannot be one.
    """
    urls = expand_urls(location)
    suffixes = {get_url_suffix(url) for url in urls}
    if suffixes == {SHARD_SUFFIX}:
        return list_remote_shards(location, urls)
    if suffixes == {PARQUET_SUFFIX}:
        return list_remote_parquet(location, urls)
    if len(urls) > 1:
        raise UsageError(
            f"{show_location(location)} names files of several kinds: give shards, "
            f"{SHARD_SUFFIX}, or parquet files, {PARQUET_SUFFIX}"
        )
    return list_remote_pack(location)


def list_remote_pack(location: str) -> ImageListing:
    """List a folder on a server that `residua data pack` wrote."""
    url = join_url(location, PACK_INDEX)
    if (file := find_file(url)) is None:
        raise DataError(
            f"{show_url(location)} holds no {PACK_INDEX}: give a folder that residua data pack "
            f"wrote, or shards, e.g. {show_url(location).rstrip('/')}/train-{{000000..000123}}.tar"
        )
    if file.size > MAX_INDEX_BYTES:
        raise DataError(f"{show_url(url)} is too large for an index: pack the data set again")
    try:
        index = decode_pack_index(read_whole_file(file))
    except ValueError as error:
        raise DataError(f"{show_url(url)} cannot be read: {error}; copy it there again") from error
    files = map_in_threads(
        lambda shard: require_file(join_url(location, shard.name)),
        index.shards,
        "finding",
        WAITING_THREADS,
    )
    for shard, found in zip(index.shards, files, strict=True):
        if found.size != shard.size:
            raise DataError(
                f"{show_url(found.url)} has {found.size:,} bytes, but {shard.size:,} when it was "
                "packed: copy it there again"
            )
    shards = make_shards(files)

    def make_file(place: PackedPlace) -> EmbeddedFile:
        shard = shards[place.shard]
        return RemoteFile(shard, place.offset, place.length, place.digest, place.is_image)

    stamps = [make_stamp(found) for found in files]
    return make_packed_listing(show_location(location), index, stamps, make_file)


def read_whole_file(file: RemoteObject) -> bytes:
    """Read a small file from the server."""
    try:
        return read_with_retries(file, 0, file.size)
    except ChangedRemoteError as error:
        raise make_changed_error(file) from error


def list_remote_shards(location: str, urls: list[str]) -> ImageListing:
    """List WebDataset shards on servers by their headers."""
    shards = make_shards(map_in_threads(require_file, urls, "finding", WAITING_THREADS))
    names = name_shards(urls)
    contents = map_in_threads(
        lambda pair: read_remote_contents(*pair),
        list(zip(shards, names, strict=True)),
        "listing",
        WAITING_THREADS,
    )
    classes = read_remote_class_list(urls[0])
    return make_shard_listing(show_location(location), contents, classes)


def name_shards(urls: list[str]) -> list[str]:
    """Name shards by the last part of their addresses, and by their folders if these differ."""
    paths = [PurePosixPath(unquote(get_url_path(url))) for url in urls]
    has_one_folder = len({path.parent for path in paths}) == 1
    parts = 1 if has_one_folder else LAST_URL_PARTS
    names = [escape_unprintable("/".join(path.parts[-parts:])) for path in paths]
    if len(set(names)) < len(names):
        names = [escape_unprintable(show_url(url)) for url in urls]
    if len(set(names)) < len(names):  # they differ in their queries, which may hold a secret
        names = [f"{name}-{number}" for number, name in enumerate(names)]
    return names


def read_remote_contents(shard: RemoteShard, name: str) -> ShardContents:
    """Read the contents of a shard on a server, or take those that are kept."""
    stamp = make_stamp(shard.file)
    try:
        samples, problems = load_or_list_remote_samples(
            identify_url(shard.file.url),
            stamp,
            lambda: RemoteReader(shard),
            lambda offset, length: RemoteFile(shard, offset, length),
        )
    except ChangedRemoteError as error:
        raise make_changed_error(shard.file) from error
    problems = tuple(
        replace(problem, path=f"{name}/{problem.path}" if problem.path else name)
        for problem in problems
    )
    return ShardContents(name, stamp, samples, problems)


def read_remote_class_list(url: str) -> tuple[str, ...]:
    """Read the list of classes beside a shard, if the server has one and it is not forbidden."""
    for name in CLASS_LIST_FILES:
        beside = join_url(get_url_folder(url), name)
        try:
            file = find_file(beside)
        except DataError:
            return ()
        if file is not None and file.size <= MAX_CLASS_LIST_BYTES:
            return parse_class_list(read_whole_file(file), show_url(beside))
    return ()


def list_remote_parquet(location: str, urls: list[str]) -> ImageListing:
    """Copy parquet files into the cache, and list their images from there.

    The copies stay until the cache is emptied, and do not count in the limit of what is read from
    servers.  Files without a version are copied again by each process.
    """
    files = map_in_threads(require_file, urls, "finding", WAITING_THREADS)
    facts = [[identify_url(file.url), file.size, file.tag] for file in files]
    folder = get_cache_dir() / "datasets" / f"remote-{compute_sha256(str(facts).encode())[:32]}"
    names = [name.replace("/", "-") for name in name_shards(urls)]
    for file, name in zip(files, names, strict=True):
        path = folder / name
        version = file.tag or PROCESS_TAG
        is_kept = path.is_file() and path.stat().st_size == file.size
        if not is_kept or copied_versions.get(path, file.tag) != version:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as staging:
                copy_remote_file(file, staging)
            copied_versions[path] = version
    return replace(list_huggingface_dataset(str(folder)), location=show_location(location))


def copy_remote_file(file: RemoteObject, path: Path) -> None:
    """Copy a file of a server to the disk, block by block; an interrupted answer is gone on with.

    Raises DataError if the server refuses, brings nothing for too long, or has another file now.
    """
    with open(path, "wb") as handle:

        def copy_rest() -> None:
            if handle.tell() == file.size:
                return
            for position, block in iter_remote_range(file, handle.tell(), file.size):
                skipped = handle.tell() - position  # if the server begins with the first byte again
                handle.write(block[skipped:] if 0 <= skipped < len(block) else b"")

        try:
            try_again(file.url, copy_rest, handle.tell)
        except ChangedRemoteError as error:
            raise make_changed_error(file) from error

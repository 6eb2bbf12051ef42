"""The samples of shards, kept between processes, so that each shard's headers are read once.

What is kept for a shard is used only while the shard's size and time of modification are the same,
or its version on a server.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import RawIOBase
from pathlib import Path
from typing import IO, cast

import numpy as np

from residua.bounded_json import Json
from residua.cache_folder import get_cache_dir
from residua.data.checked_arrays import (
    Arrays,
    decode_texts,
    encode_texts,
    read_checked_arrays,
    write_checked_arrays,
)
from residua.data.checksums import compute_sha256
from residua.data.sources.listing import DataProblem, EmbeddedFile
from residua.data.sources.shard_samples import (
    ShardMember,
    ShardSample,
    list_samples_in_file,
    list_shard_samples,
)

RACY_NANOSECONDS = 2_000_000_000  # a shard that was modified so recently may still be written
TEXT_FIELDS = ("name", "label_text")
FileMaker = Callable[[int, int], EmbeddedFile]
ListedShard = tuple[tuple[ShardSample, ...], tuple[DataProblem, ...]]


def load_or_list_samples(shard: Path, size_and_mtime: tuple[int, int]) -> ListedShard:
    """Load the kept samples and problems of a local shard, or list them and keep them."""

    def make_file(offset: int, length: int) -> EmbeddedFile:
        return ShardMember(shard, offset, length)

    index_file = find_shard_index(os.path.abspath(shard))
    if kept := load_kept_samples(index_file, shard, size_and_mtime, make_file):
        return kept
    samples, problems = list_shard_samples(shard, size_and_mtime)
    is_whole = not any(problem.kind == "unreadable" for problem in problems)
    if is_whole and size_and_mtime[1] < time.time_ns() - RACY_NANOSECONDS:
        keep_samples(index_file, size_and_mtime, samples, problems)
    return samples, problems


def load_or_list_remote_samples(
    url: str, stamp: tuple[int, int], open_shard: Callable[[], RawIOBase], make_file: FileMaker
) -> ListedShard:
    """Load the kept samples and problems of a shard on a server, or list them and keep them.

    `stamp` stands for the version of the shard; (0, 0) is one that is not known.
    """
    index_file = find_shard_index(url)
    if any(stamp) and (kept := load_kept_samples(index_file, url, stamp, make_file)):
        return kept
    samples, problems = list_samples_in_file(cast(IO[bytes], open_shard()), make_file)
    if any(stamp):
        keep_samples(index_file, stamp, samples, problems)
    return samples, problems


def find_shard_index(location: str) -> Path:
    """Return the file in the cache that keeps the samples of a shard."""
    return get_cache_dir() / "shards" / compute_sha256(os.fsencode(location))[:32]


def keep_samples(
    index_file: Path,
    size_and_mtime: tuple[int, int],
    samples: Sequence[ShardSample],
    problems: Sequence[DataProblem],
) -> None:
    """Keep the samples and the problems of a shard; not if the disk is full."""
    members = [(sample.offset, sample.length) for sample in samples]
    try:
        texts = [encode_texts([getattr(s, key) for s in samples]) for key in TEXT_FIELDS]
    except ValueError:  # a name has a line end
        return
    arrays: Arrays = {
        **dict(zip(TEXT_FIELDS, texts, strict=True)),
        "members": np.array(members, np.int64).reshape(-1, 2),
    }
    size, mtime = size_and_mtime
    facts: dict[str, Json] = {
        "size": size,
        "mtime": mtime,
        "problems": [dict(asdict(problem)) for problem in problems],
    }
    with suppress(OSError):  # then the shard is listed again
        index_file.parent.mkdir(parents=True, exist_ok=True)
        write_checked_arrays(index_file, facts, arrays)


def load_kept_samples(
    index_file: Path, shard: Path | str, size_and_mtime: tuple[int, int], make_file: FileMaker
) -> ListedShard | None:
    """Load what `keep_samples` wrote; None if the shard has changed since, or was never listed."""
    try:
        facts, arrays = read_checked_arrays(index_file)
        if (facts["size"], facts["mtime"]) != size_and_mtime:
            return None
        members = arrays["members"].reshape(-1, 2).tolist()
        names, labels = [decode_texts(arrays[key], len(members)) for key in TEXT_FIELDS]
        problems = tuple(DataProblem(**fields) for fields in facts["problems"])  # type: ignore[union-attr, arg-type]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(
            f"residua: the kept list of {shard} is damaged, and the shard is listed again: {error}",
            file=sys.stderr,
        )
        return None
    samples = [
        ShardSample(name, make_file(offset, length), label, offset, length)
        for name, (offset, length), label in zip(names, members, labels, strict=True)
    ]
    return tuple(samples), problems

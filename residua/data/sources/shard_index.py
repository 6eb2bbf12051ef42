"""The samples of local shards, kept between processes, so that each shard's headers are read once.

What is kept for a shard is used only while the shard's size and time of modification are the same.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

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
from residua.data.sources.listing import DataProblem
from residua.data.sources.shard_samples import ShardMember, ShardSample, list_shard_samples

RACY_NANOSECONDS = 2_000_000_000  # a shard that was modified so recently may still be written
ListedShard = tuple[tuple[ShardSample, ...], tuple[DataProblem, ...]]


def load_or_list_samples(shard: Path, size_and_mtime: tuple[int, int]) -> ListedShard:
    """Load the kept samples and problems of a shard, or list them and keep them."""
    index_file = find_shard_index(shard)
    if kept := load_kept_samples(index_file, shard, size_and_mtime):
        return kept
    samples, problems = list_shard_samples(shard, size_and_mtime)
    is_whole = not any(problem.kind == "unreadable" for problem in problems)
    if is_whole and size_and_mtime[1] < time.time_ns() - RACY_NANOSECONDS:
        with suppress(OSError, ValueError):  # a full disk, or a name with a line end: listed again
            keep_samples(index_file, size_and_mtime, samples, problems)
    return samples, problems


def find_shard_index(shard: Path) -> Path:
    """Return the file in the cache that keeps the samples of a shard."""
    name = compute_sha256(os.fsencode(os.path.abspath(shard)))[:32]
    return get_cache_dir() / "shards" / name


def keep_samples(
    index_file: Path,
    size_and_mtime: tuple[int, int],
    samples: Sequence[ShardSample],
    problems: Sequence[DataProblem],
) -> None:
    """Write the samples and the problems of a shard; ValueError if a name has a line end."""
    members = [(sample.member.offset, sample.member.length) for sample in samples]
    arrays: Arrays = {
        "names": encode_texts([sample.name for sample in samples]),
        "labels": encode_texts([sample.label_text for sample in samples]),
        "members": np.array(members, np.int64).reshape(-1, 2),
    }
    size, mtime = size_and_mtime
    facts: dict[str, Json] = {
        "size": size,
        "mtime": mtime,
        "problems": [dict(asdict(problem)) for problem in problems],
    }
    index_file.parent.mkdir(parents=True, exist_ok=True)
    write_checked_arrays(index_file, facts, arrays)


def load_kept_samples(
    index_file: Path, shard: Path, size_and_mtime: tuple[int, int]
) -> ListedShard | None:
    """Load what `keep_samples` wrote; None if the shard has changed since, or was never listed."""
    try:
        facts, arrays = read_checked_arrays(index_file)
        if (facts["size"], facts["mtime"]) != size_and_mtime:
            return None
        members = arrays["members"].reshape(-1, 2).tolist()
        names, labels = [decode_texts(arrays[key], len(members)) for key in ("names", "labels")]
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
        ShardSample(name, ShardMember(shard, offset, length), label)
        for name, (offset, length), label in zip(names, members, labels, strict=True)
    ]
    return tuple(samples), problems

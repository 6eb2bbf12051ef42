"""Packed data sets: the shards and the index that `residua data pack` writes.

The shards are WebDataset shards, which other programs read, too.  The index says for each photo its
name in the data set that was packed, its class, its split, its SHA-256 sum, and where it is.  So
nothing is read to list a packed data set but the index, whether it is on a disk or on a server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from residua.config.model import MAX_WHITE_LEVEL
from residua.data.checked_arrays import Arrays, decode_checked_arrays, decode_texts, encode_texts
from residua.data.sources.listing import (
    EmbeddedFile,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    SplitSource,
)
from residua.errors import DataError

PACK_INDEX = "index.residua"
UNFINISHED_FOLDER = ".packing"  # in a folder that is not packed completely
SPLIT_CODES: tuple[OptionalSplit, ...] = ("", "train", "dev", "test")
MAX_INDEX_BYTES = 2**32
MAX_STORED_SIDE = 2**16


class PackedShard(NamedTuple):
    """A shard of a packed data set: its file name and its bytes."""

    name: str
    size: int


class PackedPlace(NamedTuple):
    """What the index says of a photo's file: where it is, and what it holds."""

    shard: int  # its position
    offset: int
    length: int
    digest: str
    is_image: bool


@dataclass(frozen=True, slots=True)
class PackIndex:
    """The index of a packed data set; all arrays and lists are in the order of its photos."""

    facts: dict[str, Any]
    shards: tuple[PackedShard, ...]
    names: list[str]
    groups: list[str]  # "" for a photo without a group
    labels: NDArray[np.int32]
    splits: NDArray[np.uint8]  # positions in `SPLIT_CODES`
    places: NDArray[np.int64]  # (n, 3): the shard's position, the offset and the length in bytes
    digests: NDArray[np.uint8]  # (n, 32)
    are_images: NDArray[np.uint8]  # 1 for a file that begins like one of an image format

    def to_arrays(self) -> Arrays:
        """Return the arrays to store with `facts`."""
        return {
            "names": encode_texts(self.names),
            "groups": encode_texts(self.groups if any(self.groups) else []),
            "labels": self.labels,
            "splits": self.splits,
            "places": self.places,
            "digests": self.digests,
            "are_images": self.are_images,
        }


@dataclass(frozen=True, slots=True)
class PackedFile:
    """An `EmbeddedFile` in a shard of a packed data set."""

    shard: Path
    offset: int
    length: int
    digest: str  # the SHA-256 sum that the index states
    is_image: bool  # whether it begins like a file of an image format, as the index states

    def read_bytes(self) -> bytes:
        """Read the encoded image; raises OSError if it cannot be read completely."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) < self.length:
            raise OSError(f"the shard {self.shard.name} ends before it")
        return content


def is_packed_folder(folder: Path) -> bool:
    """Return whether a folder is a packed data set.

    Raises DataError if it is one that is not finished.
    """
    if (folder / UNFINISHED_FOLDER).is_dir():
        raise DataError(
            f"{folder} is not packed completely: go on with the residua data pack that began it"
        )
    return (folder / PACK_INDEX).is_file()


def list_packed_folder(folder: Path) -> ImageListing:
    """List the photos of a packed data set on disk.

    Raises DataError if the index is damaged, or if a shard is missing or has another size.
    """
    path = folder / PACK_INDEX
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        index = decode_pack_index(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; pack the data set again") from error
    stamps = [stat_shard(folder / shard.name, shard.size) for shard in index.shards]

    def make_file(place: PackedPlace) -> EmbeddedFile:
        path = folder / index.shards[place.shard].name
        return PackedFile(path, place.offset, place.length, place.digest, place.is_image)

    return make_packed_listing(str(folder), index, stamps, make_file)


def stat_shard(path: Path, size: int) -> tuple[int, int]:
    """Return a shard's size and time of modification; DataError if its size is not `size`."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path} is listed in {PACK_INDEX}, but cannot be read ({error.strerror}): copy it "
            "there, or pack the data set again"
        ) from error
    if status.st_size != size:
        raise DataError(
            f"{path} has {status.st_size:,} bytes, but {size:,} when it was packed: copy it again, "
            "or pack the data set again"
        )
    return status.st_size, status.st_mtime_ns


def make_packed_listing(
    location: str,
    index: PackIndex,
    stamps: list[tuple[int, int]],
    make_file: Callable[[PackedPlace], EmbeddedFile],
) -> ImageListing:
    """Make the listing of a packed data set, equal to that of the data set that was packed.

    `stamps` are the sizes and times of the shards; `make_file` makes a file from its place.
    """
    as_jpeg = bool(index.facts["stored_side"])
    entries = tuple(
        ImageEntry(
            name_as_jpeg(name) if as_jpeg else name,
            name,
            label,
            SPLIT_CODES[split],
            stamps[shard],
            make_file(PackedPlace(shard, offset, length, digest.tobytes().hex(), bool(is_image))),
            group,
        )
        for name, group, label, split, (shard, offset, length), digest, is_image in zip(
            index.names,
            index.groups,
            index.labels.tolist(),
            index.splits.tolist(),
            index.places.tolist(),
            index.digests,
            index.are_images.tolist(),
            strict=True,
        )
    )
    facts = index.facts
    source: SplitSource = facts["split_source"]
    return ImageListing(
        location,
        tuple(facts["classes"]),
        entries,
        (),
        source,
        float(facts["dev_share"]),
        tuple(facts["notes"]),
        white_level=int(facts["white_level"]),
    )


def name_as_jpeg(name: str) -> str:
    """Return the name of a photo that was stored as JPEG, whatever it was before."""
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"


def decode_pack_index(content: bytes) -> PackIndex:
    """Decode an index, which may come from a server; ValueError if anything in it is impossible."""
    stored, arrays = decode_checked_arrays(content)
    facts: dict[str, Any] = stored
    try:
        index = build_pack_index(facts, arrays)
        count = len(index.labels)
        is_consistent = (
            are_valid_facts(facts)
            and all(text.isprintable() for text in (*index.names, *index.groups))
            and index.places.shape == (count, 3)
            and index.digests.shape == (count, 32)
            and index.splits.shape == index.labels.shape == index.are_images.shape == (count,)
            and is_within(index.labels, len(facts["classes"]))
            and is_within(index.splits, len(SPLIT_CODES))
            and is_within(index.places[:, 0], len(index.shards))
            and all("/" not in s.name and s.name.endswith(".tar") for s in index.shards)
        )
        if is_consistent and count:
            sizes = np.array([shard.size for shard in index.shards], np.int64)
            shards, offsets, lengths = index.places.T
            is_consistent = (
                is_within(offsets, int(sizes.max()) + 1)
                and is_within(lengths, int(sizes.max()) + 1)
                and bool((offsets + lengths <= sizes[shards]).all())
            )
    except (KeyError, TypeError, IndexError, OverflowError) as error:
        raise ValueError("the index is damaged") from error
    if not is_consistent:
        raise ValueError("the index contradicts itself")
    return index


def are_valid_facts(facts: dict[str, Any]) -> bool:
    """Return whether the facts of an index have the types and the ranges that they can have."""
    texts, share = [facts["classes"], facts["notes"]], facts["dev_share"]
    return (
        all(isinstance(lines, list) for lines in texts)
        and all(isinstance(line, str) and line.isprintable() for lines in texts for line in lines)
        and facts["split_source"] in get_args(SplitSource)
        and type(share) in (int, float)  # not bool
        and 0 <= share < 1
        and all(
            type(facts[key]) is int and 0 <= facts[key] <= stop
            for key, stop in (("white_level", MAX_WHITE_LEVEL), ("stored_side", MAX_STORED_SIDE))
        )
    )


def is_within(values: NDArray[np.integer[Any]], stop: int) -> bool:
    """Return whether all values are at least 0 and less than `stop`."""
    return bool(((values >= 0) & (values < stop)).all())


def build_pack_index(facts: dict[str, Any], arrays: Arrays) -> PackIndex:
    """Build an index from what was stored; raises KeyError, TypeError or ValueError for damage."""
    count = len(arrays["labels"])
    has_groups = len(arrays["groups"]) > 0
    return PackIndex(
        facts,
        tuple(PackedShard(str(name), int(size)) for name, size in facts["shards"]),
        decode_texts(arrays["names"], count),
        decode_texts(arrays["groups"], count) if has_groups else [""] * count,
        arrays["labels"].astype(np.int32, copy=False),
        arrays["splits"].astype(np.uint8, copy=False),
        arrays["places"].astype(np.int64, copy=False),
        arrays["digests"].astype(np.uint8, copy=False),
        arrays["are_images"].astype(np.uint8, copy=False),
    )

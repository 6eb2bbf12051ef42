"""Decode all images of a listing: threads decode them, and the caller's function stores them.

Only a few decoded images are in memory at a time.  Images that cannot be decoded are skipped and
reported as problems.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from residua.config.model import ImagePreprocessing
from residua.data.checksums import compute_sha256
from residua.data.decode import (
    decode_and_preprocess,
    read_entry_bytes,
    suspend_pillow_limits,
)
from residua.data.grey_levels import summarize_doubtful_white_levels
from residua.data.sources.listing import DataProblem, ImageEntry, ImageListing, OptionalSplit, Split
from residua.data.sources.remote_ahead import open_read_ahead
from residua.data.splits import (
    SPLIT_ORDER,
    assign_splits,
    choose_dev_share,
    find_underfilled_classes,
)
from residua.data.threads import stream_in_threads
from residua.errors import DataError, ImageError

RecordT = TypeVar("RecordT")
MAX_TRIED_AGAIN = 16  # files that were left out; our choice
PASSING_KINDS = ("changed", "unreadable", "not as indexed")  # a later copy may be intact


class EncodedImage(NamedTuple, Generic[RecordT]):
    """An image as it is stored, and its highest level as in `DecodedPhoto`."""

    record: RecordT
    brightest_level: int


EncodeContent = Callable[[bytes, OptionalSplit], EncodedImage[RecordT]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableImages:
    """The decodable images of a data set, sorted by split in the order of `SPLIT_ORDER`."""

    labels: Tensor  # (n,) int64
    split_counts: Tensor  # images of each split of `SPLIT_ORDER`
    names: Sequence[str]  # (n,), of the entries
    digests: Sequence[str]  # (n,), SHA-256 sums of the image files
    problems: tuple[DataProblem, ...]

    def split_slice(self, split: Split) -> slice:
        """Return the slice of the labels, names and images that holds those of a split."""
        i = SPLIT_ORDER.index(split)
        end = int(self.split_counts[: i + 1].sum())
        return slice(end - int(self.split_counts[i]), end)

    def count_split(self, split: Split) -> int:
        """Count the images in a split."""
        return int(self.split_counts[SPLIT_ORDER.index(split)])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImages(UsableImages):
    """The decodable images of a data set with their pixels, all of one shape."""

    pixels: Tensor  # (n, channels, height, width) uint8

    def split_tensors(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images and labels of a split, as views."""
        return self.pixels[self.split_slice(split)], self.labels[self.split_slice(split)]


@dataclass(frozen=True, slots=True)
class DecodedIndex:
    """Names, labels, split sizes and problems of decoded images; the cache's index.json.

    Names and labels are in the order of the pixels.
    """

    names: list[str]
    labels: list[int]
    digests: list[str]  # SHA-256 sums of the image files
    counts: list[int]  # images of each split of `SPLIT_ORDER`
    problems: list[dict[str, str | int]]

    def to_decoded_images(self, pixels: Tensor) -> DecodedImages:
        labels, counts = [
            torch.tensor(numbers, dtype=torch.int64) for numbers in (self.labels, self.counts)
        ]
        problems = [DataProblem(**fields) for fields in self.problems]  # type: ignore[arg-type]
        return DecodedImages(
            pixels=pixels[: len(self.names)],
            labels=labels,
            split_counts=counts,
            names=tuple(self.names),
            digests=tuple(self.digests),
            problems=tuple(problems),
        )


class EncodedEntries(NamedTuple):
    """The entries of a listing that were encoded, in the order of writing, by split."""

    positions: list[int]  # of the entries in the listing
    counts: list[int]  # entries of each split of `SPLIT_ORDER`
    problems: list[DataProblem]


def decode_all_images(
    listing: ImageListing,
    digests: Sequence[str],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
) -> DecodedIndex:
    """Decode and preprocess every image of a listing; call `write_image(index, pixels)` for each.

    `digests` and the order are as in `encode_all_entries`.
    """

    def preprocess_content(content: bytes, split: OptionalSplit) -> EncodedImage[Tensor]:
        photo = decode_and_preprocess(content, view, listing.max_pixels)
        return EncodedImage(photo.pixels, photo.brightest_level)

    encoded = encode_all_entries(listing, digests, preprocess_content, write_image)
    entries = [listing.entries[i] for i in encoded.positions]
    return DecodedIndex(
        names=[entry.name for entry in entries],
        labels=[entry.label for entry in entries],
        digests=[digests[i] for i in encoded.positions],
        counts=encoded.counts,
        problems=[asdict(problem) for problem in encoded.problems],
    )


def encode_all_entries(
    listing: ImageListing,
    digests: Sequence[str],
    encode: EncodeContent[RecordT],
    write_record: Callable[[int, RecordT], None],
) -> EncodedEntries:
    """Encode every image of a listing, split by split; call `write_record(index, record)` for each.

    `encode` turns the bytes and the split of an image into a record, in several threads at once;
    records are written in one thread, in order.  `digests` holds the SHA-256 sum of each entry, or
    "" if the entry cannot be read.  Skipping a damaged image may change the splits of the other
    images of its class.  In that case all images are encoded and written again, from index 0 on, as
    if the damaged file did not exist.
    """
    entries = listing.entries
    dev_share = listing.dev_share or choose_dev_share(len(entries))

    def assign_entry_splits(indices: list[int]) -> dict[int, OptionalSplit]:
        splits = assign_splits(
            [entries[i] for i in indices], [digests[i] for i in indices], dev_share
        )
        return dict(zip(indices, splits, strict=True))

    problem_by_entry = find_unreadable_entries(entries, digests)
    while True:
        usable = [i for i in range(len(entries)) if i not in problem_by_entry]
        split_by_entry = assign_entry_splits(usable)
        order = sorted(usable, key=lambda i: SPLIT_ORDER.index(split_by_entry[i]))
        written, new_problems, highest_levels = encode_in_order(
            entries, digests, order, split_by_entry, encode, write_record
        )
        problem_by_entry |= new_problems
        if not new_problems or assign_entry_splits(sorted(written)) == {
            i: split_by_entry[i] for i in sorted(written)
        }:
            break
    splits = [split_by_entry[i] for i in written]
    is_trained_on = any(entry.split in ("train", "") for entry in entries)
    labels = [entries[i].label for i in written]
    underfilled = find_underfilled_classes(listing.classes, labels, splits) if is_trained_on else []
    absent = listing.absent_classes
    problems = [
        *problem_by_entry.values(),
        *(problem for problem in underfilled if problem.path not in absent),
        *find_doubtful_white_levels(highest_levels),
    ]
    counts = Counter(splits)
    return EncodedEntries(written, [counts[split] for split in SPLIT_ORDER], sorted(problems))


def find_doubtful_white_levels(highest_levels: Sequence[int]) -> Iterator[DataProblem]:
    """Yield one problem for all images whose white level seems to differ from the assumed one."""
    if sentence := summarize_doubtful_white_levels(highest_levels):
        yield DataProblem("", "unused levels", sentence)


def encode_entry(
    entry: ImageEntry, digest: str, split: OptionalSplit, encode: EncodeContent[RecordT]
) -> EncodedImage[RecordT] | DataProblem:
    """Encode an image, or return the reason why it cannot be decoded.

    Bytes with another SHA-256 sum than `digest` are a problem: the file has changed.
    """
    try:
        content = read_entry_bytes(entry)
        if not entry.known_digest and compute_sha256(content) != digest:
            return DataProblem(entry.name, "changed", "was changed while it was being read")
        return encode(content, split)
    except ImageError as error:
        return DataProblem(entry.name, error.kind, error.detail)


def is_readable_again(
    listing: ImageListing, digests: Sequence[str], problems: Sequence[DataProblem]
) -> bool:
    """Return whether files that were left out for their bytes have those of their digests now.

    Images are stored under the digests of their files, also of those that had other bytes.  At most
    `MAX_TRIED_AGAIN` files, evenly spread, are read.
    """
    names = {problem.path for problem in problems if problem.kind in PASSING_KINDS}
    if not names:
        return False
    pairs = zip(listing.entries, digests, strict=True)
    left_out = [(entry, digest) for entry, digest in pairs if digest and entry.name in names]
    for entry, digest in left_out[:: -(-len(left_out) // MAX_TRIED_AGAIN) or 1]:
        with suppress(DataError):  # of a server, too
            if compute_sha256(read_entry_bytes(entry)) == digest:
                return True
    return False


def find_unreadable_entries(
    entries: Sequence[ImageEntry], digests: Sequence[str]
) -> dict[int, DataProblem]:
    """Find the problem of each unreadable entry, whose digest is "", as a dict by entry index."""
    problems = {}
    for i, (entry, digest) in enumerate(zip(entries, digests, strict=True)):
        if not digest:
            problems[i] = DataProblem(entry.name, "unreadable", "cannot be read")
            try:
                read_entry_bytes(entry)  # fails again, and gives the reason
            except ImageError as error:
                problems[i] = DataProblem(entry.name, error.kind, error.detail)
    return problems


def encode_in_order(
    entries: Sequence[ImageEntry],
    digests: Sequence[str],
    order: list[int],
    split_by_entry: dict[int, OptionalSplit],
    encode: EncodeContent[RecordT],
    write_record: Callable[[int, RecordT], None],
) -> tuple[list[int], dict[int, DataProblem], list[int]]:
    """Encode the entries with the indices in `order`, and write those that can be decoded.

    Records are written at consecutive positions: an entry that cannot be decoded leaves no gap.
    Returns the indices of the written entries in this order, a dict from the index of each other
    entry to its problem, and the highest levels of the written images.
    """
    written: list[int] = []
    problems: dict[int, DataProblem] = {}
    highest_levels: list[int] = []

    def encode_index(i: int) -> EncodedImage[RecordT] | DataProblem:
        return encode_entry(entries[i], digests[i], split_by_entry[i], encode)

    with (
        suspend_pillow_limits(),
        open_read_ahead([entries[i] for i in order]) as ahead,
        closing(stream_in_threads(encode_index, order, "decoding")) as results,
    ):
        ahead.reach(0)
        for position, (i, result) in enumerate(zip(order, results, strict=True)):
            ahead.reach(position)
            if isinstance(result, DataProblem):
                problems[i] = result
            else:
                write_record(len(written), result.record)
                written.append(i)
                highest_levels.append(result.brightest_level)
    return written, problems, highest_levels

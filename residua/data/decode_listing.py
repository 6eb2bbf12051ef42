"""Decode all images of a listing: threads decode them, and the caller's function stores them.

Only a few decoded images are in memory at a time.  Images that cannot be decoded are skipped, and
reported as problems.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from residua.config.model import ImagePreprocessing
from residua.data.decode import (
    decode_image,
    preprocess_image,
    read_entry_bytes,
    silence_pillow_warnings,
)
from residua.data.sources.listing import DataProblem, ImageEntry, ImageListing, OptionalSplit, Split
from residua.data.splits import SPLIT_ORDER, assign_splits, find_underfilled_classes
from residua.data.threads import stream_in_threads
from residua.errors import ImageError


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """The decodable images of a data set, sorted by split in the order of `SPLIT_ORDER`."""

    pixels: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64
    split_counts: Tensor  # images of each split of `SPLIT_ORDER`
    names: tuple[str, ...]  # (n,), of the entries
    problems: tuple[DataProblem, ...]

    def split_slice(self, split: Split) -> slice:
        """The indices of a split's images."""
        i = SPLIT_ORDER.index(split)
        end = int(self.split_counts[: i + 1].sum())
        return slice(end - int(self.split_counts[i]), end)

    def split_tensors(self, split: Split) -> tuple[Tensor, Tensor]:
        """Images and labels of a split, as views."""
        return self.pixels[self.split_slice(split)], self.labels[self.split_slice(split)]


@dataclass(frozen=True, slots=True)
class DecodedIndex:
    """Everything about decoded images except their pixels, in the order of the pixels.

    It is stored in the cache as index.json.
    """

    names: list[str]
    labels: list[int]
    counts: list[int]  # images of each split of `SPLIT_ORDER`
    problems: list[dict[str, str]]

    def to_decoded_images(self, pixels: Tensor) -> DecodedImages:
        problems = tuple(DataProblem(**problem) for problem in self.problems)
        labels, counts = [
            torch.tensor(numbers, dtype=torch.int64) for numbers in (self.labels, self.counts)
        ]
        return DecodedImages(pixels[: len(self.names)], labels, counts, tuple(self.names), problems)


def decode_all_images(
    listing: ImageListing,
    digests: Sequence[str],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
) -> DecodedIndex:
    """Decode every image of a listing and pass it to `write_image` with its index, split by split.

    `digests` are the SHA-256 sums of the entries, "" for unreadable ones.  A damaged image may
    change the splits of the other images of its class.  In that case all images are decoded and
    written a second time, as if the damaged file did not exist.
    """
    entries = listing.entries

    def assign_entry_splits(indices: list[int]) -> dict[int, OptionalSplit]:
        splits = assign_splits([entries[i] for i in indices], [digests[i] for i in indices])
        return dict(zip(indices, splits, strict=True))

    problem_by_entry = find_unreadable_entries(entries, digests, view)
    while True:
        usable = [i for i in range(len(entries)) if i not in problem_by_entry]
        split_by_entry = assign_entry_splits(usable)
        order = sorted(usable, key=lambda i: SPLIT_ORDER.index(split_by_entry[i]))
        written, new_problems = decode_in_order(entries, order, view, write_image)
        problem_by_entry |= new_problems
        if assign_entry_splits(sorted(written)) == {i: split_by_entry[i] for i in sorted(written)}:
            break
    labels = [entries[i].label for i in written]
    splits = [split_by_entry[i] for i in written]
    underfilled = find_underfilled_classes(listing.classes, labels, splits)
    return DecodedIndex(
        names=[entries[i].name for i in written],
        labels=labels,
        counts=[splits.count(split) for split in SPLIT_ORDER],
        problems=[asdict(p) for p in sorted([*problem_by_entry.values(), *underfilled])],
    )


def decode_entry(entry: ImageEntry, view: ImagePreprocessing) -> Tensor | DataProblem:
    """The preprocessed image (c, h, w), or the reason why it cannot be decoded."""
    try:
        return preprocess_image(decode_image(read_entry_bytes(entry)), view)
    except ImageError as error:
        return DataProblem(entry.name, error.kind, error.detail)


def find_unreadable_entries(
    entries: Sequence[ImageEntry], digests: Sequence[str], view: ImagePreprocessing
) -> dict[int, DataProblem]:
    """The problem of each entry that cannot be read, having "" as its digest, by entry index."""
    problems = {}
    for i, (entry, digest) in enumerate(zip(entries, digests, strict=True)):
        if not digest:
            result = decode_entry(entry, view)  # fails again, and gives the reason
            unknown = DataProblem(entry.name, "unreadable", "cannot be read")
            problems[i] = result if isinstance(result, DataProblem) else unknown
    return problems


def decode_in_order(
    entries: Sequence[ImageEntry],
    order: list[int],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
) -> tuple[list[int], dict[int, DataProblem]]:
    """Decode the entries with the indices in `order`, and write those that can be decoded.

    Images are written at consecutive positions: an entry that cannot be decoded leaves no gap.
    Returns the indices of the written entries, in order, and the problem of each other entry by its
    index.
    """
    written: list[int] = []
    problems: dict[int, DataProblem] = {}

    def decode_index(i: int) -> Tensor | DataProblem:
        return decode_entry(entries[i], view)

    with (
        silence_pillow_warnings(),
        closing(stream_in_threads(decode_index, order, "decoding")) as results,
    ):
        for i, result in zip(order, results, strict=True):
            if isinstance(result, DataProblem):
                problems[i] = result
            else:
                write_image(len(written), result)
                written.append(i)
    return written, problems

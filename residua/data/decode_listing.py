"""Decode all images of a listing: threads decode them, and the caller's function stores them.

Only a few decoded images are in memory at a time.  Images that cannot be decoded are skipped and
reported as problems.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from residua.config.model import ImagePreprocessing
from residua.data.checksums import compute_sha256
from residua.data.decode import (
    decode_photo,
    preprocess_image,
    read_entry_bytes,
    suspend_pillow_limits,
)
from residua.data.grey_levels import summarize_doubtful_white_levels
from residua.data.sources.listing import DataProblem, ImageEntry, ImageListing, OptionalSplit, Split
from residua.data.splits import (
    SPLIT_ORDER,
    assign_splits,
    choose_dev_share,
    find_underfilled_classes,
)
from residua.data.threads import stream_in_threads
from residua.errors import ImageError


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """The decodable images of a data set, sorted by split in the order of `SPLIT_ORDER`."""

    pixels: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64
    split_counts: Tensor  # images of each split of `SPLIT_ORDER`
    names: tuple[str, ...]  # (n,), of the entries
    digests: tuple[str, ...]  # (n,), SHA-256 sums of the image files
    problems: tuple[DataProblem, ...]

    def split_slice(self, split: Split) -> slice:
        """Return the slice of `pixels`, `labels` and `names` that holds the images of a split."""
        i = SPLIT_ORDER.index(split)
        end = int(self.split_counts[: i + 1].sum())
        return slice(end - int(self.split_counts[i]), end)

    def count_split(self, split: Split) -> int:
        """Count the images in a split."""
        return int(self.split_counts[SPLIT_ORDER.index(split)])

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


def decode_all_images(
    listing: ImageListing,
    digests: Sequence[str],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
) -> DecodedIndex:
    """Decode every image of a listing, split by split; call `write_image(index, pixels)` for each.

    `digests` holds the SHA-256 sum of each entry, or "" if the entry cannot be read.  Skipping a
    damaged image may change the splits of the other images of its class.  In that case all images
    are decoded and written again, as if the damaged file did not exist.
    """
    entries = listing.entries
    dev_share = listing.dev_share or choose_dev_share(len(entries))

    def assign_entry_splits(indices: list[int]) -> dict[int, OptionalSplit]:
        splits = assign_splits(
            [entries[i] for i in indices], [digests[i] for i in indices], dev_share
        )
        return dict(zip(indices, splits, strict=True))

    problem_by_entry = find_unreadable_entries(entries, digests, view, listing.max_pixels)
    while True:
        usable = [i for i in range(len(entries)) if i not in problem_by_entry]
        split_by_entry = assign_entry_splits(usable)
        order = sorted(usable, key=lambda i: SPLIT_ORDER.index(split_by_entry[i]))
        written, new_problems, highest_levels = decode_in_order(
            entries, digests, order, view, write_image, listing.max_pixels
        )
        problem_by_entry |= new_problems
        if assign_entry_splits(sorted(written)) == {i: split_by_entry[i] for i in sorted(written)}:
            break
    labels = [entries[i].label for i in written]
    splits = [split_by_entry[i] for i in written]
    is_trained_on = any(entry.split in ("train", "") for entry in entries)
    underfilled = find_underfilled_classes(listing.classes, labels, splits) if is_trained_on else []
    absent = listing.absent_classes
    underfilled = [problem for problem in underfilled if problem.path not in absent]
    return DecodedIndex(
        names=[entries[i].name for i in written],
        labels=labels,
        digests=[digests[i] for i in written],
        counts=[splits.count(split) for split in SPLIT_ORDER],
        problems=[
            asdict(problem)
            for problem in sorted(
                [
                    *problem_by_entry.values(),
                    *underfilled,
                    *find_doubtful_white_levels(highest_levels),
                ]
            )
        ],
    )


class PreprocessedPhoto(NamedTuple):
    """A preprocessed image (c, h, w) uint8, and the highest level as in `DecodedPhoto`."""

    pixels: Tensor
    brightest_level: int


def find_doubtful_white_levels(highest_levels: Sequence[int]) -> Iterator[DataProblem]:
    """Yield one problem for all images whose white level seems to differ from the assumed one."""
    if sentence := summarize_doubtful_white_levels(highest_levels):
        yield DataProblem("", "unused levels", sentence)


def decode_entry(
    entry: ImageEntry, digest: str, view: ImagePreprocessing, max_pixels: int
) -> PreprocessedPhoto | DataProblem:
    """Decode and preprocess an image, or return the reason why it cannot be decoded.

    Unless `digest` is "", bytes with another SHA-256 sum are a problem: the file has changed.
    """
    try:
        content = read_entry_bytes(entry)
        if digest and compute_sha256(content) != digest:
            return DataProblem(entry.name, "changed", "was changed while it was being read")
        photo = decode_photo(content, max_pixels, view.white_level)
        return PreprocessedPhoto(preprocess_image(photo.image, view), photo.brightest_level)
    except ImageError as error:
        return DataProblem(entry.name, error.kind, error.detail)


def find_unreadable_entries(
    entries: Sequence[ImageEntry],
    digests: Sequence[str],
    view: ImagePreprocessing,
    max_pixels: int,
) -> dict[int, DataProblem]:
    """Find the problem of each unreadable entry, whose digest is "", as a dict by entry index."""
    problems = {}
    for i, (entry, digest) in enumerate(zip(entries, digests, strict=True)):
        if not digest:
            # fails again, and gives the reason
            result = decode_entry(entry, digest, view, max_pixels)
            unknown = DataProblem(entry.name, "unreadable", "cannot be read")
            problems[i] = result if isinstance(result, DataProblem) else unknown
    return problems


def decode_in_order(
    entries: Sequence[ImageEntry],
    digests: Sequence[str],
    order: list[int],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
    max_pixels: int,
) -> tuple[list[int], dict[int, DataProblem], list[int]]:
    """Decode the entries with the indices in `order`, and write those that can be decoded.

    Images are written at consecutive positions: an entry that cannot be decoded leaves no gap.
    Returns the indices of the written entries in this order, a dict from the index of each other
    entry to its problem, and the highest levels of the written images.
    """
    written: list[int] = []
    problems: dict[int, DataProblem] = {}
    highest_levels: list[int] = []

    def decode_index(i: int) -> PreprocessedPhoto | DataProblem:
        return decode_entry(entries[i], digests[i], view, max_pixels)

    with (
        suspend_pillow_limits(),
        closing(stream_in_threads(decode_index, order, "decoding")) as results,
    ):
        for i, result in zip(order, results, strict=True):
            if isinstance(result, DataProblem):
                problems[i] = result
            else:
                write_image(len(written), result.pixels)
                written.append(i)
                highest_levels.append(result.brightest_level)
    return written, problems, highest_levels

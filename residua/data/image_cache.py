"""A data set's photographs, decoded once into images of one size, and kept in the cache for the next time.

Threads decode and one writes, so that no more than a few images are in memory, however many there are.  What cannot be decoded is
left out and named.
"""

import errno
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path

import PIL
import torch
from torch import Tensor

from residua.config.model import ImagePreprocessing
from residua.config.serialize import Json, to_json
from residua.data.cache_space import memory_map_images, open_cache_writer
from residua.data.decode import (
    decode_image,
    preprocess_image,
    read_entry_bytes,
    silence_pillow_warnings,
)
from residua.data.sources.download import get_cache_dir, hold_folder_lock
from residua.data.sources.image_folder import cached_image_side, largest_side_that_fits
from residua.data.sources.listing import (
    DEV_SHARE,
    TEST_SHARE,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    join_first_names,
)
from residua.data.space import format_bytes, free_disk_bytes, free_memory_bytes
from residua.data.threads import map_in_threads, stream_in_threads
from residua.errors import DataError, ImageError

CACHE_VERSION = 3  # of what the cache holds
SPLIT_ORDER: tuple[OptionalSplit, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """Images (n, channels, height, width) uint8 of every file that could be decoded and labels (n,), part after part."""

    pixels: Tensor
    labels: Tensor
    split_counts: Tensor  # of each of PARTS
    names: tuple[str, ...]  # of the entries
    problems: tuple[DataProblem, ...]

    def split_slice(self, split: OptionalSplit) -> slice:
        """The place of one part."""
        i = SPLIT_ORDER.index(split)
        end = int(self.split_counts[: i + 1].sum())
        return slice(end - int(self.split_counts[i]), end)

    def split_tensors(self, split: OptionalSplit) -> tuple[Tensor, Tensor]:
        """Images and labels of one part, a view."""
        return self.pixels[self.split_slice(split)], self.labels[self.split_slice(split)]


@lru_cache(maxsize=1)
def load_or_decode_images(listing: ImageListing, view: ImagePreprocessing) -> DecodedImages:
    """All images of a listing as `view` says, from the cache where it holds them.

    Raises DataError where a part is left without images, or where neither the disk nor the memory can hold them.
    """
    digests = map_in_threads(hash_entry_content, listing.entries, "reading")
    cache_folder = get_cache_dir() / "images" / compute_cache_key(listing, digests, view)
    images = load_cached_images(cache_folder) or decode_to_cache_or_memory(
        listing, digests, view, cache_folder
    )
    for count, name in zip(images.split_counts.tolist(), SPLIT_ORDER, strict=True):
        if not count:
            reason = (
                f"; {join_first_names(p.path for p in images.problems)} cannot be used"
                if images.problems
                else ": there are too few"
            )
            raise DataError(f"{listing.location} leaves no images for the {name} part{reason}")
    return replace(images, problems=tuple(sorted([*listing.problems, *images.problems])))


def hash_entry_content(entry: ImageEntry) -> str:
    """A hash of an entry's bytes; empty where they cannot be read."""
    try:
        return hashlib.sha256(entry.read_bytes()).hexdigest()
    except OSError:
        return ""


def compute_cache_key(listing: ImageListing, digests: list[str], view: ImagePreprocessing) -> str:
    """A hash of all that the images are a function of: content, names, classes, and who makes them."""
    facts = [
        [e.name, e.label, e.split, digest]
        for e, digest in zip(listing.entries, digests, strict=True)
    ]
    text = json.dumps([CACHE_VERSION, PIL.__version__, to_json(view), listing.classes, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load_cached_images(cache_folder: Path) -> DecodedImages | None:
    """What `made` has left in the cache; None where it is not there, or damaged."""
    try:
        pixels, index = memory_map_images(cache_folder)
        decoded_index = DecodedIndex(**index)  # type: ignore[arg-type]
        return (
            decoded_index.to_decoded_images(pixels)
            if len(pixels) == len(decoded_index.names)
            else None
        )
    except (OSError, ValueError, TypeError):
        return None


def decode_to_cache_or_memory(
    listing: ImageListing, digests: list[str], view: ImagePreprocessing, cache_folder: Path
) -> DecodedImages:
    """Decoded into the cache, by one process at a time; or, where that has no room, into memory that has twice as much."""
    image_count, shape = len(listing.entries), view.input
    free_bytes = free_memory_bytes()
    needed_bytes, max_memory_bytes = (
        image_count * prod(shape),
        sys.maxsize if free_bytes is None else free_bytes // 2,
    )
    try:
        cache_folder.parent.mkdir(parents=True, exist_ok=True)
        with hold_folder_lock(cache_folder.parent):
            if cached_images := load_cached_images(
                cache_folder
            ):  # another process was here meanwhile
                return cached_images
            if free_disk_bytes(cache_folder.parent) < needed_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open_cache_writer(cache_folder, shape) as (writer, index):
                decoded_index = decode_all_images(listing, digests, view, writer.write_image)
                writer.truncate_to_count(len(decoded_index.names))
                index.update(asdict(decoded_index))
        pixels, _ = memory_map_images(cache_folder)
    except OSError as error:
        reason = error.strerror or error
        if needed_bytes > max_memory_bytes:
            side = largest_side_that_fits(
                image_count,
                shape[0],
                max(
                    max_memory_bytes,
                    free_disk_bytes(cache_folder.parent) if cache_folder.parent.is_dir() else 0,
                ),
            )
            raise DataError(
                f"{image_count:,} photographs of {shape[1]} x {shape[2]} pixels need {format_bytes(needed_bytes)}, for which there is no room in "
                f"{cache_folder.parent} ({reason}), nor in memory: make room, set XDG_CACHE_HOME to another disk"
                + (
                    f", or train with --size {side}"
                    if 0 < cached_image_side(side) < shape[1]
                    else ""
                )
            ) from error
        print(
            f"residua: the decoded images were not kept in {cache_folder.parent}: {reason}",
            file=sys.stderr,
        )
        pixels = torch.empty(image_count, *shape, dtype=torch.uint8)
        decoded_index = decode_all_images(listing, digests, view, pixels.__setitem__)
    return decoded_index.to_decoded_images(pixels)


@dataclass(frozen=True, slots=True)
class DecodedIndex:
    """What is known of decoded images, in their order, as JSON holds it."""

    names: list[str]
    labels: list[int]
    counts: list[int]
    problems: list[dict[str, str]]

    def to_decoded_images(self, pixels: Tensor) -> DecodedImages:
        problems = tuple(DataProblem(**problem) for problem in self.problems)
        labels, counts = [
            torch.tensor(numbers, dtype=torch.int64) for numbers in (self.labels, self.counts)
        ]
        return DecodedImages(pixels[: len(self.names)], labels, counts, tuple(self.names), problems)


def decode_all_images(
    listing: ImageListing,
    digests: list[str],
    view: ImagePreprocessing,
    write_image: Callable[[int, Tensor], None],
) -> DecodedIndex:
    """Decode every image and `put` it at its place, part after part.

    Where one is damaged others of its class may change their parts: then all are put once more, without it.
    """
    entries = listing.entries

    def decode_entry(i: int) -> Tensor | DataProblem:
        try:
            return preprocess_image(decode_image(read_entry_bytes(entries[i])), view)
        except ImageError as error:
            return DataProblem(entries[i].name, error.kind, error.detail)

    def splits_of_entries(numbers: list[int]) -> list[OptionalSplit]:
        return assign_splits([entries[i] for i in numbers], [digests[i] for i in numbers])

    unreadable = [i for i, digest in enumerate(digests) if not digest]
    problem_by_entry = {
        i: DataProblem(entries[i].name, "unreadable", "cannot be read") for i in unreadable
    }
    problem_by_entry |= {
        i: result for i in unreadable if isinstance(result := decode_entry(i), DataProblem)
    }  # which says why
    while True:
        usable = [i for i in range(len(entries)) if i not in problem_by_entry]
        split_by_entry, written = (
            dict(zip(usable, splits_of_entries(usable), strict=True)),
            list[int](),
        )
        order = sorted(usable, key=lambda i: SPLIT_ORDER.index(split_by_entry[i]))
        with (
            silence_pillow_warnings(),
            closing(stream_in_threads(decode_entry, order, "decoding")) as results,
        ):
            for i, result in zip(order, results, strict=True):
                if isinstance(result, DataProblem):
                    problem_by_entry[i] = result
                else:
                    write_image(len(written), result)
                    written.append(i)
        if splits_of_entries(sorted(written)) == [split_by_entry[i] for i in sorted(written)]:
            break
    labels, written_splits = (
        [entries[i].label for i in written],
        [split_by_entry[i] for i in written],
    )
    problems = sorted(
        [
            *problem_by_entry.values(),
            *find_underfilled_classes(listing.classes, labels, written_splits),
        ]
    )
    return DecodedIndex(
        [entries[i].name for i in written],
        labels,
        [written_splits.count(part) for part in SPLIT_ORDER],
        [asdict(p) for p in problems],
    )


def find_underfilled_classes(
    classes: tuple[str, ...], labels: list[int], splits: list[OptionalSplit]
) -> list[DataProblem]:
    """A problem for each class that has one image to train on, or none."""
    counts = Counter(label for label, part in zip(labels, splits, strict=True) if part != "test")
    detail_by_count = {
        0: "has no image that can be trained on",
        1: "has one image to train on: give it more, or leave the class out",
    }
    return [
        DataProblem(name, "tiny class", detail_by_count[counts[label]])
        for label, name in enumerate(classes)
        if counts[label] in detail_by_count
    ]


def assign_splits(entries: list[ImageEntry], digests: list[str]) -> list[OptionalSplit]:
    """The part of each image; where no folder says it, the content does, so that it never changes, whatever else comes or goes.

    Names play no role: copies of an image are all in one part.  A class with two images has one to train on and one to test.
    """
    has_dev_split = any(entry.split == "dev" for entry in entries)
    splits = [
        entry.split or choose_train_or_test(digest)
        for entry, digest in zip(entries, digests, strict=True)
    ]
    undecided_by_class: dict[int, list[int]] = {}
    for i in sorted(
        (i for i, entry in enumerate(entries) if entry.split == ""), key=lambda i: digests[i]
    ):
        undecided_by_class.setdefault(entries[i].label, []).append(i)
    for members in undecided_by_class.values():
        if all(splits[i] == "test" for i in members):
            splits[members[-1]] = "train"
        elif len(members) > 1 and all(splits[i] == "train" for i in members):
            splits[members[0]] = "test"
    if not has_dev_split:
        hold_out_dev_split(splits, entries, digests)
    return splits


def choose_train_or_test(digest: str) -> OptionalSplit:
    """Test or train, by a share of its hash in [0, 1)."""
    return "test" if int(digest[:13], 16) / 16**13 < TEST_SHARE else "train"


def hold_out_dev_split(
    splits: list[OptionalSplit], entries: list[ImageEntry], digests: list[str]
) -> None:
    """Make a few of the training images the dev part, by another share of their hashes; of each class one is left to train on."""
    train_indices = sorted(
        (i for i, part in enumerate(splits) if part == "train"), key=lambda i: digests[i][13:]
    )
    remaining_by_class = Counter(entries[i].label for i in train_indices)
    dev_candidates = [i for i in train_indices if int(digests[i][13:26], 16) / 16**13 < DEV_SHARE]
    for i in (
        dev_candidates
        or sorted(train_indices, key=lambda i: -remaining_by_class[entries[i].label])[:1]
    ):
        if remaining_by_class[entries[i].label] > 1:
            splits[i] = "dev"
            remaining_by_class[entries[i].label] -= 1


def problems_to_json(problems: Iterable[DataProblem]) -> Json:
    return [dict(asdict(problem)) for problem in problems]

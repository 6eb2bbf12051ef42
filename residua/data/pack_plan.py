"""Plan how a data set is packed: which photo goes into which shard, under which key."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePath

from residua.data.counter_rng import random_permutation
from residua.data.decode_listing import find_unreadable_entries
from residua.data.image_cache import hash_listing
from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.listing import ImageEntry, ImageListing
from residua.data.sources.packed import SPLIT_CODES
from residua.data.splits import assign_splits, choose_dev_share

MIB = 2**20
TAR_BYTES_PER_SAMPLE = 2048  # the headers of a photo and its label, and what fills their blocks
BYTES_PER_PIXEL = 0.35  # of a photograph as JPEG of quality 90, about; only to plan shards
GUESSED_BYTES = 110_000  # of a photograph whose file has no size of its own, as in ImageNet
ORDER_SEED = 2012  # fixed, so that a pack that is begun again makes the same shards
MAX_KEY_STEM = 60


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How photographs are packed; `size` 0 stores the files' own bytes."""

    size: int = 0  # the shorter side in pixels
    quality: int = 90  # of JPEG, with `size`
    shard_mib: int = 256


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard to write: its file name, and the positions of its photos in the listing."""

    name: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackPlan:
    """A listing, and the shards into which its photos go."""

    listing: ImageListing
    options: PackOptions
    shards: tuple[PlannedShard, ...]

    def compute_fingerprint(self) -> str:
        """Hash all that decides what the shards hold: the files, their classes, the options."""
        options = [self.options.size, self.options.quality, self.options.shard_mib]
        levels = [self.listing.max_pixels, self.listing.white_level]
        total = sha256(json.dumps([options, levels, self.listing.classes]).encode())
        for e in self.listing.entries:  # one by one, since there may be millions
            total.update(
                json.dumps([e.name, e.label, e.split, e.group, *e.size_and_mtime]).encode()
            )
        return total.hexdigest()


def plan_pack(listing: ImageListing, options: PackOptions) -> PackPlan:
    """Plan the shards of a data set: each holds photos of one split, in a random order.

    With a size, the photos' bytes change, and splits that depend on them are decided now, so that
    they stay the same.
    """
    if options.size and any(not entry.split for entry in listing.entries):
        listing = decide_splits(listing)
    shards = []
    for split in sorted({entry.split for entry in listing.entries}, key=SPLIT_CODES.index):
        positions = [i for i, entry in enumerate(listing.entries) if entry.split == split]
        order = random_permutation(len(positions), ORDER_SEED).tolist()
        parts = divide_by_bytes(
            [positions[i] for i in order], listing.entries, options, options.shard_mib * MIB
        )
        shards += [
            PlannedShard(f"{split or 'photos'}-{number:06}.tar", part)
            for number, part in enumerate(parts)
        ]
    return PackPlan(listing, options, tuple(shards))


def decide_splits(listing: ImageListing) -> ImageListing:
    """Give each photo the split that its present bytes decide; unreadable ones become problems."""
    digests = hash_listing(listing)
    unreadable = find_unreadable_entries(listing.entries, digests)
    known = [
        (entry, digest) for entry, digest in zip(listing.entries, digests, strict=True) if digest
    ]
    entries = [entry for entry, _ in known]
    share = listing.dev_share or choose_dev_share(len(listing.entries))
    splits = assign_splits(entries, [digest for _, digest in known], share)
    decided = [replace(e, split=split) for e, split in zip(entries, splits, strict=True)]
    problems = (*listing.problems, *unreadable.values())
    return replace(listing, entries=tuple(decided), problems=problems, split_source="shards")


def divide_by_bytes(
    positions: Sequence[int],
    entries: Sequence[ImageEntry],
    options: PackOptions,
    shard_bytes: int,
) -> list[tuple[int, ...]]:
    """Divide photos into parts of at most about `shard_bytes`, each of at least one photo."""
    parts: list[list[int]] = [[]]
    filled = 0
    for position in positions:
        added = estimate_bytes(entries[position], options) + TAR_BYTES_PER_SAMPLE
        if parts[-1] and filled + added > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(position)
        filled += added
    return [tuple(part) for part in parts if part]


def estimate_bytes(entry: ImageEntry, options: PackOptions) -> int:
    """Estimate how many bytes a photo takes in a shard."""
    file = entry.embedded_file
    own = entry.size_and_mtime[0] if file is None else getattr(file, "length", GUESSED_BYTES)
    if options.size:
        return min(own, round(BYTES_PER_PIXEL * 4 / 3 * options.size**2))
    return int(own)


def make_sample_key(position: int, entry: ImageEntry) -> str:
    """Make the key of a photo in its shard: unique, in ASCII and without dots.

    Programs that read WebDataset shards take what follows the first dot for the kind of a file, so
    that `a.b.jpg` and `a.c.jpg` would be one sample.
    """
    stem = PurePath(entry.name).stem
    return f"{position:08}-{re.sub('[^A-Za-z0-9_-]', '_', stem)[:MAX_KEY_STEM]}"


def choose_extension(entry: ImageEntry, options: PackOptions) -> str:
    """Choose the extension of a photo in its shard; "bin" for a file that has no known one."""
    if options.size:
        return "jpg"
    suffix = PurePath(entry.location).suffix.lower()
    return suffix[1:] if suffix in IMAGE_SUFFIXES else "bin"


def choose_label_texts(classes: Sequence[str]) -> list[str]:
    """Choose the text of each class's .cls files: its number, as other programs expect.

    If names of classes are numbers, too, but others, it is the name.
    """
    numbers = [str(label) for label in range(len(classes))]
    is_ambiguous = any(
        name in numbers and name != number for name, number in zip(classes, numbers, strict=True)
    )
    return list(classes) if is_ambiguous else numbers

"""The cache of decoded photos: a data set is decoded once for each image size.

The cache is in $XDG_CACHE_HOME/residua/images, with one folder per data set and size.
"""

import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from hashlib import sha256
from math import prod
from pathlib import Path

import PIL
import torch

from residua.config.model import ImagePreprocessing
from residua.config.serialize import to_json
from residua.data.checksums import compute_sha256
from residua.data.decode_listing import (
    DecodedImages,
    DecodedIndex,
    UsableImages,
    decode_all_images,
    is_readable_again,
)
from residua.data.digest_index import hash_entries
from residua.data.image_formats import list_readable_optional_formats
from residua.data.pixel_file import (
    memory_map_images,
    open_cache_writer,
)
from residua.data.sources.download import get_cache_dir
from residua.data.sources.groups import count_groups
from residua.data.sources.listing import ImageEntry, ImageListing, Split, join_first_names
from residua.data.sources.resolve import cached_image_side, largest_side_that_fits
from residua.data.space import free_disk_bytes, free_memory_bytes, require_memory_beside_cache
from residua.data.splits import SPLIT_ORDER, choose_dev_share
from residua.data.summary import USED_KINDS
from residua.errors import DataError, MissingRecordError, RecordError
from residua.files import (
    clean_up_interrupted_writes,
    hold_output_lock,
    read_undisturbed,
)

CACHE_VERSION = 4  # of the stored format and of the way images are decoded


@lru_cache(maxsize=2)
def load_or_decode_images(
    listing: ImageListing, view: ImagePreprocessing, digests: tuple[str, ...] | None = None
) -> DecodedImages:
    """Load the images of a listing, preprocessed as `view` says, or decode and cache them.

    `digests` are the SHA-256 sums of the entries, if the caller has them already.  Raises DataError
    if no image is usable, or if neither disk nor memory has enough space.
    """
    digests = digests or hash_listing(listing)
    cache_folder = get_cache_dir() / "images" / compute_cache_key(listing, digests, view)
    images = load_intact_images(cache_folder, listing, digests) or decode_to_cache_or_memory(
        listing, digests, view, cache_folder
    )
    if not len(images.labels):
        raise DataError(
            f"{listing.location} has no usable image: {summarise_unusable_images(images)}"
        )
    return replace(images, problems=tuple(sorted([*listing.problems, *images.problems])))


@lru_cache(maxsize=2)
def hash_listing(listing: ImageListing) -> tuple[str, ...]:
    """Compute the SHA-256 sum of each entry's bytes; "" for entries that cannot be read.

    Files that were hashed already, also by another process, are not read again unless their size or
    time of modification has changed.
    """
    return tuple(hash_entries(listing.location, listing.entries, hash_entry_content))


def require_images_of_split(images: UsableImages, listing: ImageListing, split: Split) -> None:
    """Raise DataError if a split has no usable image."""
    if images.count_split(split):
        return
    reason = summarise_unusable_images(images)
    if listing.split_source == "content" and (groups := count_groups(listing.entries)):
        reason = (
            f"its {groups:,} groups are too few to hold out whole ones so that every class keeps "
            "images to train on; add groups, or a column split"
        )
    raise DataError(f"{listing.location} has no images for the {split} split: {reason}")


def require_trainable_images(images: UsableImages, listing: ImageListing) -> None:
    """Raise DataError if a split has no usable image, or a class no usable training image."""
    for split in SPLIT_ORDER:
        require_images_of_split(images, listing, split)
    labels = images.labels[images.split_slice("train")]
    counts = labels.bincount(minlength=len(listing.classes)).tolist()
    empty = [name for name, count in zip(listing.classes, counts, strict=True) if not count]
    if empty := [name for name in empty if name not in listing.absent_classes]:
        raise DataError(
            f"{listing.location} has no usable training image of {join_first_names(empty)}: "
            "add images of the class, or remove its folder or rows"
        )


def summarise_unusable_images(images: UsableImages) -> str:
    """Name the first images that cannot be used, or say "there are too few images" if all can."""
    if not images.problems:
        return "there are too few images"
    names = join_first_names(problem.path for problem in images.problems if problem.path)
    of_files = [problem for problem in images.problems if problem.kind not in USED_KINDS]
    example = f" ({of_files[0].path} {of_files[0].detail})" if of_files else ""
    return f"{names} cannot be used{example}"


def hash_entry_content(entry: ImageEntry) -> str:
    """Compute the SHA-256 sum of an entry's bytes; "" if the entry cannot be read."""
    try:
        return compute_sha256(entry.read_bytes())
    except OSError:
        return ""


def compute_cache_key(
    listing: ImageListing, digests: tuple[str, ...], view: ImagePreprocessing
) -> str:
    """Hash everything that the decoded images depend on, including Pillow's version."""
    head = json.dumps(
        [
            CACHE_VERSION,
            PIL.__version__,
            list_readable_optional_formats(),
            listing.max_pixels,
            to_json(view),
            listing.classes,
            listing.dev_share or choose_dev_share(len(listing.entries)),
        ]
    )
    # The JSON of all in one list, but made piece by piece, since there may be millions of entries.
    key = sha256(f"{head[:-1]}, [".encode())
    for i, (entry, digest) in enumerate(zip(listing.entries, digests, strict=True)):
        facts = [entry.name, entry.label, entry.split, digest, *filter(None, [entry.group])]
        key.update(f"{', ' if i else ''}{json.dumps(facts)}".encode())
    key.update(b"]]")
    return key.hexdigest()[:32]


def load_cached_images(cache_folder: Path, *, quiet: bool = False) -> DecodedImages | None:
    """Load the images that `decode_to_cache` stored; None if the cache lacks them or is damaged.

    Unless `quiet`, the user is told of damage.
    """
    try:
        pixels, stored_index = read_undisturbed(
            cache_folder, lambda: memory_map_images(cache_folder)
        )
        return DecodedIndex(**stored_index).to_decoded_images(pixels)  # type: ignore[arg-type]
    except (FileNotFoundError, MissingRecordError):
        return None
    except (OSError, ValueError, TypeError, RecordError) as error:
        if not quiet:
            print(
                f"residua: the decoded images in {cache_folder} are damaged, and are decoded "
                f"again: {error}",
                file=sys.stderr,
            )
        return None


def load_intact_images(
    cache_folder: Path, listing: ImageListing, digests: Sequence[str], *, quiet: bool = False
) -> DecodedImages | None:
    """Load the stored images of a listing; None also if files that were left out are intact now."""
    images = load_cached_images(cache_folder, quiet=quiet)
    if images is None or is_readable_again(listing, digests, images.problems):
        return None
    return images


def decode_to_cache_or_memory(
    listing: ImageListing, digests: tuple[str, ...], view: ImagePreprocessing, cache_folder: Path
) -> DecodedImages:
    """Decode into the cache or, if that fails, into memory.

    Memory is used only if at least twice the needed space is free.  Raises DataError if neither the
    disk nor the memory has enough space; the message suggests an image size that fits.
    """
    try:
        return decode_to_cache(listing, digests, view, cache_folder)
    except OSError as error:
        count, cache_root = len(listing.entries), cache_folder.parent
        way_on = suggest_smaller_size(count, view, cache_root)
        require_memory_beside_cache(count, count * prod(view.input), cache_root, error, way_on)
        print(
            f"residua: decoded images are not cached in {cache_folder.parent}: "
            f"{error.strerror or error}",
            file=sys.stderr,
        )
        pixels = torch.empty(len(listing.entries), *view.input, dtype=torch.uint8)
        index = decode_all_images(listing, digests, view, pixels.__setitem__)
        return index.to_decoded_images(pixels)


def decode_to_cache(
    listing: ImageListing, digests: tuple[str, ...], view: ImagePreprocessing, cache_folder: Path
) -> DecodedImages:
    """Decode into `cache_folder`, while other processes wait.

    Raises OSError if the folder cannot be written or the disk has too little space.
    """
    cache_folder.parent.mkdir(parents=True, exist_ok=True)
    clean_up_interrupted_writes(cache_folder.parent)  # before they fill the disk
    with hold_output_lock(cache_folder):
        # Another process may have decoded the same images while this one waited for the lock.
        if cached_images := load_intact_images(cache_folder, listing, digests, quiet=True):
            return cached_images
        # Fail before hours of decoding rather than after them.
        if free_disk_bytes(cache_folder.parent) < len(listing.entries) * prod(view.input):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open_cache_writer(cache_folder, view.input, listing.location) as (
            writer,
            stored_index,
        ):
            index = decode_all_images(listing, digests, view, writer.write_image)
            writer.truncate_to_count(len(index.names))
            stored_index.update(asdict(index))
    pixels, _ = memory_map_images(cache_folder)
    return index.to_decoded_images(pixels)


def suggest_smaller_size(image_count: int, view: ImagePreprocessing, cache_root: Path) -> str:
    """Return the way on for images that fit neither on the disk nor into memory."""
    channels, height, _ = view.input
    free_memory = free_memory_bytes() or 0
    free_disk = free_disk_bytes(cache_root) if cache_root.is_dir() else 0
    side = largest_side_that_fits(image_count, channels, max(free_memory // 2, free_disk))
    if 0 < cached_image_side(side) < height:
        return f"train with --size {side}"
    return "give fewer photographs"

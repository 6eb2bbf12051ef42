"""The cache of decoded photos: a data set is decoded once for each image size.

The cache is in $XDG_CACHE_HOME/residua/images, with one folder per data set and size.
"""

import errno
import json
import os
import sys
from dataclasses import asdict, replace
from functools import lru_cache
from math import prod
from pathlib import Path

import PIL
import torch

from residua.config.model import ImagePreprocessing
from residua.config.serialize import to_json
from residua.data.checksums import compute_sha256
from residua.data.decode_listing import DecodedImages, DecodedIndex, decode_all_images
from residua.data.pixel_file import memory_map_images, open_cache_writer
from residua.data.sources.download import get_cache_dir, hold_folder_lock
from residua.data.sources.listing import ImageEntry, ImageListing, join_first_names
from residua.data.sources.resolve import cached_image_side, largest_side_that_fits
from residua.data.space import format_bytes, free_disk_bytes, free_memory_bytes
from residua.data.splits import SPLIT_ORDER
from residua.data.threads import map_in_threads
from residua.errors import DataError

CACHE_VERSION = 3  # of the stored format and of the way images are decoded


@lru_cache(maxsize=1)
def load_or_decode_images(listing: ImageListing, view: ImagePreprocessing) -> DecodedImages:
    """All images of a listing, preprocessed as `view` says; read from the cache if they are in it.

    Raises DataError if a split has no usable image, or if neither disk nor memory has enough
    space.
    """
    digests = map_in_threads(hash_entry_content, listing.entries, "reading")
    cache_folder = get_cache_dir() / "images" / compute_cache_key(listing, digests, view)
    images = load_cached_images(cache_folder) or decode_to_cache_or_memory(
        listing, digests, view, cache_folder
    )
    for count, split in zip(images.split_counts.tolist(), SPLIT_ORDER, strict=True):
        if not count:
            unusable = join_first_names(problem.path for problem in images.problems)
            reason = f"{unusable} cannot be used" if images.problems else "there are too few images"
            raise DataError(f"{listing.location} has no images for the {split} split: {reason}")
    return replace(images, problems=tuple(sorted([*listing.problems, *images.problems])))


def hash_entry_content(entry: ImageEntry) -> str:
    """The SHA-256 sum of an entry's bytes; "" if they cannot be read."""
    try:
        return compute_sha256(entry.read_bytes())
    except OSError:
        return ""


def compute_cache_key(listing: ImageListing, digests: list[str], view: ImagePreprocessing) -> str:
    """A hash of everything that the decoded images depend on, Pillow's version included."""
    facts = [
        [entry.name, entry.label, entry.split, digest]
        for entry, digest in zip(listing.entries, digests, strict=True)
    ]
    text = json.dumps([CACHE_VERSION, PIL.__version__, to_json(view), listing.classes, facts])
    return compute_sha256(text.encode())[:32]


def load_cached_images(cache_folder: Path) -> DecodedImages | None:
    """The images that `decode_to_cache` stored; None if they do not exist or are damaged."""
    try:
        pixels, stored_index = memory_map_images(cache_folder)
        index = DecodedIndex(**stored_index)  # type: ignore[arg-type]
        return index.to_decoded_images(pixels) if len(pixels) == len(index.names) else None
    except (OSError, ValueError, TypeError):
        return None


def decode_to_cache_or_memory(
    listing: ImageListing, digests: list[str], view: ImagePreprocessing, cache_folder: Path
) -> DecodedImages:
    """Decode into the cache or, if that fails, into memory.

    Memory is used only if at least twice the needed space is free.  If neither the disk nor the
    memory has enough space, raises DataError; the message suggests an image size that fits.
    """
    try:
        return decode_to_cache(listing, digests, view, cache_folder)
    except OSError as error:
        require_memory_for_images(len(listing.entries), view, cache_folder.parent, error)
        print(
            f"residua: decoded images are not cached in {cache_folder.parent}: "
            f"{error.strerror or error}",
            file=sys.stderr,
        )
        pixels = torch.empty(len(listing.entries), *view.input, dtype=torch.uint8)
        index = decode_all_images(listing, digests, view, pixels.__setitem__)
        return index.to_decoded_images(pixels)


def decode_to_cache(
    listing: ImageListing, digests: list[str], view: ImagePreprocessing, cache_folder: Path
) -> DecodedImages:
    """Decode into `cache_folder`, one process at a time.

    Raises OSError if the folder cannot be written.
    """
    cache_folder.parent.mkdir(parents=True, exist_ok=True)
    with hold_folder_lock(cache_folder.parent):
        # Another process may have decoded the same images while this one waited for the lock.
        if cached_images := load_cached_images(cache_folder):
            return cached_images
        # Fail before hours of decoding rather than after them.
        if free_disk_bytes(cache_folder.parent) < len(listing.entries) * prod(view.input):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open_cache_writer(cache_folder, view.input) as (writer, stored_index):
            index = decode_all_images(listing, digests, view, writer.write_image)
            writer.truncate_to_count(len(index.names))
            stored_index.update(asdict(index))
    pixels, _ = memory_map_images(cache_folder)
    return index.to_decoded_images(pixels)


def require_memory_for_images(
    image_count: int, view: ImagePreprocessing, cache_root: Path, cache_error: OSError
) -> None:
    """Raise DataError if the decoded images need more than half of the free memory.

    The message names `cache_error`, the reason why they are not in the cache.
    """
    channels, height, width = view.input
    needed_bytes = image_count * channels * height * width
    free_memory = free_memory_bytes()
    max_memory_bytes = sys.maxsize if free_memory is None else free_memory // 2
    if needed_bytes <= max_memory_bytes:
        return
    free_disk = free_disk_bytes(cache_root) if cache_root.is_dir() else 0
    side = largest_side_that_fits(image_count, channels, max(max_memory_bytes, free_disk))
    smaller_size = f", or use --size {side}" if 0 < cached_image_side(side) < height else ""
    raise DataError(
        f"{image_count:,} decoded photos need {format_bytes(needed_bytes)}, which is more than "
        f"the free memory allows, and they cannot be cached in {cache_root} "
        f"({cache_error.strerror or cache_error}): set XDG_CACHE_HOME to a folder with more space"
        f"{smaller_size}"
    ) from cache_error

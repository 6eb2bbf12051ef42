"""Choose how the photographs of a data set are stored, by the bytes that each way needs."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from residua.cache_folder import get_cache_dir
from residua.config.photo_storage import PhotoStorage
from residua.data.image_cache import hash_listing
from residua.data.photo_cache import find_store_folder
from residua.data.photo_records import JPEG_QUALITY, RecordSettings, estimate_stored_bytes
from residua.data.sources.listing import ImageListing
from residua.data.sources.resolve import PhotoDataset
from residua.data.space import (
    format_bytes,
    free_disk_bytes,
    free_memory_bytes,
    total_memory_bytes,
)
from residua.errors import DataError

# Stored photographs may take one part in this many of the memory and of the free disk.  All of the
# memory counts, whoever uses it now, so that a run that is repeated chooses the same.
MAX_SHARE = 2
DESCRIPTIONS = {
    "raw": "whole photographs are kept as pixels",
    "jpeg": f"whole photographs are kept as JPEG of quality {JPEG_QUALITY}",
}


class StorageChoice(NamedTuple):
    """A way to store photographs, and a sentence on why it was chosen."""

    storage: PhotoStorage
    reason: str


def choose_storage(listing: ImageListing, dataset: PhotoDataset) -> StorageChoice:
    """Choose how to store the photographs of a listing for `dataset`: as pixels, or else as JPEG.

    What the cache holds already is used.  Raises the errors of `choose_storage_by_space`.
    """
    digests = hash_listing(listing)
    for settings in list_storage_settings(listing, dataset)[: 1 if dataset.fold else 2]:
        if find_store_folder(listing, digests, settings).is_dir():
            reason = f"{DESCRIPTIONS[settings.storage]}, which the cache holds already"
            return StorageChoice(settings.storage, reason)
    return choose_storage_by_space(listing, dataset)


def list_storage_settings(
    listing: ImageListing, dataset: PhotoDataset
) -> tuple[RecordSettings, RecordSettings]:
    """Return the settings with which the photographs would be kept as pixels, and as JPEG."""
    raw, jpeg = (
        RecordSettings.of_dataset(replace(dataset, listing=listing, storage=storage))
        for storage in ("raw", "jpeg")
    )
    return raw, jpeg


def choose_storage_by_space(
    listing: ImageListing, dataset: PhotoDataset, *, is_stored: bool = True
) -> StorageChoice:
    """Choose how to store photographs without a look into the cache; few of them are read.

    Pixels may take half of the memory and half of the free disk, and JPEG half of the free disk.
    Photographs of which a fold is held out are not kept as JPEG, but as their files, because what
    is measured on them would depend on the other encoding.  Raises DataError if neither pixels nor
    JPEG fits, and the message names the ways on; if the photographs are not `is_stored`, the first
    of these ways is chosen instead.
    """
    raw, jpeg = list_storage_settings(listing, dataset)
    memory, free_disk = total_memory_bytes(), measure_free_disk()
    raw_bytes = estimate_stored_bytes(listing, raw)
    of_memory = "" if memory is None else f"{format_bytes(memory)} of memory and "
    space = f"there are {of_memory}{format_bytes(free_disk)} of free disk"
    fits_memory = memory is None or raw_bytes <= memory // MAX_SHARE
    if fits_memory and raw_bytes <= free_disk // MAX_SHARE:
        return StorageChoice("raw", f"{DESCRIPTIONS['raw']}, {format_bytes(raw_bytes)}; {space}")
    if dataset.fold:
        return StorageChoice(
            "files",
            "the files are decoded for every batch, because a fold is held out: pixels need "
            f"{format_bytes(raw_bytes)}, and {space}",
        )
    jpeg_bytes = estimate_stored_bytes(listing, jpeg)
    if jpeg_bytes <= free_disk // MAX_SHARE:
        return StorageChoice(
            "jpeg",
            f"{DESCRIPTIONS['jpeg']}, {format_bytes(jpeg_bytes)}: pixels need "
            f"{format_bytes(raw_bytes)}, and {space}",
        )
    fits_without_disk = fits_free_memory(raw_bytes)
    if not is_stored:
        storage: PhotoStorage = "raw" if fits_without_disk else "files"
        return StorageChoice(storage, f"on the disk is no space to store them: {space}")
    in_memory = "add --storage raw, which then keeps the pixels in memory, or " * fits_without_disk
    raise DataError(
        f"{len(listing.entries):,} photographs need {format_bytes(raw_bytes)} as pixels or "
        f"{format_bytes(jpeg_bytes)} as JPEG, and {space}, of which half may be used: set "
        f"XDG_CACHE_HOME to a folder with more space, or {in_memory}add --storage files, which "
        "needs no disk space and decodes the files for every batch"
    )


def fits_free_memory(raw_bytes: int) -> bool:
    """Return whether pixels that cannot be cached on disk are kept in memory, if asked for."""
    memory = free_memory_bytes()
    return memory is None or raw_bytes <= memory // 2  # as `require_memory_beside_cache`


def measure_free_disk() -> int:
    """Measure the free bytes of the disk on which the cache is, or will be."""
    cache: Path = get_cache_dir().absolute()
    return free_disk_bytes(next(folder for folder in (cache, *cache.parents) if folder.is_dir()))

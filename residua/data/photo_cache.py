"""The cache of whole photographs: each data set is decoded once for each way of storing it.

The cache is in $XDG_CACHE_HOME/residua/photos, with one folder per data set and settings.
"""

import errno
import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from residua.cache_folder import get_cache_dir
from residua.data.checksums import compute_sha256
from residua.data.decode_listing import is_readable_again
from residua.data.image_cache import hash_listing, summarise_unusable_images
from residua.data.image_formats import list_readable_optional_formats
from residua.data.photo_index import (
    PHOTOS_FILE,
    PackedDigests,
    PackedTexts,
    read_photo_index,
    write_photo_index,
)
from residua.data.photo_records import RecordSettings, estimate_stored_bytes, write_records
from residua.data.photo_store import PhotoStore, RecordFile, StoredPhotos
from residua.data.pixel_file import memory_map_images, read_cache_location
from residua.data.sources.listing import DataProblem, ImageEntry, ImageListing
from residua.data.sources.resolve import PhotoDataset
from residua.data.space import free_disk_bytes, require_memory_beside_cache
from residua.data.splits import choose_dev_share
from residua.errors import DataError, MissingRecordError, RecordError
from residua.files import (
    atomic_write,
    clean_up_interrupted_writes,
    delete_path,
    hold_output_lock,
    read_undisturbed,
)

PHOTO_CACHE_VERSION = 2  # of the stored format and of the way photographs are decoded
MAX_CHECKED_BYTES = 2**27  # of records compared with their checksums on opening
MAX_OPEN_STORES = 2
HASHED_TOGETHER = 10_000  # entries
open_stores: list[tuple[ImageListing, RecordSettings, PhotoStore]] = []


def load_photo_store(dataset: PhotoDataset) -> PhotoStore:
    """Load the whole photographs of a data set as its `storage` says, or decode and cache them.

    Raises DataError if no photograph is usable, or if they do not fit on the disk.
    """
    listing, settings = dataset.listing, RecordSettings.of_dataset(dataset)
    for known_listing, known_settings, store in open_stores:
        if known_settings == settings and is_same_listing(known_listing, listing):
            return store
    digests = hash_listing(listing)
    folder = find_store_folder(listing, digests, settings)
    store = load_intact_photos(folder, listing, digests, settings) or decode_photos_to_cache(
        listing, digests, settings, folder
    )
    if not len(store.labels):
        raise DataError(
            f"{listing.location} has no usable image: {summarise_unusable_images(store)}"
        )
    open_stores[:] = [*open_stores[1 - MAX_OPEN_STORES :], (listing, settings, store)]
    return store


def is_same_listing(one: ImageListing, other: ImageListing) -> bool:
    """Return whether two listings have the same entries in memory, and are otherwise equal.

    To compare a million entries one by one would take seconds.
    """
    return one.entries is other.entries and replace(one, entries=()) == replace(other, entries=())


def find_store_folder(
    listing: ImageListing, digests: Sequence[str], settings: RecordSettings
) -> Path:
    """Return the folder for the photographs of a listing, whether it exists or not.

    Its name is a hash of everything that the stored photographs depend on; of files that are kept
    as they are, only an index is stored, and it is the same for all sides.
    """
    pixel_facts = settings.describe()
    if settings.storage == "files":
        pixel_facts |= {"side": 0, "resize": 0, "channels": 0}
    facts = [
        PHOTO_CACHE_VERSION,
        list_readable_optional_formats(),
        pixel_facts,
        listing.classes,
        listing.dev_share or choose_dev_share(len(listing.entries)),
        hash_facts_of_entries(listing.entries, digests),
    ]
    name = compute_sha256(json.dumps(facts, sort_keys=True).encode())[:32]
    return get_cache_dir() / "photos" / name


def hash_facts_of_entries(entries: Sequence[ImageEntry], digests: Sequence[str]) -> str:
    """Hash what the splits and the labels of entries depend on; two seconds for a million."""
    total = hashlib.sha256()
    for start in range(0, len(entries), HASHED_TOGETHER):
        part = slice(start, start + HASHED_TOGETHER)
        # Lengths keep names and groups apart, whatever is in them.
        lines = [
            f"{len(entry.name)} {entry.name} {entry.label} {entry.split} {digest} {entry.group}\n"
            for entry, digest in zip(entries[part], digests[part], strict=True)
        ]
        total.update("".join(lines).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def make_store(
    records: RecordFile,
    problems: Sequence[DataProblem],
    listing: ImageListing,
    settings: RecordSettings,
) -> PhotoStore:
    """Make the store of an open file of records."""
    index = records.index
    return PhotoStore(
        labels=torch.from_numpy(index.labels),
        split_counts=torch.from_numpy(index.split_counts),
        names=PackedTexts(index.name_bytes, index.name_ends),
        digests=PackedDigests(index.digests),
        problems=tuple(sorted([*listing.problems, *problems])),
        photos=StoredPhotos(index, records, settings, listing.entries),
    )


def load_intact_photos(
    folder: Path,
    listing: ImageListing,
    digests: Sequence[str],
    settings: RecordSettings,
    *,
    quiet: bool = False,
) -> PhotoStore | None:
    """Load the photographs of a folder; None also if files that were left out are intact now."""
    store = load_cached_photos(folder, listing, settings, quiet=quiet)
    if store is None or is_readable_again(listing, digests, store.problems):
        return None
    return store


def load_cached_photos(
    folder: Path, listing: ImageListing, settings: RecordSettings, *, quiet: bool = False
) -> PhotoStore | None:
    """Load the photographs of a folder of the cache; None if it lacks them or is damaged.

    Unless `quiet`, the user is told of damage.
    """
    try:
        records, problems = read_undisturbed(folder, lambda: open_stored_photos(folder))
    except (FileNotFoundError, MissingRecordError):
        return None
    except (OSError, ValueError, TypeError, KeyError, RecordError) as error:
        if not quiet:
            print(
                f"residua: the photographs in {folder} are damaged, and are decoded again: {error}",
                file=sys.stderr,
            )
        return None
    return make_store(records, problems, listing, settings)


def open_stored_photos(
    folder: Path, *, max_checked_bytes: int | None = MAX_CHECKED_BYTES
) -> tuple[RecordFile, tuple[DataProblem, ...]]:
    """Open the stored photographs of a folder: their records with the index, and their problems.

    At most `max_checked_bytes` of the records, evenly spread, are compared with their checksums, or
    all of them if that is None.  Raises OSError, ValueError or RecordError if they are not intact.
    """
    index, problems = read_photo_index(folder)
    # The store closes the file.
    records = RecordFile(index, open(folder / PHOTOS_FILE, "rb", buffering=0))  # noqa: SIM115
    total_bytes = int(index.ends[-1]) if len(index) else 0
    if (folder / PHOTOS_FILE).stat().st_size != total_bytes:
        raise ValueError(f"{folder / PHOTOS_FILE} does not have {total_bytes:,} bytes")
    stride = 1
    if max_checked_bytes is not None:
        stride = max(-(-total_bytes // max_checked_bytes), 1)
    for row in range(0, len(index) if total_bytes else 0, stride):
        if not records.is_intact(row, records.read_at(*index.locate_record(row))):
            raise ValueError(f"{index.name_of(row)} is damaged")
    return records, problems


def delete_damaged_caches(location: str) -> int:
    """Compare all cached images of a data set with their checksums; delete the damaged ones.

    Returns the number of deleted caches.  A data set has one cache per decoded image size, and one
    per way of storing whole photographs.
    """
    check_squares = partial(memory_map_images, max_checked_bytes=None)
    check_photos = partial(open_stored_photos, max_checked_bytes=None)
    damaged = 0
    for kind, check in (("images", check_squares), ("photos", check_photos)):
        for index_file in (get_cache_dir() / kind).glob("*/index.json"):
            try:
                if read_cache_location(index_file.parent) == location:
                    check(index_file.parent)
            except (OSError, ValueError, TypeError, KeyError, RecordError):
                damaged += 1
                with hold_output_lock(index_file.parent):
                    delete_path(index_file.parent)
    return damaged


def decode_photos_to_cache(
    listing: ImageListing, digests: Sequence[str], settings: RecordSettings, folder: Path
) -> PhotoStore:
    """Decode into `folder`, while other processes wait, or into memory if that fails.

    Memory is used only if at least twice the needed space is free.  Raises DataError if neither the
    disk nor the memory has enough space; the message names the way on.
    """
    needed_bytes = estimate_stored_bytes(listing, settings)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clean_up_interrupted_writes(folder.parent)  # before they fill the disk
        with hold_output_lock(folder):
            # Another process may have decoded the same photographs while this one waited.
            if store := load_intact_photos(folder, listing, digests, settings, quiet=True):
                return store
            if free_disk_bytes(folder.parent) < needed_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_write(folder) as staging:
                staging.mkdir()
                with open(staging / PHOTOS_FILE, "wb") as file:
                    index, problems = write_records(listing, digests, settings, file)
                write_photo_index(staging, index, listing.location, problems, settings.channels)
        store = load_cached_photos(folder, listing, settings)
    except OSError as error:
        require_memory_beside_cache(
            len(listing.entries),
            needed_bytes,
            folder.parent,
            error,
            "add --storage files, which decodes the files for every batch",
        )
        print(
            f"residua: photographs are not cached in {folder.parent}: {error.strerror or error}",
            file=sys.stderr,
        )
        memory = io.BytesIO()
        index, problems = write_records(listing, digests, settings, memory)
        return make_store(RecordFile(index, memory), problems, listing, settings)
    if store is None:
        raise DataError(f"{folder} was deleted while it was used: run the command again")
    return store

"""Whole photographs of a data set, read one by one from a file of records or from their own files.

Random boxes and center crops are cut out of them when a batch needs them, so that memory does not
grow with the number of photographs.
"""

import hashlib
import io
import os
import threading
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residua.config.model import ImagePreprocessing
from residua.data.checksums import compute_sha256
from residua.data.decode import (
    decode_and_preprocess,
    decode_photo,
    read_entry_bytes,
    suspend_pillow_limits,
)
from residua.data.decode_listing import UsableImages
from residua.data.images import center_crop
from residua.data.photo_index import PhotoIndex
from residua.data.photo_records import RecordSettings, decode_jpeg_record
from residua.data.photo_source import Box
from residua.data.resize import (
    crop_center,
    find_cut_offset,
    find_whole_size,
    image_to_tensor,
    resize_box,
    resize_box_of_pixels,
    resize_shorter_side,
)
from residua.data.rgb_conversion import DecodedPhoto
from residua.data.scaled_decoding import FindNeededSize, Size
from residua.data.sources.listing import ImageEntry, Split
from residua.errors import DataError, ImageError


def fingerprint_photos(digests: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Hash the SHA-256 sums (n, 32) of photographs and their labels (n,), in 16 digits.

    Photographs are the same in every storage, and at every size.
    """
    total = hashlib.sha256(b"photographs")
    total.update(np.ascontiguousarray(digests).data)
    total.update(np.ascontiguousarray(labels).data)
    return total.hexdigest()[:16]


class RecordFile:
    """The file of the records, read without a map: if it is cut short, that is an error.

    `file` may also be in memory.  A record is compared with its checksum when it is first read, and
    one that is a JPEG file each time.  Methods may be called from several threads.
    """

    def __init__(self, index: PhotoIndex, file: BinaryIO) -> None:
        self.index, self.file, self.lock = index, file, threading.Lock()
        self.is_checked = np.zeros(len(index), bool)
        weakref.finalize(self, file.close)  # stores are shared, so no owner can close it

    def read_record(self, row: int) -> bytes:
        """Read a record.  Raises DataError, which names the photograph, if it is damaged."""
        offset, length = self.index.locate_record(row)
        try:
            content = self.read_at(offset, length)
        except OSError as error:
            raise self.make_error(
                row, f"cannot be read from the cache: {error.strerror}"
            ) from error
        if len(content) < length or not self.is_intact(row, content):
            raise self.make_error(row, "is damaged in the cache")
        return content

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes from `offset` on."""
        if isinstance(self.file, io.FileIO) and hasattr(os, "pread"):
            return os.pread(self.file.fileno(), length, offset)
        with self.lock:  # the position in the file is shared
            self.file.seek(offset)
            return self.file.read(length) or b""

    def is_intact(self, row: int, content: bytes) -> bool:
        """Return whether a record has its checksum; pixels are compared once only."""
        if not self.is_checked[row] or self.index.encoded[row]:
            self.is_checked[row] = zlib.crc32(content) == self.index.checksums[row]
        return bool(self.is_checked[row])

    def make_error(self, row: int, reason: str) -> DataError:
        """Make the error of a record, with the way on."""
        return DataError(
            f"{self.index.name_of(row)} {reason}: delete the cache by `residua cache clear "
            "'photos/*'`, and run the command again"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoStore(UsableImages):
    """The decodable photographs of a data set, sorted by split in the order of `SPLIT_ORDER`."""

    photos: "StoredPhotos"

    def split_photos(self, split: Split) -> "StoredPhotos":
        """Return the photographs of a split."""
        part = self.split_slice(split)
        return self.photos.select(torch.arange(part.start, part.stop))


class StoredPhotos:
    """Photographs of a store as a `PhotoSource`; those that `rows` (n,) selects of its index.

    With `files`, the photographs are those of the `entries` of their listing.  A center crop is
    then bit-identical to the preprocessed file, as it is for raw pixels at the side `resize`.  A
    crop of a box differs from that of the raw pixels, because it is resized once, from the pixels
    of the file, and not from pixels that were resized before.
    """

    def __init__(
        self,
        index: PhotoIndex,
        records: RecordFile,
        settings: RecordSettings,
        entries: Sequence[ImageEntry],
        rows: Tensor | None = None,
        view: ImagePreprocessing | None = None,
    ) -> None:
        self.index, self.records, self.settings, self.entries = index, records, settings, entries
        self.view = view
        self.rows = torch.arange(len(index)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> Tensor:
        """The labels (n,) int64."""
        return torch.from_numpy(self.index.labels)[self.rows]

    @cached_property
    def sizes(self) -> Tensor:
        """Height and width (n, 2) int64 of each photograph as stored or, with `files`, as it is."""
        return torch.from_numpy(self.index.sizes)[self.rows].long()

    @property
    def channels(self) -> int:
        """The channels of each photograph: 1 if grey, 3 in colour."""
        return self.settings.channels

    @cached_property
    def fingerprint(self) -> str:
        """The hash of `fingerprint_photos`, which does not depend on how they are stored."""
        return fingerprint_photos(self.index.digests[self.rows.numpy()], self.labels.numpy())

    def select(self, indices: Tensor) -> "StoredPhotos":
        """Return the photographs at `indices`, in that order."""
        rows = self.rows[indices]
        return StoredPhotos(self.index, self.records, self.settings, self.entries, rows, self.view)

    def preprocess_as(self, view: ImagePreprocessing) -> "StoredPhotos":
        """Return the same photographs, whose center crops are those of prediction with `view`.

        They must be kept as `files`.
        """
        return StoredPhotos(self.index, self.records, self.settings, self.entries, self.rows, view)

    def read_crop(self, index: int, box: Box, size: tuple[int, int]) -> Tensor:
        """Read a box of a photograph, in pixels of `sizes`, resized to `size`: uint8 (c, h, w).

        Resizing is bilinear and antialiased.  The box is rounded to whole pixels, unless it is
        shrunk to half or less in a JPEG file, of which a reduced size is decoded.  Raises
        DataError, which names the photograph, if its bytes are damaged in the cache, and ImageError
        if its file has changed, vanished or is damaged.
        """
        height, width = size
        left, top, right, bottom = box

        def find_needed_size(full_size: Size) -> Size:
            return tuple(  # type: ignore[return-value]
                min(ceil(full * side / max(end - start, 1e-6)), full)
                for full, side, start, end in zip(
                    full_size, (width, height), (left, top), (right, bottom), strict=True
                )
            )

        row = int(self.rows[index])
        if self.settings.storage != "files" and not self.index.encoded[row]:
            return resize_box_of_pixels(self.read_pixels(row), box, size)
        photo = self.decode_row(row, find_needed_size)
        if self.settings.storage == "files":
            x, y = find_cut_offset(photo.size)
            box = (left + x, top + y, right + x, bottom + y)
        return resize_box(photo, box, size, self.channels)

    def read_center(self, index: int, size: tuple[int, int]) -> Tensor:
        """Read the center crop of `size` (h, w) of a photograph, as prediction makes it.

        The shorter side is first resized to the side before a center crop, unless it is stored so.
        Raises the errors of `read_crop`.
        """
        resize = self.settings.resize
        row = int(self.rows[index])
        if self.view is not None:
            return center_crop(self.preprocess_row(row, self.view), size)
        photo = self.decode_row(row, lambda full_size: find_whole_size(full_size, resize))
        with suspend_pillow_limits():
            image = resize_shorter_side(photo, resize, self.channels)
            return image_to_tensor(crop_center(image, (size[1], size[0])))

    def read_pixels(self, row: int) -> NDArray[np.uint8]:
        """Read the record of raw pixels (h, w, c)."""
        content = self.records.read_record(row)
        height, width = map(int, self.index.sizes[row])
        return np.frombuffer(content, np.uint8).reshape(height, width, self.channels)

    def decode_row(self, row: int, find_needed_size: FindNeededSize) -> DecodedPhoto:
        """Decode a photograph, at a reduced size if that is at least the needed one."""
        try:
            if self.settings.storage == "files":
                return self.decode_file(row, find_needed_size)
            if self.index.encoded[row]:
                return decode_jpeg_record(self.records.read_record(row), find_needed_size)
            pixels = self.read_pixels(row)
            return DecodedPhoto(
                Image.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels), 0
            )
        except ImageError as error:
            raise ImageError(self.index.name_of(row), error.kind, error.detail) from error

    def decode_file(self, row: int, find_needed_size: FindNeededSize) -> DecodedPhoto:
        """Decode the file of a photograph, after a comparison with its SHA-256 sum."""
        settings = self.settings
        return decode_photo(
            self.read_file(row), settings.max_pixels, settings.white_level, find_needed_size
        )

    def preprocess_row(self, row: int, view: ImagePreprocessing) -> Tensor:
        """Decode and preprocess the file of a photograph as prediction does: uint8 (c, h, w)."""
        try:
            return decode_and_preprocess(self.read_file(row), view, self.settings.max_pixels).pixels
        except ImageError as error:
            raise ImageError(self.index.name_of(row), error.kind, error.detail) from error

    def read_file(self, row: int) -> bytes:
        """Read the file of a photograph.  Raises ImageError if its SHA-256 sum is another one."""
        entry = self.entries[int(self.index.positions[row])]
        content = read_entry_bytes(entry)
        stored_digest = self.index.digests[row].tobytes().hex()
        if not entry.known_digest and compute_sha256(content) != stored_digest:
            raise ImageError(entry.name, "changed", "was changed after this command had read it")
        return content

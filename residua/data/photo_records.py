"""Photographs as stored records: raw pixels, JPEG bytes, or nothing but their size."""

import io
import zlib
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
from PIL import Image, features

from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.photo_storage import PhotoStorage
from residua.config.serialize import Json
from residua.data.decode import decode_photo, read_entry_bytes, suspend_pillow_limits
from residua.data.decode_listing import EncodedEntries, EncodedImage, encode_all_entries
from residua.data.photo_index import PackedDigests, PackedTexts, PhotoIndex
from residua.data.resize import cut_extreme_size, find_whole_size, resize_shorter_side
from residua.data.rgb_conversion import DecodedPhoto
from residua.data.scaled_decoding import FindNeededSize, Size, reduce_before_decoding
from residua.data.sources.listing import DataProblem, ImageListing, OptionalSplit
from residua.data.sources.resolve import PhotoDataset
from residua.errors import ImageError

# Of photographs that are encoded again; our choice.  Colour has half the resolution, as in the
# files of cameras.
JPEG_QUALITY, JPEG_SUBSAMPLING = 95, 2
MAX_JPEG_SIDE = 65_500  # of Pillow's encoder
MAX_SAMPLED = 32  # photographs from which the bytes of all are estimated; our choice


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What the records of a data set's photographs depend on, besides its files.

    side    shorter side in pixels at which training photographs are stored
    resize  the same of photographs for evaluation, and before a center crop
    """

    storage: PhotoStorage
    channels: int
    side: int
    resize: int
    white_level: int = 0
    max_pixels: int = MAX_IMAGE_PIXELS
    quality: int = JPEG_QUALITY
    subsampling: int = JPEG_SUBSAMPLING

    @classmethod
    def of_dataset(cls, dataset: PhotoDataset) -> "RecordSettings":
        """Return the settings of a data set."""
        return cls(
            dataset.storage,
            dataset.input[0],
            dataset.stored_side or dataset.resize,
            dataset.resize,
            dataset.listing.white_level,
            dataset.listing.max_pixels,
        )

    def describe(self) -> dict[str, Json]:
        """Describe what decides the pixels, besides the files: settings, and decoders' versions."""
        facts: dict[str, Json] = {
            "storage": self.storage,
            "channels": self.channels,
            "side": self.side,
            "resize": self.resize,
            "white_level": self.white_level,
            "max_pixels": self.max_pixels,
        }
        if self.storage == "jpeg":
            facts |= {"quality": self.quality, "subsampling": self.subsampling}
        return facts | describe_decoders()


class PhotoRecord(NamedTuple):
    """A photograph as stored: its bytes, whether they are a JPEG file, and height and width."""

    content: bytes
    is_encoded: bool
    size: tuple[int, int]


def encode_record(
    content: bytes, split: OptionalSplit, settings: RecordSettings
) -> EncodedImage[PhotoRecord]:
    """Make the record of an image file.  Raises ImageError if it cannot be decoded.

    Photographs that are not trained on are stored as raw pixels, so that what is measured on them
    does not depend on another encoding.
    """
    if settings.storage == "files":
        photo = decode_photo(content, settings.max_pixels, settings.white_level, find_smallest_size)
        width, height = cut_extreme_size(photo.size)
        return EncodedImage(PhotoRecord(b"", True, (height, width)), photo.brightest_level)
    side = settings.side if split == "train" else settings.resize
    photo = decode_photo(
        content,
        settings.max_pixels,
        settings.white_level,
        lambda size: find_whole_size(size, side),
    )
    image = resize_shorter_side(photo, side, settings.channels)
    is_encoded = (
        settings.storage == "jpeg" and split == "train" and max(image.size) <= MAX_JPEG_SIDE
    )
    record = encode_jpeg(image, settings) if is_encoded else image.tobytes()
    size = image.height, image.width
    return EncodedImage(PhotoRecord(record, is_encoded, size), photo.brightest_level)


def estimate_stored_bytes(listing: ImageListing, settings: RecordSettings) -> int:
    """Estimate the bytes of all records, from those of up to `MAX_SAMPLED` photographs.

    Photographs that cannot be decoded are left out.
    """
    if settings.storage == "files":
        return 0
    count = len(listing.entries)
    lengths = []
    for i, entry in enumerate(listing.entries[:: max(count // MAX_SAMPLED, 1)]):
        # Which photographs are trained on is not known before all files are read.
        split = entry.split or ("test" if i % 4 == 0 else "train")
        with suspend_pillow_limits(), suppress(ImageError):
            lengths.append(
                len(encode_record(read_entry_bytes(entry), split, settings).record.content)
            )
    usual = settings.side * settings.side * 4 // 3 * settings.channels
    return count * (sum(lengths) // len(lengths) if lengths else usual)


def describe_decoders() -> dict[str, Json]:
    """Name the versions of the libraries that decode and resize photographs."""
    libjpeg = features.version_feature("libjpeg_turbo") or features.version_codec("jpg")
    return {"pillow": PIL.__version__, "libjpeg": libjpeg}


def encode_jpeg(image: Image.Image, settings: RecordSettings) -> bytes:
    """Encode an image as the bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=settings.quality, subsampling=settings.subsampling)
    return file.getvalue()


def find_smallest_size(size: Size) -> Size:
    """Return a size that every image has, so that a file is checked at the least cost."""
    return min(size[0], 1), min(size[1], 1)


def decode_jpeg_record(content: bytes, find_needed_size: FindNeededSize) -> DecodedPhoto:
    """Decode a record that is a JPEG file, at a reduced size where that suffices."""
    image = Image.open(io.BytesIO(content), formats=["JPEG"])
    reduction = reduce_before_decoding(image, find_needed_size)
    image.load()
    return DecodedPhoto(image, 0, reduction)


class PhotoWriter:
    """Writes records one after the other into an open file, and keeps what the index needs."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.ends, self.checksums, self.encoded = array("q"), array("q"), array("b")
        self.sides = array("q")  # height and width in turn

    def write_record(self, i: int, record: PhotoRecord) -> None:
        """Write record number `i`, the next one; 0 begins again."""
        if i == 0 and self.ends:
            for column in (self.ends, self.checksums, self.encoded, self.sides):
                del column[:]
            self.file.seek(0)
            self.file.truncate()
        self.file.write(record.content)
        self.ends.append(self.file.tell())
        self.checksums.append(zlib.crc32(record.content))
        self.encoded.append(record.is_encoded)
        self.sides.extend(record.size)

    def make_index(
        self, listing: ImageListing, digests: Sequence[str], encoded: EncodedEntries
    ) -> PhotoIndex:
        """Make the index of the written records."""
        entries = [listing.entries[i] for i in encoded.positions]
        names = PackedTexts.pack(entry.name for entry in entries)
        return PhotoIndex(
            ends=np.array(self.ends, np.int64),
            checksums=np.array(self.checksums, np.uint32),
            encoded=np.array(self.encoded, np.bool_),
            sizes=np.array(self.sides, np.int32).reshape(-1, 2),
            labels=np.array([entry.label for entry in entries], np.int64),
            positions=np.array(encoded.positions, np.int64),
            split_counts=np.array(encoded.counts, np.int64),
            digests=PackedDigests.pack(digests[i] for i in encoded.positions).digests,
            name_bytes=names.content,
            name_ends=names.ends,
        )


def write_records(
    listing: ImageListing, digests: Sequence[str], settings: RecordSettings, file: BinaryIO
) -> tuple[PhotoIndex, list[DataProblem]]:
    """Decode all photographs of a listing in threads, and write their records to `file`."""
    writer = PhotoWriter(file)
    encode = partial(encode_record, settings=settings)
    encoded = encode_all_entries(listing, digests, encode, writer.write_record)
    return writer.make_index(listing, digests, encoded), encoded.problems

"""Decoded images in a file: written one by one, and memory-mapped for reading.

Memory need not hold all images: the operating system keeps the images that fit in its page cache,
and reads the others again when they are used.
"""

import json
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor

from residua.bounded_json import Json, read_json
from residua.data.checksums import compute_sha256
from residua.files import atomic_write

PIXELS_FILE, INDEX_FILE = "pixels.npy", "index.json"
MAX_INDEX_BYTES = 2**30  # of the index of about 10 million images
CHECKSUMS_KEY = "checksums"
MAX_CHECKED_BYTES = 2**30  # of pixels compared with their checksums on opening; half a second


class PixelFileWriter:
    """Writes images of one shape (c, h, w) into an open `.npy` file, in any order."""

    def __init__(self, file: IO[bytes], image_shape: tuple[int, ...]) -> None:
        self.file, self.image_shape = file, image_shape
        self.data_start = self.write_header(0)
        self.count = 0
        self.checksums: dict[int, int] = {}  # CRC-32 of the pixels of each image

    def write_header(self, count: int) -> int:
        """Write the header for `count` images; return the offset in bytes of the first image.

        The offset does not depend on `count`, because numpy leaves room for any count.
        """
        self.file.seek(0)
        write_array_header_1_0(
            self.file, {"descr": "|u1", "fortran_order": False, "shape": (count, *self.image_shape)}
        )
        return self.file.tell()

    def write_image(self, index: int, pixels: Tensor) -> None:
        content = pixels.contiguous().numpy().data
        self.checksums[index] = zlib.crc32(content)
        self.file.seek(self.data_start + index * prod(self.image_shape))
        self.file.write(content)

    def truncate_to_count(self, count: int) -> None:
        """Finish the file with its first `count` images: write its header and cut off the rest."""
        self.count = count
        self.write_header(count)
        self.file.truncate(self.data_start + count * prod(self.image_shape))


@contextmanager
def open_cache_writer(
    cache_folder: Path, image_shape: tuple[int, ...], location: str
) -> Iterator[tuple[PixelFileWriter, dict[str, Json]]]:
    """Yield an image writer, and an empty dictionary for the caller to fill with the image index.

    On success `cache_folder` is written: the images as pixels.npy and the dictionary as index.json,
    with checksums of both and the data set's location.  After an exception the folder is as it was
    before.
    """
    index: dict[str, Json] = {}
    with atomic_write(cache_folder) as staging:
        staging.mkdir()
        with open(staging / PIXELS_FILE, "wb") as file:
            writer = PixelFileWriter(file, image_shape)
            yield writer, index
        index[CHECKSUMS_KEY] = [writer.checksums[i] for i in range(writer.count)]
        checksum = compute_index_checksum(index)
        stored = {"location": location, "checksum": checksum, "index": index}
        (staging / INDEX_FILE).write_text(json.dumps(stored), encoding="utf-8")


def memory_map_images(
    cache_folder: Path, *, max_checked_bytes: int | None = MAX_CHECKED_BYTES
) -> tuple[Tensor, dict[str, Json]]:
    """Memory-map the images (n, c, h, w) of a cache folder, read-only, and load its index.json.

    The index is compared with its checksum.  So are at most `max_checked_bytes` bytes of the
    images, evenly spread, or all of them if that is None.  Raises OSError, ValueError or
    RecordError if the folder does not hold intact images.
    """
    stored = read_json(cache_folder / INDEX_FILE, MAX_INDEX_BYTES)
    pixels = memory_map_array(cache_folder / PIXELS_FILE)
    if not isinstance(stored, dict) or pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"{cache_folder} contains no images")
    index = stored.get("index")
    if not isinstance(index, dict) or compute_index_checksum(index) != stored.get("checksum"):
        raise ValueError(f"the index in {cache_folder} is damaged")
    checksums = index.pop(CHECKSUMS_KEY)
    if not isinstance(checksums, list) or len(checksums) != len(pixels):
        raise ValueError(f"the index in {cache_folder} is damaged")
    check_pixels(pixels, checksums, max_checked_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of tensors that must not be written to
        return torch.from_numpy(pixels), index


def memory_map_array(path: Path) -> NDArray[np.uint8]:
    """Memory-map a .npy file; raises ValueError if its header is damaged."""
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python, which may raise anything
        raise ValueError(f"the header of {path} is damaged") from error
    return array


def read_cache_location(cache_folder: Path) -> str:
    """Read the location of the data set in a cache folder; "" if an earlier version wrote it.

    Raises RecordError if the index cannot be read.
    """
    stored = read_json(cache_folder / INDEX_FILE, MAX_INDEX_BYTES)
    return str(stored.get("location", "")) if isinstance(stored, dict) else ""


def compute_index_checksum(index: dict[str, Json]) -> str:
    """Compute the SHA-256 sum of an image index, independent of the order of its keys."""
    return compute_sha256(json.dumps(index, sort_keys=True).encode())


def check_pixels(
    pixels: NDArray[np.uint8], checksums: Sequence[object], max_checked_bytes: int | None
) -> None:
    """Raise ValueError if a checked image does not have its checksum."""
    image_bytes = max(prod(pixels.shape[1:]), 1)
    stride = 1
    if max_checked_bytes is not None:
        stride = max(-(-len(pixels) * image_bytes // max_checked_bytes), 1)
    for i in range(0, len(pixels), stride):
        if zlib.crc32(pixels[i].data) != checksums[i]:
            raise ValueError(f"image {i} of the cache is damaged")

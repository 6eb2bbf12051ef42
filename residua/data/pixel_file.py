"""Decoded images in a file: written one by one, and memory-mapped for reading.

Memory need not hold all images: the operating system keeps the images that fit in its page cache,
and reads the others again when they are used.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from residua.config.serialize import Json
from residua.files import atomic_write

PIXELS_FILE, INDEX_FILE = "pixels.npy", "index.json"


class PixelFileWriter:
    """Writes images of one shape (c, h, w) into an open `.npy` file, in any order."""

    def __init__(self, file: IO[bytes], image_shape: tuple[int, ...]) -> None:
        self.file, self.image_shape = file, image_shape
        self.data_start = self.write_header(0)

    def write_header(self, count: int) -> int:
        """Write the header for `count` images; return the offset of the first image in bytes.

        The offset does not depend on `count`: numpy pads the header for any number.
        """
        self.file.seek(0)
        write_array_header_1_0(
            self.file, {"descr": "|u1", "fortran_order": False, "shape": (count, *self.image_shape)}
        )
        return self.file.tell()

    def write_image(self, index: int, pixels: Tensor) -> None:
        self.file.seek(self.data_start + index * prod(self.image_shape))
        self.file.write(pixels.contiguous().numpy().data)

    def truncate_to_count(self, count: int) -> None:
        """Keep the first `count` images, and complete the file."""
        self.write_header(count)
        self.file.truncate(self.data_start + count * prod(self.image_shape))


@contextmanager
def open_cache_writer(
    cache_folder: Path, image_shape: tuple[int, ...]
) -> Iterator[tuple[PixelFileWriter, dict[str, Json]]]:
    """Yield an image writer, and an empty dictionary to fill with facts about the images.

    On success the images and the facts are stored in `cache_folder`.  After an exception the folder
    is as it was before.
    """
    index: dict[str, Json] = {}
    with atomic_write(cache_folder) as staging:
        staging.mkdir()
        with open(staging / PIXELS_FILE, "wb") as file:
            yield PixelFileWriter(file, image_shape), index
        (staging / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def memory_map_images(cache_folder: Path) -> tuple[Tensor, dict[str, Json]]:
    """The images (n, c, h, w) in a folder, memory-mapped and read-only, and their facts.

    Raises OSError or ValueError if the folder does not hold intact images.
    """
    index = json.loads((cache_folder / INDEX_FILE).read_text(encoding="utf-8"))
    pixels = np.load(cache_folder / PIXELS_FILE, mmap_mode="r", allow_pickle=False)
    if not isinstance(index, dict) or pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"{cache_folder} contains no images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of tensors that must not be written to
        return torch.from_numpy(pixels), index

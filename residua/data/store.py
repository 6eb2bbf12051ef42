"""Decoded images in the cache: written one by one, and read where they lie, so that memory need not hold them all.

The system keeps in its page cache what it has room for, and reads the rest again when it is wanted.
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

from residua.files import written_aside
from residua.spec.text import Json

PIXELS, INDEX = "pixels.npy", "index.json"


class Writer:
    """Images of one shape (c, h, w) on their way into a file, each put at its place."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]) -> None:
        self.file, self.shape = file, shape
        self.start = self.head(0)

    def head(self, count: int) -> int:
        """Write how many images there are, and return where they begin: numpy leaves room for any number."""
        self.file.seek(0)
        write_array_header_1_0(self.file, {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)})
        return self.file.tell()

    def put(self, place: int, pixels: Tensor) -> None:
        self.file.seek(self.start + place * prod(self.shape))
        self.file.write(pixels.contiguous().numpy().data)

    def finish(self, count: int) -> None:
        """Keep the first so many."""
        self.head(count)
        self.file.truncate(self.start + count * prod(self.shape))


@contextmanager
def writing(where: Path, shape: tuple[int, ...]) -> Iterator[tuple[Writer, dict[str, Json]]]:
    """Images, and what is to be known of them, on their way to `where`: there whole at the end, or not at all."""
    index: dict[str, Json] = {}
    with written_aside(where) as aside:
        aside.mkdir()
        with open(aside / PIXELS, "wb") as file:
            yield Writer(file, shape), index
        (aside / INDEX).write_text(json.dumps(index), encoding="utf-8")


def loaded(where: Path) -> tuple[Tensor, dict[str, Json]]:
    """Images (n, c, h, w) that are not to be written to, and what is known of them; OSError or ValueError where there are none."""
    index = json.loads((where / INDEX).read_text(encoding="utf-8"))
    pixels = np.load(where / PIXELS, mmap_mode="r", allow_pickle=False)
    if not isinstance(index, dict) or pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"{where} holds no images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they cannot be written to
        return torch.from_numpy(pixels), index

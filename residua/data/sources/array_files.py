"""Read images and labels from the files of CIFAR (pickled batches) and MNIST (IDX).

Each reader returns pixels (n, channels, height, width) uint8 and labels (n,) int64.  It raises
DataError for a file that is damaged or does not hold what it should.
"""

import gzip
import io
import pickle
import zlib
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.config.dataset import DataFile, Dataset
from residua.data.checksums import compute_md5
from residua.errors import DataError

MAX_FILE_BYTES = 2**28  # unpacked; the largest file, CIFAR-100's training images, has 155 MB


def read_cifar_batches(
    dataset: Dataset, files: list[tuple[Path, DataFile]]
) -> tuple[Tensor, Tensor]:
    """Read the images and labels of CIFAR's Python batches, each a pickled dictionary."""
    pixels, labels = [], []
    for path, file in files:
        batch = ArrayUnpickler(io.BytesIO(read_verified_bytes(path, file))).load_dictionary(path)
        usual_key = b"labels" if b"labels" in batch else b"fine_labels"
        label_key = dataset.label_key.encode() or usual_key
        try:
            pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, *dataset.input))
            labels.append(np.asarray(batch[label_key], dtype=np.int64))
        except KeyError as error:
            raise DataError(
                f"{path} is not a batch of {dataset.name}: it has no {error}"
            ) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a batch of {dataset.name}: {error}") from error
        if labels[-1].shape != pixels[-1].shape[:1]:
            raise DataError(
                f"{path} is not a batch of {dataset.name}: "
                f"it has {len(pixels[-1])} images but {labels[-1].size} labels, "
                "and the numbers must match"
            )
    return torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels))


def unpickle_empty_array(*arguments: object) -> NDArray[np.generic]:
    """Replace numpy's `_reconstruct`: a pickle of protocol 4 or lower calls it to begin an array.

    The arguments are ignored: the array's true shape, type and content follow in the pickle.
    """
    return np.empty(0, np.uint8)


def unpickle_array_from_buffer(
    content: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[np.generic]:
    """Replace numpy's `_frombuffer`: a pickle of protocol 5 calls it to make an array."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def unpickle_latin1_bytes(text: str, encoding: str) -> bytes:
    """Replace `_codecs.encode`: a pickle of protocol 2 or lower calls it to make bytes.

    `_codecs.encode` would also compress, or take quadratic time, if a pickle asked for that.
    """
    if encoding != "latin1":
        raise DataError(f"it encodes bytes as {encoding!r}, an encoding that numpy does not use")
    return text.encode(encoding)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles only containers, strings, numbers and numpy arrays.

    Raises DataError if the file names any other function or class: Python's own unpickler would
    call it.  Numpy's functions that make arrays are replaced by functions of this module, under
    both names of numpy's module: `numpy.core`, and `numpy._core` since numpy 2.
    """

    ALLOWED_GLOBALS: dict[tuple[str, str], object] = {  # noqa: RUF012 -- never changed
        # Pickles name the class as an argument of `_reconstruct`.  The class itself must not be
        # allowed: called by a pickle, it would make an array of pointers from any bytes.
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): unpickle_latin1_bytes,
        ("numpy.core.multiarray", "_reconstruct"): unpickle_empty_array,
        ("numpy._core.multiarray", "_reconstruct"): unpickle_empty_array,
        ("numpy.core.numeric", "_frombuffer"): unpickle_array_from_buffer,
        ("numpy._core.numeric", "_frombuffer"): unpickle_array_from_buffer,
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED_GLOBALS:
            raise DataError(
                f"it would run {module}.{name}, which is unsafe; delete the file and download it "
                "again"
            )
        return self.ALLOWED_GLOBALS[module, name]

    def load_dictionary(self, path: Path) -> dict[bytes, object]:
        """Load the pickled dictionary.

        Raises DataError if the pickle is refused or damaged, or does not hold a dictionary.
        """
        try:
            value = self.load()
        except DataError as error:
            raise DataError(f"{path} was not loaded: {error}") from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise DataError(f"{path} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise DataError(
                f"{path} is damaged: it holds a {type(value).__name__}, not a dictionary"
            )
        return value


def read_idx_files(dataset: Dataset, files: list[tuple[Path, DataFile]]) -> tuple[Tensor, Tensor]:
    """Read images and labels from two files in MNIST's IDX format, compressed or not."""
    (image_path, image_file), (label_path, label_file) = files
    pixels = parse_idx_array(image_path, read_verified_bytes(image_path, image_file), 3)
    labels = parse_idx_array(label_path, read_verified_bytes(label_path, label_file), 1)
    if len(pixels) != len(labels):
        raise DataError(
            f"{image_path} holds {len(pixels)} images, but {label_path.name} holds {len(labels)} "
            "labels"
        )
    if pixels.shape[1:] != dataset.input[1:]:
        raise DataError(
            f"{image_path} holds images of shape {pixels.shape[1:]}, not {dataset.input[1:]}"
        )
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64))


def parse_idx_array(path: Path, content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Parse an array in IDX format.  Raises DataError if the content is not such an array.

    A file holds the bytes 0, 0, 8 (for unsigned bytes) and the number of dimensions, then the size
    of each dimension as a big-endian 32-bit integer, then the data.
    """
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions")
    sizes = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != prod(sizes):
        raise DataError(
            f"{path} is truncated or altered: it holds {len(content) - start:,} bytes of pixels or "
            f"labels, not {prod(sizes):,}"
        )
    return np.frombuffer(content[start:], np.uint8).reshape(sizes).copy()


def read_verified_bytes(path: Path, file: DataFile) -> bytes:
    """Read a file and verify its checksum.

    If only a .gz copy of the file exists, the copy is read and decompressed.
    """
    gzip_path = path.with_name(path.name + ".gz")
    is_compressed = gzip_path.exists() and not path.exists()
    if is_compressed:
        path = gzip_path
    try:
        with gzip.open(path) if is_compressed else open(path, "rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or altered: {error}; delete it and download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(
            f"{path} is larger than any file of this data set, {MAX_FILE_BYTES:,} bytes at most: "
            "delete it and download it again"
        )
    if file.md5 and (actual_md5 := compute_md5(io.BytesIO(content))) != file.md5:
        raise DataError(
            f"{path} is truncated, altered or of another data set: its MD5 sum is {actual_md5}, "
            f"not {file.md5}; delete it and download it again"
        )
    return content

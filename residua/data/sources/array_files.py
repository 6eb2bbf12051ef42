"""The files of CIFAR (pickled batches) and MNIST (IDX) -> images and labels.

Each reader returns pixels (n, channels, height, width) uint8 and labels (n,) int64, and raises
DataError for a file that is damaged or holds something else.
"""

import codecs
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


def read_cifar_batches(
    dataset: Dataset, files: list[tuple[Path, DataFile]]
) -> tuple[Tensor, Tensor]:
    """The images and labels of CIFAR's Python batches, each a pickled dictionary."""
    pixels, labels = [], []
    for path, file in files:
        batch = ArrayUnpickler(io.BytesIO(read_verified_bytes(path, file))).load_dictionary(path)
        label_key = b"labels" if b"labels" in batch else b"fine_labels"
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
    """Stand in for numpy's `_reconstruct`, which pickles up to protocol 4 call to begin an array.

    The arguments are ignored: the array's true shape, type and content follow in the pickle.
    """
    return np.empty(0, np.uint8)


def unpickle_array_from_buffer(
    content: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[np.generic]:
    """Stand in for numpy's `_frombuffer`, which pickles of protocol 5 call to make an array."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, strings, numbers and numpy arrays, and refuses any other global.

    Python's own unpickler would run whatever function a file names.  The numpy functions that files
    name are replaced by functions of this module, both those in `numpy.core` and those in
    `numpy._core`, its name since numpy 2.
    """

    ALLOWED_GLOBALS: dict[tuple[str, str], object] = {  # noqa: RUF012 -- never changed
        # Pickles name the class as an argument of `_reconstruct`.  It must not be callable: it
        # would make an array of pointers from any bytes.
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
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
    """The images and labels of two files in MNIST's IDX format, compressed or not."""
    (image_path, image_file), (label_path, label_file) = files
    pixels = parse_idx_array(image_path, read_verified_bytes(image_path, image_file), 3)
    labels = parse_idx_array(label_path, read_verified_bytes(label_path, label_file), 1)
    if len(pixels) != len(labels):
        raise DataError(
            f"{image_path} holds {len(pixels)} images but {label_path.name} {len(labels)} labels"
        )
    if pixels.shape[1:] != dataset.input[1:]:
        raise DataError(
            f"{image_path} holds images of shape {pixels.shape[1:]}, not {dataset.input[1:]}"
        )
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64))


def parse_idx_array(path: Path, content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Parse an array in IDX format.

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
        content = gzip.decompress(path.read_bytes()) if is_compressed else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or altered: {error}; delete it and download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if file.md5 and (actual_md5 := compute_md5(io.BytesIO(content))) != file.md5:
        raise DataError(
            f"{path} is truncated, altered or of another data set: its MD5 sum is {actual_md5}, "
            f"not {file.md5}; delete it and download it again"
        )
    return content

"""Recognise weight files of ONNX, Keras and Flax, and read their named tensors.

The tensors get the layouts and, as far as possible, the names of PyTorch, in the order of use.
"""

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from residua.errors import RecordError
from residua.extras import require_extra
from residua.net.convert.flax_file import read_flax_file
from residua.net.convert.keras_file import KERAS_WEIGHTS, read_keras_file
from residua.net.convert.onnx_file import read_onnx_file
from residua.net.convert.torch_file import MAX_WEIGHT_BYTES, StateDict

HDF5_START, TFLITE_MARK = b"\x89HDF\r\n\x1a\n", b"TFL3"


def find_exchange_reader(path: Path) -> Callable[[Path], StateDict] | None:
    """Return the function that reads a file of another framework; None for any other file.

    Raises RecordError for a TFLite file, which holds a program, and UsageError if a package that
    reads the file is not installed.
    """
    start = read_start(path)
    if start[4:8] == TFLITE_MARK:
        raise RecordError(
            f"{path} is a TFLite file, whose weights are fused and often rounded to 8 bits: give "
            "the Keras file that it was made from"
        )
    if start.startswith(HDF5_START) or (start.startswith(b"PK") and is_keras_archive(path)):
        require_extra("a Keras file")
        return read_keras_file
    if path.suffix == ".onnx":
        require_extra("an ONNX file")
        return read_onnx_file
    if path.suffix == ".msgpack":
        require_extra("a Flax file")
        return read_flax_file
    return None


def read_exchange_file(path: Path, reader: Callable[[Path], StateDict]) -> StateDict:
    """Read a file with the reader that was found for it.

    Raises RecordError if the file is too large, damaged, or without weights.
    """
    if path.stat().st_size > MAX_WEIGHT_BYTES:
        raise RecordError(f"{path} is larger than {MAX_WEIGHT_BYTES >> 30} GiB: give a smaller one")
    try:
        tensors = reader(path)
    except RecordError as error:
        raise RecordError(f"{path} {error}") from error
    except MemoryError as error:
        raise RecordError(f"{path} does not fit into memory: give a smaller file") from error
    except Exception as error:  # a damaged file may raise anything
        kind = {".onnx": "an ONNX file", ".msgpack": "a Flax file"}.get(path.suffix, "a Keras file")
        raise RecordError(f"{path} is damaged or not {kind}") from error
    if not tensors:
        raise RecordError(
            f"{path} holds no weights of convolutions that could be read: give a file of "
            "floating-point weights, not a quantised one"
        )
    return tensors


def read_start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(len(HDF5_START))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error


def is_keras_archive(path: Path) -> bool:
    try:
        with ZipFile(path) as archive:
            return KERAS_WEIGHTS in archive.namelist()
    except (BadZipFile, OSError, ValueError):
        return False

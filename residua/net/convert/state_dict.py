"""Read and write files of named tensors without running code that they may contain."""

from math import isfinite
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from residua.errors import RecordError, UsageError
from residua.files import atomic_write
from residua.net.convert.exchange_files import find_exchange_reader, read_exchange_file
from residua.net.convert.pickled_values import STATE_DICT_HINT, UnusableFileError
from residua.net.convert.torch_file import MAX_TENSORS, read_torch_file
from residua.net.convert.torch_file import StateDict as StateDict
from residua.net.safetensors_file import load_safetensors, save_safetensors

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PICKLE_SUFFIXES = (".pth", ".th", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
EXCHANGE_SUFFIXES = (".onnx", ".h5", ".hdf5", ".keras", ".msgpack", ".tflite")
"""Suffixes of other frameworks' files, which are read but not written."""
MAX_NAME_LENGTH = 500  # characters of a tensor's name; our choice
MAX_WEIGHT, MAX_VARIANCE = 1e12, 1e24
"""Magnitudes that no trained network has, even on 16-bit pixels that are not normalised."""


def read_state_dict(path: Path) -> StateDict:
    """Read the named tensors of a file, also if they are nested in dictionaries.

    The file may be of torch.save, safetensors, ONNX, Keras (.h5, .keras) or Flax (.msgpack).
    If the file also holds averaged weights (`ema`), the weights before averaging are returned.
    Raises RecordError if the file is missing or damaged, contains no tensors, asks for much more
    memory than its size, or could be read only by running code.  Such code is not run.
    """
    if not path.is_file():
        raise RecordError(f"there is no file {path}: check the path")
    try:
        if reader := find_exchange_reader(path):
            tensors = read_exchange_file(path, reader)
        elif path.suffix == ".safetensors":
            tensors = load_safetensors(path)
        else:
            tensors = load_torch_file(path)
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged or not a safetensors file: {error}") from error
    if not tensors:
        raise RecordError(f"{path} contains no named tensors: {STATE_DICT_HINT}")
    if len(tensors) > MAX_TENSORS:
        raise RecordError(f"{path} has more than {MAX_TENSORS:,} tensors: {STATE_DICT_HINT}")
    if any(len(name) > MAX_NAME_LENGTH or not name.isprintable() for name in tensors):
        raise RecordError(
            f"{path} has a tensor whose name is longer than {MAX_NAME_LENGTH} characters or cannot "
            f"be printed: {STATE_DICT_HINT}"
        )
    return tensors


def load_torch_file(path: Path) -> StateDict:
    """Load the tensors of a file written by torch.save, without running code that it contains.

    Raises RecordError if the file is damaged or too large, or if it names functions to be run.
    """
    try:
        with open(path, "rb") as file:
            return read_torch_file(file)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnusableFileError as error:
        raise RecordError(f"{path} {error}") from error
    except MemoryError as error:
        raise RecordError(f"{path} does not fit into memory: {STATE_DICT_HINT}") from error
    except Exception as error:  # a damaged file may raise anything
        raise RecordError(f"{path} is damaged or not written by torch.save") from error


def find_value_problem(tensor: Tensor, own_name: str) -> str:
    """Explain what is wrong with a dense tensor, e.g. "not finite everywhere"; "" if nothing is.

    `own_name` is the last part of the tensor's name, e.g. `running_var`.  The returned text
    completes a sentence that begins with the tensor's name and "is".
    """
    if own_name == "num_batches_tracked":
        is_number = not tensor.dtype.is_complex and not tensor.is_quantized
        return "" if is_number and tensor.float().isfinite().all() else "not a count"
    if tensor.dtype not in FLOAT_DTYPES:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}, not of floating-point numbers"
    if not tensor.numel():
        return ""
    smallest, largest = [value.item() for value in tensor.float().aminmax()]  # both nan for a nan
    if not (isfinite(smallest) and isfinite(largest)):
        return "not finite everywhere"
    is_variance = own_name == "running_var"
    if is_variance and smallest < 0:
        return "negative somewhere, but a variance cannot be"
    magnitude = max(-smallest, largest)
    if magnitude > (MAX_VARIANCE if is_variance else MAX_WEIGHT):
        return f"as large as {magnitude:.1e}, which no trained network is"
    return ""


def is_dense_tensor(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary array: not sparse, not nested and not meta."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta


def write_state_dict(tensors: StateDict, path: Path) -> None:
    """Write tensors atomically: as safetensors if `path` has that suffix, else by torch.save.

    Raises UsageError for an unknown suffix, and RecordError if the file cannot be written.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise UsageError(
            f"{path} has an unknown file format: "
            f"use {', '.join(WEIGHT_SUFFIXES[:-1])} or {WEIGHT_SUFFIXES[-1]}"
        )
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        with atomic_write(path) as unfinished_path:
            if path.suffix == ".safetensors":
                save_safetensors(tensors, unfinished_path, {"format": "pt"})
            else:
                torch.save(tensors, unfinished_path)
    except (SafetensorError, RuntimeError) as error:  # e.g. a full disk
        raise RecordError(f"nothing was written to {path}: {error}") from error

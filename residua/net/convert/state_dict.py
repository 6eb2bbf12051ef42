"""Read and write files of named tensors, also of other projects; no code in them is run."""

import argparse
import re
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from residua.errors import RecordError, UsageError
from residua.files import atomic_write

StateDict = dict[str, Tensor]
FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PICKLE_SUFFIXES = (".pth", ".th", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
STATE_DICT_HINT = "give a state_dict, as torch.save(model.state_dict(), FILE) writes it"
NUMPY_SCALAR = cast(Callable[..., object], np.float64(0).__reduce__()[0])
"""The function that a pickle calls to make a numpy scalar."""
SAFE_GLOBALS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]
"""Makers of harmless values that checkpoints hold besides tensors; none has side effects."""


def read_state_dict(path: Path) -> StateDict:
    """The named tensors of a file, whatever dictionaries they are nested in.

    If the file holds averaged weights too (`ema`), the plain ones are read.  Raises RecordError if
    the file is missing or damaged, contains no tensors, or asks to run code, which is not run.
    """
    if not path.is_file():
        raise RecordError(f"there is no file {path}")
    try:
        content: object = (
            load_file(path) if path.suffix == ".safetensors" else unpickle_safely(path)
        )
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged or not a safetensors file: {error}") from error
    state_dicts = {where: tensors for where, tensors in collect_state_dicts(content) if tensors}
    if not state_dicts:
        raise RecordError(f"{path} contains no named tensors: {STATE_DICT_HINT}")
    largest_size = max(map(len, state_dicts.values()))
    averaged_last = sorted(state_dicts, key=lambda where: "ema" in where)
    return next(
        state_dicts[where] for where in averaged_last if 2 * len(state_dicts[where]) > largest_size
    )


def unpickle_safely(path: Path) -> object:
    """The content of a file that torch.save wrote, if it is tensors and harmless values.

    Raises RecordError otherwise.
    """
    try:
        with (
            torch.serialization.safe_globals(SAFE_GLOBALS),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        refused_global = re.search(r"GLOBAL (\w[\w.]*\.(\w+)) ", str(error))
        if refused_global:
            name = refused_global[2].encode()
            if name not in path.read_bytes()[-len(name) - 1 :]:  # else the file is truncated there
                raise RecordError(
                    f"{path} was not loaded, for safety: reading it would run {refused_global[1]}; "
                    f"{STATE_DICT_HINT}"
                ) from error
        if "TorchScript" in str(error):
            raise RecordError(f"{path} holds a TorchScript program: {STATE_DICT_HINT}") from error
        raise RecordError(f"{path} is damaged or not written by torch.save") from error


def collect_state_dicts(content: object) -> list[tuple[str, StateDict]]:
    """Every dictionary nested in `content`, outermost first, as (path of its keys, its tensors)."""
    state_dicts, queue, visited_ids = [], deque([("", content)]), set()
    while queue:
        key_path, value = queue.popleft()
        if isinstance(value, dict) and id(value) not in visited_ids:
            visited_ids.add(id(value))  # a pickled dictionary may contain itself
            tensors = {
                name: item
                for name, item in value.items()
                if isinstance(name, str) and isinstance(item, Tensor)
            }
            state_dicts.append((key_path, tensors))
            queue.extend((f"{key_path}.{name}", item) for name, item in value.items())
    return state_dicts


def find_tensor_problem(tensor: Tensor, tensor_name: str) -> str:
    """Why a dense tensor cannot be a layer's `tensor_name`, e.g. `running_var`; "" if it can.

    The reason continues a sentence that begins with "NAME is".
    """
    if tensor_name == "num_batches_tracked":
        is_number = not tensor.dtype.is_complex and not tensor.is_quantized
        return "" if is_number and tensor.float().isfinite().all() else "not a count"
    if tensor.dtype not in FLOAT_DTYPES:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}, not of floating-point numbers"
    if not tensor.float().isfinite().all():
        return "not finite everywhere"
    if tensor_name == "running_var" and tensor.lt(0).any():
        return "negative somewhere, but a variance cannot be"
    return ""


def is_dense_tensor(tensor: Tensor) -> bool:
    """Whether the tensor is a plain array with data: not sparse, nested or on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta


def write_state_dict(tensors: StateDict, path: Path) -> None:
    """Write tensors atomically, as safetensors or by torch.save, depending on the file's suffix."""
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
                save_file(tensors, unfinished_path, {"format": "pt"})
            else:
                torch.save(tensors, unfinished_path)
    except (SafetensorError, RuntimeError) as error:  # e.g. a full disk
        raise RecordError(f"nothing was written to {path}: {error}") from error

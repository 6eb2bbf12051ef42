"""Files of named tensors, other projects' included; reading one runs no code that it holds."""

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
NUMPY_SCALAR = cast(
    Callable[..., object], np.float64(0).__reduce__()[0]
)  # the function that makes numpy's scalars
SAFE_GLOBALS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What checkpoints hold beside tensors: values that do nothing when they are made."""


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a file, by their names there, from whatever container they lie in.

    Where the file holds averaged weights too (`ema`), the plain ones are read.  Raises RecordError for a file that is not there
    or damaged, that holds no tensors, or that asks to run code: it is not run.
    """
    if not path.is_file():
        raise RecordError(f"there is no file {path}")
    try:
        content: object = (
            load_file(path) if path.suffix == ".safetensors" else unpickle_safely(path)
        )
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged, or no safetensors file: {error}") from error
    state_dicts = {where: tensors for where, tensors in collect_state_dicts(content) if tensors}
    if not state_dicts:
        raise RecordError(f"{path} holds no named tensors: {STATE_DICT_HINT}")
    largest_size = max(map(len, state_dicts.values()))
    averaged_last = sorted(state_dicts, key=lambda where: "ema" in where)
    return next(
        state_dicts[where] for where in averaged_last if 2 * len(state_dicts[where]) > largest_size
    )


STATE_DICT_HINT = (
    "what is wanted is a state_dict, as torch.save(model.state_dict(), FILE) writes it"
)


def unpickle_safely(path: Path) -> object:
    """What torch.save wrote, if that is tensors and harmless values."""
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
        if (
            refused_global
            and refused_global[2].encode() not in path.read_bytes()[-len(refused_global[2]) - 1 :]
        ):  # a file that ends there is cut off
            raise RecordError(
                f"{path} asks to run {refused_global[1]} when it is read, which was refused: {STATE_DICT_HINT}"
            ) from error
        if "TorchScript" in str(error):
            raise RecordError(f"{path} holds a TorchScript program: {STATE_DICT_HINT}") from error
        raise RecordError(f"{path} is damaged, or no file of torch.save") from error


def collect_state_dicts(content: object) -> list[tuple[str, StateDict]]:
    """Every dictionary in `content`, outermost first: the names it lies under, and the tensors that it holds itself."""
    state_dicts, queue, visited_ids = [], deque([("", content)]), set()
    while queue:
        key_path, value = queue.popleft()
        if isinstance(value, dict) and id(value) not in visited_ids:
            visited_ids.add(id(value))  # a pickled dictionary may hold itself
            state_dicts.append(
                (
                    key_path,
                    {
                        name: item
                        for name, item in value.items()
                        if isinstance(name, str) and isinstance(item, Tensor)
                    },
                )
            )
            queue.extend((f"{key_path}.{name}", item) for name, item in value.items())
    return state_dicts


def find_tensor_problem(tensor: Tensor, tensor_name: str) -> str:
    """Why a dense tensor cannot be what a layer calls `name`, e.g. `running_var`; empty where it can."""
    if tensor_name == "num_batches_tracked":
        return (
            "no count"
            if tensor.dtype.is_complex or tensor.is_quantized or not tensor.float().isfinite().all()
            else ""
        )
    if tensor.dtype not in FLOAT_DTYPES:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}, not of floating-point numbers"
    if not tensor.float().isfinite().all():
        return "not finite everywhere"
    return (
        "negative somewhere, which no variance is"
        if tensor_name == "running_var" and tensor.lt(0).any()
        else ""
    )


def is_dense_tensor(tensor: Tensor) -> bool:
    """Whether it is a plain array of numbers that are here: not sparse, nested or on `meta`."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta


def write_state_dict(tensors: StateDict, path: Path) -> None:
    """Write tensors as safetensors, or as torch.save does, by the file's suffix; whole or not at all."""
    if path.suffix not in (".safetensors", *PICKLE_SUFFIXES):
        raise UsageError(
            f"{path} says no format: end it in .safetensors, {', '.join(PICKLE_SUFFIXES[:-1])} or {PICKLE_SUFFIXES[-1]}"
        )
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        with atomic_write(path) as aside:
            save_file(
                tensors, aside, {"format": "pt"}
            ) if path.suffix == ".safetensors" else torch.save(tensors, aside)
    except (SafetensorError, RuntimeError) as error:  # a full disk
        raise RecordError(f"nothing was written to {path}: {error}") from error

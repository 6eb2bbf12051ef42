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
from residua.files import written_aside

State = dict[str, Tensor]
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PICKLES = (".pth", ".th", ".pt", ".bin")
SCALAR = cast(Callable[..., object], np.float64(0).__reduce__()[0])  # the function that makes numpy's scalars
HARMLESS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
]
"""What checkpoints hold beside tensors: values that do nothing when they are made."""


def read_state(path: Path) -> State:
    """The tensors of a file, by their names there, from whatever container they lie in.

    Where the file holds averaged weights too (`ema`), the plain ones are read.  Raises RecordError for a file that is not there
    or damaged, that holds no tensors, or that asks to run code: it is not run.
    """
    if not path.is_file():
        raise RecordError(f"there is no file {path}")
    try:
        content: object = load_file(path) if path.suffix == ".safetensors" else unpickled(path)
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged, or no safetensors file: {error}") from error
    states = {where: tensors for where, tensors in nested(content) if tensors}
    if not states:
        raise RecordError(f"{path} holds no named tensors: {WANTED}")
    most = max(map(len, states.values()))
    plain_first = sorted(states, key=lambda where: "ema" in where)
    return next(states[where] for where in plain_first if 2 * len(states[where]) > most)


WANTED = "what is wanted is a state_dict, as torch.save(model.state_dict(), FILE) writes it"


def unpickled(path: Path) -> object:
    """What torch.save wrote, if that is tensors and harmless values."""
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        asked = re.search(r"GLOBAL (\w[\w.]*\.(\w+)) ", str(error))
        if asked and asked[2].encode() not in path.read_bytes()[-len(asked[2]) - 1 :]:  # a file that ends there is cut off
            raise RecordError(f"{path} asks to run {asked[1]} when it is read, which was refused: {WANTED}") from error
        if "TorchScript" in str(error):
            raise RecordError(f"{path} holds a TorchScript program: {WANTED}") from error
        raise RecordError(f"{path} is damaged, or no file of torch.save") from error


def nested(content: object) -> list[tuple[str, State]]:
    """Every dictionary in `content`, outermost first: the names it lies under, and the tensors that it holds itself."""
    found, waiting, seen = [], deque([("", content)]), set()
    while waiting:
        where, value = waiting.popleft()
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))  # a pickled dictionary may hold itself
            found.append(
                (where, {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)})
            )
            waiting.extend((f"{where}.{name}", item) for name, item in value.items())
    return found


def flaw(tensor: Tensor, name: str) -> str:
    """Why a dense tensor cannot be what a layer calls `name`, e.g. `running_var`; empty where it can."""
    if name == "num_batches_tracked":
        return "no count" if tensor.dtype.is_complex or tensor.is_quantized or not tensor.float().isfinite().all() else ""
    if tensor.dtype not in FLOATS:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}, not of floating-point numbers"
    if not tensor.float().isfinite().all():
        return "not finite everywhere"
    return "negative somewhere, which no variance is" if name == "running_var" and tensor.lt(0).any() else ""


def is_dense(tensor: Tensor) -> bool:
    """Whether it is a plain array of numbers that are here: not sparse, nested or on `meta`."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta


def write_state(tensors: State, path: Path) -> None:
    """Write tensors as safetensors, or as torch.save does, by the file's suffix; whole or not at all."""
    if path.suffix not in (".safetensors", *PICKLES):
        raise UsageError(f"{path} says no format: end it in .safetensors, {', '.join(PICKLES[:-1])} or {PICKLES[-1]}")
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    try:
        with written_aside(path) as aside:
            save_file(tensors, aside, {"format": "pt"}) if path.suffix == ".safetensors" else torch.save(tensors, aside)
    except (SafetensorError, RuntimeError) as error:  # a full disk
        raise RecordError(f"nothing was written to {path}: {error}") from error

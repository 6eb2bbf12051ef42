"""Read the weights of Flax files in msgpack format."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residua.net.convert.framework_layouts import to_torch_layout, with_epsilon
from residua.net.convert.torch_file import StateDict

MAX_LEVELS = 32  # of nested dictionaries


def read_flax_file(path: Path) -> StateDict:
    """Read the parameters and running statistics of a Flax file in msgpack format."""
    import msgpack

    content = msgpack.unpackb(
        path.read_bytes(), ext_hook=read_flax_array, strict_map_key=False, raw=False
    )
    tensors = StateDict()
    for names, value in flatten_dictionaries(content, ()):
        if not isinstance(value, Tensor):
            continue
        *folders, suffix = [name for name in names if name not in ("params", "batch_stats")]
        module = "flax/" + ".".join(folders)
        tensors |= name_flax_tensor(module, suffix, value)
    return tensors


def flatten_dictionaries(
    content: object, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object]]:
    if len(names) > MAX_LEVELS:
        raise ValueError("too many levels")
    if isinstance(content, dict):
        for name, value in content.items():
            yield from flatten_dictionaries(value, (*names, str(name)))
    else:
        yield names, content


def read_flax_array(code: int, content: bytes) -> Tensor | None:
    """Read an array of a Flax file: its shape, type and numbers; None for other extensions."""
    import msgpack

    if code != 1:
        return None
    shape, dtype, numbers = msgpack.unpackb(content, raw=False)
    if dtype == "bfloat16":
        return torch.frombuffer(bytearray(numbers), dtype=torch.bfloat16).reshape(shape)
    return torch.from_numpy(np.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape))


FLAX_EPSILON = 1e-5  # the default of flax.linen.BatchNorm
FLAX_TENSORS = {"scale": "weight", "mean": "running_mean", "var": "running_var"}


def name_flax_tensor(module: str, suffix: str, tensor: Tensor) -> StateDict:
    """Name a tensor of Flax or Keras as in PyTorch, with the layout of a kernel changed."""
    if suffix == "kernel":
        return {f"{module}.weight": to_torch_layout(tensor)}
    if suffix == "var":
        tensor = with_epsilon(tensor, FLAX_EPSILON)
    return {f"{module}.{FLAX_TENSORS.get(suffix, suffix)}": tensor}

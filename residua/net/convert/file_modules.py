"""Group the tensors of a file into modules, in the order in which the network uses them."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from residua.errors import RecordError
from residua.net.convert.match import format_tensor_shape, strip_trailing_ones
from residua.net.convert.name_templates import PROFILER_TENSORS
from residua.net.convert.positions import BATCH_COUNTER
from residua.net.convert.state_dict import is_dense_tensor

NORM_TENSORS = {"weight", "bias", "running_mean", "running_var", BATCH_COUNTER}
MAX_STEM_INPUTS = 4  # channels of an image
SHOWN_TENSORS = 10


class FileModule(NamedTuple):
    """A module of a file: its name, the shape of its weight, and whether it is a BN.

    Trailing 1s are stripped from the shape.
    """

    name: str
    shape: tuple[int, ...]
    is_norm: bool


def group_into_modules(tensors: Mapping[str, Tensor]) -> list[FileModule]:
    """Group the tensors of a file into convolutions, linear layers and BNs, in the file's order.

    Raises RecordError if the file holds anything else.
    """
    suffixes_by_module: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix in PROFILER_TENSORS or (suffix == BATCH_COUNTER and tensor.ndim == 0):
            continue
        suffixes_by_module.setdefault(module, {})[suffix] = tensor
    modules = []
    for module, parts in suffixes_by_module.items():
        weight = parts.get("weight")
        if not all(map(is_dense_tensor, parts.values())):
            raise RecordError(f"{module} is sparse, nested or empty (meta): save dense tensors")
        is_norm = NORM_TENSORS - {BATCH_COUNTER} == parts.keys()
        is_layer = parts.keys() <= {"weight", "bias"} and weight is not None and weight.ndim > 1
        if weight is None or not (is_norm or is_layer):
            raise RecordError(
                f"{module or next(iter(parts))} is neither a convolution nor a BN (it has "
                f"{', '.join(parts)})"
            )
        modules.append(FileModule(module, strip_trailing_ones(tuple(weight.shape)), is_norm))
    return modules


def list_possible_orders(modules: list[FileModule]) -> Iterator[list[FileModule]]:
    """Yield the orders in which the network may use the modules of a file.

    This is the order in the file, which is that of registration, unless the names are sorted, as in
    safetensors files.  Sorted names are compared by their numbers, and the stem comes first; a BN
    that is no part of a larger module may then be that of the stem or that before the head.
    """
    names = [module.name for module in modules]
    if not are_sorted(names):
        yield modules
        return
    ordered = sorted(modules, key=lambda module: split_numbers(module.name))
    first = next((m for m in ordered if len(m.shape) > 2 and m.shape[1] <= MAX_STEM_INPUTS), None)
    if first is not None:
        folder = first.name.rpartition(".")[0]
        in_stem = [m for m in ordered if m == first or (folder and is_inside(m.name, folder))]
        if len(in_stem) < len(ordered) / 2:  # otherwise the whole network is in this folder
            ordered = in_stem + [module for module in ordered if module not in in_stem]
        elif ordered[0] != first:
            ordered = [first, *(module for module in ordered if module != first)]
    yield ordered
    depth = min(name.count(".") for name in names)
    outer_norms = [m for m in ordered if m.is_norm and m.name.count(".") == depth]
    others = [m for m in ordered if m not in outer_norms]
    for tail_count in range(len(outer_norms) + 1) if len(outer_norms) < 3 else ():
        split = len(outer_norms) - tail_count
        yield [others[0], *outer_norms[:split], *others[1:], *outer_norms[split:]]


def are_sorted(names: list[str]) -> bool:
    return len(names) > 1 and names == sorted(names)


def is_inside(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}.")


def split_numbers(name: str) -> list[tuple[bool, int, str]]:
    """Split a name into words and numbers, so that layer2 comes before layer10."""
    words = re.findall(r"[0-9]{1,9}|[^0-9]+", name)
    return [(word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


def describe_first_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Describe the names and shapes of the first ten tensors of a file."""
    return ", ".join(
        f"{name} {format_tensor_shape(tuple(tensors[name].shape))}"
        for name in [*tensors][:SHOWN_TENSORS]
    )

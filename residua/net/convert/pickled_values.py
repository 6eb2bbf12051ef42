"""The values that weight files pickle: dictionaries, tensors, and where the numbers are.

A tensor is interpreted from the arguments with which its pickle calls torch; nothing is called.
A pickle can refer to one value many times, so that no function here takes time or memory in
proportion to the size of a value.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch

UNREAD = object()
"""Stands for a value that is not needed to find the tensors, such as a number of numpy."""
NOT_DENSE = object()
"""Stands for a sparse, nested, quantised or meta tensor."""
DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
STORAGE_DTYPES = {
    "Untyped": "uint8",
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""The type of the numbers in torch's storages, by the name of the storage's class."""


STATE_DICT_HINT = "give a state_dict, as torch.save(model.state_dict(), FILE) writes it"
MAX_ARGUMENTS = 16  # of a call; torch writes at most 9


class UnusableFileError(ValueError):
    """A file cannot be used; the message is to follow its path, as in "PATH is damaged: ..."."""


class PickledDict:
    """A dictionary in a pickle, as (key, value) pairs; a key is any value, and is not hashed."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        # a file can make millions of empty dictionaries, so that they have no list of their own
        self.pairs: list[tuple[object, object]] | tuple[()] = ()

    def add_pairs(self, pairs: Iterable[tuple[object, object]]) -> None:
        if isinstance(self.pairs, tuple):
            self.pairs = list(pairs)
        else:
            self.pairs.extend(pairs)


@dataclass(frozen=True, slots=True)
class PickledGlobal:
    """The name of a function or class."""

    name: str


@dataclass(frozen=True, slots=True)
class PickledStorage:
    """The numbers of one or more tensors, which are elsewhere in the file under `key`."""

    key: str
    dtype: torch.dtype | None  # None if it is not one of `STORAGE_DTYPES`
    nbytes: int


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A dense tensor as a view of a storage; offset and strides count numbers, not bytes."""

    storage: PickledStorage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes; a stride of 0 can make it larger than its storage."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The number of bytes in the storage up to and including the tensor's last number."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((side - 1) * step for side, step in steps)
        return (last + 1) * self.dtype.itemsize


def interpret_storage(reference: object) -> PickledStorage:
    """Interpret a reference to a storage: ("storage", class, key, device, number of elements, ...).

    Raises ValueError for any other reference.
    """
    if not isinstance(reference, tuple) or len(reference) not in (5, 6):
        raise ValueError("a reference does not point to a storage")
    kind, storage_class, key, _, count, *view = reference
    is_valid = kind == "storage" and isinstance(key, str | int) and is_size(count)
    if not is_valid or not isinstance(storage_class, PickledGlobal) or view not in ([], [None]):
        raise ValueError("a reference to a storage is not valid")
    class_name = storage_class.name.rpartition(".")[2].removesuffix("Storage")
    dtype = DTYPES.get(STORAGE_DTYPES.get(class_name, ""))
    return PickledStorage(str(key), dtype, count * (dtype.itemsize if dtype else 1))


def interpret_call(function: object, arguments: Any) -> object:
    """Interpret a call in a pickle as a dictionary, a tensor, `NOT_DENSE` or else `UNREAD`.

    Raises ValueError or TypeError if the arguments are not those that torch writes.
    """
    name = function.name if isinstance(function, PickledGlobal) else ""
    if name == "torch._tensor._rebuild_from_type_v2":  # of a tensor with attributes
        function, _, arguments, _ = arguments
        name = function.name if isinstance(function, PickledGlobal) else ""
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise ValueError("the arguments of a call are not a short tuple")
    match name.rpartition(".")[2]:
        case "OrderedDict" | "dict" | "defaultdict":
            return interpret_dictionary(arguments)
        case "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3":
            return interpret_tensor(*arguments)
        case (
            "Size"
            | "Parameter"
            | "Buffer"
            | "_rebuild_parameter"
            | "_rebuild_parameter_with_state"
            | "_rebuild_device_tensor_from_cpu_tensor"
        ):
            return arguments[0]
    return NOT_DENSE if name.startswith("torch._utils._rebuild_") else UNREAD


def interpret_dictionary(arguments: tuple[object, ...]) -> PickledDict:
    """Interpret the arguments of OrderedDict; those from Python 2 include a list of all items."""
    dictionary = PickledDict()
    for argument in arguments:
        if isinstance(argument, PickledDict):
            return argument
        if isinstance(argument, list):
            dictionary.add_pairs((key, value) for key, value in argument)
            argument.clear()  # a list that is referred to again must not be copied again
    return dictionary


def interpret_tensor(
    storage: object, offset: object, shape: object, strides: object, *others: object
) -> object:
    """Interpret the arguments of a tensor.

    `others` are requires_grad, hooks and, in `_rebuild_tensor_v3`, dtype and metadata.  Raises
    ValueError if the tensor's numbers are not all inside the storage.
    """
    if not isinstance(storage, PickledStorage) or not is_size(offset):
        raise ValueError("a tensor has no storage")
    dtype = storage.dtype
    if len(others) > 2 and isinstance(others[2], PickledGlobal):
        dtype = DTYPES.get(others[2].name.removeprefix("torch."))
    if dtype is None:  # quantised
        return NOT_DENSE
    if not is_shape(shape) or not is_shape(strides) or len(shape) != len(strides):
        raise ValueError("the shape of a tensor is not valid")
    tensor = PickledTensor(storage, dtype, offset, shape, strides)
    if tensor.end > storage.nbytes:
        raise ValueError("a tensor is larger than its storage")
    return tensor


def is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**48


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and len(value) <= 16 and all(map(is_size, value))

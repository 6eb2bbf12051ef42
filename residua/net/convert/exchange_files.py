"""Recognise weight files of other frameworks, and read the named tensors of ONNX and Flax files.

The tensors get the layouts and names of PyTorch, as far as that is possible, and the order of use.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from residua.errors import RecordError
from residua.extras import require_extra
from residua.net.convert.torch_file import MAX_WEIGHT_BYTES, StateDict

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

BN_EPSILON = torch.nn.BatchNorm2d(1).eps
HDF5_START, TFLITE_MARK = b"\x89HDF\r\n\x1a\n", b"TFL3"
KERAS_WEIGHTS = "model.weights.h5"
MAX_LEVELS = 32  # of nested dictionaries


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
        from residua.net.convert.keras_file import read_keras_file

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


def read_onnx_file(path: Path) -> StateDict:
    """Read the weights of an ONNX graph in the order of its nodes, which is that of use.

    Names of PyTorch are kept if all modules have them.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    modules = [*list_onnx_modules(model)]
    names = [name for name, _, _ in modules]
    has_names = len({*names}) == len(names) and all(names)
    return {
        f"{name if has_names else f'{kind}_{i}'}.{suffix}": tensor
        for i, (name, kind, parts) in enumerate(modules)
        for suffix, tensor in parts.items()
    }


def list_onnx_modules(model: "ModelProto") -> Iterator[tuple[str, str, StateDict]]:
    """Yield the name, the kind and the tensors of each layer with weights."""
    from onnx import numpy_helper

    graph = model.graph
    arrays = {array.name: array for array in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
        names = node.input[1:]
        found = [arrays[name] for name in names if name in arrays]
        if node.op_type not in ONNX_LAYERS or not found or len(found) < len([*filter(None, names)]):
            continue
        values = [torch.from_numpy(numpy_helper.to_array(array).copy()) for array in found]
        if node.op_type == "MatMul":
            values += find_added_bias(graph, node, arrays, len(values[0].T))
        name, _, suffix = node.input[1].rpartition(".")
        kind = ONNX_LAYERS[node.op_type]
        yield name if suffix == "weight" else "", kind, name_onnx_tensors(node, values)


ONNX_LAYERS = {"Conv": "conv", "Gemm": "linear", "MatMul": "linear", "BatchNormalization": "norm"}


def name_onnx_tensors(node: "NodeProto", values: list[Tensor]) -> StateDict:
    """Name the inputs of a node as in PyTorch, with its weight transposed if necessary."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "BatchNormalization":
        tensors = dict(zip(("weight", "bias", "running_mean", "running_var"), values, strict=True))
        epsilon = attributes["epsilon"].f if "epsilon" in attributes else BN_EPSILON
        return tensors | {"running_var": with_epsilon(tensors["running_var"], epsilon)}
    is_transposed = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i)
    )
    weight = values[0].T.contiguous() if is_transposed else values[0]
    return {"weight": weight} | ({"bias": values[1]} if values[1:] else {})


def with_epsilon(variance: Tensor, epsilon: float) -> Tensor:
    """Return the variance with which a BN of PyTorch's epsilon computes the same."""
    if abs(epsilon - BN_EPSILON) < 1e-9:  # 32-bit numbers in the file
        return variance
    return (variance.double() + (epsilon - BN_EPSILON)).to(variance.dtype)


def find_added_bias(
    graph: "GraphProto", node: "NodeProto", arrays: dict[str, Any], size: int
) -> list[Tensor]:
    """Find the vector that the next node adds to a matrix product: [it], or [] if there is none."""
    from onnx import numpy_helper

    for follower in graph.node:
        if follower.op_type == "Add" and node.output[0] in follower.input:
            others = [name for name in follower.input if name in arrays]
            if others and list(arrays[others[0]].dims) == [size]:
                return [torch.from_numpy(numpy_helper.to_array(arrays[others[0]]).copy())]
    return []


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
    import numpy as np

    if code != 1:
        return None
    shape, dtype, numbers = msgpack.unpackb(content, raw=False)
    if dtype == "bfloat16":
        return torch.frombuffer(bytearray(numbers), dtype=torch.bfloat16).reshape(shape)
    return torch.from_numpy(np.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape))


FLAX_TENSORS = {"scale": "weight", "mean": "running_mean", "var": "running_var"}


def name_flax_tensor(module: str, suffix: str, tensor: Tensor) -> StateDict:
    """Name a tensor of Flax or Keras as in PyTorch, with the layout of a kernel changed."""
    if suffix == "kernel":
        return {f"{module}.weight": to_torch_layout(tensor)}
    if suffix == "var":
        tensor = with_epsilon(tensor, 1e-5)  # the default of flax.linen.BatchNorm
    return {f"{module}.{FLAX_TENSORS.get(suffix, suffix)}": tensor}


def to_torch_layout(kernel: Tensor) -> Tensor:
    """Turn a kernel (height, width, inputs, outputs) or (inputs, outputs) into PyTorch's layout."""
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1).contiguous()
    return kernel.T.contiguous() if kernel.ndim == 2 else kernel

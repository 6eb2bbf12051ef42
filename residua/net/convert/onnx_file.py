"""Read the weights of ONNX files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residua.net.convert.framework_layouts import BN_EPSILON, with_epsilon
from residua.net.convert.torch_file import StateDict

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


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
    import onnx

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
        values = [torch.from_numpy(onnx.numpy_helper.to_array(array).copy()) for array in found]
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


def find_added_bias(
    graph: "GraphProto", node: "NodeProto", arrays: dict[str, Any], size: int
) -> list[Tensor]:
    """Find the vector that the next node adds to a matrix product: [it], or [] if there is none."""
    import onnx

    for follower in graph.node:
        if follower.op_type == "Add" and node.output[0] in follower.input:
            others = [name for name in follower.input if name in arrays]
            if others and list(arrays[others[0]].dims) == [size]:
                return [torch.from_numpy(onnx.numpy_helper.to_array(arrays[others[0]]).copy())]
    return []

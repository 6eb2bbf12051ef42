"""Read the weights of Keras files: .h5 of Keras 1 and 2, and .keras of Keras 3."""

import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import torch
from torch import Tensor

from residua.bounded_json import parse_strict_json
from residua.errors import RecordError
from residua.net.convert.framework_layouts import to_torch_layout, with_epsilon
from residua.net.convert.torch_file import MAX_GROWTH, MAX_WEIGHT_BYTES, StateDict

if TYPE_CHECKING:
    import h5py

KERAS_WEIGHTS = "model.weights.h5"  # in a .keras archive

KERAS_EPSILON = 1e-3  # the default of keras.layers.BatchNormalization
APPLICATIONS_EPSILON = 1.001e-5  # in all BNs of keras.applications.resnet
APPLICATIONS_LAYER = re.compile(r"conv\d_block\d+_\d_conv")
MAX_CONFIG_BYTES = 2**26
KERAS_TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
LAYER_TENSORS = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_keras_file(path: Path) -> StateDict:
    """Read the weights of a Keras file in the order of its layers, in the layout of PyTorch.

    The names start with `keras/`.  Raises RecordError if the file refers to other files or asks for
    much more memory than its size.
    """
    import h5py

    file_bytes = path.stat().st_size
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            refuse_links(file, file_bytes)
            return collect_tensors(*list_legacy_layers(file))
    with ZipFile(path) as archive:
        weights, config = archive.getinfo(KERAS_WEIGHTS), archive.getinfo("config.json")
        is_inflated = weights.file_size > min(MAX_GROWTH * file_bytes, MAX_WEIGHT_BYTES)
        if is_inflated or config.file_size > MAX_CONFIG_BYTES:
            raise RecordError("asks for much more memory than its size: give an intact file")
        layers = parse_json_object(archive.read(config))["config"]["layers"]
        with h5py.File(BytesIO(archive.read(weights)), "r") as file:
            refuse_links(file, file_bytes)
            return collect_tensors(list_saved_layers(file, layers), read_epsilons(layers))


def parse_json_object(content: str | bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError for anything else."""
    parsed = parse_strict_json(content)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    return parsed


def refuse_links(file: "h5py.File", file_bytes: int) -> None:
    """Raise RecordError if a file refers to other files or asks for too much memory."""
    import h5py

    pending: list[h5py.Group] = [file]
    total = 0
    while pending:
        group = pending.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RecordError("refers to other places by links: give a file without them")
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append(item)
                continue
            if item.external or item.is_virtual:
                raise RecordError("keeps its numbers in other files: give a file that has them")
            total += item.nbytes
    if total > min(MAX_GROWTH * file_bytes, MAX_WEIGHT_BYTES):
        raise RecordError("asks for much more memory than its size: give an intact file")


def list_legacy_layers(
    file: "h5py.File",
) -> tuple[Iterator[tuple[str, dict[str, Tensor]]], dict[str, float]]:
    """List the layers of an .h5 file with their tensors by Keras's names, and the epsilons of BNs.

    A file of weights alone does not record the epsilons.
    """
    root = file.get("model_weights", file)
    names = [to_text(name) for name in root.attrs["layer_names"]]
    epsilons = {}
    if "model_config" in file.attrs:
        config = parse_json_object(to_text(file.attrs["model_config"]))["config"]
        epsilons = read_epsilons(config["layers"] if isinstance(config, dict) else config)
    elif any(map(APPLICATIONS_LAYER.fullmatch, names)):
        epsilons = dict.fromkeys(names, APPLICATIONS_EPSILON)
    return list_layer_tensors(root, names), epsilons


def list_layer_tensors(
    root: "h5py.Group", names: list[str]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name in names:
        tensors = {}
        for weight_name in map(to_text, root[name].attrs["weight_names"]):
            suffix = weight_name.rpartition("/")[2].partition(":")[0]
            tensors[suffix] = torch.from_numpy(root[name][weight_name][()])
        yield name, tensors


def list_saved_layers(
    file: "h5py.File", layers: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the layers of a .keras archive, which numbers the layers of each class."""
    counts = Counter[str]()
    for layer in layers:
        kind = layer["class_name"]
        # as Keras itself turns a class into a folder's name
        words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
        words = re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
        place = words + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        if kind in LAYER_TENSORS:
            stored = file["layers"][place]["vars"]
            names = LAYER_TENSORS[kind][: len(stored)]
            yield (
                layer["config"]["name"],
                {name: torch.from_numpy(stored[str(i)][()]) for i, name in enumerate(names)},
            )


def read_epsilons(layers: list[dict[str, Any]]) -> dict[str, float]:
    return {
        layer["config"]["name"]: float(layer["config"]["epsilon"])
        for layer in layers
        if "epsilon" in layer.get("config", {})
    }


def collect_tensors(
    layers: Iterator[tuple[str, dict[str, Tensor]]], epsilons: dict[str, float]
) -> StateDict:
    """Collect the tensors of layers under names and in layouts of PyTorch."""
    state = StateDict()
    for layer, tensors in layers:
        for suffix, tensor in tensors.items():
            value = tensor
            if suffix == "kernel":
                value = to_torch_layout(tensor)
            elif suffix == "moving_variance":
                value = with_epsilon(tensor, epsilons.get(layer, KERAS_EPSILON))
            state[f"keras/{layer}.{KERAS_TENSORS.get(suffix, suffix)}"] = value
    return state


def to_text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)

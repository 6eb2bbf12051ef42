"""Weights to start from: another project's file, a model folder, or either of them on the Hugging Face hub."""

import warnings
from dataclasses import replace
from pathlib import Path

from residua.config.network import Network
from residua.config.plan import plan
from residua.errors import RecordError
from residua.net.convert.names import (
    adopt_foreign_stride,
    convert_foreign_weights,
    count_head_classes,
)
from residua.net.convert.state_dict import StateDict, read_state_dict
from residua.net.hub import resolve_weights_path
from residua.net.model_folder import from_pretrained, read_model_config


def load_pretrained_weights(
    source: str | Path, network_name: str, requested: Network, num_classes: int | None
) -> tuple[Network, StateDict]:
    """The network `name`, shaped as `asked`, and the weights under our names that it starts from.

    The head's are left out where `classes` asks for another number than the source has; None stands for the network's own
    number.  A bottleneck strides where the source's did, unless `name` says `stride=`.  Raises RecordError for a source that is
    not there, or that holds another network.
    """
    path = resolve_weights_path(source)
    source_network, tensors = (
        load_from_model_folder(path, network_name, requested)
        if path.is_dir()
        else load_from_foreign_file(path, network_name, requested, num_classes)
    )
    head_prefix = f"head.{len(plan(requested).head) - 1}."
    body_tensors = {
        ours: tensor for ours, tensor in tensors.items() if not ours.startswith(head_prefix)
    }
    if source_network.classes == requested.classes and len(body_tensors) < len(tensors):
        return source_network, tensors
    if num_classes is None:
        source_head = (
            f"{source_network.classes} classes" if len(body_tensors) < len(tensors) else "no head"
        )
        raise RecordError(
            f"{source} has {source_head}, {requested.name} has {requested.classes} classes: give num_classes for a new head"
        )
    return replace(source_network, classes=requested.classes), body_tensors


def load_from_model_folder(
    folder: Path, network_name: str, requested: Network
) -> tuple[Network, StateDict]:
    """The network of one of our model folders, for images as `asked`, and its weights."""
    saved = read_model_config(folder).network
    if not isinstance(saved, Network):
        raise RecordError(
            f"{folder} holds no residual network: {requested.name} cannot start from it"
        )
    stride_at = requested.unit.stride_at if "stride=" in network_name else saved.unit.stride_at
    unit = (
        requested.unit
        if requested.unit.kernels != saved.unit.kernels
        else replace(requested.unit, stride_at=stride_at)
    )
    if (saved.stem, saved.stages, saved.unit, saved.head) != (
        requested.stem,
        requested.stages,
        unit,
        requested.head,
    ):
        raise RecordError(f"{folder} holds {saved.name}, not {requested.name}")
    if saved.input[0] != requested.input[0]:
        raise RecordError(
            f"{folder} takes images of {saved.input[0]} channels, not {requested.input[0]}: give input={saved.input}"
        )
    return replace(saved, input=requested.input), from_pretrained(folder).state_dict()


def load_from_foreign_file(
    path: Path, network_name: str, requested: Network, num_classes: int | None
) -> tuple[Network, StateDict]:
    """The network of a file of another project's, and its weights under our names."""
    foreign_tensors = read_state_dict(path)
    class_count = (
        requested.classes
        if num_classes is None
        else count_head_classes(foreign_tensors) or requested.classes
    )
    network = replace(requested, classes=class_count)
    converted = convert_foreign_weights(foreign_tensors, network)
    if converted.caveats:
        warnings.warn(f"{path}: {converted.caveats}", stacklevel=5)
    return adopt_foreign_stride(network, network_name, converted), converted.tensors

"""Load pretrained weights from another project's file or from a model folder."""

import warnings
from dataclasses import replace
from pathlib import Path

from residua.config.network import Network
from residua.config.plan import plan
from residua.errors import RecordError
from residua.net.convert.state_dict import StateDict, read_state_dict
from residua.net.convert.weights import (
    adopt_foreign_stride,
    convert_foreign_weights,
    count_head_classes,
)
from residua.net.hub import resolve_weights_path
from residua.net.model_folder import from_pretrained, read_model_config


def load_pretrained_weights(
    source: str | Path, network_name: str, requested: Network, num_classes: int | None
) -> tuple[Network, StateDict]:
    """Load pretrained weights; return the network to build, and its weights under residua's names.

    `source` is a weight file, a model folder, or hf:OWNER/NAME on the Hugging Face hub.
    `requested` is the network `network_name` with the desired input shape and number of classes.
    If the source has another number of classes, the returned weights lack the head.  Bottlenecks
    stride on the same convolution as in the source, unless `network_name` sets `stride=`.  Raises
    RecordError if the source does not exist or holds another network, or if its head does not fit
    and `num_classes` is None.
    """
    path = resolve_weights_path(source)
    source_network, tensors = (
        load_from_model_folder(path, network_name, requested)
        if path.is_dir()
        else load_from_foreign_file(path, network_name, requested, num_classes)
    )
    body_tensors = drop_head_tensors(tensors, requested)
    has_head = len(body_tensors) < len(tensors)
    if source_network.classes == requested.classes and has_head:
        return source_network, tensors
    if num_classes is None:
        source_head = f"{source_network.classes} classes" if has_head else "no head"
        raise RecordError(
            f"{source} has {source_head}, but {requested.name} has {requested.classes} classes: "
            "give num_classes to train a new head"
        )
    return replace(source_network, classes=requested.classes), body_tensors


def drop_head_tensors(tensors: StateDict, network: Network) -> StateDict:
    """Return `tensors` without those of the last layer of `network`."""
    head_prefix = f"head.{len(plan(network).head) - 1}."
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(head_prefix)}


def load_from_model_folder(
    folder: Path, network_name: str, requested: Network
) -> tuple[Network, StateDict]:
    """Load the network and the weights of a model folder.

    The network gets the input shape of `requested`.  Raises RecordError if the network in the
    folder is not `requested`, or has another number of input channels.
    """
    saved = read_model_config(folder).network
    if not isinstance(saved, Network):
        raise RecordError(
            f"{folder} contains no residual network: {requested.name} cannot start from it"
        )
    unit = requested.unit
    if unit.kernels == saved.unit.kernels and "stride=" not in network_name:
        unit = replace(unit, stride_at=saved.unit.stride_at)
    saved_parts = saved.stem, saved.stages, saved.unit, saved.head
    if saved_parts != (requested.stem, requested.stages, unit, requested.head):
        raise RecordError(f"{folder} holds {saved.name}, not {requested.name}")
    if saved.input[0] != requested.input[0]:
        raise RecordError(
            f"{folder} takes images of {saved.input[0]} channels, not {requested.input[0]}: "
            f"give input={saved.input}"
        )
    return replace(saved, input=requested.input), from_pretrained(folder).state_dict()


def load_from_foreign_file(
    path: Path, network_name: str, requested: Network, num_classes: int | None
) -> tuple[Network, StateDict]:
    """Load another project's weight file: its network, and its weights under residua's names.

    If `num_classes` is None, the network has as many classes as `requested`.  Otherwise it has as
    many as the head in the file; if this is not `num_classes`, the caller must replace the head.
    Warns of the properties of the network that weights cannot show.
    """
    foreign_tensors = read_state_dict(path)
    class_count = (
        requested.classes
        if num_classes is None
        else count_head_classes(foreign_tensors) or requested.classes
    )
    network = replace(requested, classes=class_count)
    converted = convert_foreign_weights(foreign_tensors, network)
    if converted.caveats:
        warnings.warn(f"{path}: {converted.caveats}", stacklevel=4)  # at the call of create_model
    return adopt_foreign_stride(network, network_name, converted), converted.tensors

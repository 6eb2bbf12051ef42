"""Weights to start from: another project's file, a model folder, or either of them on the Hugging Face hub."""

import warnings
from dataclasses import replace
from pathlib import Path

from residua.errors import RecordError
from residua.net.folder import from_pretrained, read_config
from residua.net.hub import located
from residua.net.port import classes_in, from_theirs, striding_as_elsewhere
from residua.net.weights import State, read_state
from residua.spec.network import Network
from residua.spec.plan import plan


def start(source: str | Path, name: str, asked: Network, classes: int | None) -> tuple[Network, State]:
    """The network `name`, shaped as `asked`, and the weights under our names that it starts from.

    The head's are left out where `classes` asks for another number than the source has; None stands for the network's own
    number.  A bottleneck strides where the source's did, unless `name` says `stride=`.  Raises RecordError for a source that is
    not there, or that holds another network.
    """
    path = located(source)
    found, tensors = from_folder(path, name, asked) if path.is_dir() else from_file(path, name, asked, classes)
    head = f"head.{len(plan(asked).head) - 1}."
    kept = {ours: tensor for ours, tensor in tensors.items() if not ours.startswith(head)}
    if found.classes == asked.classes and len(kept) < len(tensors):
        return found, tensors
    if classes is None:
        there = f"{found.classes} classes" if len(kept) < len(tensors) else "no head"
        raise RecordError(f"{source} has {there}, {asked.name} has {asked.classes} classes: give num_classes for a new head")
    return replace(found, classes=asked.classes), kept


def from_folder(folder: Path, name: str, asked: Network) -> tuple[Network, State]:
    """The network of one of our model folders, for images as `asked`, and its weights."""
    held = read_config(folder).network
    if not isinstance(held, Network):
        raise RecordError(f"{folder} holds no residual network: {asked.name} cannot start from it")
    stride_at = asked.unit.stride_at if "stride=" in name else held.unit.stride_at
    unit = asked.unit if asked.unit.kernels != held.unit.kernels else replace(asked.unit, stride_at=stride_at)
    if (held.stem, held.stages, held.unit, held.head) != (asked.stem, asked.stages, unit, asked.head):
        raise RecordError(f"{folder} holds {held.name}, not {asked.name}")
    if held.input[0] != asked.input[0]:
        raise RecordError(f"{folder} takes images of {held.input[0]} channels, not {asked.input[0]}: give input={held.input}")
    return replace(held, input=asked.input), from_pretrained(folder).state_dict()


def from_file(path: Path, name: str, asked: Network, classes: int | None) -> tuple[Network, State]:
    """The network of a file of another project's, and its weights under our names."""
    theirs = read_state(path)
    count = asked.classes if classes is None else classes_in(theirs) or asked.classes
    found = replace(asked, classes=count)
    ported = from_theirs(theirs, found)
    if ported.note:
        warnings.warn(f"{path}: {ported.note}", stacklevel=5)
    return striding_as_elsewhere(found, name, ported), ported.tensors

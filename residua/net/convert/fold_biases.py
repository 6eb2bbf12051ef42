"""Move the biases of convolutions into the BN after them, which changes no output.

BN subtracts its running mean, so a bias b before it is the same as a running mean less b.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from residua.config.network import Network
from residua.config.plan import plan
from residua.net.convert.positions import (
    ModulePosition,
    NamedShape,
    TensorShapes,
    list_expected_tensors,
)
from residua.net.convert.state_dict import find_value_problem

BN_EPSILON = torch.nn.BatchNorm2d(1).eps
IDENTITY_BN = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1 - BN_EPSILON}


class FoldedFile(NamedTuple):
    """The tensors of a file without the biases before BN, and these biases.

    folded  residua's name of the running mean that a bias went into, by the bias's name
    """

    tensors: Mapping[str, Tensor]
    positions: TensorShapes
    folded: dict[str, str]
    note: str = ""


def fold_biases(
    tensors: Mapping[str, Tensor], positions: TensorShapes, network: Network
) -> FoldedFile:
    """Fold the biases that `network` has no place for into the BN after them.

    A BN that the file lacks, because it is folded into the convolution before it, becomes the
    identity.  Biases without a BN after them stay, so that they are reported.
    """
    expected = list_expected_tensors(plan(network))
    followers = list_following_norms(expected)
    folded: dict[str, str] = {}
    identity_count = 0
    new_tensors, new_positions = dict(tensors), dict(positions)
    for (position, tensor), entry in positions.items():
        norm = followers.get(position)
        if tensor != "bias" or (position, tensor) in expected or norm is None:
            continue
        bias = tensors[entry.name].detach()
        if find_value_problem(bias, "bias") or bias.shape != expected[norm, "weight"].shape:
            continue
        if not any((norm, suffix) in new_positions for suffix in IDENTITY_BN):
            identity_count += 1
            add_identity_norm(new_tensors, new_positions, norm, bias)
        mean = new_positions.get((norm, "running_mean"))
        if mean is None or new_tensors[mean.name].shape != bias.shape:
            continue
        old_mean = new_tensors[mean.name].detach()
        new_tensors[mean.name] = (old_mean.double() - bias.double()).to(old_mean.dtype)
        del new_positions[position, tensor]
        folded[entry.name] = expected[norm, "running_mean"].name
    note = describe_folding(len(folded) - identity_count, identity_count)
    return FoldedFile(new_tensors, new_positions, folded, note)


def add_identity_norm(
    tensors: dict[str, Tensor], positions: TensorShapes, norm: ModulePosition, bias: Tensor
) -> None:
    for suffix, value in IDENTITY_BN.items():
        name = f"identity BN {'.'.join(map(str, norm))}.{suffix}"  # no file has such a name
        tensors[name] = torch.full_like(bias, value)
        positions[norm, suffix] = NamedShape(name, tuple(bias.shape))


def list_following_norms(expected: TensorShapes) -> dict[ModulePosition, ModulePosition]:
    """Map each weight layer of a network to the BN directly after it, if there is one."""
    modules = {
        entry.name.rpartition(".")[0]: position
        for (position, tensor), entry in expected.items()
        if tensor == "weight"
    }
    norms = {
        entry.name.rpartition(".")[0]
        for (_, tensor), entry in expected.items()
        if tensor == "running_mean"
    }
    followers = {}
    for module, position in modules.items():
        part, _, index = module.rpartition(".")
        if index.isdecimal() and (following := f"{part}.{int(index) + 1}") in norms:
            followers[position] = modules[following]
    return followers


def describe_folding(bias_count: int, identity_count: int) -> str:
    notes = []
    if bias_count:
        notes.append(
            f"the biases of {bias_count} convolutions were subtracted from the running means of "
            "their BNs"
        )
    if identity_count:
        notes.append(
            f"{identity_count} BNs are folded into the convolutions of the file: here they have no "
            "effect until they are trained"
        )
    return "; ".join(notes)

"""Convert the weights of residual networks from and to the tensor names of other projects.

Three properties of a network cannot be seen in its weights:

- which convolution of a bottleneck has the stride (see `adopt_foreign_stride`)
- where a pre-activation shortcut branches off (see `explain_shortcut_start_difference`)
- on which side an option A shortcut adds zero channels.  Residua adds them on both sides, as
  akamaster's code does.  Other code appends them, as residua does with `shortcut=pad-last`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.plan import plan
from residua.errors import RecordError, UsageError
from residua.net.convert.caveats import explain_shortcut_start_difference, find_caveats
from residua.net.convert.match import (
    explain_mismatch,
    has_head,
    has_same_unit_counts,
    list_candidate_networks,
    relabel_stem_norm_as_tail,
    suggest_network,
)
from residua.net.convert.name_templates import ExportProject
from residua.net.convert.names import map_names_to_project, parse_tensor_names
from residua.net.convert.positions import BATCH_COUNTER, count_classes, list_expected_tensors
from residua.net.convert.state_dict import find_value_problem


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Another project's weights under residua's names."""

    tensors: dict[str, Tensor]
    ours_by_theirs: dict[str, str]  # from the other project's names to residua's
    missing: tuple[str, ...]  # residua's names of the head's tensors, if the file has no head
    unexpected: tuple[str, ...]  # the file's tensors that the network has no place for
    project: str  # the project that uses the names in the file
    caveats: str = ""  # text on properties of the network that weights cannot show


def convert_foreign_weights(tensors: Mapping[str, Tensor], network: Network) -> ConvertedWeights:
    """Convert another project's state dict to the weights of `network`, under residua's names.

    Shapes may differ by trailing 1s.  Files from before torch 0.4 have no `num_batches_tracked` for
    BN; these counters are then set to 0.  Raises RecordError if the tensors are those of another
    network; the message names the first difference and, if known, a network that fits.  Also raises
    RecordError if a tensor has invalid values, or if the other project is known to compute
    different outputs from the same weights.
    """
    file_tensors, project = parse_tensor_names(tensors)
    if mismatch := explain_mismatch(file_tensors, network):
        suggestion = suggest_network(
            file_tensors, network, lambda other: explain_shortcut_start_difference(other, project)
        )
        raise RecordError(mismatch + suggestion)
    if fork_difference := explain_shortcut_start_difference(network, project):
        raise RecordError(
            f"{project} and {network.name} compute different outputs with these weights: "
            f"{fork_difference}"
        )
    expected = list_expected_tensors(plan(network))
    matched = relabel_stem_norm_as_tail(file_tensors, expected)
    for (_, tensor), entry in matched.items():
        if problem := find_value_problem(tensors[entry.name], tensor):
            raise RecordError(f"{entry.name} is {problem}")
    found = {key: ours for key, ours in expected.items() if key in matched}
    absent = {key: ours for key, ours in expected.items() if key not in matched}
    converted = {
        ours.name: tensors[matched[key].name].detach().reshape(ours.shape)
        for key, ours in found.items()
    }
    batch_counters = {
        ours.name: torch.tensor(0)
        for (_, tensor), ours in absent.items()
        if tensor == BATCH_COUNTER
    }
    ours_by_theirs = {matched[key].name: ours.name for key, ours in found.items()}
    return ConvertedWeights(
        tensors=converted | batch_counters,
        ours_by_theirs=ours_by_theirs,
        missing=tuple(ours.name for ours in absent.values() if ours.name not in batch_counters),
        unexpected=tuple(name for name in tensors if name not in ours_by_theirs),
        project=project,
        caveats="; ".join(find_caveats(file_tensors, network, project)),
    )


def count_head_classes(tensors: Mapping[str, Tensor]) -> int:
    """Count the classes in the head of another project's state dict; 0 if it has no head."""
    file_tensors, _ = parse_tensor_names(tensors)
    return count_classes(file_tensors)


def identify_network(tensors: Mapping[str, Tensor]) -> str:
    """Find the name of the network to which another project's state dict belongs.

    Raises UsageError if no network fits.
    """
    file_tensors, project = parse_tensor_names(tensors)
    classes = count_classes(file_tensors) if has_head(file_tensors) else None
    for name in list_candidate_networks(file_tensors, "resnet"):
        with suppress(UsageError):  # no network of this depth
            net = network_of(name, classes=classes)
            if (
                has_same_unit_counts(net, file_tensors)
                and not explain_mismatch(file_tensors, net)
                and not explain_shortcut_start_difference(net, project)
            ):
                return net.name
    raise UsageError(
        "the network of these weights cannot be identified: give its name with --model"
    )


def convert_to_project(
    tensors: Mapping[str, Tensor], network: Network, project: ExportProject
) -> dict[str, Tensor]:
    """Rename the tensors of a residua state dict to the names of another project.

    Raises UsageError if the project has no name for one of the tensors.
    """
    theirs = {
        name: tensors[ours].detach()
        for ours, name in map_names_to_project(network, project).items()
    }
    if "head.fc.weight" in theirs:  # timm's resnetv2 ends in a 1x1 convolution
        theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :, None, None]
    return theirs


def adopt_foreign_stride(
    network: Network, requested_name: str, converted: ConvertedWeights
) -> Network:
    """Return `network` with bottlenecks that stride as in the project of the weights.

    Residua has the stride on the first 1x1 convolution, like the paper.  Other projects have it on
    the 3x3 convolution ("v1.5"), so the stride is moved there.  pytorchcv has ImageNet networks of
    both kinds (resnet50, resnet50b), so these are returned unchanged.  So is any network for which
    `requested_name` sets `stride=`.
    """
    is_ambiguous = converted.project == "pytorchcv" and len(network.stages) == 4
    strides_on_first_conv = network.unit.kernels == (1, 3, 1) and network.unit.stride_at == 0
    if not strides_on_first_conv or "stride=" in requested_name or is_ambiguous:
        return network
    return network_of(f"{network.name},stride=3x3", input=network.input, classes=network.classes)

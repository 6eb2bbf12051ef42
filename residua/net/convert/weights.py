"""Convert the weights of residual networks from and to the tensor names of other projects.

Three properties of a network cannot be seen in its weights:

- which convolution of a bottleneck has the stride (see `adopt_foreign_stride`)
- where a pre-activation shortcut branches off (see `explain_shortcut_start_difference`)
- on which side an option A shortcut adds zero channels.  Residua adds them on both sides, as
  akamaster's code does.  Other code appends them, as residua does with `shortcut=pad-last`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.plan import plan
from residua.errors import RecordError, UsageError
from residua.net.convert.caveats import (
    FORK_CAVEAT,
    ZERO_PADDING_CAVEAT,
    explain_dilation,
    explain_shortcut_start_difference,
    find_caveats,
    leaves_stride_open,
)
from residua.net.convert.derive_network import (
    derive_networks,
    name_network,
    renumber_split_stages,
)
from residua.net.convert.fold_biases import fold_biases
from residua.net.convert.match import (
    explain_mismatch,
    has_head,
    has_same_unit_counts,
    list_candidate_networks,
    relabel_stem_norm_as_tail,
    suggest_network,
)
from residua.net.convert.name_templates import ExportProject
from residua.net.convert.names import (
    UnknownNamesError,
    map_names_to_project,
    parse_tensor_names,
)
from residua.net.convert.positions import (
    BATCH_COUNTER,
    TensorShapes,
    count_classes,
    list_expected_tensors,
)
from residua.net.convert.state_dict import find_value_problem
from residua.net.convert.structure import (
    STRUCTURE_CAVEAT,
    UncertainOrderError,
    match_by_structure,
)


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Another project's weights under residua's names."""

    tensors: dict[str, Tensor]
    ours_by_theirs: dict[str, str]  # from the other project's names to residua's
    missing: tuple[str, ...]  # residua's names of the head's tensors, if the file has no head
    unexpected: tuple[str, ...]  # the file's tensors that the network has no place for
    project: str  # the project that uses the names in the file
    caveat_list: tuple[str, ...] = ()  # properties of the network that weights cannot show

    @property
    def caveats(self) -> str:
        """The caveats as one text; "" if there are none."""
        return "; ".join(self.caveat_list)

    @property
    def padding_is_unknown(self) -> bool:
        """Whether the weights leave open where option A adds its zero channels."""
        return ZERO_PADDING_CAVEAT in self.caveat_list

    @property
    def fork_is_unknown(self) -> bool:
        """Whether the weights leave open where the units of a pre-activation net fork."""
        return FORK_CAVEAT in self.caveat_list


def convert_foreign_weights(tensors: Mapping[str, Tensor], network: Network) -> ConvertedWeights:
    """Convert another project's state dict to the weights of `network`, under residua's names.

    Shapes may differ by trailing 1s.  Files from before torch 0.4 have no `num_batches_tracked` for
    BN; these counters are then set to 0.  Raises RecordError if the tensors are those of another
    network; the message names the first difference and, if known, a network that fits.  Also raises
    RecordError if a tensor has invalid values, or if the other project is known to compute
    different outputs from the same weights.
    """
    names = [*tensors]
    try:
        tensors, file_tensors, project, folded, notes = match_tensors(tensors, network)
    except MismatchError as mismatch:
        raise RecordError(f"{mismatch}{suggest_other_network(tensors, network)}") from mismatch
    if difference := (
        explain_shortcut_start_difference(network, project) or explain_dilation(network, project)
    ):
        raise RecordError(
            f"{project} and {network.name} compute different outputs with these weights: "
            f"{difference}"
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
    renamed = {matched[key].name: ours.name for key, ours in found.items()}
    ours_by_theirs = {name: ours for name, ours in renamed.items() if name in names} | folded
    return ConvertedWeights(
        tensors=converted | batch_counters,
        ours_by_theirs=ours_by_theirs,
        missing=tuple(ours.name for ours in absent.values() if ours.name not in batch_counters),
        unexpected=tuple(name for name in names if name not in ours_by_theirs),
        project=project,
        caveat_list=(*notes, *find_caveats(file_tensors, network, project)),
    )


class MismatchError(RecordError):
    """The tensors of a file are not those of a network."""


class MatchedFile(NamedTuple):
    """The tensors of a file by position in a network.

    folded  residua's name of the running mean that a bias went into, by the bias's name
    notes   what was assumed and changed
    """

    tensors: Mapping[str, Tensor]
    positions: TensorShapes
    project: str
    folded: dict[str, str]
    notes: list[str]


def match_tensors(tensors: Mapping[str, Tensor], network: Network) -> MatchedFile:
    """Match the tensors of a file with `network`: by name or, if that fails, by shape and order.

    Raises MismatchError if neither matches, and UncertainOrderError if the shapes match in several
    ways.
    """
    try:
        named, project = parse_tensor_names(tensors)
    except UnknownNamesError:
        named, project, mismatch = {}, "others", ""
    else:
        file = fold_biases(tensors, renumber_split_stages(named, network), network)
        mismatch = explain_mismatch(file.positions, network)
        if not mismatch:
            return MatchedFile(
                file.tensors, file.positions, project, file.folded, [file.note] * bool(file.note)
            )
    try:
        file = fold_biases(tensors, match_by_structure(tensors, network), network)
    except UncertainOrderError:
        raise
    except RecordError as structural_mismatch:
        raise MismatchError(mismatch or str(structural_mismatch)) from structural_mismatch
    if other_mismatch := explain_mismatch(file.positions, network):
        raise MismatchError(mismatch or other_mismatch)
    notes = [STRUCTURE_CAVEAT, *[file.note] * bool(file.note)]
    framework = next(iter(tensors)).partition("/")[0]  # of files that PyTorch did not write
    project = framework if framework in ("keras", "flax") else project
    return MatchedFile(file.tensors, file.positions, project, file.folded, notes)


def suggest_other_network(tensors: Mapping[str, Tensor], network: Network) -> str:
    """Suggest the network of a file in an error message; "" if it is unknown or `network`."""
    with suppress(RecordError):
        named, project = parse_tensor_names(tensors)
        if suggestion := suggest_network(
            named, network, lambda other: explain_shortcut_start_difference(other, project)
        ):
            return suggestion
    with suppress(UsageError):
        identified = identify_network(tensors)
        if identified.name != network.name:
            return f": is it {identified.name}?"
    return ""


def count_head_classes(tensors: Mapping[str, Tensor]) -> int:
    """Count the classes in the head of another project's state dict; 0 if it has no head."""
    file_tensors, _ = parse_tensor_names(tensors)
    return count_classes(file_tensors)


def identify_network(tensors: Mapping[str, Tensor]) -> Network:
    """Find the network to which another project's state dict belongs, by its names and shapes.

    Raises UsageError if no network fits, or if several do.
    """
    with suppress(RecordError):
        if named := identify_named_network(tensors):
            return named
    fitting: list[Network] = []
    with suppress(RecordError):
        for derived in derive_networks(tensors):
            with suppress(RecordError):
                fitting.append(match_derived_network(tensors, derived))
    if len(fitting) == 1:
        return fitting[0]
    choices = " or ".join(network.name for network in fitting)
    problem = (
        f"these weights may be those of {choices}"
        if fitting
        else "the network of these weights cannot be identified"
    )
    raise UsageError(f"{problem}: give its name with --model")


def identify_named_network(tensors: Mapping[str, Tensor]) -> Network | None:
    """Find the paper's network that has the file's names and shapes; None if there is none."""
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
                return net
    return None


def match_derived_network(tensors: Mapping[str, Tensor], derived: Network) -> Network:
    """Return a derived network as the project of the weights computes it.

    Raises RecordError if the tensors do not match it.
    """
    project = match_tensors(tensors, derived).project
    unit = derived.unit
    if explain_shortcut_start_difference(derived, project):
        unit = replace(unit, fork="shape-change")
    if leaves_stride_open(derived, project):
        unit = replace(unit, stride_at=0)  # both kinds have its names: see adopt_foreign_stride
    return derived if unit == derived.unit else name_network(replace(derived, unit=unit))


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
    both kinds (resnet50, resnet50b), so these are returned unchanged.  So are those of Keras, which
    are like the paper's, and any network for which `requested_name` sets `stride=`.
    """
    is_ambiguous = leaves_stride_open(network, converted.project)
    strides_on_first_conv = network.unit.kernels == (1, 3, 1) and network.unit.stride_at == 0
    if not strides_on_first_conv or "stride=" in requested_name or is_ambiguous:
        return network
    return network_of(f"{network.name},stride=3x3", input=network.input, classes=network.classes)

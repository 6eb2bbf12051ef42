"""Weights of other projects' residual networks under our names, and ours under theirs.

The plan gives every module that carries weights a place, such as the second convolution of the first unit of stage 3, and each
project has a name for it.  The prefixes of wrappers (`module.`, `backbone.`, ...) are found, not listed.

Three things no weight tells.  Where a bottleneck strides: see `striding_as_elsewhere`.  Where a pre-activation unit forks: see
`forks_otherwise`.  And where option A puts its channels of zeros: ours stand on both sides, as in akamaster's code; other code
appends them, which is `shortcut=pad-last` here.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.plan import plan
from residua.errors import RecordError, UsageError, unknown_name_error
from residua.net.convert.caveats import explain_fork_difference, find_caveats
from residua.net.convert.match import (
    BATCH_COUNTER,
    HEAD_POSITION,
    ModulePosition,
    NamedShape,
    TensorShapes,
    count_units_per_stage,
    explain_mismatch,
    list_candidate_networks,
    list_expected_tensors,
    relabel_tail_norm,
    suggest_network,
)
from residua.net.convert.state_dict import find_tensor_problem, is_dense_tensor

ExportProject = Literal["torchvision", "timm", "huggingface"]
NAME_TEMPLATES: dict[str, dict[str, str]] = {
    "torchvision": {  # and timm, and most code for CIFAR
        "stem": "conv1",
        "stem norm": "bn1",
        "unit": "layer{s}.{u0}",
        "conv": "conv{k}",
        "norm": "bn{k}",
        "project": "downsample.0",
        "project norm": "downsample.1",
        "head": "fc",
    },
    "timm": {  # its resnetv2
        "stem": "stem.conv",
        "tail norm": "norm",
        "unit": "stages.{s0}.blocks.{u0}",
        "conv": "conv{k}",
        "norm": "norm{k}",
        "project": "downsample.conv",
        "project norm": "downsample.norm",
        "head": "head.fc",
    },
    "huggingface": {
        "stem": "resnet.embedder.embedder.convolution",
        "stem norm": "resnet.embedder.embedder.normalization",
        "unit": "resnet.encoder.stages.{s0}.layers.{u0}",
        "conv": "layer.{k0}.convolution",
        "norm": "layer.{k0}.normalization",
        "project": "shortcut.convolution",
        "project norm": "shortcut.normalization",
        "head": "classifier.1",
    },
    "pytorchcv": {
        "stem": "features.init_block.conv.conv features.init_block.conv features.init_block",
        "stem norm": "features.init_block.conv.bn features.init_block.bn",
        "tail norm": "features.post_activ.bn",
        "unit": "features.stage{s}.unit{u}",
        "conv": "body.conv{k}.conv",
        "norm": "body.conv{k}.bn",
        "project": "identity_conv.conv identity_conv",
        "project norm": "identity_conv.bn",
        "head": "output",
    },
    "WideResNet-pytorch": {"unit": "block{s}.layer.{u0}", "project": "convShortcut"},
    "others": {  # akamaster, kuangliu, D-X-Y
        "stem": "conv_1_3x3",
        "stem norm": "bn_1",
        "tail norm": "bn",
        "unit": "stage_{s}.{u0}",
        "conv": "conv_{ka}",
        "norm": "bn_{ka}",
        "project": "shortcut.0 shortcut downsample",
        "project norm": "shortcut.1",
        "head": "linear classifier last_linear",
    },
}
"""What projects call the parts of a residual network; inside a unit, names go on from the unit's.

{s}, {u} and {k} count stages, units and layers from 1; {s0}, {u0} and {k0} from 0; {ka} from a.
"""

NETWORK_ROLES = ("stem", "stem norm", "tail norm", "head")
UNIT_ROLES = ("conv", "norm", "project", "project norm")
PROFILER_TENSORS = ("total_ops", "total_params")  # what a profiler (thop) leaves in every module


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """Another project's weights under our names."""

    tensors: dict[str, Tensor]
    ours_by_theirs: dict[str, str]  # theirs -> ours
    missing: tuple[str, ...]  # ours: the head's, where the file has none
    unexpected: tuple[str, ...]  # theirs, without a place here
    project: str  # whose names they are
    caveats: str = ""  # what no weight tells


def convert_foreign_weights(tensors: Mapping[str, Tensor], network: Network) -> ConvertedWeights:
    """The weights of `network` from another project's state dict; shapes may differ by 1s at their end.

    A file from before BN counted its batches gets counts of 0.  Raises RecordError for a file of another network, with the
    difference and the name of the network that it fits, and for one whose project computes otherwise with the same weights.
    """
    file_tensors, project = parse_tensor_names(tensors)
    if mismatch := explain_mismatch(file_tensors, network):
        raise RecordError(
            mismatch
            + suggest_network(
                file_tensors, network, lambda other: explain_fork_difference(other, project)
            )
        )
    if fork_difference := explain_fork_difference(network, project):
        raise RecordError(
            f"{project} and {network.name} compute different things with these weights: {fork_difference}"
        )
    expected = list_expected_tensors(plan(network))
    matched = relabel_tail_norm(file_tensors, expected)
    for (_, tensor), entry in matched.items():
        if problem := find_tensor_problem(tensors[entry.name], tensor):
            raise RecordError(f"{entry.name} is {problem}")
    ours_by_theirs = {
        matched[key].name: ours.name for key, ours in expected.items() if key in matched
    }
    converted = {
        ours.name: tensors[matched[key].name].detach().reshape(ours.shape)
        for key, ours in expected.items()
        if key in matched
    }
    batch_counters = {
        ours.name: torch.tensor(0)
        for key, ours in expected.items()
        if key not in matched and key[1] == BATCH_COUNTER
    }
    return ConvertedWeights(
        tensors=converted | batch_counters,
        ours_by_theirs=ours_by_theirs,
        missing=tuple(
            ours.name
            for key, ours in expected.items()
            if key not in matched and key[1] != BATCH_COUNTER
        ),
        unexpected=tuple(name for name in tensors if name not in ours_by_theirs),
        project=project,
        caveats="; ".join(find_caveats(file_tensors, network, project)),
    )


def count_head_classes(tensors: Mapping[str, Tensor]) -> int:
    """How many classes the head of another project's state dict tells apart; 0 where it has none."""
    file_tensors, _ = parse_tensor_names(tensors)
    return (
        file_tensors[HEAD_POSITION, "weight"].output_count
        if (HEAD_POSITION, "weight") in file_tensors
        else 0
    )


def identify_network(tensors: Mapping[str, Tensor]) -> str:
    """The name of the network that another project's state dict fits; UsageError where it fits none that has a name."""
    file_tensors, project = parse_tensor_names(tensors)
    for name in list_candidate_networks(file_tensors, "resnet"):
        with suppress(UsageError):  # no such depth
            net = network_of(
                name,
                classes=file_tensors[HEAD_POSITION, "weight"].output_count
                if (HEAD_POSITION, "weight") in file_tensors
                else None,
            )
            if (
                tuple(s.units for s in net.stages) == count_units_per_stage(file_tensors)
                and not explain_mismatch(file_tensors, net)
                and not explain_fork_difference(net, project)
            ):
                return net.name
    raise UsageError("which network these weights are of cannot be told: give its name by --model")


def convert_to_project(
    tensors: Mapping[str, Tensor], network: Network, project: ExportProject
) -> dict[str, Tensor]:
    """A state dict of ours under another project's names; UsageError for parts that the project has no name for."""
    theirs = {
        name: tensors[ours].detach()
        for ours, name in map_names_to_project(network, project).items()
    }
    if "head.fc.weight" in theirs:  # timm's resnetv2 ends in a 1x1 convolution
        theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :, None, None]
    return theirs


def map_names_to_project(network: Network, project: ExportProject) -> dict[str, str]:
    """Another project's names by ours.  timm has torchvision's, and for pre-activation nets those of its resnetv2."""
    if project not in get_args(ExportProject):
        raise unknown_name_error("project", str(project), get_args(ExportProject))
    preact = "bn" in network.unit.order.tail
    name_templates = NAME_TEMPLATES["torchvision" if project == "timm" and not preact else project]
    theirs_by_ours = {}
    for ((role, s, u, k), tensor), ours in list_expected_tensors(plan(network)).items():
        if role not in name_templates:
            raise UsageError(
                f"{project} has no name for the {role} of {network.name}{', timm has' * (role == 'tail norm')}"
            )
        template = f"{name_templates['unit']}.{name_templates[role]}" if s else name_templates[role]
        theirs_by_ours[ours.name] = (
            f"{template.format(s=s, s0=s - 1, u=u, u0=u - 1, k=k, k0=k - 1)}.{tensor}"
        )
    return theirs_by_ours


def adopt_foreign_stride(
    network: Network, requested_name: str, converted: ConvertedWeights
) -> Network:
    """The network that foreign weights were trained in: one whose bottlenecks stride on the 3x3, unless `name` says `stride=`.

    Ours stride on the 1x1 as the paper's do; torchvision's, timm's and Hugging Face's on the 3x3 ("v1.5"), and so does the
    code for CIFAR, pytorchcv's included.  pytorchcv's nets for ImageNet come both ways (resnet50, resnet50b) and stay as they are.
    """
    is_ambiguous = converted.project == "pytorchcv" and len(network.stages) == 4
    if (
        network.unit.kernels != (1, 3, 1)
        or network.unit.stride_at != 0
        or "stride=" in requested_name
        or is_ambiguous
    ):
        return network
    return network_of(f"{network.name},stride=3x3", input=network.input, classes=network.classes)


def find_wrapper_prefix(module_names: Collection[str]) -> str:
    """What wrappers put before every name, read off the first convolution's; RecordError where nothing is named like one."""
    stem_names = [
        stem for names in NAME_TEMPLATES.values() for stem in names.get("stem", "").split()
    ]
    prefixes = [
        module.removesuffix(stem)
        for module in module_names
        for stem in stem_names
        if f".{module}".endswith(f".{stem}")
    ]
    unit = "|".join(
        template_to_regex(names["unit"], named=False) for names in NAME_TEMPLATES.values()
    )
    prefixes = [lead for lead in prefixes if not re.search(rf"(?:^|\.)(?:{unit})\.", lead)]
    if any(
        re.search(r"(?:^|\.)stages\.stage\d+\.\d+\.branch\.", module) for module in module_names
    ):
        raise RecordError(
            "the file has our own names, as model.safetensors of a model folder: use that folder as it is"
        )
    if not prefixes:
        raise RecordError(
            f"the file holds no residual network that we know: none of its names ({', '.join([*module_names][:3])}, ...) "
            f"is that of a first layer (conv1, stem.conv, ...)"
        )
    return min(prefixes, key=len)


def strip_wrapper_prefix(module_name: str, prefix: str) -> str:
    """A name without the components that it shares with the prefix: a head often stands beside the wrapped backbone."""
    components, prefix_components = module_name.split("."), prefix.split(".")[:-1]
    shared_count = next(
        (i for i, word in enumerate(prefix_components) if components[i : i + 1] != [word]),
        len(prefix_components),
    )
    return ".".join(components[shared_count:])


def parse_tensor_names(tensors: Mapping[str, Tensor]) -> tuple[TensorShapes, str]:
    """The places of a file's tensors, and whose names its units have."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    prefix = find_wrapper_prefix(modules)
    names = {module: strip_wrapper_prefix(module, prefix) for module in modules}
    positions = {module: parse_module_name(name) for module, name in names.items()}
    file_tensors: TensorShapes = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        position = positions[module]
        if position is not None and suffix not in PROFILER_TENSORS:
            if not is_dense_tensor(tensor):
                raise RecordError(f"{name} is sparse, nested or empty (meta): save dense tensors")
            key_name = name if position.role == "part" else suffix
            file_tensors.setdefault((position, key_name), NamedShape(name, tuple(tensor.shape)))
    projects = (
        project
        for name in names.values()
        for project in NAME_TEMPLATES
        if re.match(template_to_regex(NAME_TEMPLATES[project]["unit"]), name)
    )
    return file_tensors, next(projects, "others")


@cache
def parse_module_name(module_name: str) -> ModulePosition | None:
    """The place of a module; None outside of units for a name that we do not know."""
    for names in NAME_TEMPLATES.values():
        if unit := re.match(template_to_regex(names["unit"]) + r"\.", f"{module_name}."):
            rest = f"{module_name}."[unit.end() :].removesuffix(".")
            s, u = parse_field_number(unit, "s"), parse_field_number(unit, "u")
            for role, template in list_name_templates(UNIT_ROLES):
                if layer := re.fullmatch(template_to_regex(template), rest):
                    return ModulePosition(role, s, u, parse_field_number(layer, "k"))
            return ModulePosition("part", s, u)
    return next(
        (
            ModulePosition(role)
            for role, template in list_name_templates(NETWORK_ROLES)
            if template == module_name
        ),
        None,
    )


def list_name_templates(roles: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (role, template)
        for names in NAME_TEMPLATES.values()
        for role in roles
        for template in names.get(role, "").split()
    ]


FIELD_PATTERNS = {
    "s": r"\d{1,2}",
    "u": r"\d{1,4}",
    "k": r"\d{1,2}",
}  # more are no residual network's


@cache
def template_to_regex(template: str, named_groups: bool = True) -> str:
    return re.sub(
        r"\\{(\w+)\\}",
        lambda field: (
            (f"(?P<{field[1]}>" if named_groups else "(?:")
            + ("[a-z])" if field[1] == "ka" else FIELD_PATTERNS[field[1][0]] + ")")
        ),
        re.escape(template),
    )


def parse_field_number(match: re.Match[str], field: str) -> int:
    """Of stage (s), unit (u) or layer (k), counted from 1; 0 where it is not said."""
    for name, text in match.groupdict().items():
        if name[0] == field:
            return ord(text) - ord("a") + 1 if name == "ka" else int(text) + name.endswith("0")
    return 0

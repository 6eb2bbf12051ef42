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

from residua.errors import RecordError, UsageError, unknown
from residua.net.otherwise import doubts, forks_otherwise
from residua.net.places import COUNTER, HEAD, Entries, Entry, Place, candidates, likely, misfit, settled, units, wanted
from residua.net.weights import flaw, is_dense
from residua.spec.network import Network
from residua.spec.papers import network as network_of
from residua.spec.plan import plan

Project = Literal["torchvision", "timm", "huggingface"]
NAMES: dict[str, dict[str, str]] = {
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

OUTSIDE = ("stem", "stem norm", "tail norm", "head")
INSIDE = ("conv", "norm", "project", "project norm")
PROFILES = ("total_ops", "total_params")  # what a profiler (thop) leaves in every module


@dataclass(frozen=True, slots=True)
class Ported:
    """Another project's weights under our names."""

    tensors: dict[str, Tensor]
    renamed: dict[str, str]  # theirs -> ours
    missing: tuple[str, ...]  # ours: the head's, where the file has none
    unexpected: tuple[str, ...]  # theirs, without a place here
    project: str  # whose names they are
    note: str = ""  # what no weight tells


def from_theirs(tensors: Mapping[str, Tensor], network: Network) -> Ported:
    """The weights of `network` from another project's state dict; shapes may differ by 1s at their end.

    A file from before BN counted its batches gets counts of 0.  Raises RecordError for a file of another network, with the
    difference and the name of the network that it fits, and for one whose project computes otherwise with the same weights.
    """
    found, project = read(tensors)
    if sentence := misfit(found, network):
        raise RecordError(sentence + likely(found, network, lambda other: forks_otherwise(other, project)))
    if otherwise := forks_otherwise(network, project):
        raise RecordError(f"{project} and {network.name} compute different things with these weights: {otherwise}")
    asks = wanted(plan(network))
    held = settled(found, asks)
    for (_, tensor), entry in held.items():
        if wrong := flaw(tensors[entry.name], tensor):
            raise RecordError(f"{entry.name} is {wrong}")
    renamed = {held[key].name: ours.name for key, ours in asks.items() if key in held}
    ported = {ours.name: tensors[held[key].name].detach().reshape(ours.shape) for key, ours in asks.items() if key in held}
    counts = {ours.name: torch.tensor(0) for key, ours in asks.items() if key not in held and key[1] == COUNTER}
    return Ported(
        tensors=ported | counts,
        renamed=renamed,
        missing=tuple(ours.name for key, ours in asks.items() if key not in held and key[1] != COUNTER),
        unexpected=tuple(name for name in tensors if name not in renamed),
        project=project,
        note="; ".join(doubts(found, network, project)),
    )


def classes_in(tensors: Mapping[str, Tensor]) -> int:
    """How many classes the head of another project's state dict tells apart; 0 where it has none."""
    held, _ = read(tensors)
    return held[HEAD, "weight"].rows if (HEAD, "weight") in held else 0


def recognised(tensors: Mapping[str, Tensor]) -> str:
    """The name of the network that another project's state dict fits; UsageError where it fits none that has a name."""
    held, project = read(tensors)
    for name in candidates(held, "resnet"):
        with suppress(UsageError):  # no such depth
            net = network_of(name, classes=held[HEAD, "weight"].rows if (HEAD, "weight") in held else None)
            if tuple(s.units for s in net.stages) == units(held) and not misfit(held, net) and not forks_otherwise(net, project):
                return net.name
    raise UsageError("which network these weights are of cannot be told: give its name by --model")


def to_theirs(tensors: Mapping[str, Tensor], network: Network, project: Project) -> dict[str, Tensor]:
    """A state dict of ours under another project's names; UsageError for parts that the project has no name for."""
    theirs = {name: tensors[ours].detach() for ours, name in names_of(network, project).items()}
    if "head.fc.weight" in theirs:  # timm's resnetv2 ends in a 1x1 convolution
        theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :, None, None]
    return theirs


def names_of(network: Network, project: Project) -> dict[str, str]:
    """Another project's names by ours.  timm has torchvision's, and for pre-activation nets those of its resnetv2."""
    if project not in get_args(Project):
        raise unknown("project", str(project), get_args(Project))
    preact = "bn" in network.unit.order.tail
    names = NAMES["torchvision" if project == "timm" and not preact else project]
    found = {}
    for ((role, s, u, k), tensor), ours in wanted(plan(network)).items():
        if role not in names:
            raise UsageError(f"{project} has no name for the {role} of {network.name}{', timm has' * (role == 'tail norm')}")
        template = f"{names['unit']}.{names[role]}" if s else names[role]
        found[ours.name] = f"{template.format(s=s, s0=s - 1, u=u, u0=u - 1, k=k, k0=k - 1)}.{tensor}"
    return found


def striding_as_elsewhere(network: Network, name: str, ported: Ported) -> Network:
    """The network that foreign weights were trained in: one whose bottlenecks stride on the 3x3, unless `name` says `stride=`.

    Ours stride on the 1x1 as the paper's do; torchvision's, timm's and Hugging Face's on the 3x3 ("v1.5"), and so does the
    code for CIFAR, pytorchcv's included.  pytorchcv's nets for ImageNet come both ways (resnet50, resnet50b) and stay as they are.
    """
    ambiguous = ported.project == "pytorchcv" and len(network.stages) == 4
    if network.unit.kernels != (1, 3, 1) or network.unit.stride_at != 0 or "stride=" in name or ambiguous:
        return network
    return network_of(f"{network.name},stride=3x3", input=network.input, classes=network.classes)


def prefix_of(modules: Collection[str]) -> str:
    """What wrappers put before every name, read off the first convolution's; RecordError where nothing is named like one."""
    stems = [stem for names in NAMES.values() for stem in names.get("stem", "").split()]
    leads = [module.removesuffix(stem) for module in modules for stem in stems if f".{module}".endswith(f".{stem}")]
    unit = "|".join(regex(names["unit"], named=False) for names in NAMES.values())
    leads = [lead for lead in leads if not re.search(rf"(?:^|\.)(?:{unit})\.", lead)]
    if any(re.search(r"(?:^|\.)stages\.stage\d+\.\d+\.branch\.", module) for module in modules):
        raise RecordError("the file has our own names, as model.safetensors of a model folder: use that folder as it is")
    if not leads:
        raise RecordError(
            f"the file holds no residual network that we know: none of its names ({', '.join([*modules][:3])}, ...) "
            f"is that of a first layer (conv1, stem.conv, ...)"
        )
    return min(leads, key=len)


def stripped(module: str, prefix: str) -> str:
    """A name without the components that it shares with the prefix: a head often stands beside the wrapped backbone."""
    words, lead = module.split("."), prefix.split(".")[:-1]
    shared = next((i for i, word in enumerate(lead) if words[i : i + 1] != [word]), len(lead))
    return ".".join(words[shared:])


def read(tensors: Mapping[str, Tensor]) -> tuple[Entries, str]:
    """The places of a file's tensors, and whose names its units have."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    prefix = prefix_of(modules)
    names = {module: stripped(module, prefix) for module in modules}
    places = {module: place_of(name) for module, name in names.items()}
    held: Entries = {}
    for name, tensor in tensors.items():
        module, _, own = name.rpartition(".")
        place = places[module]
        if place is not None and own not in PROFILES:
            if not is_dense(tensor):
                raise RecordError(f"{name} is sparse, nested or empty (meta): save dense tensors")
            tensor_name = name if place.role == "part" else own
            held.setdefault((place, tensor_name), Entry(name, tuple(tensor.shape)))
    used = (project for name in names.values() for project in NAMES if re.match(regex(NAMES[project]["unit"]), name))
    return held, next(used, "others")


@cache
def place_of(name: str) -> Place | None:
    """The place of a module; None outside of units for a name that we do not know."""
    for names in NAMES.values():
        if unit := re.match(regex(names["unit"]) + r"\.", f"{name}."):
            rest = f"{name}."[unit.end() :].removesuffix(".")
            s, u = number(unit, "s"), number(unit, "u")
            for role, template in templates(INSIDE):
                if layer := re.fullmatch(regex(template), rest):
                    return Place(role, s, u, number(layer, "k"))
            return Place("part", s, u)
    return next((Place(role) for role, template in templates(OUTSIDE) if template == name), None)


def templates(roles: Iterable[str]) -> list[tuple[str, str]]:
    return [(role, template) for names in NAMES.values() for role in roles for template in names.get(role, "").split()]


DIGITS = {"s": r"\d{1,2}", "u": r"\d{1,4}", "k": r"\d{1,2}"}  # more are no residual network's


@cache
def regex(template: str, named: bool = True) -> str:
    return re.sub(
        r"\\{(\w+)\\}",
        lambda field: (f"(?P<{field[1]}>" if named else "(?:") + ("[a-z])" if field[1] == "ka" else DIGITS[field[1][0]] + ")"),
        re.escape(template),
    )


def number(found: re.Match[str], field: str) -> int:
    """Of stage (s), unit (u) or layer (k), counted from 1; 0 where it is not said."""
    for name, text in found.groupdict().items():
        if name[0] == field:
            return ord(text) - ord("a") + 1 if name == "ka" else int(text) + name.endswith("0")
    return 0

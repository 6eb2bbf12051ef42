"""Explain why the same weights can give different outputs in different projects.

In a pre-activation net, the shortcut of the first unit can branch off either before or after the
first activation.  In residua it branches off after the activation (He et al. 2016, appendix), in
many other projects before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from residua.config.attention import Attention, EfficientAttention, SqueezeExcitation
from residua.config.joins import Join
from residua.config.name_parts import STEMS
from residua.config.network import Network
from residua.config.orders import ORDERS, Order
from residua.config.plan import plan
from residua.config.stages import Stem
from residua.net.convert.positions import HEAD_POSITION, NamedShape, TensorShapes

PROJECTS_WITH_KNOWN_FORK = ("timm", "pytorchcv", "WideResNet-pytorch")
"""Projects whose pre-activation shortcuts follow the activation only if channels change."""
FORK_CAVEAT = (
    "in the first unit, and where channels change, residua forks after the activation "
    "(He et al. 2016, appendix); much code forks before it, which weights cannot show: "
    "evaluate the network before you trust it"
)
ZERO_PADDING_CAVEAT = (
    "residua adds the zero channels of option A on both sides, as akamaster's code does; "
    "if your code appends them, ask for shortcut=pad-last"
)
SAME_PADDING_CAVEAT = (
    "strided layers with padding SAME pad only one side in Keras and Flax, residua pads both; "
    "weights cannot show it: evaluate the network before you trust it"
)
STRIDE_CAVEAT = (
    "pytorchcv has bottlenecks that stride on the 1x1 and, as in resnet50b, on the 3x3, with the "
    "same weights; the 1x1 is assumed: give stride=3x3 for the others"
)
UNITS_OF_BOTH_STRIDES = (16, 33, 50, 66)  # the networks of 50, 101, 152 and 200 layers
KERAS_APPLICATION = re.compile(r"keras/conv\d_block\d+_\d_conv\.")  # they pad both sides
ASSUMED_ORDERS = (ORDERS["original"], ORDERS["full-preact"], ORDERS["bare"])
"""The usual orders of BN and ReLU, which need no caveat."""


@dataclass(frozen=True, slots=True)
class ProjectParts:
    """The parts that the residual networks of a project can have."""

    stems: tuple[Stem, ...] = (STEMS["7x7"],)
    shortcuts: tuple[str, ...] = ("project",)
    attentions: tuple[Attention, ...] = ()
    any_inner_widths: bool = True  # groups, and inner layers of any width
    orders: tuple[Order, ...] = (ORDERS["original"],)


PROJECT_PARTS: dict[str, ProjectParts] = {
    "torchvision": ProjectParts(),
    "timm": ProjectParts(
        stems=tuple(stem for name, stem in STEMS.items() if name != "3x3"),
        shortcuts=("project", "pool-project"),
        attentions=(SqueezeExcitation(divisor=8), EfficientAttention()),
        orders=(ORDERS["original"], ORDERS["full-preact"]),
    ),
    "huggingface": ProjectParts(any_inner_widths=False),
}


def find_caveats(file_tensors: TensorShapes, network: Network, project: str) -> Iterator[str]:
    """Yield a caveat for each property of `network` that the weights of a file cannot confirm."""
    if network.unit.order == ORDERS["full-preact"] and project not in PROJECTS_WITH_KNOWN_FORK:
        yield FORK_CAVEAT
    head = file_tensors.get((HEAD_POSITION, "weight"), NamedShape("", ()))
    is_akamasters = project == "torchvision" and "linear" in head.name.split(".")
    pads_shortcuts = any(
        layer.op == "pad" for unit in plan(network).units for layer in unit.shortcut or ()
    )
    if pads_shortcuts and network.unit.shortcut == "pad" and not is_akamasters:
        yield ZERO_PADDING_CAVEAT
    is_application = any(KERAS_APPLICATION.match(entry.name) for entry in file_tensors.values())
    if project in ("keras", "flax") and not is_application:
        yield SAME_PADDING_CAVEAT
    is_open = project == "pytorchcv" and leaves_stride_open(network, project)
    if is_open and network.unit.stride_at == 0:
        yield STRIDE_CAVEAT
    ambiguous_parts = {
        "lack of shortcuts": network.unit.shortcut == "none",
        "scaled joins": differs_from_plain_sum(network.unit.join),
        "order of BN and ReLU": network.unit.order not in ASSUMED_ORDERS,
        "average pools, or their lack, before the projections": (
            # timm's networks have both a deep stem and average pools, or neither
            bool(network.stem.inner_widths) != (network.unit.shortcut == "pool-project")
            and not any(is_numbered(entry.name) for entry in list_projections(file_tensors))
        ),
    }
    if unknown_parts := [part for part, is_unknown in ambiguous_parts.items() if is_unknown]:
        yield (
            f"the file cannot show the {' and the '.join(unknown_parts)} of {network.name}: "
            "evaluate the network before you trust it"
        )


def list_projections(file_tensors: TensorShapes) -> list[NamedShape]:
    """List the weights of the projections of a file."""
    return [
        entry
        for (position, tensor), entry in file_tensors.items()
        if position.role == "project" and tensor == "weight"
    ]


def is_numbered(tensor_name: str) -> bool:
    """Return whether a tensor's module is a number in its parent, as in `downsample.0.weight`."""
    return tensor_name.split(".")[-2].isdigit()


def differs_from_plain_sum(join: Join) -> bool:
    """Return whether the join computes something other than a plain sum, in evaluation mode."""
    return not join.expected_output_is_sum


def leaves_stride_open(network: Network, project: str) -> bool:
    """Return whether a project has bottlenecks of this shape that stride on the 1x1 and others.

    All bottlenecks of pytorchcv with wide inner layers, with groups, with a deep stem or of other
    depths stride on the 3x3.
    """
    unit = network.unit
    is_plain_bottleneck = unit.kernels == (1, 3, 1) and unit.groups == 1
    if project == "keras":
        return len(network.stages) == 4 and is_plain_bottleneck
    return (
        project == "pytorchcv"
        and is_plain_bottleneck
        and unit.inner_width(4) == 1
        and not network.stem.inner_widths
        and sum(stage.units for stage in network.stages) in UNITS_OF_BOTH_STRIDES
    )


def explain_dilation(network: Network, project: str) -> str:
    """Explain that the project's networks of this shape are dilated; "" if they are not.

    pytorchcv's other networks with a deep stem have average pools before their projections, or
    attention and groups.
    """
    is_dilated = (
        project == "pytorchcv"
        and network.stem.inner_widths
        and network.unit.shortcut == "project"
        and network.unit.attention is None
        and network.unit.groups == 1
    )
    if not is_dilated:
        return ""
    return (
        "pytorchcv dilates the convolutions of stages 3 and 4 of its networks with this stem and "
        "these shortcuts, such as resnetd50b, and residua has no dilated convolutions: use the "
        "weights of another network, such as resnet50b"
    )


def explain_shortcut_start_difference(network: Network, project: str) -> str:
    """Explain that the first shortcut branches off elsewhere in `project` than in residua.

    Returns "" if there is no known difference.  Only pre-activation nets whose first unit has an
    identity shortcut differ, and only for `PROJECTS_WITH_KNOWN_FORK`.  The shortcut branches off
    before the first activation in these projects, and after it in residua.
    """
    first = plan(network).units[0]
    if (
        project not in PROJECTS_WITH_KNOWN_FORK
        or not any(layer.op == "bn" for layer in first.lead)
        or first.shortcut != ()
    ):
        return ""
    return (
        f"the first unit of {project} forks before the activation, that of {network.name} after it "
        "(He et al. 2016, appendix); with fork=shape-change, it forks before it"
    )


def explain_output_difference(network: Network, project: str) -> str:
    """Explain why no network of `project` computes the same outputs from the weights of `network`.

    Returns "" if a network of the project does.
    """
    unit, name, has = network.unit, network.name, PROJECT_PARTS[project]
    has_four_stages = len(network.stages) == 4
    has_attention = unit.attention is None or any(
        all(
            attention.parameter_shapes(stage.width) == unit.attention.parameter_shapes(stage.width)
            for stage in network.stages
        )
        for attention in has.attentions
    )
    stems = {replace(stem, width=network.stem.width) for stem in has.stems}
    reasons = {
        f"networks of {project} have 4 stages, {name} has {len(network.stages)}": (
            not has_four_stages
        ),
        f"{project} has no networks with the stem of {name}": (
            has_four_stages and network.stem not in stems
        ),
        f"{project} has no networks with the shortcuts of {name}": (
            has_four_stages and unit.shortcut not in has.shortcuts
        ),
        f"{project} has no networks with the attention of {name}": not has_attention,
        f"{project} has no networks with the inner widths or groups of {name}": (
            not has.any_inner_widths
            and unit.kernels == (1, 3, 1)
            and (unit.groups > 1 or unit.inner_width(4) != 1)
        ),
        f"joins of {project} add, those of {name} scale": differs_from_plain_sum(unit.join),
        f"bottlenecks of {project} stride on the 3x3, those of {name} on the 1x1": (
            unit.kernels == (1, 3, 1) and unit.stride_at == 0
        ),
        f"{project} has no networks with the order of BN and ReLU of {name}": (
            unit.order not in has.orders
        ),
    }
    sentences = [reason for reason, holds in reasons.items() if holds]
    if fork_difference := explain_shortcut_start_difference(network, project):
        sentences.append(fork_difference)
    return "; ".join(sentences)

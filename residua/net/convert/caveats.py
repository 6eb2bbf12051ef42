"""What no weight tells, and other projects compute otherwise with weights of the same names and shapes."""

from collections.abc import Iterator
from dataclasses import replace

from residua.config.network import ORDERS, Add, Drop, Join, Network, Scale, Stem
from residua.config.plan import plan
from residua.net.convert.match import HEAD_POSITION, NamedShape, TensorShapes

PROJECTS_WITH_KNOWN_FORK = ("timm", "pytorchcv", "WideResNet-pytorch")
"""Projects whose pre-activation units fork after the activation where channels change, and before it in any other unit."""
FORK_CAVEAT = (
    "where channels change, and in the first unit, ours forks after the activation (He et al. 2016, appendix); "
    "much code forks before it, and no weight tells: evaluate the network before you trust it"
)


ZERO_PADDING_CAVEAT = (
    "channels of zeros stand on both sides, as in akamaster's code, and other code appends them: "
    "ask for shortcut=pad-last where it does"
)
ASSUMED_ORDERS = (ORDERS["original"], ORDERS["full-preact"], ORDERS["bare"])
"""The orders that are meant where nothing is said."""


def find_caveats(file_tensors: TensorShapes, network: Network, project: str) -> Iterator[str]:
    """What the weights leave open of `network`, in sentences."""
    if network.unit.order == ORDERS["full-preact"] and project not in PROJECTS_WITH_KNOWN_FORK:
        yield FORK_CAVEAT
    head = file_tensors.get((HEAD_POSITION, "weight"), NamedShape("", ()))
    pads_shortcuts = any(
        layer.op == "pad" for unit in plan(network).units for layer in unit.shortcut or ()
    )
    if (
        pads_shortcuts and network.unit.shortcut == "pad" and "linear" not in head.name.split(".")
    ):  # as akamaster calls it
        yield ZERO_PADDING_CAVEAT
    ambiguous_parts = {
        "lack of shortcuts": network.unit.shortcut == "none",
        "scaled joins": is_scaled_join(network.unit.join),
        "order of BN and ReLU": network.unit.order not in ASSUMED_ORDERS,
    }
    if open_ := [part for part, is_so in ambiguous_parts.items() if is_so]:
        yield f"nothing in the file says the {' and the '.join(open_)} of {network.name}: evaluate the network before you trust it"


def is_scaled_join(join: Join) -> bool:
    """Whether it computes something else than a sum, in evaluation."""
    return not isinstance(join, Add | Drop) and join != Scale()


def explain_fork_difference(network: Network, project: str) -> str:
    """What KNOWN_FORKS compute otherwise: the first unit of a pre-activation net, where its shortcut is the identity."""
    first = plan(network).units[0]
    if (
        project not in PROJECTS_WITH_KNOWN_FORK
        or not any(layer.op == "bn" for layer in first.lead)
        or first.shortcut != ()
    ):
        return ""
    return "its first unit forks before the activation, ours after it (He et al. 2016, appendix)"


IMAGENET_STEM = Stem(width=64, kernel=7, stride=2, pool=True)


def explain_output_difference(network: Network, project: str) -> str:
    """What another project's networks compute otherwise with the weights of ours, which none of them tells; mostly nothing."""
    unit, name = network.unit, network.name
    stem_at_imagenet_width = replace(network.stem, width=IMAGENET_STEM.width)
    has_four_stages = len(network.stages) == 4
    reasons = {
        f"networks of {project} have 4 stages, {name} has {len(network.stages)}": not has_four_stages,
        f"stems of {project} are a 7x7 convolution of stride 2 and a max-pool, that of {name} is not": has_four_stages
        and stem_at_imagenet_width != IMAGENET_STEM,
        f"shortcuts of {project} are option B, those of {name} are not": has_four_stages
        and unit.shortcut != "project",
        f"joins of {project} add, those of {name} scale": is_scaled_join(unit.join),
        f"bottlenecks of {project} stride on the 3x3, those of {name} on the 1x1": unit.kernels
        == (1, 3, 1)
        and unit.stride_at == 0,
        f"{project} has no networks whose BN and ReLU stand where those of {name} do": unit.order
        not in ASSUMED_ORDERS[:2],
    }
    fork_difference = explain_fork_difference(network, project)
    return "; ".join(
        [reason for reason, holds in reasons.items() if holds]
        + [fork_difference] * bool(fork_difference)
    )

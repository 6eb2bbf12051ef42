"""Look up the papers' networks by name, e.g. `network("cifar-resnet20")`.

The names are `cifar-plainN`, `cifar-resnetN`, `cifar-preresnetN`, `cifar-highwayN` and
`cifar-wrnN-K` for 32x32 images, with any legal depth N and width factor K, `cifar-record11` and
`cifar-record8`, the networks of the recipe `record`; `resnet18` to
`resnet200` and `preresnet18` to `preresnet200` for ImageNet; `fc-resnetN` for networks of fully
connected layers; and `lecture-resnet12`.  timm's names, such as `resnet50d` and `resnext50_32x4d`,
make timm's networks (see `timm_names`).  A name can also set parts of the network, as in
`cifar-resnet56,shortcut=project,join=shortcut-gate`.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatch
from math import prod

from residua.config.families import (
    NETWORK_MAKERS,
    STAGE_UNITS,
    WIDE_NETWORK_MAKERS,
)
from residua.config.joins import Drop, Gate, Scale
from residua.config.name_parts import (
    SHORTCUT_LETTERS,
    UNIT_PARTS,
    NameChanges,
)
from residua.config.network import Network, Unit
from residua.config.network_suggestions import unknown_network_error
from residua.config.size_limits import MAX_LAYERS
from residua.config.timm_names import LISTED_TIMM_NETWORKS, translate_timm_name
from residua.errors import UsageError, unknown_name_error

LISTED_DEPTHS: dict[str, Iterable[int]] = {
    "cifar-plain": (20, 32, 44, 56, 110),
    "cifar-resnet": (20, 32, 44, 56, 110, 1202),
    "cifar-preresnet": (20, 32, 44, 56, 110, 164, 1001),
    "cifar-highway": (20, 32, 56, 110),
    "cifar-record": (8, 11),
    "fc-plain": (10, 22),
    "fc-resnet": (10, 22),
    "fc-highway": (10, 22),
    "lecture-plain": (12,),
    "lecture-resnet": (12,),
    "plain": (18, 34),
    "resnet": STAGE_UNITS,
    "preresnet": STAGE_UNITS,
}
"""For each family, the depths that `list_models` lists."""
LISTED_WIDE_NETWORKS = (
    "cifar-wrn16-8",
    "cifar-wrn28-10",
    "cifar-wrn40-4",
    "wide-resnet50-2",
    "wide-resnet101-2",
)
MAX_DEPTH_DIGITS = 9
NETWORK_CHANGE_KEYS = (*UNIT_PARTS, "width", "groups", "units", "head", "stem", "widths")


SHORTCUT_ABLATIONS: dict[str, Unit] = {
    "original": Unit(),
    "plain": Unit(shortcut="none"),
    "constant 0.5, 1": Unit(join=Scale(0.5, 1.0)),
    "constant 0.5, 0.5": Unit(join=Scale(0.5, 0.5)),
    "exclusive gating": Unit(join=Gate(bias=-6.0)),
    "shortcut-only gating": Unit(join=Gate(bias=-6.0, scales="shortcut")),
    "1x1 conv shortcut": Unit(shortcut="project-all"),
    "dropout shortcut": Unit(join=Drop(0.5)),
}
"""The units compared in He et al. 2016, Table 1, by the name of their row."""


def network(
    name: str,
    *,
    input: tuple[int, ...] | None = None,
    classes: int | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
) -> Network:
    """Look up a network by name; the arguments replace its input shape, class count or parts.

    For a fully connected net, `input` may be any image shape; the net gets one input per pixel
    value.  Raises UsageError for an unknown name (the message suggests the nearest one), an
    impossible depth, and parts that contradict each other.
    """
    base, *name_changes = name.split(",")
    argument_changes = {
        key: value
        for key, value in (("block", block), ("shortcut", shortcut), ("order", order))
        if value is not None
    }
    changes = {**parse_name_parts(name_changes), **argument_changes}
    net = make_base_network(base, changes)
    for key in list(changes):  # drop changes that change nothing from the name
        without_key = {part: value for part, value in changes.items() if part != key}
        try:
            changes = without_key if make_base_network(base, without_key) == net else changes
        except UsageError:  # the network is impossible without this change
            continue
    net = replace(
        net,
        name=",".join(
            [
                net.name,
                *(
                    f"{key}={normalise_change_value(changes[key])}"
                    for key in NETWORK_CHANGE_KEYS
                    if key in changes
                ),
            ]
        ),
    )
    if input is not None:
        net = replace(net, input=(prod(input),) if len(net.input) == 1 else input)
    return net if classes is None else replace(net, classes=classes)


def normalise_change_value(value: str) -> str:
    """Return the canonical spelling of a value in a network's name.

    For example, `B` becomes `project` and `02` becomes `2`.  Equal networks thus have equal names.
    """
    if re.fullmatch(r"[0-9]+\.[0-9]+", value):
        return f"{float(value):g}"
    return str(int(value)) if value.isdecimal() else SHORTCUT_LETTERS.get(value, value)


def parse_family_depth_width(base: str) -> tuple[str, int, str]:
    """Split a name into family, depth and width factor; the factor is "" if the name has none.

    `cifar-wrn28-10` -> `("cifar-wrn", 28, "10")`.  Raises UsageError for an unknown family, and for
    a depth over `MAX_LAYERS`.
    """
    match = re.fullmatch(r"([a-z-]+)([0-9]+)(?:-([0-9]+))?", base)
    if match is None or match[1] not in (WIDE_NETWORK_MAKERS if match[3] else NETWORK_MAKERS):
        raise unknown_network_error(base, list_models())
    # longer numbers are refused unread: Python does not convert thousands of digits
    if len(match[2]) > MAX_DEPTH_DIGITS or int(match[2]) > MAX_LAYERS:
        depth = f"{int(match[2][:MAX_DEPTH_DIGITS]):,}" + "..." * (len(match[2]) > MAX_DEPTH_DIGITS)
        raise UsageError(f"{depth} layers are too many: give at most {MAX_LAYERS:,}")
    return match[1], int(match[2]), match[3] or ""


def make_base_network(base: str, changes: NameChanges) -> Network:
    """Make the network `base`, e.g. `cifar-resnet56`, with `changes` applied to its parts."""
    if translated := translate_timm_name(base):
        given = translated.changes
        if changes.get("block", "bottleneck") != "bottleneck":  # other blocks have no such stride
            given = {part: value for part, value in given.items() if part != "stride"}
        net = make_base_network(translated.base, given | changes)
        return replace(net, name=base)
    family, depth, factor = parse_family_depth_width(base)
    if "widths" in changes and family != "cifar-record":
        raise UsageError(
            f"widths= applies only to cifar-record networks, not to {base}: use width="
        )
    if not factor:
        return NETWORK_MAKERS[family](depth, changes)
    if "width" in changes:
        raise UsageError(f"{base} already has a width factor: leave width={changes['width']} out")
    net = WIDE_NETWORK_MAKERS[family](depth, {"width": factor, **changes})
    return replace(net, name=f"{family}{depth}-{int(factor)}")


def compose_network_name(family: str, depth: int) -> str:
    """Compose a network's name from a family and a depth.

    For example, `("resnet,join=add", 56)` gives `cifar-resnet56,join=add`.  In `family`, the prefix
    `cifar-` may be omitted, and any other family is given in full, e.g. `fc-resnet`.  If a family
    exists for both CIFAR and ImageNet, `imagenet resnet`, for example, is ImageNet's.  Raises
    UsageError for an unknown family.
    """
    makers = NETWORK_MAKERS | WIDE_NETWORK_MAKERS
    match = re.fullmatch(r"(imagenet )?(.*?)(-\d+)?(,.*)?", family)
    prefix, family_name, factor, changes = (
        match.groups(default="") if match else ("", family, "", "")
    )
    needs_cifar_prefix = not prefix and (
        family_name not in makers or f"cifar-{family_name}" in makers
    )
    full_name = f"{'cifar-' * needs_cifar_prefix}{family_name}"
    if full_name not in makers:
        families = dict.fromkeys(name.removeprefix("cifar-") for name in makers)
        raise unknown_name_error("family", family_name, families)
    return f"{full_name}{depth}{factor}{changes}"


def split_network_name(name: str) -> tuple[str, int]:
    """Split a network's name into family and depth, the arguments of `compose_network_name`.

    Raises UsageError if the name has no family or no depth.
    """
    base, _, name_changes = name.partition(",")
    if translated := translate_timm_name(base):
        parts = [f"{key}={value}" for key, value in translated.changes.items()]
        name = ",".join([translated.base, *parts, *([name_changes] if name_changes else [])])
    match = re.fullmatch(r"(cifar-)?([^,]*?[^,\d-])-?([0-9]{1,9})(-\d+)?(,.*)?", name)
    if match is None:
        raise UsageError(
            f"the network name {name!r} lacks a family or a depth: write a name such as "
            "cifar-resnet56"
        )
    prefix = "imagenet " if not match[1] and f"cifar-{match[2]}" in NETWORK_MAKERS else ""
    return f"{prefix}{match[2]}{match[4] or ''}{match[5] or ''}", int(match[3])


def parse_name_parts(assignments: list[str]) -> NameChanges:
    """Parse `part=value` pairs of a network's name: `["order=bare"]` -> `{"order": "bare"}`."""
    changes: NameChanges = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if key not in NETWORK_CHANGE_KEYS or not equals:
            raise UsageError(
                f"{assignment!r} is not a valid part of a network's name: "
                "write KEY=VALUE, as in cifar-resnet20,shortcut=project, "
                f"where KEY is one of {', '.join(NETWORK_CHANGE_KEYS)}"
            )
        if key in changes:
            raise UsageError(
                f"{key} is given twice in a network's name, as {changes[key]} and as {value}: "
                "remove one"
            )
        changes[key] = value
    return changes


def list_models(pattern: str = "*") -> list[str]:
    """List the papers' networks whose name matches a shell pattern, e.g. `cifar-*`.

    The list is not complete: `network` also accepts other legal depths.
    """
    names = [
        *(f"{family}{depth}" for family, depths in LISTED_DEPTHS.items() for depth in depths),
        *LISTED_WIDE_NETWORKS,
        *LISTED_TIMM_NETWORKS,
    ]
    return [name for name in names if fnmatch(name, pattern)]

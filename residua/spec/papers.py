"""Every named network of the papers, as a value, and what the papers print of it.

`network("cifar-resnet20")` looks a name up: `cifar-plainN`, `cifar-resnetN`, `cifar-preresnetN`, `cifar-highwayN` and
`cifar-wrnN-K` for 32x32 images and any legal depth N; `resnet18` to `resnet200` and `preresnet18` to `preresnet200` for
ImageNet; `fc-resnetN` of fully connected layers; `lecture-resnet12`.  Parts are replaced in the name itself:
`cifar-resnet56,shortcut=project,join=shortcut-gate`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import prod

from residua.errors import UsageError, unknown
from residua.spec.families import BLOCKS, IMAGENET, JOINS, MAKERS, OPTIONS, PARTS, WIDE_MAKERS, Changes
from residua.spec.network import ORDERS, Drop, Gate, Network, Scale, Unit

LISTED: dict[str, Iterable[int]] = {
    "cifar-plain": (20, 32, 44, 56, 110),
    "cifar-resnet": (20, 32, 44, 56, 110, 1202),
    "cifar-preresnet": (20, 32, 44, 56, 110, 164, 1001),
    "cifar-highway": (20, 32, 56, 110),
    "fc-plain": (10, 22),
    "fc-resnet": (10, 22),
    "fc-highway": (10, 22),
    "lecture-plain": (12,),
    "lecture-resnet": (12,),
    "plain": (18, 34),
    "resnet": IMAGENET,
    "preresnet": IMAGENET,
}
"""The depths of each family that `list_models` lists."""
WIDE = ("cifar-wrn16-8", "cifar-wrn28-10", "cifar-wrn40-4", "wide-resnet50-2", "wide-resnet101-2")
CUSTOM = "custom"
MOST_LAYERS = 100_000  # which take seconds to plan
CHANGES = (*PARTS, "width", "units", "head", "stem")


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper prints of a network, as it prints it."""

    parameters: str = ""
    multiply_adds: str = ""
    error: str = ""


PUBLISHED = {
    "cifar-resnet20": Published("0.27 M", error="8.75 % CIFAR-10"),  # He et al. 2015, Table 6
    "cifar-resnet32": Published("0.46 M", error="7.51 % CIFAR-10"),
    "cifar-resnet44": Published("0.66 M", error="7.17 % CIFAR-10"),
    "cifar-resnet56": Published("0.85 M", error="6.97 % CIFAR-10"),
    "cifar-resnet110": Published("1.7 M", error="6.61 ± 0.16 % CIFAR-10, five runs; best 6.43 %"),
    "cifar-resnet1202": Published("19.4 M", error="7.93 % CIFAR-10"),
    "cifar-preresnet110": Published(error="6.37 % CIFAR-10, median of five"),  # He et al. 2016, Tables 2-4
    "cifar-preresnet164": Published("1.7 M", error="5.46 % CIFAR-10, median of five"),
    "cifar-preresnet1001": Published("10.2 M", error="4.92 % CIFAR-10, median of five"),
    "resnet18": Published(multiply_adds="1.8 G"),  # He et al. 2015, Table 1
    "resnet34": Published(multiply_adds="3.6 G"),
    "resnet50": Published(multiply_adds="3.8 G", error="22.85 % ImageNet, 10-crop"),
    "resnet101": Published(multiply_adds="7.6 G", error="21.75 % ImageNet, 10-crop"),
    "resnet152": Published(multiply_adds="11.3 G", error="21.43 % ImageNet, 10-crop"),
    "preresnet200": Published(error="20.7 % ImageNet, one crop of 320"),  # He et al. 2016, Table 5
    "cifar-wrn28-10": Published("36.5 M", error="4.00 % CIFAR-10"),  # Zagoruyko & Komodakis 2016
}

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
"""He et al. 2016, Table 1, a row each."""


def network(
    name: str,
    *,
    input: tuple[int, ...] | None = None,
    classes: int | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
) -> Network:
    """The network of that name, with input shape, class count, block, shortcut or order replaced where given.

    A fully connected net takes images of any shape, one number an input.  Raises UsageError for an unknown name, with the
    nearest one, for an impossible depth, and for parts that contradict each other.
    """
    base, *in_name = name.split(",")
    given = {key: value for key, value in (("block", block), ("shortcut", shortcut), ("order", order)) if value is not None}
    changes = {**changes_of(in_name), **given}
    net = make(base, changes)
    for key in list(changes):  # what changes nothing is no part of a name
        fewer = {part: value for part, value in changes.items() if part != key}
        try:
            changes = fewer if make(base, fewer) == net else changes
        except UsageError:  # it is needed to make this a network at all
            continue
    net = replace(net, name=",".join([net.name, *(f"{key}={spelt(changes[key])}" for key in CHANGES if key in changes)]))
    if input is not None:
        net = replace(net, input=(prod(input),) if len(net.input) == 1 else input)
    return net if classes is None else replace(net, classes=classes)


def spelt(value: str) -> str:
    """`B` -> `project`, `02` -> `2`: one spelling, so that equal networks have equal names."""
    return str(int(value)) if value.isdecimal() else OPTIONS.get(value, value)


def parsed(base: str) -> tuple[str, int, str]:
    """`cifar-wrn28-10` -> `("cifar-wrn", 28, "10")`; the last is empty for most.  UsageError for a name nobody has."""
    found = re.fullmatch(r"([a-z-]+)([0-9]+)(?:-([0-9]+))?", base)
    if found is None or found[1] not in (WIDE_MAKERS if found[3] else MAKERS):
        raise unknown("network", base, list_models())
    if int(found[2]) > MOST_LAYERS:
        raise UsageError(f"no network of {int(found[2]):,} layers: give at most {MOST_LAYERS:,}")
    return found[1], int(found[2]), found[3] or ""


def make(base: str, changes: Changes) -> Network:
    """The network of a name without its changes, with them."""
    family, depth, factor = parsed(base)
    if not factor:
        return MAKERS[family](depth, changes)
    if "width" in changes:
        raise UsageError(f"{base} says its width already: leave width={changes['width']} out")
    net = WIDE_MAKERS[family](depth, {"width": factor, **changes})
    return replace(net, name=f"{family}{depth}-{int(factor)}")


def member(family: str, depth: int) -> str:
    """`("resnet,shortcut=project", 56)` -> `cifar-resnet56,shortcut=project`; other houses are named whole, as in fc-resnet."""
    known = MAKERS | WIDE_MAKERS
    found = re.fullmatch(r"(imagenet )?(.*?)(-\d+)?(,.*)?", family)
    house, kind, factor, changes = found.groups(default="") if found else ("", family, "", "")
    short = not house and (kind not in known or f"cifar-{kind}" in known)
    return f"{'cifar-' * short}{kind}{depth}{factor}{changes}"


def family_of(name: str) -> tuple[str, int]:
    """The inverse of `member`: the family and the depth that a network's name tells; UsageError where it tells none."""
    found = re.fullmatch(r"(cifar-)?([^,]*?[^,\d-])-?(\d+)(-\d+)?(,.*)?", name)
    if found is None:
        raise UsageError(f"the network's name {name!r} tells no family and depth: name it like cifar-resnet56")
    house = "imagenet " if not found[1] and f"cifar-{found[2]}" in MAKERS else ""
    return f"{house}{found[2]}{found[4] or ''}{found[5] or ''}", int(found[3])


def resized(net: Network, units: tuple[int, ...]) -> Network:
    """`net` with so many units in its stages; its name says the new depth."""
    return renamed(replace(net, stages=tuple(replace(stage, units=n) for stage, n in zip(net.stages, units, strict=True))))


def renamed(net: Network, **families: str) -> Network:
    """`net` under a name that means just that network, of the family that its old name says or its replacement in `families`.

    A network that no name means is called custom.
    """
    base, *in_name = net.name.split(",")
    try:
        family, _, factor = parsed(base)
        changes = changes_of([word for word in in_name if word != CUSTOM])
    except UsageError:
        return replace(net, name=f"{base},{CUSTOM}")
    width = factor or changes.get("width", "1")
    family = {"cifar-wrn": "cifar-preresnet", "wide-resnet": "resnet"}.get(family, family)
    for old, new in families.items():
        house, dash, kind = family.rpartition("-")
        family = f"{house}{dash}{new}" if kind == old else family
    name = f"{family}{2 + sum(stage.units for stage in net.stages) * len(net.unit.kernels)}"
    kept = {key: changes[key] for key in ("head", "stem") if key in changes}
    units = {"units": "-".join(str(stage.units) for stage in net.stages)}
    words = words_of(net.unit, int(width)) | kept | units | ({"width": width} if int(width) > 1 else {})
    try:
        found = network(",".join([name, *(f"{k}={v}" for k, v in words.items())]), input=net.input, classes=net.classes)
    except UsageError:
        return replace(net, name=f"{name},{CUSTOM}")
    return found if replace(net, name=found.name) == found else replace(net, name=f"{name},{CUSTOM}")


def words_of(unit: Unit, width: int) -> Changes:
    """The parts of a unit by name, those that have one; a bottleneck is `width` times as wide inside."""
    squeeze = unit.squeeze * width if unit.kernels == (1, 3, 1) else unit.squeeze
    words = {
        "block": next((n for n, b in BLOCKS.items() if (len(b.kernels), b.squeeze) == (len(unit.kernels), squeeze)), None),
        "order": next((name for name, order in ORDERS.items() if order == unit.order), None),
        "join": next((name for name, join in JOINS.items() if join == unit.join), None),
        "shortcut": unit.shortcut,
        "start": unit.start,
        "stride": "3x3" if unit.kernels == (1, 3, 1) and unit.stride_at == 1 else None,
    }
    return {key: word for key, word in words.items() if word is not None}


def changes_of(words: list[str]) -> Changes:
    """`["order=original"]` -> `{"order": "original"}`."""
    changes: Changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in CHANGES or not equals:
            raise UsageError(
                f"{word!r} does not fit a network's name: write e.g. cifar-resnet20,shortcut=project; "
                f"what can be replaced is {', '.join(CHANGES)}"
            )
        if key in changes:
            raise UsageError(f"{key} is said twice in a network's name, {changes[key]} and {value}: leave one out")
        changes[key] = value
    return changes


def list_models(pattern: str = "*") -> list[str]:
    """The papers' networks whose name matches a shell pattern; any other legal depth can be named too."""
    known = [*(f"{family}{depth}" for family, depths in LISTED.items() for depth in depths), *WIDE]
    return [name for name in known if fnmatch(name, pattern)]

"""Every named network of the papers, as a value.

`network("cifar-resnet20")` looks a name up.  The 32x32 family is `cifar-plainN`, `cifar-resnetN`, `cifar-preresnetN` for any
legal depth N; the ImageNet family keeps its customary names, `resnet18` to `resnet152`.  Block, shortcut and order of any of
them are replaced by keyword, or in the name itself: `cifar-resnet56,shortcut=project`.
"""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial

from residua.errors import UsageError, unknown
from residua.spec.network import ORDERS, SHORTCUTS, Drop, Gate, Network, Scale, Stage, Stem, Unit

BLOCKS = {"basic": Unit(), "bottleneck": Unit(kernels=(1, 3, 1), squeeze=4)}
OPTIONS = {"A": "pad", "B": "project", "C": "project-all"}  # the letters of He et al. 2015, section 4.1

FAMILIES: dict[str, Unit] = {
    "plain": Unit(shortcut="none"),
    "resnet": Unit(),
    "preresnet": Unit(order=ORDERS["full-preact"]),
}
"""The 32x32 families: plain twins and option-A residual nets (He et al. 2015, section 4.2), and pre-activation nets
(He et al. 2016, Table 3)."""

BOTTLENECKS_FROM = 164  # layers; pre-activation nets of 110 layers are made of two-layer blocks (He et al. 2016, section 5)

DEPTHS = {"plain": (20, 32, 44, 56, 110), "resnet": (20, 32, 44, 56, 110, 1202), "preresnet": (20, 32, 44, 56, 110, 164, 1001)}
"""The depths of each 32x32 family that `list_models` lists."""

IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Units per stage (He et al. 2015, Table 1); bottlenecks from 50 layers on."""


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

    Raises UsageError for an unknown name, with the nearest one, and for an impossible depth.
    """
    name, *in_name = name.split(",")
    found = re.fullmatch(r"(?:cifar-([a-z]+)|resnet)(\d+)", name)
    if found is None or found[1] not in (None, *FAMILIES):
        raise unknown("network", name, list_models())
    changes = changes_of(in_name) | {
        key: value for key, value in (("block", block), ("shortcut", shortcut), ("order", order)) if value is not None
    }
    depth = int(found[2])
    make = partial(cifar, found[1]) if found[1] else imagenet
    net = make(depth, **changes)
    for key in ("shortcut", "order"):  # what changes nothing is no part of a name
        fewer = {name: value for name, value in changes.items() if name != key}
        changes = fewer if make(depth, **fewer).unit == net.unit else changes
    net = replace(net, name=",".join([net.name, *(f"{key}={OPTIONS.get(value, value)}" for key, value in changes.items())]))
    return replace(net, input=net.input if input is None else input, classes=net.classes if classes is None else classes)


def changes_of(words: list[str]) -> dict[str, str]:
    """`["order=original"]` -> `{"order": "original"}`."""
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("block", "shortcut", "order") or not equals:
            raise UsageError(f"{word!r} does not fit a network's name: write e.g. cifar-resnet20,shortcut=project,order=original")
        changes[key] = value
    return changes


def cifar(family: str, depth: int, *, block: str | None = None, shortcut: str | None = None, order: str | None = None) -> Network:
    """Three stages of widths 16, 32, 64 (x4 for bottlenecks) on a 3x3 stem (He et al. 2015, section 4.2; 2016, section 5).

    A depth counts weight layers: 6n+2 for two-layer blocks, 9n+2 for bottlenecks.  Pre-activation nets of 164 layers and more
    are made of bottlenecks with option-B shortcuts where their depth allows it, as in He et al. 2016.
    """
    unit = FAMILIES[family]
    either = family == "preresnet" and block is None and depth >= BOTTLENECKS_FROM
    if either and (depth - 2) % 9 == 0:
        unit = replace(BLOCKS["bottleneck"], shortcut="project", order=unit.order)
    unit = adapted(unit, block, shortcut, order)
    layers = 3 * len(unit.kernels)  # of one unit in each of three stages
    units, rest = divmod(depth - 2, layers)
    if rest or units < 1:
        low = max(depth - rest, layers + 2)
        form = f"{layers}n+2" + (", or 9n+2 for bottlenecks" if either else "")
        raise UsageError(f"no {depth}-layer cifar-{family} network: depth must be {form}, e.g. {low} or {low + layers}")
    stages = tuple(Stage(16 * 2**i * unit.squeeze, units, stride=1 if i == 0 else 2) for i in range(3))
    return Network(name=f"cifar-{family}{depth}", input=(3, 32, 32), stem=Stem(width=16), stages=stages, unit=unit, classes=10)


def imagenet(depth: int, *, block: str | None = None, shortcut: str | None = None, order: str | None = None) -> Network:
    """Four stages on a 7x7 stem with a max-pool (He et al. 2015, Table 1); projections where shapes change (option B)."""
    if depth not in IMAGENET:
        raise UsageError(f"no {depth}-layer ImageNet network: depth must be one of {', '.join(map(str, IMAGENET))}")
    own = "bottleneck" if depth >= 50 else "basic"
    if block not in (None, own):
        raise UsageError(
            f"resnet{depth} is made of {own} blocks: resnet18 and resnet34 are basic, resnet50 to resnet152 bottleneck"
        )
    unit = adapted(replace(BLOCKS[own], shortcut="project"), None, shortcut, order)
    stages = tuple(Stage(64 * 2**i * unit.squeeze, n, stride=1 if i == 0 else 2) for i, n in enumerate(IMAGENET[depth]))
    stem = Stem(width=64, kernel=7, stride=2, pool=True)
    return Network(name=f"resnet{depth}", input=(3, 224, 224), stem=stem, stages=stages, unit=unit, classes=1000)


def adapted(unit: Unit, block: str | None, shortcut: str | None, order: str | None) -> Unit:
    """`unit` with another block, shortcut (by name, or A, B, C) and order, where given."""
    if block is not None:
        if block not in BLOCKS:
            raise unknown("block", block, BLOCKS)
        unit = replace(BLOCKS[block], shortcut=unit.shortcut, order=unit.order, join=unit.join)
    if shortcut is not None:
        chosen = [known for known in SHORTCUTS if known == OPTIONS.get(shortcut, shortcut)]
        if not chosen:
            raise unknown("shortcut", shortcut, (*SHORTCUTS, *OPTIONS))
        unit = replace(unit, shortcut=chosen[0])
    if order is not None:
        if order not in ORDERS:
            raise unknown("order", order, ORDERS)
        unit = replace(unit, order=ORDERS[order])
    return unit


def list_models(pattern: str = "*") -> list[str]:
    """The papers' networks whose name matches a shell pattern; any other legal depth can be named too."""
    known = [f"cifar-{family}{depth}" for family, depths in DEPTHS.items() for depth in depths]
    known += [f"resnet{depth}" for depth in IMAGENET]
    return [name for name in known if fnmatch(name, pattern)]

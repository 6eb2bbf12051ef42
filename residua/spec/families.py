"""The families of networks of the papers, as functions of a depth, and the parts that can be replaced in any of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from residua.errors import UsageError, unknown
from residua.spec.network import ORDERS, SHORTCUTS, Add, Drop, Gate, Head, Network, Scale, Stage, Stem, Unit

OPTIONS = {"A": "pad", "B": "project", "C": "project-all"}  # the letters of He et al. 2015, section 4.1
BLOCKS = {
    "single": Unit(kernels=(3,)),  # a one-layer skip: He et al. 2016, Table 3
    "basic": Unit(),
    "bottleneck": Unit(kernels=(1, 3, 1), squeeze=4),
    "triple": Unit(kernels=(3, 3, 3)),
}
JOINS = {
    "add": Add(),
    "constant": Scale(0.5, 0.5),  # He et al. 2016, Table 1
    "exclusive-gate": Gate(bias=-6.0),
    "shortcut-gate": Gate(bias=-6.0, scales="shortcut"),
    "dropout": Drop(shortcut=0.5),
    "drop-path": Drop(branch=0.5),  # Huang et al. 2016, section 4
}
PARTS: dict[str, Mapping[str, Any]] = {
    "block": BLOCKS,
    "shortcut": {name: name for name in SHORTCUTS} | OPTIONS,
    "order": ORDERS,
    "join": JOINS,
    "start": {"he": "he", "identity": "identity"},
    "stride": {"1x1": 0, "3x3": 1},
}
"""What each part of a unit can be replaced by, by name."""

Changes = dict[str, str]
"""Parts to replace: those of PARTS, `width` (a factor), `units` (of each stage, as 3-6-3), `head` (mean or vlad) and, in an
ImageNet network, `stem` (7x7 or 3x3)."""

PLAIN, PREACT = Unit(shortcut="none"), Unit(order=ORDERS["full-preact"])
FAMILIES: dict[str, Unit] = {
    "plain": PLAIN,
    "resnet": Unit(),
    "preresnet": PREACT,
    "highway": Unit(kernels=(3,), order=ORDERS["highway"], join=Gate(bias=-2.0, kernel=3)),
}
"""The 32x32 families: plain twins and option-A residual nets (He et al. 2015, section 4.2), pre-activation nets (He et al.
2016, Table 3), and Highway nets, whose gates are convolutions like the layers they stand beside (Srivastava et al. 2015)."""

BARE = Unit(kernels=(1, 1), order=ORDERS["bare"])
CONNECTED: dict[str, Unit] = {
    "plain": replace(BARE, shortcut="none"),
    "resnet": replace(BARE, shortcut="project"),
    "highway": Unit(kernels=(1,), order=ORDERS["highway"], join=Gate(bias=-2.0)),
}
"""The fully connected families, with biases and without BN: a[l+2] = g(W g(W a[l] + b) + b + W_s a[l])."""

BOTTLENECKS_FROM = 164  # layers; pre-activation nets of 110 layers are made of two-layer blocks (He et al. 2016, section 5)

IMAGENET = {
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)
}  # fmt: skip
"""Units per stage (He et al. 2015, Table 1; 200: He et al. 2016, Table 5); bottlenecks from 50 layers on."""

IMAGENET_FAMILIES = {"plain": PLAIN, "resnet": Unit(shortcut="project"), "preresnet": replace(PREACT, shortcut="project")}


def cifar(family: str, depth: int, changes: Changes) -> Network:
    """Three stages of widths 16, 32, 64 (x4 for bottlenecks) on a 3x3 stem (He et al. 2015, section 4.2; 2016, section 5).

    A depth counts weight layers: 6n+2 for two-layer blocks, 9n+2 for bottlenecks.  Pre-activation nets of 164 layers and more
    are made of bottlenecks with option-B shortcuts where their depth allows it, as in He et al. 2016.
    """
    refuse_stem(changes)
    unit = FAMILIES[family]
    either = family == "preresnet" and depth >= BOTTLENECKS_FROM and changes.get("block", "bottleneck") == "bottleneck"
    if either and (depth - 2) % 9 == 0:
        unit = with_block(replace(unit, shortcut="project"), BLOCKS["bottleneck"])
    unit, squeeze = adapted(unit, changes), BLOCKS["bottleneck"].squeeze
    widths = [16 * 2**i * (squeeze if unit.squeeze > 1 else 1) for i in range(3)]
    hint = ", or 9n+2 for bottlenecks" if either and "block" not in changes else ""
    units = units_of(f"cifar-{family}", depth, unit, 3, changes, hint)
    return made(f"cifar-{family}{depth}", (3, 32, 32), Stem(width=16), unit, stages_of(widths, units), 10, changes)


def wide(depth: int, changes: Changes) -> Network:
    """Wide residual nets for 32x32 images: pre-activation, two-layer blocks (Zagoruyko & Komodakis 2016, Table 1).

    Our plans count two layers less than the name, which counts the projections too.
    """
    low = max(depth - (depth - 4) % 6, 10)
    if depth != low:
        raise UsageError(f"no {depth}-layer cifar-wrn network: depth must be 6n+4, e.g. {low} or {low + 6}")
    net = cifar("preresnet", depth - 2, {"block": "basic", "shortcut": "B"} | changes)
    return replace(net, name=f"cifar-wrn{depth}")


def imagenet(family: str, depth: int, changes: Changes) -> Network:
    """Four stages on a 7x7 stem with a max-pool (He et al. 2015, Table 1); projections where shapes change (option B)."""
    if depth not in IMAGENET and "units" not in changes:
        raise UsageError(f"no {depth}-layer ImageNet network: depth must be one of {', '.join(map(str, IMAGENET))}")
    own = "bottleneck" if depth >= 50 else "basic"
    if "units" not in changes and changes.get("block", own) != own:
        raise UsageError(
            f"resnet{depth} is made of {own} blocks: resnet18 and resnet34 are basic, resnet50 to resnet200 bottleneck"
        )
    unit = adapted(with_block(IMAGENET_FAMILIES[family], BLOCKS[own]), changes)
    widths = [64 * 2**i * (4 if unit.squeeze > 1 else 1) for i in range(4)]
    units = IMAGENET[depth] if "units" not in changes else units_of(family, depth, unit, 4, changes)
    stems = {"7x7": Stem(width=64, kernel=7, stride=2, pool=True), "3x3": Stem(width=64)}  # the second for small images
    stem = chosen("stem", changes.get("stem", "7x7"), stems)
    return made(f"{family}{depth}", (3, 224, 224), stem, unit, stages_of(widths, units), 1000, changes)


def connected(family: str, depth: int, changes: Changes) -> Network:
    """Fully connected layers of 128 and then 256 numbers, so that one shortcut needs a W_s of 256x128; our choice."""
    refuse_stem(changes)
    if "stride" in changes:
        raise UsageError("a fully connected net has no positions to skip: leave stride out")
    unit = adapted(CONNECTED[family], changes)
    unit = replace(unit, kernels=(1,) * len(unit.kernels))
    units = units_of(f"fc-{family}", depth, unit, 2, changes)
    return made(f"fc-{family}{depth}", (784,), Stem(width=128, kernel=1), unit, stages_of([128, 256], units, 1), 10, changes)


def lecture(family: str, depth: int, changes: Changes) -> Network:
    """Five blocks with biases and without BN, and a pooling layer now and then: conv conv conv pool, conv conv conv conv pool,
    conv conv conv conv, fully connected (after Ng's lecture on residual nets; widths are our choice)."""
    refuse_stem(changes)
    unit = adapted(replace(CONNECTED[family], kernels=(3, 3)), changes)
    units = units_of(f"lecture-{family}", depth, unit, 3, {"units": "1-2-2"} | changes)
    stages = [Stage(32 * 2**i, n, pool=i > 0) for i, n in enumerate(units)]
    return made(f"lecture-{family}{depth}", (3, 32, 32), Stem(width=32), unit, stages, 10, changes)


Maker = Callable[[int, Changes], Network]
MAKERS: dict[str, Maker] = {
    **{f"cifar-{family}": partial(cifar, family) for family in FAMILIES},
    **{f"fc-{family}": partial(connected, family) for family in CONNECTED},
    **{f"lecture-{family}": partial(lecture, family) for family in ("plain", "resnet")},
    **{family: partial(imagenet, family) for family in IMAGENET_FAMILIES},
}
"""By what stands before the depth in a name."""
WIDE_MAKERS: dict[str, Maker] = {"cifar-wrn": wide, "wide-resnet": partial(imagenet, "resnet")}
"""The same for names that end in a factor of width, such as cifar-wrn28-10."""


def made(name: str, input: tuple[int, ...], stem: Stem, unit: Unit, stages: list[Stage], classes: int, changes: Changes) -> Network:
    """The network, widened, and with the head that `changes` ask for."""
    factor = whole("width", changes.get("width", "1"))
    if factor > 1 and unit.squeeze > 1:  # a wide bottleneck is wide inside
        if unit.squeeze % factor:
            raise UsageError(f"a bottleneck that squeezes by {unit.squeeze} cannot be {factor} times as wide: choose a divisor")
        unit = replace(unit, squeeze=unit.squeeze // factor)
    elif factor > 1:
        stages = [replace(stage, width=stage.width * factor) for stage in stages]
    heads = {"mean": Head(), "vlad": Head(pool="vlad")}
    head = chosen("head", changes.get("head", "mean"), heads)
    return Network(name=name, input=input, stem=stem, unit=unit, stages=tuple(stages), classes=classes, head=head)


def adapted(unit: Unit, changes: Changes) -> Unit:
    """`unit` with the parts that `changes` name."""
    if "block" in changes:
        unit = with_block(unit, chosen("block", changes["block"], BLOCKS))
    asked = {part: chosen(part, changes[part], values) for part, values in PARTS.items() if part in changes and part != "block"}
    if "stride" in asked:
        asked["stride_at"] = asked.pop("stride")
        if unit.kernels != (1, 3, 1):
            raise UsageError("only a bottleneck can stride on its 1x1 or its 3x3: leave stride out, or add block=bottleneck")
    return replace(unit, **asked)


def refuse_stem(changes: Changes) -> None:
    if "stem" in changes:
        raise UsageError("only ImageNet networks have a stem to choose, e.g. resnet18,stem=3x3: leave stem out")


def with_block(unit: Unit, block: Unit) -> Unit:
    return replace(unit, kernels=block.kernels, squeeze=block.squeeze)


def chosen(part: str, name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise unknown(part, name, values)
    return values[name]


MOST = 10_000  # units of a stage, and factors of width


def whole(part: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < MOST):
        raise UsageError(f"{part}={text} is impossible: give a whole number from 1 to {MOST - 1:,}")
    return int(text)


def stages_of(widths: list[int], units: tuple[int, ...], stride: int = 2) -> list[Stage]:
    """Stages of those widths and numbers of units; all but the first stride."""
    return [Stage(width, n, 1 if i == 0 else stride) for i, (width, n) in enumerate(zip(widths, units, strict=True))]


def units_of(name: str, depth: int, unit: Unit, stages: int, changes: Changes, hint: str = "") -> tuple[int, ...]:
    """Units of each stage: those asked for, which must agree with the depth, or as many in each."""
    layers = len(unit.kernels)
    if "units" in changes:
        units = tuple(whole("units", number) for number in changes["units"].split("-"))
        if len(units) != stages or sum(units) * layers + 2 != depth:
            raise UsageError(
                f"units={changes['units']} does not fit {name}{depth}: "
                f"give {stages} numbers that make {layers} x their sum + 2 layers, e.g. {name}{sum(units) * layers + 2}"
            )
        return units
    each, rest = divmod(depth - 2, stages * layers)
    if rest or each < 1:
        low = max(depth - rest, stages * layers + 2)
        form = f"{stages * layers}n+2{hint}"
        raise UsageError(f"no {depth}-layer {name} network: depth must be {form}, e.g. {low} or {low + stages * layers}")
    return (each,) * stages

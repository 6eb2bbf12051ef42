"""The families of networks of the papers, as functions of a depth, and the parts that can be replaced in any of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from residua.config.network import (
    ORDERS,
    SHORTCUTS,
    Add,
    Drop,
    Gate,
    Head,
    Network,
    Scale,
    Stage,
    Stem,
    Unit,
)
from residua.errors import UsageError, unknown_name_error

SHORTCUT_LETTERS = {
    "A": "pad",
    "B": "project",
    "C": "project-all",
}  # the letters of He et al. 2015, section 4.1
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
UNIT_PARTS: dict[str, Mapping[str, Any]] = {
    "block": BLOCKS,
    "shortcut": {name: name for name in SHORTCUTS} | SHORTCUT_LETTERS,
    "order": ORDERS,
    "join": JOINS,
    "start": {"he": "he", "identity": "identity"},
    "stride": {"1x1": 0, "3x3": 1},
}
"""What each part of a unit can be replaced by, by name."""

NameChanges = dict[str, str]
"""Parts to replace: those of PARTS, `width` (a factor), `units` (of each stage, as 3-6-3), `head` (mean or vlad) and, in an
ImageNet network, `stem` (7x7 or 3x3)."""

PLAIN_UNIT, PREACT_UNIT = Unit(shortcut="none"), Unit(order=ORDERS["full-preact"])
CIFAR_FAMILIES: dict[str, Unit] = {
    "plain": PLAIN_UNIT,
    "resnet": Unit(),
    "preresnet": PREACT_UNIT,
    "highway": Unit(kernels=(3,), order=ORDERS["highway"], join=Gate(bias=-2.0, kernel=3)),
}
"""The 32x32 families: plain twins and option-A residual nets (He et al. 2015, section 4.2), pre-activation nets (He et al.
2016, Table 3), and Highway nets, whose gates are convolutions like the layers they stand beside (Srivastava et al. 2015)."""

FC_UNIT = Unit(kernels=(1, 1), order=ORDERS["bare"])
FC_FAMILIES: dict[str, Unit] = {
    "plain": replace(FC_UNIT, shortcut="none"),
    "resnet": replace(FC_UNIT, shortcut="project"),
    "highway": Unit(kernels=(1,), order=ORDERS["highway"], join=Gate(bias=-2.0)),
}
"""The fully connected families, with biases and without BN: a[l+2] = g(W g(W a[l] + b) + b + W_s a[l])."""

BOTTLENECK_MIN_DEPTH = 164  # layers; pre-activation nets of 110 layers are made of two-layer blocks (He et al. 2016, section 5)

IMAGENET_STAGE_UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Units per stage (He et al. 2015, Table 1; 200: He et al. 2016, Table 5); bottlenecks from 50 layers on."""

IMAGENET_FAMILIES = {
    "plain": PLAIN_UNIT,
    "resnet": Unit(shortcut="project"),
    "preresnet": replace(PREACT_UNIT, shortcut="project"),
}


def make_cifar_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Three stages of widths 16, 32, 64 (x4 for bottlenecks) on a 3x3 stem (He et al. 2015, section 4.2; 2016, section 5).

    A depth counts weight layers: 6n+2 for two-layer blocks, 9n+2 for bottlenecks.  Pre-activation nets of 164 layers and more
    are made of bottlenecks with option-B shortcuts where their depth allows it, as in He et al. 2016.
    """
    refuse_stem_change(changes)
    unit = CIFAR_FAMILIES[family]
    may_use_bottlenecks = (
        family == "preresnet"
        and depth >= BOTTLENECK_MIN_DEPTH
        and changes.get("block", "bottleneck") == "bottleneck"
    )
    if may_use_bottlenecks and (depth - 2) % 9 == 0:
        unit = replace_block(replace(unit, shortcut="project"), BLOCKS["bottleneck"])
    unit, squeeze = replace_unit_parts(unit, changes), BLOCKS["bottleneck"].squeeze
    widths = [16 * 2**i * (squeeze if unit.squeeze > 1 else 1) for i in range(3)]
    hint = ", or 9n+2 for bottlenecks" if may_use_bottlenecks and "block" not in changes else ""
    units = resolve_units_per_stage(f"cifar-{family}", depth, unit, 3, changes, hint)
    return assemble_network(
        f"cifar-{family}{depth}",
        (3, 32, 32),
        Stem(width=16),
        unit,
        make_stages(widths, units),
        10,
        changes,
    )


def make_wide_resnet(depth: int, changes: NameChanges) -> Network:
    """Wide residual nets for 32x32 images: pre-activation, two-layer blocks (Zagoruyko & Komodakis 2016, Table 1).

    Our plans count two layers less than the name, which counts the projections too.
    """
    nearest_depth = max(depth - (depth - 4) % 6, 10)
    if depth != nearest_depth:
        raise UsageError(
            f"no {depth}-layer cifar-wrn network: depth must be 6n+4, e.g. {nearest_depth} or {nearest_depth + 6}"
        )
    net = make_cifar_network("preresnet", depth - 2, {"block": "basic", "shortcut": "B"} | changes)
    return replace(net, name=f"cifar-wrn{depth}")


def make_imagenet_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Four stages on a 7x7 stem with a max-pool (He et al. 2015, Table 1); projections where shapes change (option B)."""
    if depth not in IMAGENET_STAGE_UNITS and "units" not in changes:
        raise UsageError(
            f"no {depth}-layer ImageNet network: depth must be one of {', '.join(map(str, IMAGENET_STAGE_UNITS))}"
        )
    default_block = "bottleneck" if depth >= 50 else "basic"
    if "units" not in changes and changes.get("block", default_block) != default_block:
        raise UsageError(
            f"resnet{depth} is made of {default_block} blocks: resnet18 and resnet34 are basic, resnet50 to resnet200 bottleneck"
        )
    unit = replace_unit_parts(
        replace_block(IMAGENET_FAMILIES[family], BLOCKS[default_block]), changes
    )
    widths = [64 * 2**i * (4 if unit.squeeze > 1 else 1) for i in range(4)]
    units = (
        IMAGENET_STAGE_UNITS[depth]
        if "units" not in changes
        else resolve_units_per_stage(family, depth, unit, 4, changes)
    )
    stems = {
        "7x7": Stem(width=64, kernel=7, stride=2, pool=True),
        "3x3": Stem(width=64),
    }  # the second for small images
    stem = look_up_part("stem", changes.get("stem", "7x7"), stems)
    return assemble_network(
        f"{family}{depth}", (3, 224, 224), stem, unit, make_stages(widths, units), 1000, changes
    )


def make_fc_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Fully connected layers of 128 and then 256 numbers, so that one shortcut needs a W_s of 256x128; our choice."""
    refuse_stem_change(changes)
    if "stride" in changes:
        raise UsageError("a fully connected net has no positions to skip: leave stride out")
    unit = replace_unit_parts(FC_FAMILIES[family], changes)
    unit = replace(unit, kernels=(1,) * len(unit.kernels))
    units = resolve_units_per_stage(f"fc-{family}", depth, unit, 2, changes)
    return assemble_network(
        f"fc-{family}{depth}",
        (784,),
        Stem(width=128, kernel=1),
        unit,
        make_stages([128, 256], units, 1),
        10,
        changes,
    )


def make_lecture_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Five blocks with biases and without BN, and a pooling layer now and then: conv conv conv pool, conv conv conv conv pool,
    conv conv conv conv, fully connected (after Ng's lecture on residual nets; widths are our choice)."""
    refuse_stem_change(changes)
    unit = replace_unit_parts(replace(FC_FAMILIES[family], kernels=(3, 3)), changes)
    units = resolve_units_per_stage(
        f"lecture-{family}", depth, unit, 3, {"units": "1-2-2"} | changes
    )
    stages = [Stage(32 * 2**i, n, pool=i > 0) for i, n in enumerate(units)]
    return assemble_network(
        f"lecture-{family}{depth}", (3, 32, 32), Stem(width=32), unit, stages, 10, changes
    )


NetworkMaker = Callable[[int, NameChanges], Network]
NETWORK_MAKERS: dict[str, NetworkMaker] = {
    **{f"cifar-{family}": partial(make_cifar_network, family) for family in CIFAR_FAMILIES},
    **{f"fc-{family}": partial(make_fc_network, family) for family in FC_FAMILIES},
    **{
        f"lecture-{family}": partial(make_lecture_network, family) for family in ("plain", "resnet")
    },
    **{family: partial(make_imagenet_network, family) for family in IMAGENET_FAMILIES},
}
"""By what stands before the depth in a name."""
WIDE_NETWORK_MAKERS: dict[str, NetworkMaker] = {
    "cifar-wrn": make_wide_resnet,
    "wide-resnet": partial(make_imagenet_network, "resnet"),
}
"""The same for names that end in a factor of width, such as cifar-wrn28-10."""


def assemble_network(
    name: str,
    input: tuple[int, ...],
    stem: Stem,
    unit: Unit,
    stages: list[Stage],
    classes: int,
    changes: NameChanges,
) -> Network:
    """The network, widened, and with the head that `changes` ask for."""
    width_factor = parse_count("width", changes.get("width", "1"))
    if width_factor > 1 and unit.squeeze > 1:  # a wide bottleneck is wide inside
        if unit.squeeze % width_factor:
            raise UsageError(
                f"a bottleneck that squeezes by {unit.squeeze} cannot be {width_factor} times as wide: choose a divisor"
            )
        unit = replace(unit, squeeze=unit.squeeze // width_factor)
    elif width_factor > 1:
        stages = [replace(stage, width=stage.width * width_factor) for stage in stages]
    heads = {"mean": Head(), "vlad": Head(pool="vlad")}
    head = look_up_part("head", changes.get("head", "mean"), heads)
    return Network(
        name=name,
        input=input,
        stem=stem,
        unit=unit,
        stages=tuple(stages),
        classes=classes,
        head=head,
    )


def replace_unit_parts(unit: Unit, changes: NameChanges) -> Unit:
    """`unit` with the parts that `changes` name."""
    if "block" in changes:
        unit = replace_block(unit, look_up_part("block", changes["block"], BLOCKS))
    replacements = {
        part: look_up_part(part, changes[part], values)
        for part, values in UNIT_PARTS.items()
        if part in changes and part != "block"
    }
    if "stride" in replacements:
        replacements["stride_at"] = replacements.pop("stride")
        if unit.kernels != (1, 3, 1):
            raise UsageError(
                "only a bottleneck can stride on its 1x1 or its 3x3: leave stride out, or add block=bottleneck"
            )
    return replace(unit, **replacements)


def refuse_stem_change(changes: NameChanges) -> None:
    if "stem" in changes:
        raise UsageError(
            "only ImageNet networks have a stem to choose, e.g. resnet18,stem=3x3: leave stem out"
        )


def replace_block(unit: Unit, block: Unit) -> Unit:
    return replace(unit, kernels=block.kernels, squeeze=block.squeeze)


def look_up_part(part: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise unknown_name_error(part, name, choices)
    return choices[name]


MAX_COUNT = 10_000  # units of a stage, and factors of width


def parse_count(part: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < MAX_COUNT):
        raise UsageError(
            f"{part}={text} is impossible: give a whole number from 1 to {MAX_COUNT - 1:,}"
        )
    return int(text)


def make_stages(
    widths: list[int], units_per_stage: tuple[int, ...], stride: int = 2
) -> list[Stage]:
    """Stages of those widths and numbers of units; all but the first stride."""
    return [
        Stage(width, n, 1 if i == 0 else stride)
        for i, (width, n) in enumerate(zip(widths, units_per_stage, strict=True))
    ]


def resolve_units_per_stage(
    family: str, depth: int, unit: Unit, stage_count: int, changes: NameChanges, hint: str = ""
) -> tuple[int, ...]:
    """Units of each stage: those asked for, which must agree with the depth, or as many in each."""
    layers_per_unit = len(unit.kernels)
    if "units" in changes:
        units = tuple(parse_count("units", number) for number in changes["units"].split("-"))
        if len(units) != stage_count or sum(units) * layers_per_unit + 2 != depth:
            raise UsageError(
                f"units={changes['units']} does not fit {family}{depth}: "
                f"give {stage_count} numbers that make {layers_per_unit} x their sum + 2 layers, e.g. {family}{sum(units) * layers_per_unit + 2}"
            )
        return units
    units_in_each, remainder = divmod(depth - 2, stage_count * layers_per_unit)
    if remainder or units_in_each < 1:
        nearest_depth = max(depth - remainder, stage_count * layers_per_unit + 2)
        depth_formula = f"{stage_count * layers_per_unit}n+2{hint}"
        raise UsageError(
            f"no {depth}-layer {family} network: depth must be {depth_formula}, e.g. {nearest_depth} or {nearest_depth + stage_count * layers_per_unit}"
        )
    return (units_in_each,) * stage_count

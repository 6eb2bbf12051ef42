"""Families of networks: functions that make the papers' networks of a given depth."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

from residua.config.joins import Gate
from residua.config.name_parts import (
    BLOCKS,
    HEADS,
    STEMS,
    NameChanges,
    look_up_part,
    parse_groups,
    parse_width_factor,
    refuse_stem_change,
    replace_block,
    replace_unit_parts,
)
from residua.config.network import Network, Unit
from residua.config.orders import ORDERS
from residua.config.record_network import make_record_network
from residua.config.stage_sizes import (
    make_stages,
    resolve_units_per_stage,
    scale_stages,
    scale_stem,
    scale_width,
    set_inner_width_ratio,
)
from residua.config.stages import Stage, Stem
from residua.errors import UsageError

PLAIN_UNIT, PREACT_UNIT = Unit(shortcut="none"), Unit(order=ORDERS["full-preact"])
CIFAR_FAMILIES: dict[str, Unit] = {
    "plain": PLAIN_UNIT,
    "resnet": Unit(),
    "preresnet": PREACT_UNIT,
    "highway": Unit(kernels=(3,), order=ORDERS["highway"], join=Gate(bias=-2.0, kernel=3)),
}
"""The unit of each family for 32x32 images: option-A residual nets and their plain counterparts
(He et al. 2015, section 4.2), pre-activation nets (He et al. 2016, Table 3), and Highway nets,
whose gates are convolutions of the same kernel size as their layers (Srivastava et al. 2015).
"""

FC_UNIT = Unit(kernels=(1, 1), order=ORDERS["bare"])
FC_FAMILIES: dict[str, Unit] = {
    "plain": replace(FC_UNIT, shortcut="none"),
    "resnet": replace(FC_UNIT, shortcut="project"),
    "highway": Unit(kernels=(1,), order=ORDERS["highway"], join=Gate(bias=-2.0)),
}
"""The unit of each fully connected family, with biases and without BN.  The residual unit is
a[l+2] = g(W g(W a[l] + b) + b + W_s a[l]).
"""

BOTTLENECK_MIN_DEPTH = 164
"""Number of layers from which pre-activation nets for 32x32 images are made of bottlenecks; the
110-layer net is made of two-layer blocks (He et al. 2016, section 5).
"""

IMAGENET_STAGE_UNITS: dict[int, dict[str, tuple[int, ...]]] = {
    18: {"basic": (2, 2, 2, 2)},
    34: {"basic": (3, 4, 6, 3)},
    50: {"bottleneck": (3, 4, 6, 3)},
    101: {"bottleneck": (3, 4, 23, 3)},
    152: {"bottleneck": (3, 8, 36, 3)},
    200: {"bottleneck": (3, 24, 36, 3)},
}
"""Number of units in each stage, by depth and block (He et al. 2015, Table 1; depth 200: He et al.
2016, Table 5).
"""
LATER_STAGE_UNITS: dict[int, dict[str, tuple[int, ...]]] = {
    10: {"basic": (1, 1, 1, 1)},
    12: {"basic": (2, 1, 1, 1)},
    14: {"basic": (2, 2, 1, 1), "bottleneck": (1, 1, 1, 1)},
    16: {"basic": (2, 2, 2, 1)},
    26: {"bottleneck": (2, 2, 2, 2), "basic": (3, 3, 3, 3)},
    38: {"bottleneck": (3, 3, 3, 3)},
    269: {"bottleneck": (3, 30, 48, 8)},
}
"""The same for the depths that timm and pytorchcv added.  The first block of a depth is its
default: at 26 layers that of timm.
"""
STAGE_UNITS = dict(sorted((IMAGENET_STAGE_UNITS | LATER_STAGE_UNITS).items()))

IMAGENET_FAMILIES = {
    "plain": PLAIN_UNIT,
    "resnet": Unit(shortcut="project"),
    "preresnet": replace(PREACT_UNIT, shortcut="project"),
}


def make_cifar_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Make a network for 32x32 images (He et al. 2015, section 4.2, and 2016, section 5).

    The network has a 3x3 stem and three stages of widths 16, 32 and 64, or four times as wide with
    bottlenecks.  The depth counts weight layers: 6n+2 for two-layer blocks, 9n+2 for bottlenecks.
    Pre-activation nets of 164 layers and more are made of bottlenecks with option-B shortcuts if
    their depth allows it, as in He et al. 2016.
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
    if len(unit.kernels) == 2 and (depth - 2) % 6 and not (depth - 2) % 9:
        hint += f" (bottlenecks: cifar-preresnet{depth},order=original)" * (family == "resnet")
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
    """Make a wide pre-activation net of two-layer blocks for 32x32 images.

    The network follows Zagoruyko & Komodakis 2016, Table 1.  Its name counts all convolutions, as
    the paper does: the projections, but not the last layer.  Its plan does not count projections
    but counts the last layer, so the depth in the plan is smaller by two.
    """
    nearest_depth = max(depth - (depth - 4) % 6, 10)
    if depth != nearest_depth:
        raise UsageError(
            f"cifar-wrn networks cannot have {depth} layers: depth must be 6n+4, "
            f"e.g. {nearest_depth} or {nearest_depth + 6}"
        )
    net = make_cifar_network("preresnet", depth - 2, {"block": "basic", "shortcut": "B"} | changes)
    return replace(net, name=f"cifar-wrn{depth}")


def make_imagenet_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Make a network for ImageNet: a 7x7 stem, a max-pool and four stages.

    The network follows He et al. 2015, Table 1, with option-B shortcuts.  Bottlenecks of depths
    that the papers do not have stride on the 3x3, as in timm and pytorchcv.
    """
    stage_units = STAGE_UNITS.get(depth)
    unit, default_block = IMAGENET_FAMILIES[family], "bottleneck" if depth >= 50 else "basic"
    if "units" not in changes:
        if stage_units is None:
            depths = ", ".join(map(str, STAGE_UNITS))
            raise UsageError(
                f"ImageNet networks cannot have {depth} layers: depth must be one of {depths}"
                + f"; for 32x32 images there is cifar-{family}{depth}" * (depth % 6 == 2)
            )
        default_block = next(iter(stage_units))
        block = changes.get("block", default_block)
        if block in BLOCKS and block not in stage_units:
            raise UsageError(
                f"{family}{depth} has {' or '.join(stage_units)} blocks, not {block}: leave block "
                "out, or give units= as well, as in resnet50,block=basic,units=6-6-6-6"
            )
        if depth in LATER_STAGE_UNITS and block == "bottleneck":
            changes = {"stride": "3x3"} | changes
    unit = replace_unit_parts(replace_block(unit, BLOCKS[default_block]), changes)
    widths = [64 * 2**i * (4 if unit.squeeze > 1 else 1) for i in range(4)]
    if stage_units is not None and "units" not in changes:
        units = stage_units[changes.get("block", default_block)]
    else:
        units = resolve_units_per_stage(family, depth, unit, 4, changes)
    stem = look_up_part("stem", changes.get("stem", "7x7"), STEMS)
    return assemble_network(
        f"{family}{depth}", (3, 224, 224), stem, unit, make_stages(widths, units), 1000, changes
    )


def make_fc_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Make a fully connected network with a stage of width 128 and a stage of width 256.

    The widths are our choice.  In a ResNet, the shortcut from 128 to 256 values is a projection W_s
    of shape 256x128.
    """
    refuse_stem_change(changes)
    if "stride" in changes:
        raise UsageError("a fully connected net has no stride: leave stride out")
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


def make_ng_lecture_network(family: str, depth: int, changes: NameChanges) -> Network:
    """Make a network of two-layer blocks with biases and without BN, after Ng's lecture on ResNets.

    The network has three stages with max-pools between them.  By default the stages have 1, 2 and 2
    blocks.  The widths are our choice.
    """
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
        f"lecture-{family}": partial(make_ng_lecture_network, family)
        for family in ("plain", "resnet")
    },
    **{family: partial(make_imagenet_network, family) for family in IMAGENET_FAMILIES},
    "cifar-record": make_record_network,
}
"""The function that makes a network, by the family: the part of the name before the depth."""
WIDE_NETWORK_MAKERS: dict[str, NetworkMaker] = {
    "cifar-wrn": make_wide_resnet,
    "wide-resnet": partial(make_imagenet_network, "resnet"),
}
"""Same as `NETWORK_MAKERS`, for names that end in a width factor, such as cifar-wrn28-10."""


def assemble_network(
    name: str,
    input: tuple[int, ...],
    stem: Stem,
    unit: Unit,
    stages: list[Stage],
    classes: int,
    changes: NameChanges,
) -> Network:
    """Make a network from its parts; `changes` may set a width factor, groups and a head.

    A width factor above 1 widens the inner layers of bottlenecks, and all layers of other units
    (Zagoruyko & Komodakis 2016).  A factor below 1 narrows all layers of the network.
    """
    width_factor = parse_width_factor(changes.get("width", "1"))
    if width_factor < 1:
        stem, stages = scale_stem(stem, width_factor), scale_stages(stages, width_factor)
    elif width_factor > 1 and unit.squeeze > 1:
        for stage in stages:  # that the factor gives whole numbers
            scale_width(stage.width // unit.squeeze, width_factor)
        unit = set_inner_width_ratio(unit, Fraction(width_factor, unit.squeeze))
    elif width_factor > 1:
        stages = scale_stages(stages, width_factor)
    if "groups" in changes:
        if width_factor != 1:
            raise UsageError("groups= and width= both set the inner widths: leave one of them out")
        count, width = parse_groups(changes["groups"])
        ratio = Fraction(count * width, stages[0].width)
        unit = replace(set_inner_width_ratio(unit, ratio), groups=count)
    head = look_up_part("head", changes.get("head", "mean"), HEADS)
    return Network(
        name=name,
        input=input,
        stem=stem,
        unit=unit,
        stages=tuple(stages),
        classes=classes,
        head=head,
    )

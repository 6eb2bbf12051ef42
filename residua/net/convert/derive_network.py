"""Derive the network of a file from the shapes of its tensors."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

from torch import Tensor

from residua.config.attention import MAX_REDUCTION, Attention, SqueezeExcitation
from residua.config.canonical_names import with_canonical_name
from residua.config.name_parts import ATTENTIONS, STEMS
from residua.config.network import Network, Shortcut, Unit
from residua.config.orders import ORDERS
from residua.config.papers import list_models
from residua.config.papers import network as network_of
from residua.config.plan import plan
from residua.config.stages import Stage, Stem
from residua.errors import RecordError, UsageError
from residua.net.convert.file_modules import (
    group_into_modules,
    list_possible_orders,
)
from residua.net.convert.match import count_units_per_stage, strip_trailing_ones
from residua.net.convert.names import parse_tensor_names
from residua.net.convert.network_shapes import NetworkShape, UnitShape, list_network_shapes
from residua.net.convert.positions import HEAD_POSITION, TensorShapes
from residua.net.convert.structure import split_off_head

DERIVED_ORDERS = ("original", "full-preact", "full-preact-bn-stem", "full-preact-no-tail")
# names of timm and of pytorchcv for a projection after an average pool, and of one without
POOLED_SHORTCUT = re.compile(r"downsample\.1\.weight$|\.identity_block\.")
PLAIN_SHORTCUT = re.compile(r"downsample\.0\.weight$|\.identity_conv\.")
TIMM_PREACTIVATION = re.compile(r"^stages\.0\.blocks\.0\.")


def derive_networks(tensors: Mapping[str, Tensor]) -> list[Network]:
    """List the networks with the shapes of the file's weights, in the usual orders of BN.

    Only basic blocks and bottlenecks are found.  The strides and pooling of a network, which shapes
    do not show, are the usual ones: bottlenecks stride on the 3x3, and so do the first units of the
    stages that names number or, without such names, of those that a new width begins.
    """
    named_units = count_named_units(tensors)
    modules = group_into_modules(tensors)
    norm_count = sum(module.is_norm for module in modules)
    shapes = dict.fromkeys(
        (shape, head.get(HEAD_POSITION))
        for ordered in list_possible_orders(modules)
        for weights, head in split_off_head(ordered)
        for shape in list_network_shapes(weights)
    )
    found: dict[Network, None] = {}
    for shape, head in shapes:
        for order in DERIVED_ORDERS if norm_count else DERIVED_ORDERS[:1]:
            classes = head.shape[0] if head else 1000
            for network in compose_networks(shape, order, classes, tensors, named_units):
                if norm_count <= count_norms(network):  # some may be folded into convolutions
                    found[name_network(network)] = None
    return [*found]


def count_norms(network: Network) -> int:
    return sum(layer.op == "bn" for layer in plan(network).layers)


def count_named_units(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Count the units in each stage that the names of a file number; () if they number none."""
    with suppress(RecordError):
        return count_units_per_stage(parse_tensor_names(tensors)[0])
    return ()


def compose_networks(
    shape: NetworkShape,
    order: str,
    classes: int,
    tensors: Mapping[str, Tensor],
    named_units: tuple[int, ...],
) -> Iterator[Network]:
    """Yield the networks of these shapes: with projections, of option B, D or C."""
    ratios = {(Fraction(unit.inner, unit.width), unit.groups) for unit in shape.units}
    has_attention = bool(shape.units[0].attention)
    attention = find_attention(shape.units) if has_attention else None
    if len(ratios) != 1 or (has_attention and attention is None):
        return
    (ratio, groups) = ratios.pop()
    if sum(named_units) != len(shape.units):
        named_units = ()
    stages = list_stages(shape.units, named_units)
    stage_count = len(named_units) or len(stages)
    if stage_count not in (3, 4):  # elsewhere a stage's stride is anyone's guess
        return
    for shortcut in list_shortcuts(shape, tensors):
        try:
            yield Network(
                name="",
                input=(shape.inputs, *([224] * 2 if stage_count == 4 else [32] * 2)),
                stem=make_stem(shape),
                stages=stages,
                unit=Unit(
                    kernels=shape.kernels,
                    squeeze=ratio.denominator,
                    expand=ratio.numerator,
                    groups=groups,
                    stride_at=1 if len(shape.kernels) == 3 else 0,
                    shortcut=shortcut,
                    order=ORDERS[order],
                    attention=attention,
                ),
                classes=classes,
            )
        except UsageError:
            return


def list_shortcuts(shape: NetworkShape, tensors: Mapping[str, Tensor]) -> tuple[Shortcut, ...]:
    """List the shortcuts that the shapes allow: of options A, B and C, and of ResNet-D.

    Only names show whether an average pool precedes a projection.  Without a known name, one is
    possible after a stem of three layers, as ResNet-D has it.
    """
    if not any(unit.has_projection for unit in shape.units):
        return ("pad",)
    if any(
        after.has_projection and before.width == after.width
        for before, after in pairwise(shape.units)
    ):
        return ("project-all",)
    if any(POOLED_SHORTCUT.search(name) and tensors[name].ndim > 1 for name in tensors):
        return ("pool-project",)
    has_deep_stem = len(shape.stem_widths) > 1
    if any(PLAIN_SHORTCUT.search(name) and tensors[name].ndim > 1 for name in tensors):
        return ("project",)
    if has_deep_stem and any(TIMM_PREACTIVATION.search(name) for name in tensors):
        return ("pool-project",)
    return ("project", "pool-project") if has_deep_stem else ("project",)


def list_stages(units: tuple[UnitShape, ...], named_units: tuple[int, ...]) -> tuple[Stage, ...]:
    """List the stages: one starts where the width changes, and where the file's names say so.

    If `named_units` counts the units of the stages in the names, a stage that only the width tells
    from the one before has stride 1: pytorchcv's resnet18_wd2 doubles the width in its last unit.
    """
    new_widths = {
        i for i, (before, after) in enumerate(pairwise(units), 1) if before.width != after.width
    }
    strided = set(accumulate(named_units[:-1])) or new_widths
    starts = sorted({0} | strided | new_widths)
    ends = [*starts[1:], len(units)]
    return tuple(
        Stage(units[start].width, end - start, stride=2 if start in strided else 1)
        for start, end in zip(starts, ends, strict=True)
    )


def renumber_split_stages(named: TensorShapes, network: Network) -> TensorShapes:
    """Number the units of a file as `network` does, if it has more stages for the same units.

    A stage of pytorchcv's resnet18_wd2 holds units of two widths, which are two stages here.
    """
    counts = count_units_per_stage(named)
    ours = tuple(stage.units for stage in network.stages)
    if len(ours) <= len(counts) or sum(ours) != sum(counts):
        return named
    new_places = dict(zip(list_unit_places(counts), list_unit_places(ours), strict=True))
    return {
        (position._replace(stage=stage, unit=unit), tensor): entry
        for (position, tensor), entry in named.items()
        for stage, unit in [new_places.get((position.stage, position.unit), (0, 0))]
    }


def list_unit_places(units_per_stage: tuple[int, ...]) -> list[tuple[int, int]]:
    """List the stage and the number of each unit, both from 1."""
    return [
        (stage, unit)
        for stage, count in enumerate(units_per_stage, 1)
        for unit in range(1, count + 1)
    ]


def find_attention(units: tuple[UnitShape, ...]) -> Attention | None:
    """Find the attention whose first weights have the shapes of all units."""
    reduction = units[-1].width // max(units[-1].attention[0], 1)
    own = SqueezeExcitation(reduction) if 1 <= reduction <= MAX_REDUCTION else SqueezeExcitation()
    for attention in (*ATTENTIONS.values(), own):
        if all(
            strip_trailing_ones(next(iter(attention.parameter_shapes(unit.width).values())))
            == unit.attention
            for unit in units
        ):
            return attention
    return None


def make_stem(shape: NetworkShape) -> Stem:
    """Make the stem: one of 7x7 and one of three layers have stride 2 and a max-pool."""
    is_reducing = shape.stem_kernel == 7 or len(shape.stem_widths) > 1
    return Stem(
        width=shape.stem_widths[-1],
        kernel=shape.stem_kernel,
        stride=2 if is_reducing else 1,
        pool=is_reducing,
        inner_widths=shape.stem_widths[:-1],
    )


def name_network(net: Network) -> Network:
    """Return `net` under the shortest name that makes it."""
    is_bottleneck = len(net.unit.kernels) == 3
    family = "resnet" if net.unit.order == ORDERS["original"] else "preresnet"
    is_cifar = len(net.stages) == 3
    base_width = (16 if is_cifar else 64) * (4 if is_bottleneck else 1)
    factor = Fraction(net.stages[0].width, base_width)
    if is_bottleneck and factor == 1 and net.unit.groups == 1:
        factor = Fraction(net.unit.expand * 4, net.unit.squeeze)
    stem = next((name for name, stem in STEMS.items() if stem == net.stem and not is_cifar), "")
    depth = 2 + sum(stage.units for stage in net.stages) * len(net.unit.kernels)
    hints = f",stem={stem}" * bool(stem) + f",width={float(factor):g}" * (factor != 1)
    named = with_canonical_name(replace(net, name=f"{'cifar-' * is_cifar}{family}{depth}{hints}"))
    known = [name for name in list_models() if str(depth) in name and "fc-" not in name]
    for name in [*known, f"cifar-wrn{depth + 2}-{float(factor):g}" * (factor > 1 and is_cifar)]:
        with suppress(UsageError):
            candidate = network_of(name, input=net.input, classes=net.classes)
            unit = replace(candidate.unit, attention=named.unit.attention)
            is_same = replace(candidate, name=named.name, unit=unit) == named
            # SE of timm differs from that of the paper only in units of few channels
            if is_same and plan(candidate).parameters == plan(named).parameters:
                return candidate
    return named

"""Rename a changed network, so that its name makes exactly this network again."""

from dataclasses import replace

from residua.config.name_parts import ATTENTIONS, JOINS, NameChanges
from residua.config.network import Network, Unit
from residua.config.orders import ORDERS
from residua.config.papers import network, parse_family_depth_width, parse_name_parts
from residua.config.timm_names import translate_timm_name
from residua.errors import UsageError

CUSTOM_TAG = "custom"


def with_units_per_stage(net: Network, units_per_stage: tuple[int, ...]) -> Network:
    """Return `net` with `units_per_stage` units in its stages, and with the matching name."""
    return with_canonical_name(
        replace(
            net,
            stages=tuple(
                replace(stage, units=n)
                for stage, n in zip(net.stages, units_per_stage, strict=True)
            ),
        )
    )


def with_canonical_name(net: Network, **replaced_families: str) -> Network:
    """Rename `net` so that `network` makes exactly this network from the new name.

    The new name keeps the family of the old name, unless `replaced_families` maps the family to
    another: `plain="resnet"` turns `cifar-plain` into `cifar-resnet`.  If no name describes the
    network, the tag `custom` is added to its name.
    """
    base, *name_changes = net.name.split(",")
    translated = translate_timm_name(base)
    try:
        family, _, factor = parse_family_depth_width(translated.base if translated else base)
        changes = parse_name_parts([word for word in name_changes if word != CUSTOM_TAG])
    except UsageError:
        return replace(net, name=f"{base},{CUSTOM_TAG}")
    width = factor or changes.get("width", "1")
    family = {"cifar-wrn": "cifar-preresnet", "wide-resnet": "resnet"}.get(family, family)
    for old, new in replaced_families.items():
        prefix, dash, base_family = family.rpartition("-")
        family = f"{prefix}{dash}{new}" if base_family == old else family
    outside_units = 2 + sum(stage.lead_has_weight for stage in net.stages)
    units_depth = sum(stage.units for stage in net.stages) * len(net.unit.kernels)
    name = f"{family}{outside_units + units_depth}"
    kept_keys = ("head", "stem", "widths")
    kept_changes: NameChanges = {key: changes[key] for key in kept_keys if key in changes}
    if translated and "stem" in translated.changes:
        kept_changes = {"stem": translated.changes["stem"]} | kept_changes
    units = {"units": "-".join(str(stage.units) for stage in net.stages)}
    all_changes = (
        unit_to_changes(net.unit, width, net.stages[0].width)
        | kept_changes
        | units
        | ({"width": width} if width != "1" else {})
    )
    try:
        candidate = network(
            ",".join([name, *(f"{k}={v}" for k, v in all_changes.items())]),
            input=net.input,
            classes=net.classes,
        )
    except UsageError:
        return replace(net, name=f"{name},{CUSTOM_TAG}")
    return (
        candidate
        if replace(net, name=candidate.name) == candidate
        else replace(net, name=f"{name},{CUSTOM_TAG}")
    )


def unit_to_changes(unit: Unit, width: str, stage_width: int) -> NameChanges:
    """Return the changes that describe `unit` in a name, e.g. `{"join": "shortcut-gate"}`.

    Parts that a name cannot describe are omitted.  `width` is the network's width factor, and
    `stage_width` the width of its first stage.
    """
    is_bottleneck = len(unit.kernels) == 3 and (
        len({*unit.kernels}) > 1 or unit.inner_width(stage_width) < stage_width or unit.groups > 1
    )
    groups = f"{unit.groups}x{unit.inner_width(stage_width) // unit.groups}d"
    blocks = {1: "single", 2: "basic", 3: "bottleneck" if is_bottleneck else "triple"}
    changes = {
        "block": blocks.get(len(unit.kernels)),
        "groups": groups if unit.groups > 1 and width == "1" else None,
        "attention": next((n for n, part in ATTENTIONS.items() if part == unit.attention), None),
        "fork": unit.fork if unit.fork != "first-unit" else None,
        "order": next((name for name, order in ORDERS.items() if order == unit.order), None),
        "join": next((name for name, join in JOINS.items() if join == unit.join), None),
        "shortcut": unit.shortcut,
        "start": unit.start,
        "stride": "3x3" if unit.kernels == (1, 3, 1) and unit.stride_at == 1 else None,
    }
    return {key: word for key, word in changes.items() if word is not None}

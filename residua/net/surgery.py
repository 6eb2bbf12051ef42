"""Deepen trained networks without changing outputs, remove units, add or remove shortcuts."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import overload

import torch
from torch import nn

from residua.config.canonical_names import with_canonical_name, with_units_per_stage
from residua.config.joins import Add, Gate, Scale
from residua.config.network import Network, Shortcut
from residua.config.plan import PlannedUnit, zero_init_branch
from residua.errors import UsageError
from residua.net.add_skips import add_skips_to_sequential
from residua.net.build import ResidualNetwork, build


def append_identity_units(
    net: ResidualNetwork, stage: int, count: int, seed: int = 0
) -> ResidualNetwork:
    """Copy `net`, and append `count` units to the given stage (counted from 1) of the copy.

    Each new unit is an identity at first, so that the outputs are bit-identical to those of `net`.
    The new units can learn, since only the last layer of each new branch is 0.  Raises UsageError
    if there is no such stage, or for a reason that `explain_not_identity` finds.
    """
    network = net.plan.network
    if not 1 <= stage <= len(network.stages):
        raise UsageError(
            f"{network.name} has no stage {stage}: choose from 1 to {len(network.stages)}"
        )
    if count < 1:
        raise UsageError(f"{count} units cannot be inserted: give at least 1")
    if reason := explain_not_identity(network):
        raise UsageError(
            f"{network.name} cannot be deepened without changing its outputs: {reason}"
        )
    unit_counts = tuple(s.units + count * (i == stage) for i, s in enumerate(network.stages, 1))
    deeper = build_with_same_output_kind(net, with_units_per_stage(network, unit_counts), seed)
    copy_device_mode_and_freezing(net, deeper)
    # new units come last in their stage, so that the old units keep their names
    deeper.load_state_dict(net.state_dict(), strict=False)
    stage_units = [
        (unit, planned)
        for unit, planned in zip(deeper.units, deeper.plan.units, strict=True)
        if planned.stage == stage
    ]
    for unit, planned in stage_units[-count:]:
        if not any(layer.op == "scale" for layer in planned.branch):
            for module, layer in zip(unit.branch, zero_init_branch(planned.branch), strict=True):
                if layer.zero_init:
                    nn.init.zeros_(module.get_parameter("weight"))
    return deeper


def build_with_same_output_kind(
    net: ResidualNetwork, network: Network, seed: int = 0
) -> ResidualNetwork:
    """Build `network`, which returns features instead of class scores if `net` does."""
    built = build(network, seed)
    if not net.num_classes:
        built.reset_classifier(0)
    return built


def copy_device_mode_and_freezing(
    source: ResidualNetwork, target: ResidualNetwork
) -> ResidualNetwork:
    """Copy `source`'s device, dtype, mode and frozen flags to `target`; return `target`.

    Parameters are matched by name, and `target` is changed in place.  Those that need no gradient
    in `target`, such as the scales of a BN without a learned scale, never get one.
    """
    frozen = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    weight = next(source.parameters())
    return target.to(weight.device, weight.dtype).train(source.training)


def explain_not_identity(network: Network) -> str:
    """Explain why a new unit of `network` cannot start as an identity and learn from there.

    A unit that starts as an identity has zero weights in the last layer of its branch.  Returns ""
    if a new unit can.
    """
    unit = network.unit
    match unit.join:
        case Gate():
            return "a gate scales its shortcuts"
        case Scale(a) if a != 1:
            return f"its shortcuts are scaled by {a}"
    if unit.shortcut == "none":
        return "a plain net has no shortcuts; residualize it first"
    if unit.shortcut == "project-all":
        return "every shortcut of option C is a projection; options A and B keep the identity"
    if "bn" in unit.order.after:
        return "its order has BN after the addition"
    if "silu" in unit.order.after:
        return "its order has SiLU after the addition, which changes what the shortcut passes on"
    if unit.order.last.endswith("relu"):
        return "its branches end in a ReLU, which passes no gradient at 0"
    if unit.branch_ends_in_fixed_scale and not unit.order.branch_has_skipinit_scale:
        return "its branches end in a BN whose scale is not learned, so that they would stay at 0"
    return ""


def remove_units(net: ResidualNetwork, unit_names: Sequence[str]) -> ResidualNetwork:
    """Copy `net` without the named units, e.g. `stage2.unit3`; the others keep their weights.

    The remaining units of a stage are renumbered.  Raises UsageError for an unknown name, for a
    unit that cannot be removed (see `is_removable_unit`), and if no unit of a stage would be left.
    """
    planned = {unit.name: unit for unit in net.plan.units}
    for name in unit_names:
        if name not in planned:
            first, last = net.plan.units[0].name, net.plan.units[-1].name
            raise UsageError(
                f"{net.plan.network.name} has no unit {name!r}: choose from {first} to {last}"
            )
        if not is_removable_unit(planned[name]):
            raise UsageError(
                f"{name} cannot be removed, because later units depend on its change of shape "
                "or its shared activation: choose another unit"
            )
    kept_units = [
        (module, plan)
        for module, plan in zip(net.units, net.plan.units, strict=True)
        if plan.name not in unit_names
    ]
    unit_counts = tuple(
        sum(plan.stage == s for _, plan in kept_units)
        for s, _ in enumerate(net.plan.network.stages, 1)
    )
    if 0 in unit_counts:
        raise UsageError(f"stage {unit_counts.index(0) + 1} would have no unit left: keep one")
    smaller = copy_device_mode_and_freezing(
        net, build_with_same_output_kind(net, with_units_per_stage(net.plan.network, unit_counts))
    )
    sources = [net.stem, *(module for module, _ in kept_units), net.head]
    targets = [smaller.stem, *smaller.units, smaller.head]
    for source, target in zip(sources, targets, strict=True):
        target.load_state_dict(source.state_dict())
    return smaller


def is_removable_unit(unit: PlannedUnit) -> bool:
    """Return whether a unit can be removed from its network.

    Its output must have the shape of its input, its shortcut must be the identity or absent, and it
    must have no lead, i.e. no layer whose output is the input of both branch and shortcut.
    """
    return (
        not unit.lead
        and unit.shortcut in ((), None)
        and unit.layers[0].input_shape == unit.output_shape
    )


@overload
def residualize(
    net: ResidualNetwork, every: int = 2, shortcut: Shortcut = "project", seed: int = 0
) -> ResidualNetwork: ...
@overload
def residualize(
    net: nn.Sequential, every: int = 2, shortcut: Shortcut = "project", seed: int = 0
) -> nn.Sequential: ...
def residualize(
    net: ResidualNetwork | nn.Sequential,
    every: int = 2,
    shortcut: Shortcut = "project",
    seed: int = 0,
) -> ResidualNetwork | nn.Sequential:
    """Copy a plain net, and add a skip connection over each group of `every` weight layers.

    The copy keeps the weights.  Where the shape changes, the shortcut is a new projection, or zero
    padding with shortcut="pad".  In an nn.Sequential, only projections are possible.  There, a skip
    connection can span weight layers, normalisation, dropout and activations, but never the last
    weight layer.  Raises UsageError if the layers cannot be grouped in this way, or if the net
    already has skip connections.
    """
    if every < 1:
        raise UsageError(f"a skip connection cannot span {every} layers: give at least 1")
    if isinstance(net, nn.Sequential):
        if shortcut != "project":
            raise UsageError(
                f"shortcut={shortcut!r} is not supported for an nn.Sequential, which can only "
                "match "
                "shapes by a projection: use shortcut='project'"
            )
        return add_skips_to_sequential(deepcopy(net), every, torch.Generator().manual_seed(seed))
    plain = net.plan.network
    if plain.unit.shortcut != "none":
        raise UsageError(f"{plain.name} already has skip connections: give a plain net")
    if shortcut == "none":
        raise UsageError("shortcut='none' adds no skip connections: choose project or pad")
    grouped = plain if every == len(plain.unit.kernels) else regroup_plain_layers(plain, every)
    residual = replace(grouped, unit=replace(grouped.unit, shortcut=shortcut))
    residual = with_canonical_name(residual, plain="resnet")
    return copy_main_path_weights(net, build_with_same_output_kind(net, residual, seed))


def regroup_plain_layers(network: Network, every: int) -> Network:
    """Regroup the layers of a plain network into units of `every` layers.

    Raises UsageError if this is impossible.
    """
    unit, layers = network.unit, len(network.unit.kernels)
    last_layer = f"{unit.order.last} {unit.order.after}".strip()
    if unit.order.each.startswith("weight") and unit.order.each != last_layer:
        raise UsageError(
            f"the layers within a unit of {network.name} differ, so a skip connection must span a "
            f"whole unit: give every={layers}"
        )
    has_mixed_layers = len({*unit.kernels}) > 1 or unit.squeeze > 1 or unit.stride_at
    if has_mixed_layers or any(stage.units * layers % every for stage in network.stages):
        raise UsageError(
            f"{network.name} cannot be cut into units of {every} layers: "
            "choose an 'every' that divides each stage's number of layers"
        )
    stages = tuple(replace(stage, units=stage.units * layers // every) for stage in network.stages)
    return replace(network, unit=replace(unit, kernels=unit.kernels[:1] * every), stages=stages)


def remove_shortcuts(net: ResidualNetwork) -> ResidualNetwork:
    """Copy `net` without its shortcuts and gates; the copy is a plain net with the same weights."""
    network = net.plan.network
    twin = replace(network, unit=replace(network.unit, shortcut="none", join=Add(), start="he"))
    twin = with_canonical_name(twin, resnet="plain", preresnet="plain", highway="plain")
    return copy_main_path_weights(net, build_with_same_output_kind(net, twin))


def copy_main_path_weights(source: ResidualNetwork, target: ResidualNetwork) -> ResidualNetwork:
    """Copy the weights of `source` into `target`, layer by layer, and return `target`.

    The weights of shortcuts and gates are not copied, since one of the nets may not have them.
    Device, dtype, mode and frozen flags are copied.
    """
    copy_device_mode_and_freezing(source, target)
    main_paths = iterate_main_path_layers(source), iterate_main_path_layers(target)
    for source_module, target_module in zip(*main_paths, strict=True):
        target_module.load_state_dict(source_module.state_dict())
    return target


def iterate_main_path_layers(net: ResidualNetwork) -> Iterator[nn.Module]:
    """Iterate over all modules with weights, from input to output, except shortcuts and gates."""
    unit_parts = (part for unit in net.units for part in (unit.lead, unit.branch, unit.after))
    parts = [net.stem, *unit_parts, net.head]
    return (module for part in parts for module in part.children() if module.state_dict())

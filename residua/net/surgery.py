"""Turn a plain net residual and back, deepen a trained net without changing its outputs, remove units."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from math import prod, sqrt
from typing import overload

import torch
from torch import Tensor, nn

from residua.config.network import Add, Gate, Network, Scale, Shortcut
from residua.config.papers import with_canonical_name, with_units_per_stage
from residua.config.plan import PlannedUnit, zero_init_branch
from residua.errors import UsageError
from residua.net.build import ResidualNetwork, build


def append_identity_units(
    net: ResidualNetwork, stage: int, count: int, seed: int = 0
) -> ResidualNetwork:
    """A copy with `units` more units at the end of stage `stage` (from 1), which start as the identity.

    Its outputs are those of `net` to the bit, and it can learn on from there: only the last layer of a new branch is 0.
    Raises UsageError where there is no such stage, or where no unit of that design is an identity.
    """
    network = net.plan.network
    if not 1 <= stage <= len(network.stages):
        raise UsageError(f"no stage {stage}: {network.name} has stages 1 to {len(network.stages)}")
    if count < 1:
        raise UsageError(f"{count} units cannot be inserted: give at least 1")
    if reason := explain_not_identity(network):
        raise UsageError(f"{network.name} cannot be deepened with its outputs unchanged: {reason}")
    deeper = build(
        with_units_per_stage(
            network, tuple(s.units + count * (i == stage) for i, s in enumerate(network.stages, 1))
        ),
        seed,
    )
    copy_device_and_mode(net, deeper).load_state_dict(
        net.state_dict(), strict=False
    )  # new units come last in a stage: names agree
    new_units = [
        (u, p) for u, p in zip(deeper.units, deeper.plan.units, strict=True) if p.stage == stage
    ][-count:]
    for unit, planned in new_units:
        if not any(layer.op == "scale" for layer in planned.branch):
            for module, layer in zip(unit.branch, zero_init_branch(planned.branch), strict=True):
                if layer.zero_init:
                    nn.init.zeros_(module.get_parameter("weight"))
    return deeper


def copy_device_and_mode(source: ResidualNetwork, target: ResidualNetwork) -> ResidualNetwork:
    """`other` where `net` is, in its precision and its mode; what is frozen in the one is frozen in the other."""
    frozen = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(name not in frozen)
    weight = next(source.parameters())
    return target.to(weight.device, weight.dtype).train(source.training)


def explain_not_identity(network: Network) -> str:
    """Why a unit whose branch is 0 does not give back its input, or could not learn from there; empty if it does."""
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
    if unit.order.last.endswith("relu"):
        return "its branches end in a ReLU, which passes no gradient at 0"
    return ""


def remove_units(net: ResidualNetwork, unit_names: Sequence[str]) -> ResidualNetwork:
    """A copy without the named units, such as `stage2.unit3`; the others keep their weights, and are counted anew.

    Raises UsageError for a name that does not exist, and for a unit that opens a stage by changing the shape or, in a
    pre-activation net, by the activation that both its paths share.
    """
    planned = {unit.name: unit for unit in net.plan.units}
    for name in unit_names:
        if name not in planned:
            raise UsageError(
                f"no unit {name!r}: {net.plan.network.name} has {net.plan.units[0].name} to {net.plan.units[-1].name}"
            )
        if not is_removable_unit(planned[name]):
            raise UsageError(
                f"{name} cannot be removed: the units behind it need what it does to the shape of its input"
            )
    kept_units = [
        (module, plan)
        for module, plan in zip(net.units, net.plan.units, strict=True)
        if plan.name not in unit_names
    ]
    stage_counts = tuple(
        sum(plan.stage == s for _, plan in kept_units)
        for s, _ in enumerate(net.plan.network.stages, 1)
    )
    if 0 in stage_counts:
        raise UsageError(f"stage {stage_counts.index(0) + 1} would have no unit left: keep one")
    smaller = copy_device_and_mode(net, build(with_units_per_stage(net.plan.network, stage_counts)))
    pairs = [(net.stem, smaller.stem), (net.head, smaller.head)]
    for ours, theirs in [
        *pairs,
        *zip((module for module, _ in kept_units), smaller.units, strict=True),
    ]:
        theirs.load_state_dict(ours.state_dict())
    return smaller


def is_removable_unit(unit: PlannedUnit) -> bool:
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
    """A copy of a plain net with a skip connection over every `every` weight layers; weights are kept.

    Where shapes differ the shortcut is a new projection W_s, or zero padding with shortcut="pad".  An nn.Sequential is cut
    where something other than a weight layer, normalisation or activation stands, its last weight layer stays outside, and
    its projections are all that it can have.  Raises UsageError where the layers cannot be grouped so, or the net has skips.
    """
    if every < 1:
        raise UsageError(f"a skip connection cannot lead around {every} layers: give at least 1")
    if isinstance(net, nn.Sequential):
        if shortcut != "project":
            raise UsageError(
                f"a skip connection in an nn.Sequential is a projection where shapes differ, not {shortcut!r}"
            )
        return add_skips_to_sequential(deepcopy(net), every, torch.Generator().manual_seed(seed))
    spec = net.plan.network
    if spec.unit.shortcut != "none":
        raise UsageError(f"{spec.name} has skip connections already: give a plain net")
    if shortcut == "none":
        raise UsageError("shortcut='none' adds no skip connections: choose project or pad")
    unit, layers = replace(spec.unit, shortcut=shortcut), len(spec.unit.kernels)
    stages = spec.stages
    if every != layers:
        if (
            unit.order.each.startswith("weight")
            and unit.order.each != f"{unit.order.last} {unit.order.after}".strip()
        ):
            raise UsageError(f"{spec.name} has layers of two kinds: give every={layers}")
        if (
            len({*unit.kernels}) > 1
            or unit.squeeze > 1
            or unit.stride_at
            or any(s.units * layers % every for s in stages)
        ):
            raise UsageError(
                f"{spec.name} cannot be cut into units of {every} layers: choose a divisor of each stage's layers"
            )
        unit = replace(unit, kernels=unit.kernels[:1] * every)
        stages = tuple(replace(stage, units=stage.units * layers // every) for stage in stages)
    residual = with_canonical_name(replace(spec, unit=unit, stages=stages), plain="resnet")
    return copy_layer_weights(net, build(residual, seed))


def remove_shortcuts(net: ResidualNetwork) -> ResidualNetwork:
    """A copy without shortcuts, gates and projections; the branches keep their weights."""
    network = net.plan.network
    twin = replace(network, unit=replace(network.unit, shortcut="none", join=Add(), start="he"))
    return copy_layer_weights(
        net, build(with_canonical_name(twin, resnet="plain", preresnet="plain", highway="plain"))
    )


def copy_layer_weights(source: ResidualNetwork, target: ResidualNetwork) -> ResidualNetwork:
    """`other` with the weights of `net`, layer by layer; shortcuts and gates, which only one of them may have, left alone."""
    for ours, theirs in zip(
        iterate_main_path(source),
        iterate_main_path(copy_device_and_mode(source, target)),
        strict=True,
    ):
        theirs.load_state_dict(ours.state_dict())
    return target


def iterate_main_path(net: ResidualNetwork) -> Iterator[nn.Module]:
    """The modules from input to output that hold weights, shortcuts and gates left out."""
    parts = [
        net.stem,
        *(part for unit in net.units for part in (unit.lead, unit.branch, unit.after)),
        net.head,
    ]
    return (module for part in parts for module in part.children() if module.state_dict())


class SkipConnection(nn.Module):
    """y = after(shortcut(x) + branch(x))."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.shortcut(x) + self.branch(x))
        return y


def add_skips_to_sequential(
    net: nn.Sequential, every: int, generator: torch.Generator
) -> nn.Sequential:
    """`net` itself, cut into groups of `every` weight layers, each with a shortcut around it."""
    modules, new_modules = list(net), list[nn.Module]()
    last_weight_index = max(
        (i for i, module in enumerate(modules) if isinstance(module, WEIGHT_LAYERS)), default=0
    )
    start = 0
    while start < len(modules):
        end = find_group_end(modules, start, last_weight_index, every)
        new_modules.append(
            modules[start] if end == start else wrap_with_skip(modules[start:end], generator)
        )
        start = max(end, start + 1)
    if not any(isinstance(module, SkipConnection) for module in new_modules):
        raise UsageError(
            f"no {every} weight layers stand one behind the other in this net: choose a smaller 'every'"
        )
    return nn.Sequential(*new_modules).train(net.training)


WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
ACTIVATION_LAYERS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh)
GROUPABLE_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Dropout,
    nn.Dropout2d,
    *ACTIVATION_LAYERS,
)


def find_group_end(modules: list[nn.Module], start: int, last_weight_index: int, every: int) -> int:
    """Where a group of `every` weight layers that begins at `start` ends; `start` itself where none does."""
    weight_count = 0
    for i in range(start, len(modules) + 1):
        ends = i == len(modules) or not isinstance(modules[i], GROUPABLE_LAYERS)
        if weight_count == every and ends:
            return i
        if ends and (i >= last_weight_index or not isinstance(modules[i], WEIGHT_LAYERS)):
            return start
        if i == start and not isinstance(modules[i], WEIGHT_LAYERS):
            return start
        weight_count += isinstance(modules[i], WEIGHT_LAYERS)
    return start


def wrap_with_skip(group: list[nn.Module], generator: torch.Generator) -> SkipConnection:
    """A shortcut around the group; its last activation comes after the sum (a[l+2] = g(z[l+2] + a[l]))."""
    weight_layers = [module for module in group if isinstance(module, WEIGHT_LAYERS)]
    last_activation_index = max(
        (i for i, module in enumerate(group) if isinstance(module, ACTIVATION_LAYERS)), default=0
    )
    split_index = (
        last_activation_index
        if last_activation_index > group.index(weight_layers[-1])
        else len(group)
    )
    return SkipConnection(
        nn.Sequential(*group[:split_index]),
        make_projection_or_identity(weight_layers, generator),
        nn.Sequential(*group[split_index:]),
    )


def make_projection_or_identity(
    weight_layers: list[nn.Conv2d | nn.Linear], generator: torch.Generator
) -> nn.Module:
    """The identity, or W_s where the layers change the shape."""
    first, last = weight_layers[0], weight_layers[-1]
    if isinstance(first, nn.Linear) and isinstance(last, nn.Linear):
        if first.in_features == last.out_features:
            return nn.Identity()
        shortcut: nn.Conv2d | nn.Linear = nn.Linear(
            first.in_features, last.out_features, bias=False
        )
    elif isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d):
        convs = [conv for conv in weight_layers if isinstance(conv, nn.Conv2d)]
        if unpadded := next((conv for conv in convs if not is_same_padded(conv)), None):
            raise UsageError(
                f"{unpadded} is no 'same' convolution: its output cannot be added to its input"
            )
        stride = prod(conv.stride[0] for conv in convs)
        if first.in_channels == last.out_channels and stride == 1:
            return nn.Identity()
        shortcut = nn.Conv2d(first.in_channels, last.out_channels, 1, stride, bias=False)
    else:
        raise UsageError(
            f"a shortcut cannot lead from {first} to {last}: their shapes cannot be matched"
        )
    nn.init.normal_(shortcut.weight, std=sqrt(2 / shortcut.weight[0].numel()), generator=generator)
    return shortcut.to(first.weight.device, first.weight.dtype)


def is_same_padded(conv: nn.Conv2d) -> bool:
    """Whether its output is as large as its input, or smaller by its stride alone."""
    half_kernel = tuple(
        dilation * (kernel - 1) // 2
        for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True)
    )
    is_odd = all(kernel % 2 for kernel in conv.kernel_size)
    return is_odd and conv.padding in ("same", half_kernel) and conv.stride[0] == conv.stride[1]

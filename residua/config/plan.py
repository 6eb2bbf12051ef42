"""Turn the description of a network into a plan: its concrete layers, with all shapes.

Networks are built, counted, drawn and exported from their plan.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from residua.config.heads import WeightStart
from residua.config.joins import Join
from residua.config.layers import ActivationShape, Layer, Layers
from residua.config.make_layers import make_avgpool, make_layers, make_maxpool
from residua.config.network import LEAD_KERNEL, Network, Unit
from residua.config.stages import Stage


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """One unit: `after(join(shortcut(lead(x)), branch(lead(x))))`.

    stage, index  number of the stage, and of the unit in its stage, both from 1
    lead          layers before the fork, whose output both paths share
    shortcut      layers of the shortcut; () for the identity, None if there is no shortcut
    gate          the weight layer of a gated join; () for other joins
    """

    stage: int
    index: int
    lead: Layers
    branch: Layers
    shortcut: Layers | None
    gate: Layers
    join: Join
    after: Layers

    @property
    def name(self) -> str:
        return f"stage{self.stage}.unit{self.index}"

    @property
    def layers(self) -> Layers:
        return self.lead + self.branch + (self.shortcut or ()) + self.gate + self.after

    @property
    def input_shape(self) -> ActivationShape:
        return (self.lead + self.branch)[0].input_shape

    @property
    def output_shape(self) -> ActivationShape:
        return self.branch[-1].output_shape


@dataclass(frozen=True)
class Plan:
    """A network's layers in order, with its depth, parameter count and multiply-adds."""

    network: Network
    stem: Layers
    units: tuple[PlannedUnit, ...]
    head: Layers

    @cached_property
    def layers(self) -> Layers:
        return self.stem + tuple(layer for unit in self.units for layer in unit.layers) + self.head

    @property
    def depth(self) -> int:
        """Number of weight layers, shortcuts excluded (He et al. 2015, section 4.2)."""
        units = tuple(layer for unit in self.units for layer in unit.lead + unit.branch)
        path = self.stem + units + self.head
        return sum(layer.op == "weight" for layer in path)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds of all layers per image."""
        return sum(layer.multiply_adds for layer in self.layers)


def plan(network: Network) -> Plan:
    """Return the plan of a network: its layers, with their shapes, strides and projections."""
    stem = plan_stem(network)
    units: list[PlannedUnit] = []
    total_units = sum(stage.units for stage in network.stages)
    for stage_number, stage in enumerate(network.stages, 1):
        for index in range(1, stage.units + 1):
            join = network.unit.join.at_depth((len(units) + 1) / total_units)
            planned = plan_unit(
                replace(network.unit, join=join),
                (stage_number, index),
                units[-1].output_shape if units else stem[-1].output_shape,
                stage.width,
                stage.stride if index == 1 else 1,
                lead_stage=stage if index == 1 else None,
                is_first=not units,
            )
            units.append(planned)
    return Plan(network, stem, tuple(units), plan_head(network, units[-1].output_shape))


def plan_stem(network: Network) -> Layers:
    channels, *size = network.input
    order, stem, norm = network.unit.order, network.stem, network.unit.norm
    input_shape = ActivationShape(channels, tuple(size))
    layers: Layers = () if size else (Layer("flatten", input_shape, input_shape),)
    inner_ops = "weight relu" if order.has_biases else "weight bn relu"
    for i, width in enumerate((*stem.inner_widths, stem.width)):
        layers += make_layers(
            inner_ops if i < len(stem.inner_widths) else order.stem,
            layers[-1].output_shape if layers else input_shape,
            width,
            stem.kernel,
            stem.stride if i == 0 else 1,
            order.has_biases or stem.start is not None,
            norm=norm,
            stem_start=stem.start,
        )
    return layers + (make_maxpool(layers[-1].output_shape),) * stem.pool


def plan_head(network: Network, input_shape: ActivationShape) -> Layers:
    norm, pooling = network.unit.norm, network.head
    layers = make_layers(network.unit.order.tail, input_shape, input_shape.channels, norm=norm)
    pooled_shape = input_shape
    if input_shape.size:
        pooled_shape = ActivationShape(network.head.pooled_channels(input_shape.channels), ())
        layers += (Layer(pooling.op_name, input_shape, pooled_shape, pooling=pooling),)
    scores_shape = ActivationShape(network.classes, ())
    has_bias, start = pooling.last_layer_has_bias, pooling.last_layer_start
    return (*layers, Layer("weight", pooled_shape, scores_shape, bias=has_bias, start=start))


def plan_unit(
    unit: Unit,
    position: tuple[int, int],
    input_shape: ActivationShape,
    width: int,
    stride: int,
    *,
    lead_stage: Stage | None,
    is_first: bool,
) -> PlannedUnit:
    lead = plan_stage_lead(lead_stage, unit, input_shape) if lead_stage else ()
    input_shape = lead[-1].output_shape if lead else input_shape
    shape_changes = input_shape.channels != width or stride != 1
    # He et al. 2016, appendix: the first unit, and units that change the shape, activate once
    opening_ops = unit.order.each.split("weight")[0].strip()
    is_activated = shape_changes or (is_first and unit.fork == "first-unit")
    shared_ops = opening_ops if is_activated else ""
    branch = plan_branch(unit, shared_ops, input_shape, width, stride)
    output_shape = branch[-1].output_shape
    gate: Layers = ()
    if (kernel := unit.join.gate_kernel) is not None:
        gate = (Layer("weight", input_shape, output_shape, kernel, stride, bias=True),)
    return PlannedUnit(
        *position,
        lead=lead + make_layers(shared_ops, input_shape, input_shape.channels, norm=unit.norm),
        branch=zero_init_branch(branch) if unit.start == "identity" else branch,
        shortcut=plan_shortcut(unit, input_shape, output_shape, stride, shape_changes),
        gate=gate,
        join=unit.join,
        after=make_layers(unit.order.after, output_shape, width, norm=unit.norm),
    )


def plan_stage_lead(stage: Stage, unit: Unit, input_shape: ActivationShape) -> Layers:
    """Return the layers before the first unit of a stage."""
    if stage.pool:
        return (make_maxpool(input_shape),)
    has_bias = "bn" not in stage.lead.split()
    return make_layers(
        stage.lead,
        input_shape,
        stage.width,
        LEAD_KERNEL,
        bias=has_bias,
        norm=unit.norm,
        start=choose_weight_start(unit),
    )


def choose_weight_start(unit: Unit) -> WeightStart:
    """Return how the initial weights of a unit's weight layers are drawn."""
    return "dirac" if unit.start == "dirac" else "he"


def plan_branch(
    unit: Unit, shared_ops: str, input_shape: ActivationShape, width: int, stride: int
) -> Layers:
    layers: Layers = ()
    for i, kernel in enumerate(unit.kernels):
        is_last = i == len(unit.kernels) - 1
        ops = unit.order.last if is_last else unit.order.each
        layers += make_layers(
            ops.removeprefix(shared_ops) if i == 0 else ops,
            layers[-1].output_shape if layers else input_shape,
            width if is_last else unit.inner_width(width),
            kernel,
            stride if i == unit.stride_at else 1,
            unit.order.has_biases,
            unit.layer_groups(i),
            norm=unit.norm,
            start=choose_weight_start(unit),
        )
    if unit.attention is not None:
        shape = layers[-1].output_shape
        layers += (Layer("attention", shape, shape, attention=unit.attention),)
    return layers


def zero_init_branch(branch: Layers) -> Layers:
    """Return the branch with one layer zero-initialised, so that the branch outputs 0 at first.

    The layer is the last BN if it follows the last weight layer, and otherwise the last weight
    layer.
    """
    last_weight = max(i for i, layer in enumerate(branch) if layer.op == "weight")
    last_bn = max((i for i, layer in enumerate(branch) if layer.op == "bn"), default=0)
    target = max(last_weight, last_bn)
    return (*branch[:target], replace(branch[target], zero_init=True), *branch[target + 1 :])


def plan_shortcut(
    unit: Unit,
    input_shape: ActivationShape,
    output_shape: ActivationShape,
    stride: int,
    shape_changes: bool,
) -> Layers | None:
    if unit.shortcut == "none":
        return None
    if unit.shortcut == "project-all" or (unit.shortcut == "project" and shape_changes):
        ops = unit.order.project
        return make_layers(ops, input_shape, output_shape.channels, 1, stride, norm=unit.norm)
    if unit.shortcut == "pool-project" and shape_changes:
        pool = (make_avgpool(input_shape, stride),) * (stride > 1)
        pooled_shape = pool[-1].output_shape if pool else input_shape
        ops = unit.order.project
        return pool + make_layers(ops, pooled_shape, output_shape.channels, norm=unit.norm)
    if shape_changes:
        new_channels = output_shape.channels - input_shape.channels
        pad_before = 0 if unit.shortcut == "pad-last" else new_channels // 2
        return (Layer("pad", input_shape, output_shape, stride=stride, pad_before=pad_before),)
    return ()

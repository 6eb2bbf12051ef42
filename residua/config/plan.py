"""Network -> concrete layers, with every decision taken.

Building, counting, drawing and exporting all read this one plan.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

from residua.config.network import Drop, Gate, Join, Network, Unit

LayerOp = Literal["weight", "bn", "relu", "scale", "flatten", "maxpool", "pad", "mean", "vlad"]


class ActivationShape(NamedTuple):
    """Of an activation, the batch dimension left out; `size` is () in a fully connected net."""

    channels: int
    size: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.channels * prod(self.size)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation and its shapes."""

    op: LayerOp
    input_shape: ActivationShape  # of its input
    output_shape: ActivationShape
    kernel: int = 1
    stride: int = 1
    bias: bool = False
    pad_before: int = 0  # channels of zeros that a pad puts first; the others come last
    zero_init: bool = False  # starts at 0

    @property
    def fan_in(self) -> int:
        """Numbers that one output of a weight layer is a weighted sum of."""
        return self.input_shape.channels * prod((self.kernel,) * len(self.output_shape.size))

    @property
    def vlad_centres(self) -> int:
        """Centres of a VLAD pooling."""
        return self.output_shape.channels // self.input_shape.channels

    @property
    def parameters(self) -> int:
        match self.op:
            case "weight":
                return (self.fan_in + self.bias) * self.output_shape.channels
            case "bn":
                return 2 * self.output_shape.channels
            case "scale":
                return 1
            case "vlad":
                return (
                    self.vlad_centres + 2 * self.vlad_centres * self.input_shape.channels
                )  # assignment with bias, centres
            case _:
                return 0

    @property
    def multiply_adds(self) -> int:
        """For one image; weight layers, as He et al. 2015 count them, and the two matrix products of VLAD."""
        match self.op:
            case "weight":
                return self.fan_in * self.output_shape.numel
            case "vlad":
                return 2 * self.vlad_centres * self.input_shape.numel
            case _:
                return 0


Layers = tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """One unit: `after(join(shortcut(lead(x)), branch(lead(x))))`."""

    stage: int  # from 1
    index: int  # in its stage, from 1
    lead: Layers  # before the fork: an activation that both paths share
    branch: Layers
    shortcut: Layers | None  # () is the identity, None is no shortcut
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
    """A network's layers in order, and what follows from them."""

    network: Network
    stem: Layers
    units: tuple[PlannedUnit, ...]
    head: Layers

    @cached_property
    def layers(self) -> Layers:
        return self.stem + tuple(layer for unit in self.units for layer in unit.layers) + self.head

    @property
    def depth(self) -> int:
        """Weight layers from input to output, shortcuts not counted (He et al. 2015, section 4.2)."""
        path = self.stem + tuple(layer for unit in self.units for layer in unit.branch) + self.head
        return sum(layer.op == "weight" for layer in path)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """For one image."""
        return sum(layer.multiply_adds for layer in self.layers)


def plan(network: Network) -> Plan:
    """Take every decision that `network` leaves to arithmetic."""
    stem = plan_stem(network)
    units: list[PlannedUnit] = []
    total_units = sum(stage.units for stage in network.stages)
    for s, stage in enumerate(network.stages, 1):
        for u in range(1, stage.units + 1):
            input_shape = units[-1].output_shape if units else stem[-1].output_shape
            join = scale_drop_probability(network.unit.join, (len(units) + 1) / total_units)
            pool, stride = (stage.pool, stage.stride) if u == 1 else (False, 1)
            units.append(
                plan_unit(
                    replace(network.unit, join=join),
                    (s, u),
                    input_shape,
                    stage.width,
                    stride,
                    pool,
                    is_first=not units,
                )
            )
    return Plan(network, stem, tuple(units), plan_head(network, units[-1].output_shape))


def scale_drop_probability(join: Join, depth_fraction: float) -> Join:
    """Stochastic depth after a share in (0, 1] of the units (Huang et al. 2016, Eq. 4)."""
    return replace(join, branch=join.branch * depth_fraction) if isinstance(join, Drop) else join


def plan_stem(network: Network) -> Layers:
    channels, *size = network.input
    order, stem = network.unit.order, network.stem
    input_shape = ActivationShape(channels, tuple(size))
    layers = make_layers(
        order.stem, input_shape, stem.width, stem.kernel, stem.stride, order.has_biases
    )
    if not size:
        layers = (Layer("flatten", input_shape, input_shape), *layers)
    return layers + (make_maxpool(layers[-1].output_shape),) * stem.pool


def plan_head(network: Network, input_shape: ActivationShape) -> Layers:
    tail = make_layers(network.unit.order.tail, input_shape, input_shape.channels)
    pooled = ActivationShape(
        input_shape.channels * (network.head.words if network.head.pool == "vlad" else 1), ()
    )
    pool = (Layer(network.head.pool, input_shape, pooled),) if input_shape.size else ()
    return (*tail, *pool, Layer("weight", pooled, ActivationShape(network.classes, ()), bias=True))


def plan_unit(
    unit: Unit,
    position: tuple[int, int],
    input_shape: ActivationShape,
    width: int,
    stride: int,
    pool: bool,
    is_first: bool,
) -> PlannedUnit:
    shape_changes = input_shape.channels != width or stride != 1
    opening_ops = unit.order.each.split("weight")[0].strip()
    shared_ops = (
        opening_ops if shape_changes or is_first else ""
    )  # He et al. 2016, appendix: activate before the fork
    pooled = (make_maxpool(input_shape),) * pool
    input_shape = pooled[-1].output_shape if pool else input_shape
    branch = plan_branch(unit, shared_ops, input_shape, width, stride)
    output_shape = branch[-1].output_shape
    gate: Layers = ()
    if isinstance(unit.join, Gate):
        gate = (Layer("weight", input_shape, output_shape, unit.join.kernel, stride, bias=True),)
    return PlannedUnit(
        *position,
        lead=pooled + make_layers(shared_ops, input_shape, input_shape.channels),
        branch=branch if unit.start == "he" else zero_init_branch(branch),
        shortcut=plan_shortcut(unit, input_shape, output_shape, stride, shape_changes),
        gate=gate,
        join=unit.join,
        after=make_layers(unit.order.after, output_shape, width),
    )


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
            width if is_last else width // unit.squeeze,
            kernel,
            stride if i == unit.stride_at else 1,
            unit.order.has_biases,
        )
    return layers


def zero_init_branch(branch: Layers) -> Layers:
    """The branch with 0 in its last BN, where one follows the last weight layer, or else in that weight layer."""
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
        return make_layers(unit.order.project, input_shape, output_shape.channels, 1, stride)
    if shape_changes:
        pad_before = (
            0
            if unit.shortcut == "pad-last"
            else (output_shape.channels - input_shape.channels) // 2
        )
        return (Layer("pad", input_shape, output_shape, stride=stride, pad_before=pad_before),)
    return ()


def make_layers(
    ops: str,
    input_shape: ActivationShape,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    bias: bool = False,
) -> Layers:
    """The layers of `ops` from `at` on; channels and size change at the weight layer, wherever it stands."""
    layers: list[Layer] = []
    for op in ops.split():
        match op:
            case "weight":
                output_shape = ActivationShape(width, downsample_shape(input_shape, stride).size)
                layers.append(Layer("weight", input_shape, output_shape, kernel, stride, bias))
                input_shape = output_shape
            case "bn" | "relu" | "scale":
                layers.append(Layer(op, input_shape, input_shape))
    return tuple(layers)


def make_maxpool(input_shape: ActivationShape) -> Layer:
    return Layer("maxpool", input_shape, downsample_shape(input_shape, 2), kernel=3, stride=2)


def downsample_shape(shape: ActivationShape, stride: int) -> ActivationShape:
    return ActivationShape(shape.channels, tuple(-(-s // stride) for s in shape.size))

"""Network -> concrete layers, with every decision taken.

Building, counting, drawing and exporting all read this one plan.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

from residua.spec.network import Drop, Gate, Join, Network, Unit

Op = Literal["weight", "bn", "relu", "scale", "flatten", "maxpool", "pad", "mean", "vlad"]


class Shape(NamedTuple):
    """Of an activation, the batch dimension left out; `size` is () in a fully connected net."""

    channels: int
    size: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return self.channels * prod(self.size)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation and its shapes."""

    op: Op
    at: Shape  # of its input
    out: Shape
    kernel: int = 1
    stride: int = 1
    bias: bool = False
    before: int = 0  # channels of zeros that a pad puts first; the others come last
    zero: bool = False  # starts at 0

    @property
    def fan_in(self) -> int:
        """Numbers that one output of a weight layer is a weighted sum of."""
        return self.at.channels * prod((self.kernel,) * len(self.out.size))

    @property
    def words(self) -> int:
        """Centres of a VLAD pooling."""
        return self.out.channels // self.at.channels

    @property
    def parameters(self) -> int:
        match self.op:
            case "weight":
                return (self.fan_in + self.bias) * self.out.channels
            case "bn":
                return 2 * self.out.channels
            case "scale":
                return 1
            case "vlad":
                return self.words + 2 * self.words * self.at.channels  # assignment with bias, centres
            case _:
                return 0

    @property
    def multiply_adds(self) -> int:
        """For one image; weight layers, as He et al. 2015 count them, and the two matrix products of VLAD."""
        match self.op:
            case "weight":
                return self.fan_in * self.out.numbers
            case "vlad":
                return 2 * self.words * self.at.numbers
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
    def at(self) -> Shape:
        return (self.lead + self.branch)[0].at

    @property
    def out(self) -> Shape:
        return self.branch[-1].out


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
    total = sum(stage.units for stage in network.stages)
    for s, stage in enumerate(network.stages, 1):
        for u in range(1, stage.units + 1):
            at = units[-1].out if units else stem[-1].out
            join = decayed(network.unit.join, (len(units) + 1) / total)
            pool, stride = (stage.pool, stage.stride) if u == 1 else (False, 1)
            units.append(plan_unit(replace(network.unit, join=join), (s, u), at, stage.width, stride, pool, first=not units))
    return Plan(network, stem, tuple(units), plan_head(network, units[-1].out))


def decayed(join: Join, share: float) -> Join:
    """Stochastic depth after a share in (0, 1] of the units (Huang et al. 2016, Eq. 4)."""
    return replace(join, branch=join.branch * share) if isinstance(join, Drop) else join


def plan_stem(network: Network) -> Layers:
    channels, *size = network.input
    order, stem = network.unit.order, network.stem
    at = Shape(channels, tuple(size))
    layers = lay(order.stem, at, stem.width, stem.kernel, stem.stride, order.biased)
    if not size:
        layers = (Layer("flatten", at, at), *layers)
    return layers + (maxpool(layers[-1].out),) * stem.pool


def plan_head(network: Network, at: Shape) -> Layers:
    tail = lay(network.unit.order.tail, at, at.channels)
    pooled = Shape(at.channels * (network.head.words if network.head.pool == "vlad" else 1), ())
    pool = (Layer(network.head.pool, at, pooled),) if at.size else ()
    return (*tail, *pool, Layer("weight", pooled, Shape(network.classes, ()), bias=True))


def plan_unit(unit: Unit, place: tuple[int, int], at: Shape, width: int, stride: int, pool: bool, first: bool) -> PlannedUnit:
    changes = at.channels != width or stride != 1
    opening = unit.order.each.split("weight")[0].strip()
    shared = opening if changes or first else ""  # He et al. 2016, appendix: activate before the fork
    pooled = (maxpool(at),) * pool
    at = pooled[-1].out if pool else at
    branch = plan_branch(unit, shared, at, width, stride)
    out = branch[-1].out
    gate: Layers = ()
    if isinstance(unit.join, Gate):
        gate = (Layer("weight", at, out, unit.join.kernel, stride, bias=True),)
    return PlannedUnit(
        *place,
        lead=pooled + lay(shared, at, at.channels),
        branch=branch if unit.start == "he" else starting_at_zero(branch),
        shortcut=plan_shortcut(unit, at, out, stride, changes),
        gate=gate,
        join=unit.join,
        after=lay(unit.order.after, out, width),
    )


def plan_branch(unit: Unit, shared: str, at: Shape, width: int, stride: int) -> Layers:
    layers: Layers = ()
    for i, kernel in enumerate(unit.kernels):
        last = i == len(unit.kernels) - 1
        ops = unit.order.last if last else unit.order.each
        layers += lay(
            ops.removeprefix(shared) if i == 0 else ops,
            layers[-1].out if layers else at,
            width if last else width // unit.squeeze,
            kernel,
            stride if i == unit.stride_at else 1,
            unit.order.biased,
        )
    return layers


def starting_at_zero(branch: Layers) -> Layers:
    """The branch with 0 in its last BN, where one follows the last weight layer, or else in that weight layer."""
    weight = max(i for i, layer in enumerate(branch) if layer.op == "weight")
    last = max((i for i, layer in enumerate(branch) if layer.op == "bn"), default=0)
    which = max(weight, last)
    return (*branch[:which], replace(branch[which], zero=True), *branch[which + 1 :])


def plan_shortcut(unit: Unit, at: Shape, out: Shape, stride: int, changes: bool) -> Layers | None:
    if unit.shortcut == "none":
        return None
    if unit.shortcut == "project-all" or (unit.shortcut == "project" and changes):
        return lay(unit.order.project, at, out.channels, 1, stride)
    if changes:
        before = 0 if unit.shortcut == "pad-last" else (out.channels - at.channels) // 2
        return (Layer("pad", at, out, stride=stride, before=before),)
    return ()


def lay(ops: str, at: Shape, width: int, kernel: int = 1, stride: int = 1, bias: bool = False) -> Layers:
    """The layers of `ops` from `at` on; channels and size change at the weight layer, wherever it stands."""
    layers: list[Layer] = []
    for op in ops.split():
        match op:
            case "weight":
                out = Shape(width, strided(at, stride).size)
                layers.append(Layer("weight", at, out, kernel, stride, bias))
                at = out
            case "bn" | "relu" | "scale":
                layers.append(Layer(op, at, at))
    return tuple(layers)


def maxpool(at: Shape) -> Layer:
    return Layer("maxpool", at, strided(at, 2), kernel=3, stride=2)


def strided(at: Shape, stride: int) -> Shape:
    return Shape(at.channels, tuple(-(-s // stride) for s in at.size))

"""Where a net can be cut: a stem, units, a head, and for each unit what is left of it when its branch is gone.

Nothing is copied, rebuilt or changed: a lesion is another way to call the same modules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from residua.errors import UsageError
from residua.net.build import Gated, ResidualNetwork, ResidualUnit
from residua.spec.plan import PlannedUnit

Map: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """A unit as maps of its input x.  In evaluation mode `whole`, `by_branch` and `by_shortcut` give the same values."""

    name: str
    stage: int
    index: int  # in its stage, from 1
    changes: bool  # the shape: its output is not as large as its input
    whole: Map
    without: Map | None  # the shortcut alone; None where nothing can stand in for the unit
    by_branch: Map | None = None  # the gradient flows through the branch alone; None in a net without shortcuts
    by_shortcut: Map | None = None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Images -> stem -> units, one behind the other -> head -> class scores."""

    stem: Map
    units: tuple[Part, ...]
    head: Map

    @property
    def deletable(self) -> tuple[int, ...]:
        return tuple(i for i, unit in enumerate(self.units) if unit.without is not None)

    @property
    def residual(self) -> bool:
        return bool(self.units) and all(unit.by_branch and unit.by_shortcut for unit in self.units)


def anatomy(net: ResidualNetwork) -> Anatomy:
    """The parts of one of our networks.

    Of a residual unit the shortcut stays: identity, zero padding or projection, a pre-activation that both paths share, and
    what follows the sum (Veit et al. 2016, section 4.1).  A unit of a plain net is passed by, which only one that keeps the
    shape can be.
    """
    parts = [part(unit, planned) for unit, planned in zip(net.units, net.plan.units, strict=True)]
    return Anatomy(net.stem, tuple(parts), net.head)


def part(unit: ResidualUnit, planned: PlannedUnit) -> Part:
    changes = planned.at != planned.out
    place = planned.name, planned.stage, planned.index, changes
    if unit.shortcut is None:
        return Part(*place, unit, None if changes else same)
    return Part(*place, unit, partial(straight, unit), partial(by_branch, unit), partial(by_shortcut, unit))


def sequence(net: nn.Sequential, units: Sequence[str]) -> Anatomy:
    """The parts of a foreign nn.Sequential, of which the named children, one behind the other, are units that keep the shape.

    A unit that is deleted is passed by: that is its identity shortcut where no activation cuts the sum, or where one kept
    every sum before it above 0, as the ReLU of a 2015 unit does.  Raises UsageError for a name that is no child, and for
    units that something else stands between.
    """
    names = [name for name, _ in net.named_children()]
    if missing := [name for name in units if name not in names]:
        raise UsageError(f"no child {missing[0]!r}: this net has {', '.join(names)}")
    if not units:
        raise UsageError("no units are named: say which children are units")
    first = names.index(units[0])
    last = first + len(units)
    if names[first:last] != list(units):
        raise UsageError(f"the units {', '.join(units)} do not stand one behind the other: this net has {', '.join(names)}")
    parts = [Part(name, 1, i, False, net[first + i - 1], same) for i, name in enumerate(units, 1)]
    return Anatomy(net[:first], tuple(parts), net[last:])


def same(x: Tensor) -> Tensor:
    return x


def straight(unit: ResidualUnit, x: Tensor) -> Tensor:
    """`unit` without its branch.

    A gate that scales both is closed (g = 0), so that x is carried over whole (Srivastava et al. 2015, "Training very deep
    networks", section 5); one that scales the shortcut alone goes on scaling it.
    """
    x = unit.lead(x)
    shortcut = shortcut_of(unit, x)
    closed = isinstance(unit.join, Gated) and unit.join.scales_branch
    y: Tensor = unit.after(shortcut if closed else unit.join(x, shortcut, shortcut.new_zeros(())))
    return y


def by_branch(unit: ResidualUnit, x: Tensor) -> Tensor:
    """The value of `unit`, whose gradient passes through the branch alone; a gate is taken as it stands."""
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), shortcut_of(unit, x.detach()), unit.branch(x)))
    return y


def by_shortcut(unit: ResidualUnit, x: Tensor) -> Tensor:
    """The value of `unit`, whose gradient passes through the shortcut alone; a gate is taken as it stands."""
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), shortcut_of(unit, x), unit.branch(x.detach())))
    return y


def shortcut_of(unit: ResidualUnit, x: Tensor) -> Tensor:
    if unit.shortcut is None:
        raise TypeError(f"{unit} has no shortcut")
    y: Tensor = unit.shortcut(x)
    return y


@contextmanager
def at_rest(net: nn.Module) -> Iterator[None]:
    """In evaluation mode, no parameter asking for a gradient; afterwards as it was."""
    modes = [(module, module.training) for module in net.modules()]
    asking = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in asking:
            parameter.requires_grad_(True)

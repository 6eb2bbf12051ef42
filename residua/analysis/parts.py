"""Where a net can be cut: a stem, units, a head, and for each unit what is left of it when its branch is gone.

Nothing is copied, rebuilt or changed: a lesion is another way to call the same modules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from residua.config.plan import PlannedUnit
from residua.errors import UsageError
from residua.net.build import GatedSum, ResidualNetwork, ResidualUnit

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class DissectedUnit:
    """A unit as maps of its input x.  In evaluation mode `whole`, `by_branch` and `by_shortcut` give the same values."""

    name: str
    stage: int
    index: int  # in its stage, from 1
    changes_shape: bool  # the shape: its output is not as large as its input
    intact: TensorFunction
    without_branch: (
        TensorFunction | None
    )  # the shortcut alone; None where nothing can stand in for the unit
    branch_gradient_only: TensorFunction | None = (
        None  # the gradient flows through the branch alone; None in a net without shortcuts
    )
    shortcut_gradient_only: TensorFunction | None = None


@dataclass(frozen=True, slots=True)
class DissectedNetwork:
    """Images -> stem -> units, one behind the other -> head -> class scores."""

    stem: TensorFunction
    units: tuple[DissectedUnit, ...]
    head: TensorFunction

    @property
    def deletable_indices(self) -> tuple[int, ...]:
        return tuple(i for i, unit in enumerate(self.units) if unit.without_branch is not None)

    @property
    def is_residual(self) -> bool:
        return bool(self.units) and all(
            unit.branch_gradient_only and unit.shortcut_gradient_only for unit in self.units
        )


def dissect_network(net: ResidualNetwork) -> DissectedNetwork:
    """The parts of one of our networks.

    Of a residual unit the shortcut stays: identity, zero padding or projection, a pre-activation that both paths share, and
    what follows the sum (Veit et al. 2016, section 4.1).  A unit of a plain net is passed by, which only one that keeps the
    shape can be.
    """
    units = [
        dissect_unit(unit, planned) for unit, planned in zip(net.units, net.plan.units, strict=True)
    ]
    return DissectedNetwork(net.stem, tuple(units), net.head)


def dissect_unit(unit: ResidualUnit, planned: PlannedUnit) -> DissectedUnit:
    changes_shape = planned.input_shape != planned.output_shape
    unit_fields = planned.name, planned.stage, planned.index, changes_shape
    if unit.shortcut is None:
        return DissectedUnit(*unit_fields, unit, None if changes_shape else identity_map)
    return DissectedUnit(
        *unit_fields,
        unit,
        partial(forward_shortcut_only, unit),
        partial(forward_with_branch_gradient, unit),
        partial(forward_with_shortcut_gradient, unit),
    )


def dissect_sequential(net: nn.Sequential, unit_names: Sequence[str]) -> DissectedNetwork:
    """The parts of a foreign nn.Sequential, of which the named children, one behind the other, are units that keep the shape.

    A unit that is deleted is passed by: that is its identity shortcut where no activation cuts the sum, or where one kept
    every sum before it above 0, as the ReLU of a 2015 unit does.  Raises UsageError for a name that is no child, and for
    units that something else stands between.
    """
    child_names = [name for name, _ in net.named_children()]
    if missing := [name for name in unit_names if name not in child_names]:
        raise UsageError(f"no child {missing[0]!r}: this net has {', '.join(child_names)}")
    if not unit_names:
        raise UsageError("no units are named: say which children are units")
    first = child_names.index(unit_names[0])
    last = first + len(unit_names)
    if child_names[first:last] != list(unit_names):
        raise UsageError(
            f"the units {', '.join(unit_names)} do not stand one behind the other: this net has {', '.join(child_names)}"
        )
    units = [
        DissectedUnit(name, 1, i, False, net[first + i - 1], identity_map)
        for i, name in enumerate(unit_names, 1)
    ]
    return DissectedNetwork(net[:first], tuple(units), net[last:])


def identity_map(x: Tensor) -> Tensor:
    return x


def forward_shortcut_only(unit: ResidualUnit, x: Tensor) -> Tensor:
    """`unit` without its branch.

    A gate that scales both is closed (g = 0), so that x is carried over whole (Srivastava et al. 2015, "Training very deep
    networks", section 5); one that scales the shortcut alone goes on scaling it.
    """
    x = unit.lead(x)
    shortcut = apply_shortcut(unit, x)
    closes_gate = isinstance(unit.join, GatedSum) and unit.join.scales_branch
    y: Tensor = unit.after(
        shortcut if closes_gate else unit.join(x, shortcut, shortcut.new_zeros(()))
    )
    return y


def forward_with_branch_gradient(unit: ResidualUnit, x: Tensor) -> Tensor:
    """The value of `unit`, whose gradient passes through the branch alone; a gate is taken as it stands."""
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), apply_shortcut(unit, x.detach()), unit.branch(x)))
    return y


def forward_with_shortcut_gradient(unit: ResidualUnit, x: Tensor) -> Tensor:
    """The value of `unit`, whose gradient passes through the shortcut alone; a gate is taken as it stands."""
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), apply_shortcut(unit, x), unit.branch(x.detach())))
    return y


def apply_shortcut(unit: ResidualUnit, x: Tensor) -> Tensor:
    if unit.shortcut is None:
        raise TypeError(f"{unit} has no shortcut")
    y: Tensor = unit.shortcut(x)
    return y


@contextmanager
def frozen_eval_mode(net: nn.Module) -> Iterator[None]:
    """In evaluation mode, no parameter asking for a gradient; afterwards as it was."""
    training_modes = [(module, module.training) for module in net.modules()]
    trainable_parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in training_modes:
            module.training = training
        for parameter in trainable_parameters:
            parameter.requires_grad_(True)

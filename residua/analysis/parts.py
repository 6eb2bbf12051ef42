"""Dissect a network into stem, units and head, so that single units can be bypassed or reordered.

No module is copied or modified: an ablated network calls the same modules in another way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from residua.config.plan import PlannedUnit
from residua.errors import UsageError
from residua.net.build import ResidualNetwork, ResidualUnit
from residua.net.joins import GatedSum

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class DissectedUnit:
    """One unit of a network, given by functions that map its input to its output.

    In evaluation mode, `intact`, `branch_gradient_only` and `shortcut_gradient_only` return equal
    values; only their gradients differ.
    """

    name: str
    stage: int  # from 1
    index: int  # within the stage, from 1
    changes_shape: bool  # whether the output has another shape than the input
    intact: TensorFunction
    # The unit without its branch; None in a plain net if the unit changes the shape, because
    # the identity cannot replace it.
    without_branch: TensorFunction | None
    # The intact unit with a gradient through the branch alone, or through the shortcut alone; None
    # in a plain net.
    branch_gradient_only: TensorFunction | None = None
    shortcut_gradient_only: TensorFunction | None = None


@dataclass(frozen=True, slots=True)
class DissectedNetwork:
    """A network given by functions: images -> stem -> each unit in turn -> head -> logits."""

    stem: TensorFunction
    units: tuple[DissectedUnit, ...]
    head: TensorFunction

    @property
    def deletable_indices(self) -> tuple[int, ...]:
        """The indices, from 0, of the units that can be deleted: all units of a residual net."""
        return tuple(i for i, unit in enumerate(self.units) if unit.without_branch is not None)

    @property
    def is_residual(self) -> bool:
        """Whether every unit is known to have a shortcut.

        It is False for a network without units, and for one made by `dissect_sequential`.
        """
        return bool(self.units) and all(
            unit.branch_gradient_only and unit.shortcut_gradient_only for unit in self.units
        )


def dissect_network(net: ResidualNetwork) -> DissectedNetwork:
    """Dissect a network that `residua` has built into stem, units and head.

    To delete a residual unit is to remove its branch (Veit et al. 2016, section 4.1).  The unit
    keeps its shortcut (identity, zero padding or projection), any pre-activation that branch and
    shortcut share, and the layers after the addition.  To delete a unit of a plain net is to
    replace it by the identity, which is possible only if the unit keeps the shape of its input.
    """
    units = tuple(
        dissect_unit(unit, planned) for unit, planned in zip(net.units, net.plan.units, strict=True)
    )
    return DissectedNetwork(net.stem, units, net.head)


def dissect_unit(unit: ResidualUnit, planned: PlannedUnit) -> DissectedUnit:
    """Dissect one unit; its name, position and shapes are taken from `planned`."""
    changes_shape = planned.input_shape != planned.output_shape
    make_dissected = partial(
        DissectedUnit,
        name=planned.name,
        stage=planned.stage,
        index=planned.index,
        changes_shape=changes_shape,
        intact=unit,
    )
    if unit.shortcut is None:
        return make_dissected(without_branch=None if changes_shape else identity_map)
    return make_dissected(
        without_branch=partial(forward_shortcut_only, unit),
        branch_gradient_only=partial(forward_with_branch_gradient, unit),
        shortcut_gradient_only=partial(forward_with_shortcut_gradient, unit),
    )


def dissect_sequential(net: nn.Sequential, unit_names: Sequence[str]) -> DissectedNetwork:
    """Dissect a third-party `nn.Sequential` whose units are the children in `unit_names`.

    The units must keep the shape of their input.  A deleted unit is replaced by the identity.  This
    equals removing its branch alone in two cases: if no activation follows the addition, or if a
    ReLU does and the unit's input is never negative, as in He et al. 2015.  Raises UsageError if no
    name is given, if a name is not a child, or if the named children are not consecutive.
    """
    child_names = [name for name, _ in net.named_children()]
    listing = ", ".join(child_names)
    if missing := [name for name in unit_names if name not in child_names]:
        raise UsageError(f"the network has no child module {missing[0]!r}: choose from {listing}")
    if not unit_names:
        raise UsageError("no units were given: give the names of the child modules that are units")
    first = child_names.index(unit_names[0])
    last = first + len(unit_names)
    if child_names[first:last] != list(unit_names):
        raise UsageError(
            f"the units {', '.join(unit_names)} are not consecutive: give adjacent child "
            f"modules, in order, from {listing}"
        )
    units = [
        DissectedUnit(
            name=name,
            stage=1,
            index=i,
            changes_shape=False,
            intact=net[first + i - 1],
            without_branch=identity_map,
        )
        for i, name in enumerate(unit_names, 1)
    ]
    return DissectedNetwork(net[:first], tuple(units), net[last:])


def identity_map(x: Tensor) -> Tensor:
    return x


def forward_shortcut_only(unit: ResidualUnit, x: Tensor) -> Tensor:
    """Compute the output of `unit` without its branch.

    A gate that scales both branch and shortcut is set to g = 0, so that the shortcut passes
    unscaled (Srivastava et al. 2015, "Training very deep networks", section 5).  A gate that
    scales the shortcut alone keeps its value.
    """
    x = unit.lead(x)
    shortcut = apply_shortcut(unit, x)
    closes_gate = isinstance(unit.join, GatedSum) and unit.join.scales_branch
    joined = shortcut if closes_gate else unit.join(x, shortcut, shortcut.new_zeros(()))
    y: Tensor = unit.after(joined)
    return y


def forward_with_branch_gradient(unit: ResidualUnit, x: Tensor) -> Tensor:
    """Compute the full output of `unit`, but let the gradient flow through the branch alone.

    The shortcut, and the gate if there is one, are constants in the backward pass.
    """
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), apply_shortcut(unit, x.detach()), unit.branch(x)))
    return y


def forward_with_shortcut_gradient(unit: ResidualUnit, x: Tensor) -> Tensor:
    """Compute the full output of `unit`, but let the gradient flow through the shortcut alone.

    The branch, and the gate if there is one, are constants in the backward pass.
    """
    x = unit.lead(x)
    y: Tensor = unit.after(unit.join(x.detach(), apply_shortcut(unit, x), unit.branch(x.detach())))
    return y


def apply_shortcut(unit: ResidualUnit, x: Tensor) -> Tensor:
    """Compute the output of the shortcut of `unit`; TypeError if the unit has no shortcut."""
    if unit.shortcut is None:
        raise TypeError("this unit has no shortcut: give a unit of a residual network")
    y: Tensor = unit.shortcut(x)
    return y

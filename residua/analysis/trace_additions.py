"""Measure the signals of a third-party module; its units are found by tracing its additions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.analysis.addition_tracer import AdditionTracer, TracedAddition, track_module_calls
from residua.analysis.unit_signals import (
    ForwardStats,
    UnitPosition,
    UnitSignals,
    compute_forward_stats,
    compute_survival,
    compute_unit_signals,
)
from residua.errors import UsageError


class TracedUnit(NamedTuple):
    """A unit of a third-party module: a traced addition, or a module named by the caller."""

    name: str  # the module's name; `name (2)` for its second addition, and so on
    module_name: str
    output: Tensor
    stats: ForwardStats | None  # None if the module does not end with a residual addition


class UnitGradients(NamedTuple):
    """The gradients of the loss with respect to one unit's output and weights."""

    output: Tensor  # dL/dy
    weights: list[Tensor]  # one per weight layer of the unit's module


def measure_by_tracing(
    net: nn.Module, images: Tensor, labels: Tensor, unit_names: Sequence[str] = ()
) -> list[UnitSignals]:
    """Measure the signals of a third-party module on one batch.

    `images` (n, c, h, w) must already be normalised; `labels` are (n,).  The units are the modules
    in `unit_names` or, if there are none, all residual additions.  A new stage begins where the
    shape of the units' outputs changes.  `gradient_norm` covers all weight layers of a unit's
    module, including a projection shortcut.  For a named module that does not end with a residual
    addition, `clip_fraction`, `survival`, `response_std` and `residual_ratio` are None.  Raises
    UsageError if the module does not return class scores (n, classes), if it has no residual
    addition and no `unit_names` are given, or if a named module cannot be measured.
    """
    modules = dict(net.named_modules())
    # Weights may be frozen; gradients of activations need a graph in any case.
    images = images.detach().requires_grad_()
    tracer, outputs = AdditionTracer(images), dict[str, Tensor]()
    with torch.enable_grad():
        with track_module_calls(net, tracer, outputs), tracer:
            logits = net(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise UsageError(
                f"{type(net).__name__} must return class scores (n, classes): "
                "without them there is no loss to differentiate"
            )
        if unit_names:
            units = make_units_of_named_modules(tracer.additions, unit_names, outputs)
        else:
            units = name_traced_additions(tracer.additions, modules)
        if not units:
            raise UsageError(
                f"{type(net).__name__} has no residual addition: name the modules to measure"
            )
        gradients = compute_unit_gradients(F.cross_entropy(logits, labels), units, modules)
    return combine_traced_signals(units, gradients)


def compute_unit_gradients(
    loss: Tensor, units: Sequence[TracedUnit], modules: dict[str, nn.Module]
) -> list[UnitGradients]:
    """Compute the gradients of all units in one backward pass.

    The gradient of a tensor on which the loss does not depend is 0.
    """
    weights_by_unit = [
        [
            parameter
            for parameter in modules[unit.module_name].parameters()
            if parameter.dim() > 1 and parameter.requires_grad
        ]
        for unit in units
    ]
    outputs = [unit.output for unit in units]
    all_weights = [weight for weights in weights_by_unit for weight in weights]
    output_gradients_then_weights = torch.autograd.grad(
        loss, [*outputs, *all_weights], allow_unused=True, materialize_grads=True
    )
    output_gradients = output_gradients_then_weights[: len(units)]
    remaining = iter(output_gradients_then_weights[len(units) :])
    return [
        UnitGradients(gradient, [next(remaining) for _ in weights])
        for gradient, weights in zip(output_gradients, weights_by_unit, strict=True)
    ]


def combine_traced_signals(
    units: Sequence[TracedUnit], gradients: Sequence[UnitGradients]
) -> list[UnitSignals]:
    """Compute each traced unit's signals from its forward statistics and its gradients."""
    positions = assign_stages([unit.output for unit in units])
    survivals = compute_survival(
        [unit.stats.clip_mask if unit.stats else None for unit in units],
        [position.stage for position in positions],
    )
    # The last unit of a stage overwrites those before it.
    stage_end_gradients = {
        position.stage: gradient.output
        for position, gradient in zip(positions, gradients, strict=True)
    }
    measured = []
    for unit, position, survival, gradient in zip(
        units, positions, survivals, gradients, strict=True
    ):
        y = unit.output.detach()
        signals = compute_unit_signals(
            unit.name,
            position,
            unit.stats or compute_forward_stats(y, y, y, None),
            survival,
            gradient.weights,
            gradient.output,
            stage_end_gradients[position.stage],
        )
        measured.append(signals if unit.stats else remove_addition_signals(signals))
    return measured


def remove_addition_signals(signals: UnitSignals) -> UnitSignals:
    """Set to None the signals that are defined only for a unit with an addition."""
    return replace(
        signals, clip_fraction=None, survival=None, response_std=None, residual_ratio=None
    )


def name_traced_additions(
    additions: list[TracedAddition], modules: dict[str, nn.Module]
) -> list[TracedUnit]:
    """Make one unit per addition, named after the innermost enclosing module that has weights.

    The second addition in the same module is called `name (2)`, and so on.
    """
    name_counts, units = Counter[str](), list[TracedUnit]()
    for addition in additions:
        owner_names = [
            name
            for name in addition.module_path
            if name and next(modules[name].parameters(), None) is not None
        ]
        module_name = owner_names[-1] if owner_names else ""
        name_counts[module_name] += 1
        count = name_counts[module_name]
        name = f"{module_name} ({count})" if count > 1 else module_name
        units.append(TracedUnit(name, module_name, addition.unit_output, addition.stats))
    return units


def make_units_of_named_modules(
    additions: list[TracedAddition], unit_names: Sequence[str], outputs: dict[str, Tensor]
) -> list[TracedUnit]:
    """Make one unit for each module in `unit_names`.

    If the module's output is a residual addition (or the ReLU after it), the unit gets the
    addition's statistics.  Raises UsageError for a module that was not called or does not return a
    tensor.
    """
    units: list[TracedUnit] = []
    for name in unit_names:
        if name not in outputs:
            raise UsageError(
                f"module {name} was not called or does not return a tensor: name another module"
            )
        final_additions = [
            addition
            for addition in additions
            if name in addition.module_path and addition.unit_output is outputs[name]
        ]
        stats = final_additions[-1].stats if final_additions else None
        units.append(TracedUnit(name, name, outputs[name], stats))
    return units


def assign_stages(unit_outputs: Sequence[Tensor]) -> list[UnitPosition]:
    """Return the position of each unit; a new stage begins where the output shape changes."""
    positions: list[UnitPosition] = []
    stage, index, shape = 0, 0, None
    for output in unit_outputs:
        stage, index = (stage, index + 1) if output.shape == shape else (stage + 1, 1)
        shape = output.shape
        positions.append(UnitPosition(stage, index))
    return positions

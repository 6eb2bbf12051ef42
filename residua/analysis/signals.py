"""Measure the signals of each unit of a network by one forward and backward pass of a small batch.

BN normalises by batch statistics, as in training.  All other modules are in evaluation mode, so
dropout and drop-path are off.  Afterwards the network's weights, gradients, running statistics and
modes are as before.

A network built by `residua` is measured one unit at a time.  A forward pass keeps only the input of
each unit.  Then each unit, from the last to the first, is run forward again and backward.  A
network of 1,202 layers therefore needs little more memory than the inputs of its units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.analysis.modes import use_batch_statistics
from residua.analysis.trace_additions import measure_by_tracing
from residua.analysis.unit_signals import (
    ForwardStats,
    UnitPosition,
    UnitSignals,
    compute_forward_stats,
    compute_survival,
    compute_unit_signals,
)
from residua.errors import UsageError
from residua.net.build import ResidualNetwork, ResidualUnit
from residua.training.progress import CountListener


class ForwardPass(NamedTuple):
    """The values kept from a forward pass through a network of n units."""

    unit_inputs: list[Tensor]  # one per unit
    stats: list[ForwardStats]  # one per unit
    output: Tensor  # of the last unit


def ignore_unit_progress(done: int, total: int, /) -> None:
    """Do nothing; the default for `on_progress`."""


def measure_signals(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    unit_names: Sequence[str] = (),
    on_progress: CountListener = ignore_unit_progress,
) -> list[UnitSignals]:
    """Measure the signals of the units of `net`, and list them from input to output.

    `images` (n, c, h, w) must already be normalised; `labels` are (n,).  If `residua` did not build
    `net`, each residual addition found by `residua.analysis.addition_tracer` is a unit, named after
    the module that contains it.  If `unit_names` is given, only the units or modules with these
    names are measured.  `on_progress` is called after each unit, but only for a network that
    `residua` has built.  Raises UsageError for fewer than 2 images, for unknown names, and if `net`
    has nothing to measure.
    """
    require_two_images(len(images))
    with use_batch_statistics(net):
        if not isinstance(net, ResidualNetwork):
            validate_unit_names(unit_names, [name for name, _ in net.named_modules() if name])
            return measure_by_tracing(net, images, labels, unit_names)
        validate_unit_names(unit_names, [unit.name for unit in net.plan.units])
        measured = measure_unit_by_unit(net, images, labels, on_progress)
        return [signals for signals in measured if not unit_names or signals.name in unit_names]


def require_two_images(image_count: int) -> None:
    """Raise UsageError for fewer than 2 images."""
    if image_count < 2:
        raise UsageError(
            f"signals need at least 2 images, got {image_count}: "
            "batch normalization and the gradient correlation are computed across images"
        )


def validate_unit_names(unit_names: Sequence[str], valid_names: Sequence[str]) -> None:
    """Raise UsageError if a name in `unit_names` is not in `valid_names`."""
    for unit_name in unit_names:
        if unit_name not in valid_names:
            raise UsageError(
                f"the network has no unit {unit_name!r}: choose from {valid_names[0]} to "
                f"{valid_names[-1]}"
            )


def measure_unit_by_unit(
    net: ResidualNetwork, images: Tensor, labels: Tensor, on_progress: CountListener
) -> list[UnitSignals]:
    """Measure the signals of all units of a network that `residua` has built.

    The units are first run forward in order, then forward again and backward in reverse order.
    """
    forward_pass = forward_unit_by_unit(net, images)
    survivals = compute_survival(
        [stats.clip_mask for stats in forward_pass.stats], [unit.stage for unit in net.plan.units]
    )
    output = forward_pass.output.requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(net.head(output), labels)
        [output_gradient] = torch.autograd.grad(loss, [output])
    measured: list[UnitSignals] = []
    stage, stage_end_gradient = 0, output_gradient
    for unit, planned, stats, survival in reversed(
        list(zip(net.units, net.plan.units, forward_pass.stats, survivals, strict=True))
    ):
        if planned.stage != stage:  # the last unit of its stage, as the order is reversed
            stage, stage_end_gradient = planned.stage, output_gradient
        weights = [p for p in unit.branch.parameters() if p.dim() > 1 and p.requires_grad]
        x = forward_pass.unit_inputs.pop()  # frees each input after its last use
        x_gradient, *weight_gradients = backward_through_unit(unit, x, weights, output_gradient)
        measured.append(
            compute_unit_signals(
                planned.name,
                UnitPosition(planned.stage, planned.index),
                stats,
                survival,
                weight_gradients,
                output_gradient,
                stage_end_gradient,
            )
        )
        output_gradient = x_gradient
        on_progress(len(measured), len(net.units))
    return measured[::-1]


@torch.no_grad()
def forward_unit_by_unit(net: ResidualNetwork, images: Tensor) -> ForwardPass:
    """Run the stem and the units forward; keep each unit's input and activation statistics."""
    unit_inputs, all_stats = [], []
    x = net.stem(images)
    for unit in net.units:
        unit_inputs.append(x)
        x, stats = forward_with_stats(unit, x)
        all_stats.append(stats)
    return ForwardPass(unit_inputs, all_stats, x)


def forward_with_stats(unit: ResidualUnit, x: Tensor) -> tuple[Tensor, ForwardStats]:
    """Run the branch, shortcut and join of `unit`; return its output and its statistics."""
    x = unit.lead(x)
    branch = unit.branch(x)
    shortcut = x if unit.shortcut is None else unit.shortcut(x)
    y = branch if unit.shortcut is None else unit.join(x, shortcut, branch)
    clip_mask = None
    for layer in unit.after:
        if isinstance(layer, nn.ReLU):
            clip_mask = y < 0
        y = layer(y)
    return y, compute_forward_stats(branch, shortcut, y, clip_mask)


@torch.enable_grad()
def backward_through_unit(
    unit: ResidualUnit, x: Tensor, weights: Sequence[Tensor], output_gradient: Tensor
) -> tuple[Tensor, ...]:
    """Propagate a gradient back through one unit.

    `x` is the unit's input, and `output_gradient` is dL/dy at its output.  Returns dL/dx, followed
    by dL/dw for each of `weights`.
    """
    x = x.detach().requires_grad_()
    return torch.autograd.grad(unit(x), [x, *weights], output_gradient)

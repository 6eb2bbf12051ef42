"""What passes through a network and back, unit by unit, on a small batch: the measurements of the depth study.

BN normalises by the batch, as in training, and everything else is as in evaluation: no dropout, no branch left out.  Weights,
gradients, running statistics and modes are afterwards what they were.

A network of ours is computed three times, a unit at a time: forward, keeping each unit's input alone, then for each unit, from the
last to the first, forward again and backward.  So 1,202 layers need little more memory than their inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from residua.errors import UsageError
from residua.net.activation_checkpoint import frozen_running_stats
from residua.net.build import ResidualNetwork, ResidualUnit

SignalsProgressCallback: TypeAlias = Callable[[int, int], None]
"""Is told how many units are measured, and of how many."""


def ignore_unit_progress(done: int, total_units: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSignals:
    """One unit, y = after(shortcut(x) + F(x)).  None: not defined there, or not a finite number in fp32.

    Means are over images, channels and positions alike; gradients are those of the mean cross-entropy of the batch.
    """

    name: str
    stage: int  # from 1
    index: int  # in its stage, from 1
    clip_fraction: (
        float | None
    )  # share of the sums below 0, where a ReLU follows the addition; 0 where none does
    survival: (
        float | None
    )  # share of activations that no unit cut, from the stage's first one to this one
    response_std: (
        float | None
    )  # standard deviation of F(x), behind its BN if one ends it (He et al. 2015, Fig. 7)
    residual_ratio: (
        float | None
    )  # |F(x)| / |shortcut(x)|, as root mean squares; / |x| in a plain net
    gradient_norm: (
        float | None
    )  # Euclidean, of the branch's weight layers together, biases and BN left out
    activation_gradient_norm: float | None  # Euclidean, of dL/dy
    mean: float | None  # of y
    variance: float | None  # of y
    gradient_cosine: (
        float | None
    )  # between dL/dy and dL/dy of the stage's last unit (He et al. 2016, Eq. 5)
    gradient_correlation: float | None
    """Mean cosine between the rows of dL/dy of two different images, over all pairs (after Balduzzi et al. 2017, section 2)."""


@dataclass(frozen=True, slots=True)
class ForwardStats:
    """What a forward pass leaves of one unit."""

    clip_mask: Tensor | None  # bool, of the shape of y; None where no ReLU follows the addition
    response_std: float
    residual_ratio: float | None
    mean: float
    variance: float


def measure_signals(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    unit_names: Sequence[str] = (),
    on_progress: SignalsProgressCallback = ignore_unit_progress,
) -> list[UnitSignals]:
    """The signals of `net` on normalised images (n, c, h, w) and their labels (n,), a unit each, from input to output.

    Any other module than our networks is followed while it computes: each addition of two tensors of one shape is a unit's, named
    after the module that adds (see `residua.analysis.trace_additions`).  `units` names modules to measure instead of all.
    Raises UsageError for fewer than 2 images, unknown units, and where there is nothing to measure.
    """
    if len(images) < 2:
        raise UsageError(describe_too_few_images(len(images)))
    with use_batch_statistics(net):
        if isinstance(net, ResidualNetwork):
            selected_names = validate_unit_names(
                unit_names, [unit.name for unit in net.plan.units]
            ) or [unit.name for unit in net.plan.units]
            return [
                one
                for one in measure_unit_by_unit(net, images, labels, on_progress)
                if one.name in selected_names
            ]
        from residua.analysis.trace_additions import measure_by_tracing

        return measure_by_tracing(net, images, labels, unit_names)


def describe_too_few_images(image_count: int) -> str:
    """A sentence for fewer than 2 images."""
    return f"{image_count} {'image is' if image_count == 1 else 'images are'} too few: BN and gradients compare images, give at least 2"


def validate_unit_names(unit_names: Sequence[str], valid_names: Sequence[str]) -> Sequence[str]:
    """`units`, or UsageError for one that is not among the names."""
    for unit_name in unit_names:
        if unit_name not in valid_names:
            raise UsageError(
                f"no unit {unit_name!r}: the network has {valid_names[0]} to {valid_names[-1]}"
            )
    return unit_names


@contextmanager
def use_batch_statistics(net: nn.Module) -> Iterator[None]:
    """BN as in training but for its running statistics, which stay; all else as in evaluation; then as before."""
    training_modes = [(module, module.training) for module in net.modules()]
    net.eval()
    for module, _ in training_modes:
        if isinstance(module, _BatchNorm):
            module.training = True
    try:
        with frozen_running_stats(net):
            yield
    finally:
        for module, was_training in training_modes:
            module.training = was_training


def measure_unit_by_unit(
    net: ResidualNetwork, images: Tensor, labels: Tensor, on_progress: SignalsProgressCallback
) -> list[UnitSignals]:
    unit_inputs, forward_stats = [], []
    with torch.no_grad():
        x = net.stem(images)
        for unit in net.units:
            unit_inputs.append(x)
            x, unit_stats = forward_with_stats(unit, x)
            forward_stats.append(unit_stats)
    survivals = compute_survival(
        [p.clip_mask for p in forward_stats], [unit.stage for unit in net.plan.units]
    )
    x.requires_grad_()
    with torch.enable_grad():
        [output_gradient] = torch.autograd.grad(F.cross_entropy(net.head(x), labels), [x])
    measured: list[UnitSignals] = []
    stage_end_gradient, stage = output_gradient, 0
    for unit, planned, stats, survival in reversed(
        list(zip(net.units, net.plan.units, forward_stats, survivals, strict=True))
    ):
        stage_end_gradient, stage = (
            (stage_end_gradient, stage)
            if planned.stage == stage
            else (output_gradient, planned.stage)
        )
        weights = [p for p in unit.branch.parameters() if p.dim() > 1]
        unit_gradients = backward_through_unit(unit, unit_inputs.pop(), weights, output_gradient)
        measured.append(
            compute_unit_signals(
                planned.name,
                (planned.stage, planned.index),
                stats,
                survival,
                unit_gradients[1:],
                output_gradient,
                stage_end_gradient,
            )
        )
        output_gradient = unit_gradients[0]
        on_progress(len(measured), len(net.units))
    return measured[::-1]


def forward_with_stats(unit: ResidualUnit, x: Tensor) -> tuple[Tensor, ForwardStats]:
    """The unit's output, computed part by part, and what there is to see on the way."""
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


def compute_forward_stats(
    branch: Tensor, shortcut: Tensor, y: Tensor, clip_mask: Tensor | None
) -> ForwardStats:
    variance, mean = torch.var_mean(
        y.double(), correction=0
    )  # fp32 squares of large ones are infinite
    shortcut_rms = root_mean_square(shortcut)
    ratio = root_mean_square(branch) / shortcut_rms if shortcut_rms else None  # nothing beside it
    return ForwardStats(
        clip_mask, branch.double().std(correction=0).item(), ratio, mean.item(), variance.item()
    )


def root_mean_square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / sqrt(x.numel())


def compute_survival(clip_masks: list[Tensor | None], stages: list[int]) -> list[float]:
    """For each unit, the share of its stage's activations that nothing has cut so far."""
    shares, uncut_mask, previous_stage = [], None, 0
    for clip_mask, stage in zip(clip_masks, stages, strict=True):
        uncut_mask, previous_stage = uncut_mask if stage == previous_stage else None, stage
        if clip_mask is not None:
            uncut_mask = ~clip_mask if uncut_mask is None else uncut_mask & ~clip_mask
        shares.append(1.0 if uncut_mask is None else uncut_mask.float().mean().item())
    return shares


@torch.enable_grad()
def backward_through_unit(
    unit: ResidualUnit, x: Tensor, weights: Sequence[Tensor], output_gradient: Tensor
) -> tuple[Tensor, ...]:
    """dL/dx, then dL/dw of each of `weights`, from dL/dy."""
    x = x.detach().requires_grad_()
    trainable_weights = [weight for weight in weights if weight.requires_grad]
    return torch.autograd.grad(unit(x), [x, *trainable_weights], output_gradient)


def compute_unit_signals(
    name: str,
    position: tuple[int, int],
    stats: ForwardStats,
    survival: float | None,
    weight_gradients: Sequence[Tensor],
    output_gradient: Tensor,
    stage_end_gradient: Tensor,
) -> UnitSignals:
    """A unit's signals from its forward pass, the gradients of its weights, dL/dy, and dL/dy at the end of its stage."""
    norms = (
        torch.stack([weight.double().norm() for weight in weight_gradients])
        if weight_gradients
        else None
    )
    has_finite_output = isfinite(stats.variance)
    clip_fraction = 0.0 if stats.clip_mask is None else stats.clip_mask.float().mean().item()
    return UnitSignals(
        name=name,
        stage=position[0],
        index=position[1],
        clip_fraction=clip_fraction if has_finite_output else None,
        survival=survival if has_finite_output else None,
        response_std=finite_or_none(stats.response_std),
        residual_ratio=finite_or_none(stats.residual_ratio),
        gradient_norm=None if norms is None else finite_or_none(norms.norm().item()),
        activation_gradient_norm=finite_or_none(output_gradient.double().norm().item()),
        mean=finite_or_none(stats.mean),
        variance=finite_or_none(stats.variance),
        gradient_cosine=finite_or_none(cosine_similarity(output_gradient, stage_end_gradient)),
        gradient_correlation=finite_or_none(mean_pairwise_cosine(output_gradient)),
    )


def finite_or_none(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def cosine_similarity(a: Tensor, b: Tensor) -> float | None:
    """Between two gradients, in float64: fp32 squares of small ones are 0; None where their shapes differ or one is 0."""
    if a.shape != b.shape:
        return None
    a, b = a.double().flatten(), b.double().flatten()
    norm_product = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm_product if norm_product else None


def mean_pairwise_cosine(gradient: Tensor) -> float | None:
    """Mean cosine over all pairs of different rows (n, ...); None where a row is 0."""
    rows = gradient.double().flatten(1)
    row_norms = rows.norm(dim=1, keepdim=True)
    n = len(rows)
    if not bool((row_norms > 0).all()):
        return None
    squared_sum_norm = float((rows / row_norms).sum(0).norm()) ** 2  # n, and each pair twice
    return (squared_sum_norm - n) / (n * (n - 1))

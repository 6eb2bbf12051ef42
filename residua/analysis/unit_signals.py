"""Compute the signals of one unit from its activations and its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSignals:
    """The signals of one unit y = after(shortcut(x) + F(x)), where F is its branch.

    A signal is None if it is undefined for this unit or not finite.  Means, variances and shares
    are over images, channels and positions.  Gradients are those of L, the batch's mean
    cross-entropy.
    """

    name: str
    stage: int  # from 1
    index: int  # within the stage, from 1
    # Share of the sums that are negative, so that the ReLU after the addition sets them to 0; 0 if
    # no ReLU follows.
    clip_fraction: float | None
    # Share of activations that no unit from the stage's first to this one has clipped.
    survival: float | None
    # Standard deviation of F(x), after its BN if it ends with one (He et al. 2015, Fig. 7).
    response_std: float | None
    # Root mean square of F(x) divided by that of shortcut(x), or by that of x in a plain net.
    residual_ratio: float | None
    # Euclidean norm of dL/dw over all weights of the branch, without biases and BN parameters.
    gradient_norm: float | None
    activation_gradient_norm: float | None  # Euclidean norm of dL/dy
    mean: float | None  # of y
    variance: float | None  # of y
    # Cosine between dL/dy and the dL/dy of the stage's last unit (He et al. 2016, Eq. 5).
    gradient_cosine: float | None
    # Mean cosine between the gradients dL/dy of two images, over all pairs of images (after
    # Balduzzi et al. 2017, section 2).
    gradient_correlation: float | None


@dataclass(frozen=True, slots=True)
class UnitPosition:
    """The position of a unit: its stage, and its index within that stage, both from 1."""

    stage: int
    index: int  # within the stage


@dataclass(frozen=True, slots=True)
class ForwardStats:
    """Statistics of one unit's activations in a forward pass."""

    clip_mask: Tensor | None  # bool, in the shape of y; None if no ReLU follows the addition
    response_std: float
    residual_ratio: float | None  # None if the shortcut is 0 everywhere
    mean: float  # of y
    variance: float  # of y


def compute_forward_stats(
    branch: Tensor, shortcut: Tensor, y: Tensor, clip_mask: Tensor | None
) -> ForwardStats:
    """Compute a unit's statistics from its output y (n, ...) and the two operands of its addition.

    `clip_mask` is True where the ReLU after the addition sets the sum to 0; it is None without a
    ReLU.
    """
    # in float64, because squares of large activations overflow fp32
    variance, mean = torch.var_mean(y.double(), correction=0)
    shortcut_rms = root_mean_square(shortcut)
    return ForwardStats(
        clip_mask,
        branch.double().std(correction=0).item(),
        root_mean_square(branch) / shortcut_rms if shortcut_rms else None,
        mean.item(),
        variance.item(),
    )


def root_mean_square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / sqrt(x.numel())


def compute_survival(clip_masks: Sequence[Tensor | None], stages: Sequence[int]) -> list[float]:
    """Return the survival of each unit.

    This is the share of activations that neither the unit nor an earlier one of its stage clips.
    """
    shares: list[float] = []
    uncut_mask, previous_stage = None, 0
    for clip_mask, stage in zip(clip_masks, stages, strict=True):
        if stage != previous_stage:
            uncut_mask, previous_stage = None, stage
        if clip_mask is not None:
            uncut_mask = ~clip_mask if uncut_mask is None else uncut_mask & ~clip_mask
        shares.append(1.0 if uncut_mask is None else uncut_mask.float().mean().item())
    return shares


def compute_unit_signals(
    name: str,
    position: UnitPosition,
    stats: ForwardStats,
    survival: float | None,
    weight_gradients: Sequence[Tensor],
    output_gradient: Tensor,
    stage_end_gradient: Tensor,
) -> UnitSignals:
    """Compute the signals of a unit from its forward statistics and its gradients.

    `output_gradient` is dL/dy of this unit; `stage_end_gradient` is dL/dy of the last unit of its
    stage.
    """
    gradient_norm = None
    if weight_gradients:
        layer_norms = [gradient.double().norm() for gradient in weight_gradients]
        gradient_norm = torch.stack(layer_norms).norm().item()
    # If y overflows, the clip mask is meaningless.
    has_finite_output = isfinite(stats.variance)
    clip_fraction = 0.0 if stats.clip_mask is None else stats.clip_mask.float().mean().item()
    return UnitSignals(
        name=name,
        stage=position.stage,
        index=position.index,
        clip_fraction=clip_fraction if has_finite_output else None,
        survival=survival if has_finite_output else None,
        response_std=finite_or_none(stats.response_std),
        residual_ratio=finite_or_none(stats.residual_ratio),
        gradient_norm=finite_or_none(gradient_norm),
        activation_gradient_norm=finite_or_none(output_gradient.double().norm().item()),
        mean=finite_or_none(stats.mean),
        variance=finite_or_none(stats.variance),
        gradient_cosine=finite_or_none(cosine_similarity(output_gradient, stage_end_gradient)),
        gradient_correlation=finite_or_none(mean_pairwise_cosine(output_gradient)),
    )


def finite_or_none(value: float | None) -> float | None:
    """Return the value, or None if it is None, NaN or infinite."""
    return value if value is not None and isfinite(value) else None


def cosine_similarity(a: Tensor, b: Tensor) -> float | None:
    """Return the cosine similarity of two gradients; None if shapes differ or a gradient is 0.

    The cosine is computed in float64, because squares of small gradients underflow fp32.
    """
    if a.shape != b.shape:
        return None
    a, b = a.double().flatten(), b.double().flatten()
    norm_product = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm_product if norm_product else None


def mean_pairwise_cosine(gradient: Tensor) -> float | None:
    """Return the mean cosine similarity of all pairs of rows of `gradient`; None if a row is 0."""
    rows = gradient.double().flatten(1)
    row_norms = rows.norm(dim=1, keepdim=True)
    n = len(rows)
    if not bool((row_norms > 0).all()):
        return None
    # The squared norm of the sum of n unit vectors is n plus the cosine of each pair, twice.
    squared_sum_norm = float((rows / row_norms).sum(0).norm()) ** 2
    return (squared_sum_norm - n) / (n * (n - 1))

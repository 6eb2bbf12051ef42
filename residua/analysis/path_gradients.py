"""Measure how the gradient is shared among path lengths (Veit et al. 2016, section 5.2, Fig. 6).

A path goes through either the branch or the shortcut of each unit.  Its length is the number of
branches on it.  A network of n units has 2^n paths.  In evaluation mode, and with gates treated as
constants, the gradient at the first unit's input is the sum of the gradients of all paths.
"""

from collections.abc import Callable
from math import exp, inf, isfinite, log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.analysis.parts import DissectedNetwork
from residua.config.lesion_results import PathLengthShare, log_number_of_paths
from residua.data.counter_rng import RandomStream, random_permutation

MAX_SAMPLED_LENGTHS = 32  # between sampled lengths the log norm is interpolated linearly


class UnitGraph(NamedTuple):
    """The autograd graph of one unit: its input, and two outputs with equal values.

    The two outputs differ in the path along which the gradient flows back to the input.
    """

    x: Tensor
    output_via_branch: Tensor  # its gradient flows through the branch alone
    output_via_shortcut: Tensor  # its gradient flows through the shortcut alone


class PathGradient(NamedTuple):
    """The gradient along one path: its direction, and the natural log of its norm.

    The log is stored because the norm, a product of hundreds of small factors, can underflow.
    """

    direction: Tensor  # of norm 1, or 0 if the gradient vanishes or is not finite
    log_norm: float  # -inf if the direction is 0


def measure_gradient_shares(
    dissected: DissectedNetwork,
    pixels: Tensor,
    labels: Tensor,
    draws_per_length: int,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[PathLengthShare, ...]:
    """Measure the share of the gradient that the paths of each length carry.

    `pixels` are normalised images (n, c, h, w), and `labels` (n,) are their classes.

    The gradient along a path is dL/dx at the first unit's input x, and its norm is taken over the
    whole batch.  For each length k, the mean norm over `draws_per_length` random paths is
    multiplied by the number of paths of that length, C(N, k) for N units.  The share of a length is
    its product divided by the sum of the products of all lengths.  For a deep network, only some
    lengths are sampled, and the log norms of the others are interpolated.

    Veit et al. use these shares to measure which paths carry the gradient.  The shares are not an
    exact decomposition: gradients of different paths differ in direction, so their norms do not add
    up to the norm of their sum.

    `on_step` is called once per sampled path.  Raises ValueError for a unit without a shortcut.
    """
    unit_count = len(dissected.units)
    unit_graphs, output_gradient = build_unit_graphs(dissected, pixels, labels)
    sampled_log_norms: dict[int, float] = {}
    for length in choose_sampled_lengths(unit_count):
        drawn_log_norms = []
        for draw in range(count_draws(length, unit_count, draws_per_length)):
            order = random_permutation(unit_count, seed, RandomStream.LESION_PATH, length, draw)
            branch_units = frozenset(order[:length].tolist())
            path_gradient = compute_path_gradient(unit_graphs, output_gradient, branch_units)
            drawn_log_norms.append(path_gradient.log_norm)
            on_step()
        sampled_log_norms[length] = log_mean_exp(drawn_log_norms)
    return compute_length_shares(unit_count, sampled_log_norms)


def compute_length_shares(
    unit_count: int, sampled_log_norms: dict[int, float]
) -> tuple[PathLengthShare, ...]:
    """Compute the share of the gradient for each path length from 0 to `unit_count`.

    A share is the mean norm, sampled or interpolated, times the number of paths of that length,
    divided by the sum of these products.
    """
    lengths = range(unit_count + 1)
    log_norms = [interpolate_log_norm(sampled_log_norms, length) for length in lengths]
    log_weights = [
        log_number_of_paths(unit_count, length) + log_norms[length] for length in lengths
    ]
    log_total = log_sum_exp(log_weights)
    return tuple(
        PathLengthShare(
            length,
            log_norms[length] if log_norms[length] > -inf else None,
            length in sampled_log_norms,
            exp(log_weights[length] - log_total) if log_total > -inf else 0.0,
        )
        for length in lengths
    )


def build_unit_graphs(
    dissected: DissectedNetwork, pixels: Tensor, labels: Tensor
) -> tuple[list[UnitGraph], Tensor]:
    """Return an autograd graph for each unit, and dL/dy at the output y of the last unit.

    L is the mean cross-entropy.  As the graphs are separate, `compute_path_gradient` can follow any
    path without a new forward pass.
    Raises ValueError for a unit without a shortcut.
    """
    x = dissected.stem(pixels).detach()
    unit_graphs: list[UnitGraph] = []
    for unit in dissected.units:
        if unit.branch_gradient_only is None or unit.shortcut_gradient_only is None:
            raise ValueError(f"{unit.name} has no shortcut: path gradients need a residual network")
        x = x.detach().requires_grad_()
        unit_graphs.append(
            UnitGraph(x, unit.branch_gradient_only(x), unit.shortcut_gradient_only(x))
        )
        x = unit_graphs[-1].output_via_branch
    x = x.detach().requires_grad_()
    (output_gradient,) = torch.autograd.grad(F.cross_entropy(dissected.head(x), labels), x)
    return unit_graphs, output_gradient


def compute_path_gradient(
    unit_graphs: list[UnitGraph], output_gradient: Tensor, branch_units: frozenset[int]
) -> PathGradient:
    """Compute the gradient along one path, at the first unit's input.

    The path takes the branch of the units in `branch_units`, and the shortcut of all others.
    `output_gradient` is the gradient at the last unit's output.
    """
    g, log_scale = output_gradient, 0.0
    for i, graph in reversed(list(enumerate(unit_graphs))):
        # normalised at every unit, because gradients of long paths underflow fp32
        norm = float(g.norm())
        if norm == 0 or not isfinite(norm):
            return PathGradient(torch.zeros_like(unit_graphs[0].x), -inf)
        output = graph.output_via_branch if i in branch_units else graph.output_via_shortcut
        (g,) = torch.autograd.grad(output, graph.x, g / norm, retain_graph=True)
        log_scale += log(norm)
    norm = float(g.norm())
    return PathGradient(g / norm, log_scale + log(norm)) if norm else PathGradient(g, -inf)


def count_sampled_paths(unit_count: int, draws_per_length: int) -> int:
    """Return how many paths `measure_gradient_shares` samples if there are `unit_count` units."""
    return sum(
        count_draws(length, unit_count, draws_per_length)
        for length in choose_sampled_lengths(unit_count)
    )


def count_draws(length: int, unit_count: int, draws_per_length: int) -> int:
    """Return how many paths of `length` to sample: 1 if there is one only, of no unit or of all."""
    return 1 if length in (0, unit_count) else draws_per_length


def choose_sampled_lengths(unit_count: int) -> list[int]:
    """Choose at most `MAX_SAMPLED_LENGTHS` path lengths to sample, between 0 and `unit_count`.

    All lengths are chosen if they are few enough.  Otherwise short lengths are chosen more densely,
    because short paths carry most of the gradient.
    """
    if unit_count < MAX_SAMPLED_LENGTHS:
        return list(range(unit_count + 1))
    positions = [i / (MAX_SAMPLED_LENGTHS - 1) for i in range(MAX_SAMPLED_LENGTHS)]
    return sorted({round(unit_count * position**2) for position in positions})


def interpolate_log_norm(sampled_log_norms: dict[int, float], length: int) -> float:
    """Return the log norm at `length`, interpolated linearly if the length was not sampled.

    Returns -inf if the log norm is -inf at either of the two nearest sampled lengths.
    """
    if length in sampled_log_norms:
        return sampled_log_norms[length]
    low = max(k for k in sampled_log_norms if k < length)
    high = min(k for k in sampled_log_norms if k > length)
    low_norm, high_norm = sampled_log_norms[low], sampled_log_norms[high]
    if -inf in (low_norm, high_norm):
        return -inf
    return low_norm + (high_norm - low_norm) * (length - low) / (high - low)


def log_sum_exp(log_values: list[float]) -> float:
    """Compute log(exp(a) + exp(b) + ...) without overflow or underflow; -inf if all are -inf."""
    largest = max(log_values)
    if largest == -inf:
        return -inf
    return largest + log(sum(exp(value - largest) for value in log_values))


def log_mean_exp(log_values: list[float]) -> float:
    """Compute the log of the mean of exp(a), exp(b), ... without overflow or underflow."""
    return log_sum_exp(log_values) - log(len(log_values))

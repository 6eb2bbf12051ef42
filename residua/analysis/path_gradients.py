"""How much of the gradient comes by paths of each length (Veit et al. 2016, section 5.2 and Fig. 6).

A path passes each unit by its branch or by its shortcut; its length is the number of branches.  A net of n units has 2^n
paths, and in evaluation mode the gradient at the first unit's input is the sum of theirs, gates being taken as they stand.
"""

from collections.abc import Callable
from math import exp, inf, isfinite, log

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.analysis.parts import DissectedNetwork
from residua.config.lesion_results import PathLengthShare, log_number_of_paths
from residua.data.counter_rng import random_permutation

PATH_STREAM = 2  # what random bits are for, beside those of lesions
MAX_SAMPLED_LENGTHS = (
    32  # lengths that are sampled; between them the logarithm of the norm is interpolated
)


def measure_gradient_shares(
    dissected: DissectedNetwork,
    pixels: Tensor,
    labels: Tensor,
    draws_per_length: int,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[PathLengthShare, ...]:
    """For each length k, the gradient's share: C(n, k) times the mean norm over `draws` random paths, over the sum of all.

    Norms of paths do not add up to the norm of their sum, as gradients of different paths differ in direction; it is Veit et
    al.'s measure of which paths carry the gradient.  Its norm is that of d loss / d x over a batch `pixels` (n, c, h, w).
    """
    unit_count = len(dissected.units)
    unit_graphs, output_gradient = build_unit_graphs(dissected, pixels, labels)
    sampled_log_norms: dict[int, float] = {}
    for length in choose_sampled_lengths(unit_count):
        drawn_log_norms = []
        for draw in range(count_draws(length, unit_count, draws_per_length)):
            branch_units = frozenset(
                random_permutation(unit_count, seed, PATH_STREAM, length, draw)[:length].tolist()
            )
            drawn_log_norms.append(
                compute_path_log_norm(unit_graphs, output_gradient, branch_units)
            )
            on_step()
        sampled_log_norms[length] = log_mean_exp(drawn_log_norms)
    log_norms = [
        interpolate_log_norm(sampled_log_norms, length) for length in range(unit_count + 1)
    ]
    log_weights = [
        log_number_of_paths(unit_count, length) + norm for length, norm in enumerate(log_norms)
    ]
    log_total = log_sum_exp(log_weights)
    return tuple(
        PathLengthShare(
            length,
            norm if norm > -inf else None,
            length in sampled_log_norms,
            exp(weight - log_total) if log_total > -inf else 0.0,
        )
        for length, (norm, weight) in enumerate(zip(log_norms, log_weights, strict=True))
    )


UnitGraph = tuple[
    Tensor, Tensor, Tensor
]  # a unit's input, and its output twice: by the branch alone, by the shortcut alone


def build_unit_graphs(
    dissected: DissectedNetwork, pixels: Tensor, labels: Tensor
) -> tuple[list[UnitGraph], Tensor]:
    """Each unit on a tape of its own, from input to output, and the gradient of the mean loss at the last one's output."""
    x = dissected.stem(pixels).detach()
    unit_graphs: list[UnitGraph] = []
    for unit in dissected.units:
        if unit.branch_gradient_only is None or unit.shortcut_gradient_only is None:
            raise ValueError(f"{unit.name} has no shortcut")
        x = x.detach().requires_grad_()
        branch, shortcut = unit.branch_gradient_only(x), unit.shortcut_gradient_only(x)
        unit_graphs.append((x, branch, shortcut))
        x = branch
    x = x.detach().requires_grad_()
    (output_gradient,) = torch.autograd.grad(F.cross_entropy(dissected.head(x), labels), x)
    return unit_graphs, output_gradient


def compute_path_gradient(
    unit_graphs: list[UnitGraph], output_gradient: Tensor, branch_units: frozenset[int]
) -> tuple[Tensor, float]:
    """The gradient at the first unit's input by the one path through those branches: of norm 1 or 0, and its norm's logarithm.

    It is brought back to norm 1 at each unit, for long paths' gradients are smaller than the smallest number.
    """
    g, log_scale = output_gradient, 0.0
    for i, (x, branch, shortcut) in reversed(list(enumerate(unit_graphs))):
        norm = float(g.norm())
        if norm == 0 or not isfinite(norm):
            return torch.zeros_like(unit_graphs[0][0]), -inf
        (g,) = torch.autograd.grad(
            branch if i in branch_units else shortcut, x, g / norm, retain_graph=True
        )
        log_scale += log(norm)
    norm = float(g.norm())
    return (g / norm, log_scale + log(norm)) if norm else (g, -inf)


def count_sampled_paths(unit_count: int, draws_per_length: int) -> int:
    """How many paths `shares` takes through `count` units."""
    return sum(
        count_draws(length, unit_count, draws_per_length)
        for length in choose_sampled_lengths(unit_count)
    )


def count_draws(length: int, unit_count: int, draws_per_length: int) -> int:
    return 1 if length in (0, unit_count) else draws_per_length  # there is but one such path


def compute_path_log_norm(
    unit_graphs: list[UnitGraph], output_gradient: Tensor, branch_units: frozenset[int]
) -> float:
    return compute_path_gradient(unit_graphs, output_gradient, branch_units)[1]


def choose_sampled_lengths(unit_count: int) -> list[int]:
    """Which lengths of 0 to `count` are sampled: all, or at most MOST of them, more of the short ones, which count."""
    return (
        sorted(
            {
                round(unit_count * (i / (MAX_SAMPLED_LENGTHS - 1)) ** 2)
                for i in range(MAX_SAMPLED_LENGTHS)
            }
        )
        if unit_count >= MAX_SAMPLED_LENGTHS
        else list(range(unit_count + 1))
    )


def interpolate_log_norm(sampled_log_norms: dict[int, float], length: int) -> float:
    """`sampled` between its lengths, along a line."""
    if length in sampled_log_norms:
        return sampled_log_norms[length]
    low, high = (
        max(k for k in sampled_log_norms if k < length),
        min(k for k in sampled_log_norms if k > length),
    )
    if -inf in (sampled_log_norms[low], sampled_log_norms[high]):
        return -inf
    return sampled_log_norms[low] + (sampled_log_norms[high] - sampled_log_norms[low]) * (
        length - low
    ) / (high - low)


def log_sum_exp(log_values: list[float]) -> float:
    """log(exp(a) + exp(b) + ...), whatever their size."""
    largest = max(log_values)
    return (
        largest + log(sum(exp(value - largest) for value in log_values)) if largest > -inf else -inf
    )


def log_mean_exp(log_values: list[float]) -> float:
    return log_sum_exp(log_values) - log(len(log_values))

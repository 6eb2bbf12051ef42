"""How much of the gradient comes by paths of each length (Veit et al. 2016, section 5.2 and Fig. 6).

A path passes each unit by its branch or by its shortcut; its length is the number of branches.  A net of n units has 2^n
paths, and in evaluation mode the gradient at the first unit's input is the sum of theirs, gates being taken as they stand.
"""

from collections.abc import Callable
from math import exp, inf, isfinite, log

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.data.counter import permutation
from residua.spec.lesion import Length, log_paths
from residua.study.anatomy import Anatomy

PATH = 2  # what random bits are for, beside those of lesions
MOST = 32  # lengths that are sampled; between them the logarithm of the norm is interpolated


def shares(anatomy: Anatomy, pixels: Tensor, labels: Tensor, draws: int, seed: int, tell: Callable[[], None]) -> tuple[Length, ...]:
    """For each length k, the gradient's share: C(n, k) times the mean norm over `draws` random paths, over the sum of all.

    Norms of paths do not add up to the norm of their sum, as gradients of different paths differ in direction; it is Veit et
    al.'s measure of which paths carry the gradient.  Its norm is that of d loss / d x over a batch `pixels` (n, c, h, w).
    """
    count = len(anatomy.units)
    units, top = unrolled(anatomy, pixels, labels)
    sampled: dict[int, float] = {}
    for length in lengths(count):
        norms = []
        for draw in range(draws_of(length, count, draws)):
            through = frozenset(permutation(count, seed, PATH, length, draw)[:length].tolist())
            norms.append(log_norm(units, top, through))
            tell()
        sampled[length] = log_mean(norms)
    logs = [interpolated(sampled, length) for length in range(count + 1)]
    weights = [log_paths(count, length) + norm for length, norm in enumerate(logs)]
    total = log_sum(weights)
    return tuple(
        Length(length, norm if norm > -inf else None, length in sampled, exp(weight - total) if total > -inf else 0.0)
        for length, (norm, weight) in enumerate(zip(logs, weights, strict=True))
    )


Unrolled = tuple[Tensor, Tensor, Tensor]  # a unit's input, and its output twice: by the branch alone, by the shortcut alone


def unrolled(anatomy: Anatomy, pixels: Tensor, labels: Tensor) -> tuple[list[Unrolled], Tensor]:
    """Each unit on a tape of its own, from input to output, and the gradient of the mean loss at the last one's output."""
    x = anatomy.stem(pixels).detach()
    units: list[Unrolled] = []
    for unit in anatomy.units:
        if unit.by_branch is None or unit.by_shortcut is None:
            raise ValueError(f"{unit.name} has no shortcut")
        x = x.detach().requires_grad_()
        branch, shortcut = unit.by_branch(x), unit.by_shortcut(x)
        units.append((x, branch, shortcut))
        x = branch
    x = x.detach().requires_grad_()
    (top,) = torch.autograd.grad(F.cross_entropy(anatomy.head(x), labels), x)
    return units, top


def gradient(units: list[Unrolled], top: Tensor, through: frozenset[int]) -> tuple[Tensor, float]:
    """The gradient at the first unit's input by the one path through those branches: of norm 1 or 0, and its norm's logarithm.

    It is brought back to norm 1 at each unit, for long paths' gradients are smaller than the smallest number.
    """
    g, scale = top, 0.0
    for i, (x, branch, shortcut) in reversed(list(enumerate(units))):
        norm = float(g.norm())
        if norm == 0 or not isfinite(norm):
            return torch.zeros_like(units[0][0]), -inf
        (g,) = torch.autograd.grad(branch if i in through else shortcut, x, g / norm, retain_graph=True)
        scale += log(norm)
    norm = float(g.norm())
    return (g / norm, scale + log(norm)) if norm else (g, -inf)


def paths_to_take(count: int, draws: int) -> int:
    """How many paths `shares` takes through `count` units."""
    return sum(draws_of(length, count, draws) for length in lengths(count))


def draws_of(length: int, count: int, draws: int) -> int:
    return 1 if length in (0, count) else draws  # there is but one such path


def log_norm(units: list[Unrolled], top: Tensor, through: frozenset[int]) -> float:
    return gradient(units, top, through)[1]


def lengths(count: int) -> list[int]:
    """Which lengths of 0 to `count` are sampled: all, or at most MOST of them, more of the short ones, which count."""
    return sorted({round(count * (i / (MOST - 1)) ** 2) for i in range(MOST)}) if count >= MOST else list(range(count + 1))


def interpolated(sampled: dict[int, float], length: int) -> float:
    """`sampled` between its lengths, along a line."""
    if length in sampled:
        return sampled[length]
    low, high = max(k for k in sampled if k < length), min(k for k in sampled if k > length)
    if -inf in (sampled[low], sampled[high]):
        return -inf
    return sampled[low] + (sampled[high] - sampled[low]) * (length - low) / (high - low)


def log_sum(logs: list[float]) -> float:
    """log(exp(a) + exp(b) + ...), whatever their size."""
    most = max(logs)
    return most + log(sum(exp(value - most) for value in logs)) if most > -inf else -inf


def log_mean(logs: list[float]) -> float:
    return log_sum(logs) - log(len(logs))

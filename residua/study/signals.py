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
from residua.net.build import ResidualNetwork, ResidualUnit
from residua.net.recompute import statistics_kept

Tell: TypeAlias = Callable[[int, int], None]
"""Is told how many units are measured, and of how many."""


def silent(done: int, units: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One unit, y = after(shortcut(x) + F(x)).  None: not defined there, or not a finite number in fp32.

    Means are over images, channels and positions alike; gradients are those of the mean cross-entropy of the batch.
    """

    name: str
    stage: int  # from 1
    index: int  # in its stage, from 1
    clip_fraction: float | None  # share of the sums below 0, where a ReLU follows the addition; 0 where none does
    survival: float | None  # share of activations that no unit cut, from the stage's first one to this one
    response_std: float | None  # standard deviation of F(x), behind its BN if one ends it (He et al. 2015, Fig. 7)
    residual_ratio: float | None  # |F(x)| / |shortcut(x)|, as root mean squares; / |x| in a plain net
    gradient_norm: float | None  # Euclidean, of the branch's weight layers together, biases and BN left out
    activation_gradient_norm: float | None  # Euclidean, of dL/dy
    mean: float | None  # of y
    variance: float | None  # of y
    gradient_cosine: float | None  # between dL/dy and dL/dy of the stage's last unit (He et al. 2016, Eq. 5)
    gradient_correlation: float | None
    """Mean cosine between the rows of dL/dy of two different images, over all pairs (after Balduzzi et al. 2017, section 2)."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a forward pass leaves of one unit."""

    clipped: Tensor | None  # bool, of the shape of y; None where no ReLU follows the addition
    response_std: float
    residual_ratio: float | None
    mean: float
    variance: float


def signals(net: nn.Module, images: Tensor, labels: Tensor, units: Sequence[str] = (), tell: Tell = silent) -> list[Signal]:
    """The signals of `net` on normalised images (n, c, h, w) and their labels (n,), a unit each, from input to output.

    Any other module than our networks is followed while it computes: each addition of two tensors of one shape is a unit's, named
    after the module that adds (see `residua.study.joins`).  `units` names modules to measure instead of all.
    Raises UsageError for fewer than 2 images, unknown units, and where there is nothing to measure.
    """
    if len(images) < 2:
        raise UsageError(too_few(len(images)))
    with normalising_by_batch(net):
        if isinstance(net, ResidualNetwork):
            wanted = known(units, [unit.name for unit in net.plan.units]) or [unit.name for unit in net.plan.units]
            return [one for one in through(net, images, labels, tell) if one.name in wanted]
        from residua.study.joins import followed

        return followed(net, images, labels, units)


def too_few(images: int) -> str:
    """A sentence for fewer than 2 images."""
    return f"{images} {'image is' if images == 1 else 'images are'} too few: BN and gradients compare images, give at least 2"


def known(units: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """`units`, or UsageError for one that is not among the names."""
    for unit in units:
        if unit not in names:
            raise UsageError(f"no unit {unit!r}: the network has {names[0]} to {names[-1]}")
    return units


@contextmanager
def normalising_by_batch(net: nn.Module) -> Iterator[None]:
    """BN as in training but for its running statistics, which stay; all else as in evaluation; then as before."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    for module, _ in modes:
        if isinstance(module, _BatchNorm):
            module.training = True
    try:
        with statistics_kept(net):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def through(net: ResidualNetwork, images: Tensor, labels: Tensor, tell: Tell) -> list[Signal]:
    inputs, passed = [], []
    with torch.no_grad():
        x = net.stem(images)
        for unit in net.units:
            inputs.append(x)
            x, one = forward(unit, x)
            passed.append(one)
    survivals = surviving([p.clipped for p in passed], [unit.stage for unit in net.plan.units])
    x.requires_grad_()
    with torch.enable_grad():
        [gradient] = torch.autograd.grad(F.cross_entropy(net.head(x), labels), [x])
    found: list[Signal] = []
    end, stage = gradient, 0
    for unit, planned, forth, survival in reversed(list(zip(net.units, net.plan.units, passed, survivals, strict=True))):
        end, stage = (end, stage) if planned.stage == stage else (gradient, planned.stage)
        weights = [p for p in unit.branch.parameters() if p.dim() > 1]
        back = backward(unit, inputs.pop(), weights, gradient)
        found.append(signal(planned.name, (planned.stage, planned.index), forth, survival, back[1:], gradient, end))
        gradient = back[0]
        tell(len(found), len(net.units))
    return found[::-1]


def forward(unit: ResidualUnit, x: Tensor) -> tuple[Tensor, Passed]:
    """The unit's output, computed part by part, and what there is to see on the way."""
    x = unit.lead(x)
    branch = unit.branch(x)
    beside = x if unit.shortcut is None else unit.shortcut(x)
    y = branch if unit.shortcut is None else unit.join(x, beside, branch)
    clipped = None
    for layer in unit.after:
        if isinstance(layer, nn.ReLU):
            clipped = y < 0
        y = layer(y)
    return y, seen(branch, beside, y, clipped)


def seen(branch: Tensor, beside: Tensor, y: Tensor, clipped: Tensor | None) -> Passed:
    variance, mean = torch.var_mean(y.double(), correction=0)  # fp32 squares of large ones are infinite
    size = root_mean_square(beside)
    ratio = root_mean_square(branch) / size if size else None  # nothing beside it
    return Passed(clipped, branch.double().std(correction=0).item(), ratio, mean.item(), variance.item())


def root_mean_square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / sqrt(x.numel())


def surviving(clipped: list[Tensor | None], stages: list[int]) -> list[float]:
    """For each unit, the share of its stage's activations that nothing has cut so far."""
    shares, alive, before = [], None, 0
    for cut, stage in zip(clipped, stages, strict=True):
        alive, before = alive if stage == before else None, stage
        if cut is not None:
            alive = ~cut if alive is None else alive & ~cut
        shares.append(1.0 if alive is None else alive.float().mean().item())
    return shares


@torch.enable_grad()
def backward(unit: ResidualUnit, x: Tensor, weights: Sequence[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    """dL/dx, then dL/dw of each of `weights`, from dL/dy."""
    x = x.detach().requires_grad_()
    wanted = [weight for weight in weights if weight.requires_grad]
    return torch.autograd.grad(unit(x), [x, *wanted], dy)


def signal(
    name: str, place: tuple[int, int], forth: Passed, survival: float | None, weights: Sequence[Tensor], dy: Tensor, end: Tensor
) -> Signal:
    """A unit's signals from its forward pass, the gradients of its weights, dL/dy, and dL/dy at the end of its stage."""
    norms = torch.stack([weight.double().norm() for weight in weights]) if weights else None
    finite_y = isfinite(forth.variance)
    clip = 0.0 if forth.clipped is None else forth.clipped.float().mean().item()
    return Signal(
        name=name,
        stage=place[0],
        index=place[1],
        clip_fraction=clip if finite_y else None,
        survival=survival if finite_y else None,
        response_std=finite(forth.response_std),
        residual_ratio=finite(forth.residual_ratio),
        gradient_norm=None if norms is None else finite(norms.norm().item()),
        activation_gradient_norm=finite(dy.double().norm().item()),
        mean=finite(forth.mean),
        variance=finite(forth.variance),
        gradient_cosine=finite(cosine(dy, end)),
        gradient_correlation=finite(correlation(dy)),
    )


def finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Between two gradients, in float64: fp32 squares of small ones are 0; None where their shapes differ or one is 0."""
    if a.shape != b.shape:
        return None
    a, b = a.double().flatten(), b.double().flatten()
    size = (a.norm() * b.norm()).item()
    return (a @ b).item() / size if size else None


def correlation(gradient: Tensor) -> float | None:
    """Mean cosine over all pairs of different rows (n, ...); None where a row is 0."""
    rows = gradient.double().flatten(1)
    sizes = rows.norm(dim=1, keepdim=True)
    n = len(rows)
    if not bool((sizes > 0).all()):
        return None
    together = float((rows / sizes).sum(0).norm()) ** 2  # n, and each pair twice
    return (together - n) / (n * (n - 1))

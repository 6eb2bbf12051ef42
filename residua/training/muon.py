"""Muon: momentum whose matrices are made orthogonal before they are added (Jordan et al. 2024)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

NEWTON_SCHULZ_STEPS = 5
QUINTIC_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al.: steep at 0, so that five rounds bring singular values into 0.7 to 1.2


class MuonOptimiser(Optimizer):
    """Nesterov's momentum, whose direction is made orthogonal for the groups that say `orthogonal`.

    A filter (out, in, k, k) is a matrix (out, in k k).  Those of one shape are one batch, as networks have many of few shapes.
    Weight decay is apart from the gradient for orthogonal groups, and added to it for the others, as in SGD; the rate of a
    group is `lr` times its `share`.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(
            groups,
            {
                "lr": 0.0,
                "momentum": momentum,
                "share": 1.0,
                "weight_decay": 0.0,
                "orthogonal": False,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            lr, weight_decay, momentum = (
                group["share"] * group["lr"],
                group["weight_decay"],
                group["momentum"],
            )
            gradients: list[Tensor] = [p.grad for p in parameters]
            if not group["orthogonal"]:
                gradients = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))
            buffers = [
                self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters
            ]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            directions = list(torch._foreach_add(gradients, buffers, alpha=momentum))
            if group["orthogonal"]:
                directions = orthogonalise_by_shape(directions)
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            torch._foreach_add_(parameters, directions, alpha=-lr)


def orthogonalise_by_shape(tensors: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of each (out, ...), in its place."""
    indices_by_shape = defaultdict(list)
    for i, tensor in enumerate(tensors):
        indices_by_shape[tensor.shape].append(i)
    results: list[Tensor] = list(tensors)
    for shape, indices in indices_by_shape.items():
        batch = orthogonalise_matrices(torch.stack([tensors[i].flatten(1) for i in indices]))
        for i, matrix in zip(indices, batch, strict=True):
            results[i] = matrix.view(shape)
    return results


def orthogonalise_matrices(matrices: Tensor) -> Tensor:
    """About U V^T of each G = U S V^T, (n, rows, columns) -> the same in fp32, by Newton-Schulz iterations in bf16."""
    a, b, c = QUINTIC_COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.mT if is_tall else x).float()
    return result

"""The Muon optimiser, which orthogonalises the momentum before each update (Jordan et al. 2024)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

NEWTON_SCHULZ_STEPS = 5
# Jordan et al.: steep at 0, so that five steps bring singular values into 0.7 to 1.2
QUINTIC_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonOptimiser(Optimizer):
    """Nesterov momentum, orthogonalised in the parameter groups that set "is_unit_weights".

    torch.optim.Muon takes only matrices.  Here a convolution weight (out, in, k, k) is treated as a
    matrix (out, in * k * k).  Weights of the same shape are orthogonalised as one batch, because
    networks have many weights but few shapes.  Weight decay is decoupled in the orthogonalised
    groups; in the others it is added to the gradient, as in SGD.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0, "is_unit_weights": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            lr, weight_decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
            gradients: list[Tensor] = [p.grad for p in parameters]
            if not group["is_unit_weights"]:
                gradients = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))
            buffers = [
                self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters
            ]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            directions = list(torch._foreach_add(gradients, buffers, alpha=momentum))
            if group["is_unit_weights"]:
                directions = orthogonalise_by_shape(directions)
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            torch._foreach_add_(parameters, directions, alpha=-lr)


def orthogonalise_by_shape(tensors: list[Tensor]) -> list[Tensor]:
    """Orthogonalise tensors (out, ...), in one batch per shape; return them in the same order."""
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
    """Approximate the nearest orthogonal matrix of each of n matrices (n, rows, columns).

    The nearest orthogonal matrix of G = U S V^T is U V^T.  It is computed by Newton-Schulz steps in
    bf16 and returned in fp32.
    """
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

"""The Muon optimiser, which orthogonalises the momentum before each update (Jordan et al. 2024)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

NEWTON_SCHULZ_STEPS = 5
# Jordan et al.: steep at 0, so that five steps bring singular values into 0.7 to 1.2
QUINTIC_COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Of batches on a GPU, on which one kernel for many matrices beats several without padding.
MAX_PADDING_FACTOR = 4
FREE_PADDED_ELEMENTS = 2**21


class MuonOptimiser(Optimizer):
    """Nesterov momentum, orthogonalised in the parameter groups that set "is_unit_weights".

    torch.optim.Muon takes only matrices.  Here a convolution weight (out, in, k, k) is treated as a
    matrix (out, in * k * k).  Weights of the same shape are orthogonalised as one batch, because
    networks have many weights but few shapes.  Weight decay is decoupled in the orthogonalised
    groups; in the others it is added to the gradient, as in SGD.  `rounds` is the number of
    Newton-Schulz steps.  With `normalise_weights`, an orthogonalised weight is scaled before each
    step, so that its norm is the square root of its number of outputs.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float,
        rounds: int = NEWTON_SCHULZ_STEPS,
        *,
        normalise_weights: bool = False,
    ) -> None:
        self.rounds, self.normalise_weights = rounds, normalise_weights
        defaults = {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0, "is_unit_weights": False}
        super().__init__(groups, defaults)
        self.packings: dict[tuple[object, ...], MatrixPacking] = {}

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
            buffers = [self.momentum_of(p) for p in parameters]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            directions = list(torch._foreach_add(gradients, buffers, alpha=momentum))
            if group["is_unit_weights"]:
                directions = self.orthogonalise(directions)
                if self.normalise_weights:
                    normalise_to_outputs(parameters)
                torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            if isinstance(lr, Tensor):
                torch._foreach_mul_(directions, -lr)
                torch._foreach_add_(parameters, directions)
            else:
                torch._foreach_add_(parameters, directions, alpha=-lr)

    def momentum_of(self, parameter: Tensor) -> Tensor:
        """Return the momentum of a parameter, which is zero before the first step."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum

    def orthogonalise(self, tensors: list[Tensor]) -> list[Tensor]:
        """Orthogonalise tensors (out, ...); return the results in the same order."""
        if not tensors[0].is_cuda:
            return orthogonalise_by_shape(tensors, self.rounds)
        key = tuple((tensor.shape, tensor.stride()) for tensor in tensors)
        if key not in self.packings:
            self.packings[key] = MatrixPacking(tensors)
        packing = self.packings[key]
        batches = [orthogonalise_wide(batch, self.rounds) for batch in packing.pack(tensors)]
        return packing.unpack(batches)


class MatrixPacking:
    """A packing of tensors (out, ...) into few batches of zero-padded wide matrices, for a GPU.

    A tensor, whose memory must be dense, becomes a matrix with the axes `out` and all others, in
    the order of its memory, and a tall matrix is transposed.  Neither padding with zeros nor the
    order of the columns changes the nearest orthogonal matrix, but for rounding.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.layouts = [(tensor.shape, tensor.stride()) for tensor in tensors]
        device = tensors[0].device
        sizes = [tensor.numel() for tensor in tensors]
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        padding = sum(sizes)  # the index of a zero behind all values
        matrices = []
        for tensor, offset in zip(tensors, offsets, strict=True):
            indices = torch.arange(offset, offset + tensor.numel()).view(len(tensor), -1)
            matrices.append(indices.mT if len(tensor) > indices.shape[1] else indices)
        self.batch_indices = []  # each (n, rows, columns): for each element, its index among values
        self.value_indices = torch.empty(padding, dtype=torch.int64)
        batch_offset = 0
        for members in group_by_padded_size([matrix.shape for matrix in matrices]):
            rows, columns = [max(matrices[i].shape[axis] for i in members) for axis in (0, 1)]
            batch = torch.full((len(members), rows, columns), padding)
            for padded, i in zip(batch, members, strict=True):
                padded[: matrices[i].shape[0], : matrices[i].shape[1]] = matrices[i]
            is_value = batch.flatten() < padding
            positions = torch.arange(batch.numel())[is_value] + batch_offset
            self.value_indices[batch.flatten()[is_value]] = positions
            batch_offset += batch.numel()
            self.batch_indices.append(batch.to(device, torch.int32))
        self.value_indices = self.value_indices.to(device)
        self.zero = torch.zeros(1, device=device)
        self.sizes = sizes

    def pack(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the batches (n, rows, columns) of the tensors' matrices, in bf16."""
        values = torch.cat(
            [*[tensor.as_strided([tensor.numel()], [1]) for tensor in tensors], self.zero]
        )
        values = values.bfloat16()
        return [
            values.index_select(0, indices.view(-1)).view(indices.shape)
            for indices in self.batch_indices
        ]

    def unpack(self, batches: list[Tensor]) -> list[Tensor]:
        """Return the tensors of packed matrices, in fp32, each with its own layout in memory."""
        values = torch.cat([batch.reshape(-1) for batch in batches])[self.value_indices].float()
        return [
            part.as_strided(shape, stride)
            for part, (shape, stride) in zip(
                torch.split(values, self.sizes), self.layouts, strict=True
            )
        ]


def group_by_padded_size(shapes: list[torch.Size]) -> list[list[int]]:
    """Group matrices that are padded to one size; returns the indices of each group's members.

    From the largest on, a matrix joins the group of the one before it if no matrix of the group
    then becomes more than `MAX_PADDING_FACTOR` times as large, or if the padded group then has at
    most `FREE_PADDED_ELEMENTS` in all.
    """
    groups: list[list[int]] = []
    rows = columns = smallest = 0  # of the last group
    for i in sorted(range(len(shapes)), key=lambda i: (-shapes[i][0], -shapes[i][1])):
        padded = rows * max(columns, shapes[i][1])
        if groups and (
            padded <= MAX_PADDING_FACTOR * min(smallest, shapes[i].numel())
            or (len(groups[-1]) + 1) * padded <= FREE_PADDED_ELEMENTS
        ):
            groups[-1].append(i)
            columns, smallest = max(columns, shapes[i][1]), min(smallest, shapes[i].numel())
        else:
            groups.append([i])
            (rows, columns), smallest = shapes[i], shapes[i].numel()
    return groups


def normalise_to_outputs(weights: list[Tensor]) -> None:
    """Scale weights (out, ...) in place, so that the Euclidean norm of each is sqrt(out)."""
    norms = list(torch._foreach_norm(weights))
    torch._foreach_div_(norms, [len(weight) ** 0.5 for weight in weights])
    torch._foreach_clamp_min_(norms, 1e-12)
    torch._foreach_div_(weights, norms)


def orthogonalise_by_shape(
    tensors: list[Tensor], rounds: int = NEWTON_SCHULZ_STEPS
) -> list[Tensor]:
    """Orthogonalise tensors (out, ...), in one batch per shape; return them in the same order."""
    indices_by_shape = defaultdict(list)
    for i, tensor in enumerate(tensors):
        indices_by_shape[tensor.shape].append(i)
    results: list[Tensor] = list(tensors)
    for shape, indices in indices_by_shape.items():
        stacked = torch.stack([tensors[i].flatten(1) for i in indices])
        batch = orthogonalise_matrices(stacked, rounds)
        for i, matrix in zip(indices, batch, strict=True):
            results[i] = matrix.view(shape)
    return results


def orthogonalise_matrices(matrices: Tensor, rounds: int = NEWTON_SCHULZ_STEPS) -> Tensor:
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
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.mT if is_tall else x).float()
    return result


def orthogonalise_wide(x: Tensor, rounds: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Do the same as `orthogonalise_matrices` for wide bf16 matrices, in few kernels, in bf16."""
    a, b, c = QUINTIC_COEFFICIENTS
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x

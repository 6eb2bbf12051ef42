"""Modules that join shortcut and branch; each implements a class of `config.joins`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.joins import Add, Drop, Gate, Join, Scale
from residua.config.layers import Layers
from residua.config.registry import implementation_of, register
from residua.net.layers import make_weight_layer


class WeightedSum(nn.Module):
    """A weighted sum: shortcut_scale * shortcut + branch_scale * branch."""

    def __init__(self, shortcut_scale: float, branch_scale: float) -> None:
        super().__init__()
        self.shortcut_scale, self.branch_scale = shortcut_scale, branch_scale

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.shortcut_scale == self.branch_scale == 1:
            return shortcut + branch
        return self.shortcut_scale * shortcut + self.branch_scale * branch


class GatedSum(nn.Module):
    """A gated sum: (1 - g) * shortcut + g * branch, with the gate g = sigmoid(gate(x)).

    With `scales_branch=False`, the gate scales the shortcut alone: (1 - g) * shortcut + branch.
    `build` sets the gate's bias to `initial_bias`.
    """

    def __init__(self, gate: Layers, scales_branch: bool, initial_bias: float) -> None:
        super().__init__()
        self.gate = make_weight_layer(gate[0])
        self.initial_bias = initial_bias
        self.scales_branch = scales_branch

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return (1 - g) * shortcut + (g * branch if self.scales_branch else branch)


class DropJoin(nn.Module):
    """A sum with dropout on the shortcut and stochastic depth on the branch (Huang et al. 2016).

    In training mode, the branch of each image is set to 0 with probability `drop_path`, or else
    divided by 1 - drop_path.  In evaluation mode, the join is a plain sum.
    """

    def __init__(self, shortcut_dropout: float, drop_path: float) -> None:
        super().__init__()
        self.shortcut_dropout, self.drop_path = shortcut_dropout, drop_path

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.training and self.drop_path:
            keep_mask = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.drop_path
            branch = branch * (keep_mask / (1 - self.drop_path)).to(branch.dtype)
        return F.dropout(shortcut, self.shortcut_dropout, self.training) + branch


def build_gated_sum(join: Gate, gate: Layers) -> GatedSum:
    return GatedSum(gate, join.scales == "both", join.bias)


register(Add, implementation=lambda join, gate: WeightedSum(1, 1))
register(Scale, implementation=lambda join, gate: WeightedSum(join.shortcut, join.branch))
register(Gate, implementation=build_gated_sum)
register(Drop, implementation=lambda join, gate: DropJoin(join.shortcut, join.branch))


def make_join(join: Join, gate: Layers) -> nn.Module:
    """Make the module of a join; `gate` is the weight layer of a gated join, else empty."""
    module: nn.Module = implementation_of(join)(join, gate)
    return module

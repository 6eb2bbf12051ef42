"""Initialise the weights of a network from a seed."""

from math import sqrt

import torch
from torch import Tensor, nn

from residua.net.vlad import NetVlad


def initialise_weights(net: nn.Module, seed: int) -> None:
    """Initialise `net` in place: weights by `draw_he_normal`, biases to 0.

    BN keeps PyTorch's defaults, scale 1 and shift 0.  NetVLAD uses its own `reset_parameters`.  The
    papers do not say how to initialise the last, fully connected layer; we use the same rule.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            draw_he_normal(module.weight, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, NetVlad):
            module.reset_parameters(generator)


def draw_he_normal(weight: Tensor, generator: torch.Generator) -> None:
    """Fill a weight (outputs, ...) with draws from N(0, 2 / fan_in) (He et al. 2015b, Eq. 10)."""
    fan_in = weight[0].numel()
    nn.init.normal_(weight, std=sqrt(2 / fan_in), generator=generator)

"""Initial weights, as a function of a seed."""

from math import sqrt

import torch
from torch import nn

from residua.net.vlad import NetVlad


def initialise_weights(net: nn.Module, seed: int) -> None:
    """Weights ~ N(0, 2 / fan_in) (He et al. 2015b, Eq. 10), biases 0; BN starts with scale 1, shift 0.

    Our choice: the last, fully connected layer is drawn by the same rule; the papers do not say.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, NetVlad):
            module.reset_parameters(generator)

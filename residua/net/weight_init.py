"""Initialise the weights of a network from a seed."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn

from residua.config.layers import Layer
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


def redraw_weights(layers: Iterable[tuple[nn.Module, Layer]], seed: int) -> None:
    """Draw the weights of the layers whose `start` is not "he" again, in place."""
    generator = torch.Generator().manual_seed(seed)
    for module, layer in layers:
        if layer.start == "normal":
            nn.init.normal_(module.get_parameter("weight"), generator=generator)
        if layer.start == "dirac":
            draw_identity_filters(module.get_parameter("weight"), layer.groups, generator)


@torch.no_grad()
def draw_identity_filters(weight: Tensor, groups: int, generator: torch.Generator) -> None:
    """Make filter i of a weight (outputs, inputs, ...) pass on input i, for every input.

    Filters beyond the inputs are drawn uniformly within 1 / sqrt(fan_in), PyTorch's usual range.
    """
    bound = 1 / sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    filters = weight if weight.dim() > 2 else weight[:, :, None]
    count = min(len(weight) // groups, weight.shape[1]) * groups
    nn.init.dirac_(filters[:count] if groups == 1 else filters, groups)


def draw_he_normal(weight: Tensor, generator: torch.Generator) -> None:
    """Fill a weight (outputs, ...) with draws from N(0, 2 / fan_in) (He et al. 2015b, Eq. 10)."""
    fan_in = weight[0].numel()
    nn.init.normal_(weight, std=sqrt(2 / fan_in), generator=generator)

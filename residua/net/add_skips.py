"""Add skip connections to an ordinary nn.Sequential."""

from math import prod

import torch
from torch import Tensor, nn

from residua.errors import UsageError
from residua.net.weight_init import draw_he_normal

WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
ACTIVATION_LAYERS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh)
GROUPABLE_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Dropout,
    nn.Dropout2d,
    *ACTIVATION_LAYERS,
)
"""The layers that a group may contain besides its weight layers."""


class SkipConnection(nn.Module):
    """A branch with a skip connection: y = after(shortcut(x) + branch(x))."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.shortcut(x) + self.branch(x))
        return y


def add_skips_to_sequential(
    net: nn.Sequential, every: int, generator: torch.Generator
) -> nn.Sequential:
    """Return a new nn.Sequential with a skip connection over each group of `every` weight layers.

    The new net contains the modules of `net` themselves, not copies.  Raises UsageError if `net`
    has no such group, or if the output of a group cannot be added to its input.
    """
    modules, new_modules = list(net), list[nn.Module]()
    weight_indices = [i for i, module in enumerate(modules) if isinstance(module, WEIGHT_LAYERS)]
    last_weight_index = max(weight_indices, default=0)
    start = 0
    while start < len(modules):
        end = find_group_end(modules, start, last_weight_index, every)
        if end == start:
            new_modules.append(modules[start])
        else:
            new_modules.append(wrap_with_skip(modules[start:end], generator))
        start = max(end, start + 1)
    if not any(isinstance(module, SkipConnection) for module in new_modules):
        raise UsageError(
            f"this net does not have {every} consecutive "
            "weight layers that a skip connection can span: choose a smaller 'every'"
        )
    return nn.Sequential(*new_modules).train(net.training)


def find_group_end(modules: list[nn.Module], start: int, last_weight_index: int, every: int) -> int:
    """Find the end (exclusive) of the group of `every` weight layers that begins at index `start`.

    Returns `start` itself if no group begins there.  The last weight layer of the net is its
    classifier and belongs to no group.
    """
    weight_count = 0
    for i in range(start, len(modules) + 1):
        ends = i == len(modules) or not isinstance(modules[i], GROUPABLE_LAYERS)
        if weight_count == every and ends:
            return i
        if ends and (i >= last_weight_index or not isinstance(modules[i], WEIGHT_LAYERS)):
            return start
        if i == start and not isinstance(modules[i], WEIGHT_LAYERS):
            return start
        weight_count += isinstance(modules[i], WEIGHT_LAYERS)
    return start


def wrap_with_skip(group: list[nn.Module], generator: torch.Generator) -> SkipConnection:
    """Add a shortcut around a group of layers, and put the group's last activation after the sum.

    For two layers: a[l+2] = g(z[l+2] + a[l]).  Here g is the activation, z[l] the output of layer l
    before g, and a[l] = g(z[l]).
    """
    weight_layers = [module for module in group if isinstance(module, WEIGHT_LAYERS)]
    activations = [i for i, module in enumerate(group) if isinstance(module, ACTIVATION_LAYERS)]
    split_index = max(activations, default=0)
    if split_index <= group.index(weight_layers[-1]):  # the group ends without an activation
        split_index = len(group)
    return SkipConnection(
        nn.Sequential(*group[:split_index]),
        make_projection_or_identity(weight_layers, generator),
        nn.Sequential(*group[split_index:]),
    )


def make_projection_or_identity(
    weight_layers: list[nn.Conv2d | nn.Linear], generator: torch.Generator
) -> nn.Module:
    """Make a group's shortcut: the identity, or a projection if the weight layers change the shape.

    Raises UsageError if no projection can match the shapes.
    """
    first, last = weight_layers[0], weight_layers[-1]
    if isinstance(first, nn.Linear) and isinstance(last, nn.Linear):
        if first.in_features == last.out_features:
            return nn.Identity()
        shortcut: nn.Conv2d | nn.Linear = nn.Linear(
            first.in_features, last.out_features, bias=False
        )
    elif isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d):
        convs = [conv for conv in weight_layers if isinstance(conv, nn.Conv2d)]
        if unpadded := next((conv for conv in convs if not is_same_padded(conv)), None):
            raise UsageError(
                f"{unpadded} is not a 'same' convolution: its output cannot be added to its input"
            )
        stride = prod(conv.stride[0] for conv in convs)
        if first.in_channels == last.out_channels and stride == 1:
            return nn.Identity()
        shortcut = nn.Conv2d(first.in_channels, last.out_channels, 1, stride, bias=False)
    else:
        raise UsageError(
            f"no shortcut can lead from {first} to {last}: their shapes cannot be matched"
        )
    draw_he_normal(shortcut.weight, generator)
    return shortcut.to(first.weight.device, first.weight.dtype)


def is_same_padded(conv: nn.Conv2d) -> bool:
    """Return whether a convolution's padding is 'same', so that only its stride shrinks images."""
    half_kernel = tuple(
        dilation * (kernel - 1) // 2
        for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True)
    )
    is_odd = all(kernel % 2 for kernel in conv.kernel_size)
    return is_odd and conv.padding in ("same", half_kernel) and conv.stride[0] == conv.stride[1]

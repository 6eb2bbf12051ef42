"""Compute BN, the addition of a unit and ReLU in one kernel call, for training in bf16.

With PyTorch's own operators, these layers take half of the training step of a small network.  The
kernels are in C for a CPU (`fused_bn_kernels`) and in Triton for an NVIDIA GPU
(`triton_batchnorm`).  In a fused unit or sequence, `forward` decides from the input which layers
the kernel computes, and calls the other layers as PyTorch modules.  Layers, parameters and names do
not change.
"""

from collections.abc import Iterable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from residua.net.batch_moments import BatchMoments
from residua.net.build import ResidualNetwork, ResidualUnit
from residua.net.fast_conv import TritonConv2d
from residua.net.fused_bn_kernels import (
    CPU,
    BatchNormAddReLUFunction,
    describe_fused_kernels,
    explain_missing_kernels,
)
from residua.net.joins import WeightedSum


def install_fused_batchnorm(net: ResidualNetwork, device: torch.device = CPU) -> str:
    """Replace units and sequences of `net`, in place, by fused ones if `device` has kernels.

    `device` is the one that the network is going to be trained on.  The keys of the state_dict and
    its tensors stay the same.  Returns `describe_fused_kernels(device)`, a text that says whether
    the kernels are used.
    """
    if explain_missing_kernels(device) is None:
        fuse_sequences(net)
        for stage in net.stages.values():
            for name, unit in list(stage.named_children()):
                fuse_sequences(unit)
                if isinstance(unit, ResidualUnit) and can_fuse_addition(unit):
                    setattr(stage, name, FusedUnit(unit))
    return describe_fused_kernels(device)


def fuse_sequences(module: nn.Module) -> None:
    """Replace every nn.Sequential that is a direct child of `module` by a fused one, in place."""
    for name, part in list(module.named_children()):
        if type(part) is nn.Sequential:
            fused_part = FusedSequential(*part)
            fused_part.training = part.training
            setattr(module, name, fused_part)


def can_fuse_addition(unit: ResidualUnit) -> bool:
    """Return whether the kernel can compute the unit's last BN and, if there is one, its addition.

    The branch must end in a BN, and the unit must have either a plain sum or no shortcut.
    """
    if not len(unit.branch):
        return False
    is_plain_sum = (
        type(unit.join) is WeightedSum and unit.join.shortcut_scale == unit.join.branch_scale == 1
    )
    ends_in_norm = type(unit.branch[-1]) is nn.BatchNorm2d
    return ends_in_norm and (unit.shortcut is None or is_plain_sum)


class FusedSequential(nn.Sequential):
    """An nn.Sequential that computes each BN, and any ReLU directly after it, in the fused kernel.

    The kernel is used only in training mode, and only for bf16 channels-last inputs.
    """

    def forward(self, x: Tensor) -> Tensor:
        return apply_fused_layers(self, x)[0]


class FusedUnit(ResidualUnit):
    """A unit that computes its last BN, addition and ReLU in one kernel call if the input allows.

    The unit must satisfy `can_fuse_addition`.
    """

    def __init__(self, unit: ResidualUnit) -> None:
        nn.Module.__init__(self)
        self.lead, self.branch, self.shortcut = unit.lead, unit.branch, unit.shortcut
        self.join, self.after = unit.join, unit.after
        self.training = unit.training

    def forward(self, x: Tensor) -> Tensor:
        x = self.lead(x)
        *layers, norm = self.branch
        branch, moments = apply_fused_layers(layers, x, is_before_norm=True)
        shortcut = None if self.shortcut is None else self.shortcut(x)
        y: Tensor
        if can_fuse_norm(norm, branch) and can_fuse_shortcut(shortcut, branch):
            relu_follows = [type(layer) for layer in self.after] == [nn.ReLU]
            y = normalise_add_relu(norm, branch, shortcut, relu_follows, moments)
            if not relu_follows:
                y = self.after(y)
            return y
        y = norm(branch)
        if shortcut is not None:
            y = self.join(x, shortcut, y)
        y = self.after(y)
        return y


def apply_fused_layers(
    layers: Iterable[nn.Module], x: Tensor, is_before_norm: bool = False
) -> tuple[Tensor, BatchMoments | None]:
    """Apply layers in order; the kernel computes each BN it supports, with any ReLU right after.

    A convolution before a BN computes the moments that this needs if it can.  `is_before_norm` says
    that a BN follows the last layer.  Returns the output and its moments, if they are known.
    """
    remaining = list(layers)
    moments: BatchMoments | None = None
    while remaining:
        layer = remaining.pop(0)
        if can_fuse_norm(layer, x):
            relu_follows = bool(remaining) and type(remaining[0]) is nn.ReLU
            if relu_follows:
                remaining.pop(0)
            x, moments = normalise_add_relu(layer, x, None, relu_follows, moments), None
        elif type(layer) is TritonConv2d and (
            uses_batch_statistics(remaining[0]) if remaining else is_before_norm and layer.training
        ):
            x, moments = layer.forward_with_moments(x)
        else:
            x, moments = layer(x), None
    return x, moments


def uses_batch_statistics(layer: nn.Module) -> bool:
    return type(layer) is nn.BatchNorm2d and layer.training


def can_fuse_norm(layer: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether the kernel can compute `layer` for the input `x`.

    `layer` must be a BN in training mode, and `x` bf16 and channels-last, on a device with kernels.
    """
    return (
        type(layer) is nn.BatchNorm2d
        and layer.training
        and x.dtype == torch.bfloat16
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] == layer.num_features
        and x.numel() > layer.num_features
        and layer.affine
        and layer.weight.dtype == torch.float32
        and layer.running_mean is not None
        and layer.running_mean.dtype == torch.float32
        and isinstance(layer.momentum, float)
        and explain_missing_kernels(x.device) is None
    )


def can_fuse_shortcut(shortcut: Tensor | None, branch: Tensor) -> bool:
    """Return whether the kernel can add the shortcut to the branch; True if there is none."""
    return shortcut is None or (shortcut.dtype == torch.bfloat16 and shortcut.shape == branch.shape)


def normalise_add_relu(
    norm: nn.BatchNorm2d,
    x: Tensor,
    residual: Tensor | None,
    apply_relu: bool,
    moments: BatchMoments | None = None,
) -> Tensor:
    """Compute BN(x) in the kernel, add `residual` if it is given, and apply ReLU if `apply_relu`.

    `moments` are those of x, if they are known already.
    The running statistics of the BN are updated if it tracks them, and so is its count of batches.
    """
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    y: Tensor = choose_kernel_function(x.device).apply(  # type: ignore[no-untyped-call]
        x, residual, norm.weight, norm.bias, norm, apply_relu, moments
    )
    return y


def choose_kernel_function(device: torch.device) -> type[torch.autograd.Function]:
    """Return the autograd Function of a device; only a GPU needs the package `triton`."""
    if device.type == "cpu":
        return BatchNormAddReLUFunction
    from residua.net.triton_batchnorm import TritonBatchNormAddReLUFunction

    return TritonBatchNormAddReLUFunction

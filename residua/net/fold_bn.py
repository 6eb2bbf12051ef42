"""Fold each BN into the weight layer before it, to make inference faster."""

from copy import deepcopy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batchnorm(net: nn.Module) -> nn.Module:
    """Copy a net in evaluation mode, with each BN folded into the weight layer directly before it.

    A folded layer computes W' x + b', where W' = W gamma / s, b' = beta + (b - mean) gamma / s and
    s = sqrt(var + eps).  A BN without a weight layer directly before it stays, as at the start of a
    pre-activation unit.
    """
    net = deepcopy(net).eval()
    for module in list(net.modules()):
        if type(module) is nn.Sequential:
            layers = fold_batchnorm_in_layers(list(module.children()))
            del module[:]
            module.extend(layers)
    return net


def fold_batchnorm_in_layers(layers: list[nn.Module]) -> list[nn.Module]:
    """Return the layers, with each BN merged into the weight layer directly before it."""
    merged: list[nn.Module] = []
    for layer in layers:
        previous = merged[-1] if merged else None
        if type(layer) is nn.BatchNorm2d and isinstance(previous, nn.Conv2d):
            merged[-1] = fuse_conv_bn_eval(previous, layer)
        elif type(layer) is nn.BatchNorm1d and type(previous) is nn.Linear:
            merged[-1] = fuse_linear_bn_eval(previous, layer)
        else:
            merged.append(layer)
    return merged

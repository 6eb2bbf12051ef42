"""Fold BN into the weights before it: the same function in fewer passes, for inference."""

from copy import deepcopy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batchnorm(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode, with every BN that directly follows a weight layer folded into it.

    The layer then computes W' x + b' with W' = W gamma / s and b' = beta + (b - mean) gamma / s,
    s = sqrt(var + eps).  A BN before its weight layer, as in pre-activation nets, stays.
    """
    net = deepcopy(net).eval()
    for module in list(net.modules()):
        if type(module) is nn.Sequential:
            layers = fold_batchnorm_in_layers(list(module.children()))
            del module[:]
            module.extend(layers)
    return net


def fold_batchnorm_in_layers(layers: list[nn.Module]) -> list[nn.Module]:
    """The layers of a sequence, each weight layer merged with the BN that follows it."""
    merged: list[nn.Module] = []
    for layer in layers:
        previous = merged[-1] if merged else None
        if type(layer) is nn.BatchNorm2d and type(previous) is nn.Conv2d:
            merged[-1] = fuse_conv_bn_eval(previous, layer)
        elif type(layer) is nn.BatchNorm1d and type(previous) is nn.Linear:
            merged[-1] = fuse_linear_bn_eval(previous, layer)
        else:
            merged.append(layer)
    return merged

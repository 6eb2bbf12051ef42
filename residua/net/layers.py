"""Make the PyTorch module of each layer of a plan."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.heads import Head
from residua.config.plan import Layer, Layers
from residua.config.registry import implementation_of, register
from residua.net.vlad import NetVlad


class ZeroInitScale(nn.Module):
    """Multiplication by a learned scalar alpha that starts at 0: x -> alpha * x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)


class ZeroPadShortcut(nn.Module):
    """The shortcut of option A (He et al. 2015): subsampling by `stride`, zero-padded channels."""

    def __init__(self, stride: int, channels_before: int, channels_after: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_before, self.channels_after = channels_before, channels_after

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.pad(x, (self.channels_before, self.channels_after))
        if self.stride > 1:
            # equals x[:, :, ::stride, ::stride], whose gradient would not be channels-last
            x = F.avg_pool2d(x, 1, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.channels_before, self.channels_after))


class GlobalAvgPool(nn.Module):
    """The mean over all positions: (n, channels, *size) -> (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def build_head_pooling(head: Head, channels: int) -> nn.Module:
    return NetVlad(channels, head.words) if head.pool == "vlad" else GlobalAvgPool()


register(Head, implementation=build_head_pooling)


def make_sequential(layers: Layers) -> nn.Sequential:
    return nn.Sequential(*map(make_layer_module, layers))


def make_layer_module(layer: Layer) -> nn.Module:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
    if layer.pooling is not None:
        pooling: nn.Module = implementation_of(layer.pooling)(layer.pooling, c_in)
        return pooling
    match layer.op:
        case "weight":
            return make_weight_layer(layer)
        case "bn":
            return nn.BatchNorm2d(c_out) if layer.output_shape.size else nn.BatchNorm1d(c_out)
        case "relu":
            return nn.ReLU()
        case "scale":
            return ZeroInitScale()
        case "flatten":
            return nn.Flatten()
        case "maxpool":
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2)
        case "pad":
            return ZeroPadShortcut(layer.stride, layer.pad_before, c_out - c_in - layer.pad_before)
    raise ValueError(f"a {layer.op!r} layer has no pooling: set its `pooling`")


def make_weight_layer(layer: Layer) -> nn.Conv2d | nn.Linear:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
    if not layer.output_shape.size:
        return nn.Linear(c_in, c_out, bias=layer.bias)
    padding = layer.kernel // 2
    return nn.Conv2d(c_in, c_out, layer.kernel, layer.stride, padding, bias=layer.bias)

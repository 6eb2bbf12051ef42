"""Make the PyTorch module of each layer of a plan."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residua.config.attention import EfficientAttention, SqueezeExcitation
from residua.config.heads import Head, MaxPooling
from residua.config.layers import Layer, Layers
from residua.config.registry import implementation_of, register
from residua.net.vlad import NetVlad


class ZeroInitScale(nn.Module):
    """Multiplication by a learned scalar alpha that starts at 0: x -> alpha * x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)


class SubsampleAndPad(torch.autograd.Function):
    """An autograd Function that does what a `ZeroPadShortcut` does, on a GPU.

    The gradient of an average pooling takes ten times as long there.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stride: int, channels_before: int, channels_after: int
    ) -> Tensor:
        ctx.x_shape, ctx.stride, ctx.channels_before = x.shape, stride, channels_before
        kept = x[:, :, ::stride, ::stride]
        channels = channels_before + x.shape[1] + channels_after
        y = zeros_channels_last(x, (len(x), channels, *kept.shape[2:]))
        y[:, channels_before : channels_before + x.shape[1]] = kept
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx = zeros_channels_last(dy, ctx.x_shape)
        own_channels = slice(ctx.channels_before, ctx.channels_before + ctx.x_shape[1])
        dx[:, :, :: ctx.stride, :: ctx.stride] = dy[:, own_channels]
        return dx, None, None, None


def zeros_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(
        tuple(shape), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    ).zero_()


class ZeroPadShortcut(nn.Module):
    """The shortcut of option A (He et al. 2015): subsampling by `stride`, zero-padded channels."""

    def __init__(self, stride: int, channels_before: int, channels_after: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_before, self.channels_after = channels_before, channels_after

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.pad(x, (self.channels_before, self.channels_after))
        if x.is_cuda and x.requires_grad:
            arguments = self.stride, self.channels_before, self.channels_after
            y: Tensor = SubsampleAndPad.apply(x, *arguments)  # type: ignore[no-untyped-call]
            return y
        if self.stride > 1:
            # equals x[:, :, ::stride, ::stride], whose gradient would not be channels-last
            x = F.avg_pool2d(x, 1, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.channels_before, self.channels_after))


class GlobalAvgPool(nn.Module):
    """The mean over all positions: (n, channels, *size) -> (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class GlobalMaxPool(nn.Module):
    """The maximum over all positions, times `factor`: (n, channels, *size) -> (n, channels)."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        features = x.flatten(2).amax(2)
        return features if self.factor == 1 else features * self.factor


class SqueezeExcitationLayer(nn.Module):
    """Squeeze-and-excitation: x * sigmoid(fc2(relu(fc1(mean(x))))) (Hu et al. 2018, Eq. 2-4)."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * factors


class EfficientAttentionLayer(nn.Module):
    """Efficient channel attention: x * sigmoid(conv(mean(x))) (Wang et al. 2020, Eq. 9).

    The convolution slides along the channels.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        factors = torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]
        return x * factors


def build_squeeze_excitation(attention: SqueezeExcitation, channels: int) -> nn.Module:
    return SqueezeExcitationLayer(channels, attention.hidden_channels(channels))


def build_efficient_attention(attention: EfficientAttention, channels: int) -> nn.Module:
    return EfficientAttentionLayer(attention.kernel_size(channels))


register(SqueezeExcitation, implementation=build_squeeze_excitation)
register(EfficientAttention, implementation=build_efficient_attention)


def build_head_pooling(head: Head, channels: int) -> nn.Module:
    return NetVlad(channels, head.words) if head.pool == "vlad" else GlobalAvgPool()


def build_max_pooling(head: MaxPooling, channels: int) -> nn.Module:
    return GlobalMaxPool(head.scale / channels if head.scale else 1.0)


register(Head, implementation=build_head_pooling)
register(MaxPooling, implementation=build_max_pooling)


def make_sequential(layers: Layers) -> nn.Sequential:
    return nn.Sequential(*map(make_layer_module, layers))


def make_layer_module(layer: Layer) -> nn.Module:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
    if layer.pooling is not None:
        pooling: nn.Module = implementation_of(layer.pooling)(layer.pooling, c_in)
        return pooling
    if layer.attention is not None:
        attention: nn.Module = implementation_of(layer.attention)(layer.attention, c_in)
        return attention
    match layer.op:
        case "weight":
            return make_weight_layer(layer)
        case "bn":
            return make_batchnorm(layer)
        case "relu":
            return nn.ReLU()
        case "silu":
            return nn.SiLU()
        case "scale":
            return ZeroInitScale()
        case "flatten":
            return nn.Flatten()
        case "maxpool":
            return nn.MaxPool2d(layer.kernel, layer.stride, (layer.kernel - 1) // 2)
        case "avgpool":
            return nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=True, count_include_pad=False)
        case "pad":
            return ZeroPadShortcut(layer.stride, layer.pad_before, c_out - c_in - layer.pad_before)
    raise ValueError(f"a {layer.op!r} layer needs its part: set its `pooling` or `attention`")


def make_weight_layer(layer: Layer) -> nn.Conv2d | nn.Linear:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
    if not layer.output_shape.size:
        return nn.Linear(c_in, c_out, bias=layer.bias)
    padding = (layer.kernel - 1) // 2
    conv = nn.Conv2d(
        c_in, c_out, layer.kernel, layer.stride, padding, groups=layer.groups, bias=layer.bias
    )
    conv.weight.requires_grad_(layer.stem_start is None)
    return conv


def make_batchnorm(layer: Layer) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Make a BN; a scale that is not learned is a parameter that needs no gradient."""
    channels, settings = layer.output_shape.channels, layer.norm
    kind = nn.BatchNorm2d if layer.output_shape.size else nn.BatchNorm1d
    norm = kind(channels, settings.eps, settings.momentum)
    norm.weight.requires_grad_(settings.scale)
    return norm

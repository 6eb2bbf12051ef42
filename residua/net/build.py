"""Plan -> nn.Module.  Only a translation: every decision was taken by `plan`."""

from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.network import Add, Drop, Gate, Join, Network, Scale
from residua.config.papers import network
from residua.config.plan import Layer, Layers, Plan, PlannedUnit, plan
from residua.net.vlad import NetVlad
from residua.net.weight_init import initialise_weights


def build(network: Network, seed: int = 0) -> "ResidualNetwork":
    """An ordinary module, initialised as a function of `seed`."""
    net = ResidualNetwork(plan(network))
    initialise_weights(net, seed)
    for unit, planned in zip(net.units, net.plan.units, strict=True):
        for module, layer in zip(unit.branch, planned.branch, strict=True):
            if layer.zero_init:
                nn.init.zeros_(module.get_parameter("weight"))
        if isinstance(unit.join, GatedSum) and unit.join.gate.bias is not None:
            nn.init.constant_(unit.join.gate.bias, unit.join.initial_bias)
    return net


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input: tuple[int, ...] | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
    seed: int = 0,
    pretrained: str | Path | None = None,
) -> "ResidualNetwork":
    """A network by name, e.g. `cifar-resnet20`, for images of `input` = (channels, height, width).

    It is new, or starts from `pretrained`: a file of another project's weights, a model folder, or OWNER/NAME on the Hugging
    Face hub; with another number of classes there, `num_classes` makes a new head.  Raises UsageError for a name, a depth or a
    part that does not exist, RecordError for weights of another network.
    """
    requested = network(
        name, input=input, classes=num_classes, block=block, shortcut=shortcut, order=order
    )
    if pretrained is None:
        return build(requested, seed)
    from residua.net.pretrained import load_pretrained_weights  # which builds networks itself

    pretrained_network, weights = load_pretrained_weights(pretrained, name, requested, num_classes)
    net = build(pretrained_network, seed)
    net.load_state_dict({**net.state_dict(), **weights})
    return net


class ResidualNetwork(nn.Module):
    """Images (n, *plan.network.input) -> class scores (n, classes)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = make_sequential(plan.stem)
        self.stages = nn.ModuleDict(
            {
                f"stage{s}": nn.Sequential(*map(ResidualUnit, units))
                for s, units in groupby(plan.units, lambda unit: unit.stage)
            }
        )
        self.head = make_sequential(plan.head)

    @property
    def units(self) -> list["ResidualUnit"]:
        """All units, from input to output."""
        return [unit for unit in self.stages.modules() if isinstance(unit, ResidualUnit)]

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages.values():
            x = stage(x)
        scores: Tensor = self.head(x)
        return scores


class ResidualUnit(nn.Module):
    """y = after(join(shortcut(x), branch(x))), both paths after a shared `lead` (He et al. 2016, Eq. 1-2)."""

    def __init__(self, planned: PlannedUnit) -> None:
        super().__init__()
        self.lead = make_sequential(planned.lead)
        self.branch = make_sequential(planned.branch)
        self.shortcut = None if planned.shortcut is None else make_sequential(planned.shortcut)
        self.join: nn.Module = make_join(planned.join, planned.gate)
        self.after = make_sequential(planned.after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lead(x)
        y: Tensor = self.branch(x)
        if self.shortcut is not None:
            y = self.join(x, self.shortcut(x), y)
        y = self.after(y)
        return y  # noqa: RET504 -- named, so that it reads as the equation does


class ScaledSum(nn.Module):
    """a shortcut + b branch."""

    def __init__(self, shortcut_scale: float, branch_scale: float) -> None:
        super().__init__()
        self.shortcut_scale, self.branch_scale = shortcut_scale, branch_scale

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.shortcut_scale == self.branch_scale == 1:
            return shortcut + branch
        return self.shortcut_scale * shortcut + self.branch_scale * branch


class GatedSum(nn.Module):
    """(1 - g) shortcut + g branch, g = sigmoid(gate(x)); where only the shortcut is scaled, the branch is added whole."""

    def __init__(self, gate: Layers, scales_branch: bool, initial_bias: float) -> None:
        super().__init__()
        self.gate = make_weight_layer(gate[0])
        self.initial_bias = initial_bias  # at the start
        self.scales_branch = scales_branch

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return (1 - g) * shortcut + (g * branch if self.scales_branch else branch)


class DropJoin(nn.Module):
    """dropout(shortcut) + the branch, whole or, in training, not at all: an image keeps it with `1 - branch`, scaled up."""

    def __init__(self, shortcut_dropout: float, drop_path: float) -> None:
        super().__init__()
        self.shortcut_dropout, self.drop_path = shortcut_dropout, drop_path

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.training and self.drop_path:
            keep_mask = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.drop_path
            branch = branch * (keep_mask / (1 - self.drop_path)).to(branch.dtype)
        return F.dropout(shortcut, self.shortcut_dropout, self.training) + branch


class ZeroInitScale(nn.Module):
    """alpha x, with one learned number alpha that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and channels of zeros on both sides up to `width`."""

    def __init__(self, stride: int, channels_before: int, channels_after: int) -> None:
        super().__init__()
        self.stride, self.channels_before, self.channels_after = (
            stride,
            channels_before,
            channels_after,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.pad(x, (self.channels_before, self.channels_after))
        if self.stride > 1:
            x = F.avg_pool2d(
                x, 1, self.stride
            )  # x[:, :, ::stride, ::stride], whose gradient would not be channels-last
        return F.pad(x, (0, 0, 0, 0, self.channels_before, self.channels_after))


class GlobalAvgPool(nn.Module):
    """Mean over all positions: (n, channels, *size) -> (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def make_join(join: Join, gate: Layers) -> nn.Module:
    match join:
        case Add():
            return ScaledSum(1, 1)
        case Scale(a, b):
            return ScaledSum(a, b)
        case Gate(bias):
            return GatedSum(gate, join.scales == "both", bias)
        case Drop(shortcut, branch):
            return DropJoin(shortcut, branch)


def make_sequential(layers: Layers) -> nn.Sequential:
    return nn.Sequential(*map(make_layer_module, layers))


def make_layer_module(layer: Layer) -> nn.Module:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
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
        case "mean":
            return GlobalAvgPool()
        case "vlad":
            return NetVlad(c_in, layer.vlad_centres)


def make_weight_layer(layer: Layer) -> nn.Conv2d | nn.Linear:
    c_in, c_out = layer.input_shape.channels, layer.output_shape.channels
    if layer.output_shape.size:
        return nn.Conv2d(
            c_in, c_out, layer.kernel, layer.stride, layer.kernel // 2, bias=layer.bias
        )
    return nn.Linear(c_in, c_out, bias=layer.bias)

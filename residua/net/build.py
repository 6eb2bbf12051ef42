"""Plan -> nn.Module.  Only a translation: every decision was taken by `plan`."""

from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.net.init import initialise
from residua.net.vlad import Vlad
from residua.spec.network import Add, Drop, Gate, Join, Network, Scale
from residua.spec.papers import network
from residua.spec.plan import Layer, Layers, Plan, PlannedUnit, plan


def build(network: Network, seed: int = 0) -> "ResidualNetwork":
    """An ordinary module, initialised as a function of `seed`."""
    net = ResidualNetwork(plan(network))
    initialise(net, seed)
    for unit, planned in zip(net.units, net.plan.units, strict=True):
        for module, layer in zip(unit.branch, planned.branch, strict=True):
            if layer.zero:
                nn.init.zeros_(module.get_parameter("weight"))
        if isinstance(unit.join, Gated) and unit.join.gate.bias is not None:
            nn.init.constant_(unit.join.gate.bias, unit.join.bias)
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
    asked = network(name, input=input, classes=num_classes, block=block, shortcut=shortcut, order=order)
    if pretrained is None:
        return build(asked, seed)
    from residua.net.pretrained import start  # which builds networks itself

    found, weights = start(pretrained, name, asked, num_classes)
    net = build(found, seed)
    net.load_state_dict({**net.state_dict(), **weights})
    return net


class ResidualNetwork(nn.Module):
    """Images (n, *plan.network.input) -> class scores (n, classes)."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = sequence(plan.stem)
        self.stages = nn.ModuleDict(
            {f"stage{s}": nn.Sequential(*map(ResidualUnit, units)) for s, units in groupby(plan.units, lambda unit: unit.stage)}
        )
        self.head = sequence(plan.head)

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

    def __init__(self, unit: PlannedUnit) -> None:
        super().__init__()
        self.lead = sequence(unit.lead)
        self.branch = sequence(unit.branch)
        self.shortcut = None if unit.shortcut is None else sequence(unit.shortcut)
        self.join: nn.Module = join(unit.join, unit.gate)
        self.after = sequence(unit.after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lead(x)
        y: Tensor = self.branch(x)
        if self.shortcut is not None:
            y = self.join(x, self.shortcut(x), y)
        y = self.after(y)
        return y  # noqa: RET504 -- named, so that it reads as the equation does


class Sum(nn.Module):
    """a shortcut + b branch."""

    def __init__(self, shortcut: float, branch: float) -> None:
        super().__init__()
        self.a, self.b = shortcut, branch

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.a == self.b == 1:
            return shortcut + branch
        return self.a * shortcut + self.b * branch


class Gated(nn.Module):
    """(1 - g) shortcut + g branch, g = sigmoid(gate(x)); where only the shortcut is scaled, the branch is added whole."""

    def __init__(self, gate: Layers, scales_branch: bool, bias: float) -> None:
        super().__init__()
        self.gate = weight(gate[0])
        self.bias = bias  # at the start
        self.scales_branch = scales_branch

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return (1 - g) * shortcut + (g * branch if self.scales_branch else branch)


class Dropped(nn.Module):
    """dropout(shortcut) + the branch, whole or, in training, not at all: an image keeps it with `1 - branch`, scaled up."""

    def __init__(self, shortcut: float, branch: float) -> None:
        super().__init__()
        self.shortcut, self.branch = shortcut, branch

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.training and self.branch:
            kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.branch
            branch = branch * (kept / (1 - self.branch)).to(branch.dtype)
        return F.dropout(shortcut, self.shortcut, self.training) + branch


class Scaled(nn.Module):
    """alpha x, with one learned number alpha that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)


class Pad(nn.Module):
    """Option A: every `stride`-th pixel, and channels of zeros on both sides up to `width`."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.pad(x, (self.before, self.after))
        if self.stride > 1:
            x = F.avg_pool2d(x, 1, self.stride)  # x[:, :, ::stride, ::stride], whose gradient would not be channels-last
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Mean(nn.Module):
    """Mean over all positions: (n, channels, *size) -> (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def join(value: Join, gate: Layers) -> nn.Module:
    match value:
        case Add():
            return Sum(1, 1)
        case Scale(a, b):
            return Sum(a, b)
        case Gate(bias):
            return Gated(gate, value.scales == "both", bias)
        case Drop(shortcut, branch):
            return Dropped(shortcut, branch)


def sequence(layers: Layers) -> nn.Sequential:
    return nn.Sequential(*map(module, layers))


def module(layer: Layer) -> nn.Module:
    c_in, c_out = layer.at.channels, layer.out.channels
    match layer.op:
        case "weight":
            return weight(layer)
        case "bn":
            return nn.BatchNorm2d(c_out) if layer.out.size else nn.BatchNorm1d(c_out)
        case "relu":
            return nn.ReLU()
        case "scale":
            return Scaled()
        case "flatten":
            return nn.Flatten()
        case "maxpool":
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2)
        case "pad":
            return Pad(layer.stride, layer.before, c_out - c_in - layer.before)
        case "mean":
            return Mean()
        case "vlad":
            return Vlad(c_in, layer.words)


def weight(layer: Layer) -> nn.Conv2d | nn.Linear:
    c_in, c_out = layer.at.channels, layer.out.channels
    if layer.out.size:
        return nn.Conv2d(c_in, c_out, layer.kernel, layer.stride, layer.kernel // 2, bias=layer.bias)
    return nn.Linear(c_in, c_out, bias=layer.bias)

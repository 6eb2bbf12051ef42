"""pytorchcv's networks whose parts are unusual: small copies of them with its names."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residua.config.papers import network
from residua.errors import RecordError
from residua.net.build import build
from residua.net.convert.caveats import STRIDE_CAVEAT, leaves_stride_open
from residua.net.convert.weights import (
    adopt_foreign_stride,
    convert_foreign_weights,
    identify_network,
)
from tests.third_party import randomize_weights


class Branch(nn.Module):
    """A convolution with BN before or after it; `conv` and `bn` are pytorchcv's names."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, order="conv bn relu", dilation=1):
        super().__init__()
        self.order = order.split()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(
            *(inputs, outputs, kernel, stride, padding, dilation), bias="bn" not in self.order
        )
        if "bn" in self.order:
            self.bn = nn.BatchNorm2d(inputs if self.order[0] == "bn" else outputs)

    def forward(self, x):
        for operation in self.order:
            x = F.relu(x) if operation == "relu" else getattr(self, operation)(x)
        return x


class Unit(nn.Module):
    """A unit of basic blocks or bottlenecks; `stride` is on the first 3x3."""

    def __init__(self, inputs, outputs, stride, *, inner=0, norm="bn", dilation=1):
        super().__init__()
        after, last = (f"conv {norm} relu".split(), f"conv {norm}".split())
        after, last = " ".join(after), " ".join(last)
        self.body = nn.Sequential()
        if inner:
            self.body.conv1 = Branch(inputs, inner, 1, 1, after)
            self.body.conv2 = Branch(inner, inner, 3, stride, after, dilation)
            self.body.conv3 = Branch(inner, outputs, 1, 1, last)
        else:
            self.body.conv1 = Branch(inputs, outputs, 3, stride, after)
            self.body.conv2 = Branch(outputs, outputs, 3, 1, last)
        if inputs != outputs or stride != 1:
            self.identity_conv = Branch(inputs, outputs, 1, stride, last)

    def forward(self, x):
        shortcut = self.identity_conv(x) if hasattr(self, "identity_conv") else x
        return F.relu(self.body(x) + shortcut)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 16, 1)
        self.conv2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x):
        weights = self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class PreactivationUnit(nn.Module):
    """A unit of pytorchcv's SE-PreResNet, whose projection takes the activated input."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential()
        self.body.conv1 = Branch(inputs, outputs, 3, stride, "bn relu conv")
        self.body.conv2 = Branch(outputs, outputs, 3, 1, "bn relu conv")
        self.se = SqueezeExcitation(outputs)
        if inputs != outputs:
            self.identity_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        activated = F.relu(self.body.conv1.bn(x))
        shortcut = self.identity_conv(activated) if hasattr(self, "identity_conv") else x
        return self.se(self.body(x)) + shortcut


class Network(nn.Module):
    """Stages of units, given as (outputs, stride, other options), after a stem."""

    def __init__(self, stem, width, stages, unit=Unit, classes=5):
        super().__init__()
        self.features = nn.Sequential()
        self.features.init_block = stem
        for number, units in enumerate(stages, 1):
            stage = nn.Sequential()
            for index, (outputs, stride, options) in enumerate(units, 1):
                stage.add_module(f"unit{index}", unit(width, outputs, stride, **options))
                width = outputs
            self.features.add_module(f"stage{number}", stage)
        self.output = nn.Linear(width, classes)

    def forward(self, x):
        return self.output(self.features(x).mean((2, 3)))


def make_stem(width, norm="bn"):
    stem = nn.Sequential()
    stem.conv = Branch(3, width, 7, 2, " ".join(f"conv {norm} relu".split()))
    stem.pool = nn.MaxPool2d(3, 2, 1)
    return stem


def make_deep_stem():
    stem = nn.Sequential()
    stem.conv1 = Branch(3, 64, 3, 2)
    stem.conv2 = Branch(64, 64)
    stem.conv3 = Branch(64, 128)
    stem.pool = nn.MaxPool2d(3, 2, 1)
    return stem


def make_half_width():
    """As resnet18_wd2: half as wide but for its last unit."""
    widths = [[(32 * 2**i, 2 if i else 1, {}), (32 * 2**i, 1, {})] for i in range(4)]
    widths[-1][-1] = (512, 1, {})
    return Network(make_stem(32), 32, widths)


def make_wide_bottlenecks():
    """As wrn50_2, with one unit a stage: no BN, and bottlenecks twice as wide."""
    stages = [[(256 * 2**i, 2 if i else 1, {"inner": 128 * 2**i, "norm": ""})] for i in range(4)]
    return Network(make_stem(64, ""), 64, stages)


def make_preactivation_without_tail():
    """As sepreresnet20_cifar10, with one unit a stage."""
    stages = [[(16 * 2**i, 2 if i else 1, {})] for i in range(3)]
    return Network(Branch(3, 16), 16, stages, PreactivationUnit)


def make_dilated():
    """As resnetd50b, with one unit a stage."""
    stages = [
        [(256 * 2**i, 2 if i == 1 else 1, {"inner": 64 * 2**i, "dilation": max(1, 2 ** (i - 2))})]
        for i in range(4)
    ]
    return Network(make_deep_stem(), 128, stages)


def convert(state):
    """The network of a file as `residua convert` stores it, and what was said about it."""
    identified = identify_network(state)
    converted = convert_foreign_weights(state, identified)
    stored = adopt_foreign_stride(identified, identified.name, converted)
    net = build(stored).double().eval()
    net.load_state_dict(converted.tensors)
    return net, converted


@pytest.mark.parametrize(
    ("make", "side", "name"),
    [
        (make_half_width, 64, "resnet18,custom"),
        (make_wide_bottlenecks, 64, "resnet14,block=bottleneck,stride=3x3,width=2"),
        (
            make_preactivation_without_tail,
            32,
            "cifar-preresnet8,shortcut=project,order=full-preact-no-tail,attention=se,"
            "fork=shape-change",
        ),
    ],
)
def test_unusual_networks_compute_the_same(make, side, name):
    theirs = randomize_weights(make()).double()
    ours, converted = convert(theirs.state_dict())
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert ours.plan.network.name == name
    assert STRIDE_CAVEAT not in converted.caveats


def test_dilated_networks_are_refused_with_the_cause():
    with pytest.raises(RecordError, match="pytorchcv dilates the convolutions of stages 3 and 4"):
        convert(make_dilated().state_dict())


@pytest.mark.parametrize(
    ("name", "is_open"),
    [
        ("resnet50", True),  # resnet50 and resnet50b
        ("resnet152,attention=se", True),
        ("resnet26,block=bottleneck", False),  # only resnetbc26b
        ("preresnet269", False),
        ("wide_resnet50_2", False),
        ("resnext50_32x4d", False),
        ("resnet50d", False),
        ("resnet18", False),
    ],
)
def test_the_stride_is_open_only_where_pytorchcv_has_both(name, is_open):
    assert leaves_stride_open(network(name), "pytorchcv") == is_open

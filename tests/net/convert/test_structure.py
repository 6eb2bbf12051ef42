"""Networks whose names no template knows: matched by shapes and order, or refused, never wrong."""

import random
import re

import pytest
import torch
from torch import nn

from residua.config.papers import network
from residua.errors import RecordError, UsageError
from residua.net.build import build
from residua.net.convert.weights import (
    adopt_foreign_stride,
    convert_foreign_weights,
    identify_network,
)
from tests.third_party import (
    ThirdPartyCifarResNet,
    ThirdPartyWideResNet,
    randomize_weights,
    timm,
    torchvision,
)

PEERS = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "resnet50": lambda: torchvision.models.resnet50(),
    "cifar-resnet20": lambda: ThirdPartyCifarResNet(3, "A"),
    "cifar-resnet14,shortcut=B": lambda: ThirdPartyCifarResNet(2, "B"),
    "cifar-wrn16-2": lambda: ThirdPartyWideResNet(2, 2),
    "seresnet18": lambda: timm.create_model("seresnet18"),
    "resnext50_32x4d": lambda: timm.create_model("resnext50_32x4d"),
    "resnet14t": lambda: timm.create_model("resnet14t"),
    "ecaresnet26t": lambda: timm.create_model("ecaresnet26t"),
    "resnetv2_18": lambda: timm.create_model("resnetv2_18"),
}


def rename_modules(state, rng, is_flat):
    """Give every module a random name, either in the same folders or in none."""
    words = {}

    def invent_word(path):
        if path not in words:
            words[path] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=6))
        return words[path]

    renamed = {}
    for key, tensor in state.items():
        module, _, suffix = key.rpartition(".")
        paths = [module[: dot.start()] for dot in re.finditer(r"\.|$", module)]
        name = ".".join(map(invent_word, paths[-1:] if is_flat else paths))
        renamed[f"{name}.{suffix}"] = tensor
    return renamed


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("case", ["folders", "flat", "sorted", "sorted and renamed"])
def test_renamed_modules_give_the_same_weights_or_are_refused(name, case):
    state = randomize_weights(PEERS[name]()).state_dict()
    expected = convert_foreign_weights(state, network(name)).tensors
    for seed in range(2):
        renamed = state
        if case != "sorted":
            renamed = rename_modules(state, random.Random(seed), is_flat=case == "flat")
        if case.startswith("sorted"):
            renamed = dict(sorted(renamed.items()))
        try:
            converted = convert_foreign_weights(renamed, network(name))
        except RecordError:
            assert case == "sorted and renamed"
            continue
        assert converted.tensors.keys() == expected.keys()
        assert all(torch.equal(expected[key], t) for key, t in converted.tensors.items())


def test_equal_shapes_in_an_order_that_their_numbers_contradict_are_refused():
    state = ThirdPartyCifarResNet(1, "B").state_dict()
    odd_names = {key.replace("layer1.0.", "first.unit0.", 1): t for key, t in state.items()}
    odd_names = {
        key.replace("conv1.", "first_layer.", key.startswith("conv1.")): t
        for key, t in odd_names.items()
    }
    swapped = {}
    for key in odd_names:
        other = key.translate(str.maketrans("12", "21")) if "unit0" in key else key
        swapped[other] = odd_names[other]
    with pytest.raises(RecordError, match="which of equal shapes is which; its first tensors are"):
        convert_foreign_weights(swapped, network("cifar-resnet8,shortcut=B"))


def test_units_of_one_layer_are_not_read_as_basic_blocks():
    singles = nn.ModuleDict({"stem": make_conv_bn(3, 16)})
    for stage, width in enumerate((16, 32, 64)):
        for unit in range(2):
            inputs = width // 2 if stage and not unit else width
            singles[f"part{stage}-{unit}"] = make_conv_bn(inputs, width)
    singles["out"] = nn.Linear(64, 10)
    with pytest.raises(RecordError, match="does not hold cifar-resnet8"):
        convert_foreign_weights(singles.state_dict(), network("cifar-resnet8"))


def make_conv_bn(inputs, outputs, kernel=3, stride=1, bias=False):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias), nn.BatchNorm2d(outputs)
    )


class OddUnit(nn.Module):
    """A basic block whose shortcut is registered first, under a name that nobody uses."""

    def __init__(self, inputs, outputs, stride, bias):
        super().__init__()
        self.lateral = (
            make_conv_bn(inputs, outputs, 1, stride, bias) if stride > 1 else nn.Identity()
        )
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.norm_a, self.norm_b = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.norm_b(self.conv_2(self.norm_a(self.conv_1(x)).relu()))
        return (self.lateral(x) + y).relu()


class OddNet(nn.Module):
    """A CIFAR net with names of beginners' code: any stem, `stage_1.0.conv_1`, any head."""

    def __init__(self, stem, units, head, bias=False):
        super().__init__()
        self.names = stem, units, head
        first = make_conv_bn(3, 16, bias=bias)
        self.add_module(stem, first if stem == "conv_bn_relu1" else first[0])
        if stem != "conv_bn_relu1":
            self.norm = first[1]
        self.stem_norm = [first[1]] if stem != "conv_bn_relu1" else []
        for i, width in enumerate((16, 32, 64)):
            stride = 2 if i else 1
            unit = OddUnit(width // stride, width, stride, bias)
            stage = nn.Sequential(unit, OddUnit(width, width, 1, bias))
            self.add_module(units.format(i + 1), stage)
        self.add_module(
            head,
            nn.Sequential(nn.Dropout(), nn.Linear(64, 10))
            if head == "classifier"
            else (nn.Linear(64, 10)),
        )

    def forward(self, x):
        stem, units, head = self.names
        x = self.get_submodule(stem)(x)
        for norm in self.stem_norm:
            x = norm(x)
        x = x.relu()
        for i in range(3):
            x = self.get_submodule(units.format(i + 1))(x)
        return self.get_submodule(head)(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("stem", "units", "head"),
    [
        ("conv", "stage_{}", "fc_out"),
        ("conv_1", "layers_{}n", "classifier"),
        ("conv1_3x3", "block_{}", "output_layer"),
        ("first_layer", "group{}", "logits"),
        ("conv_bn_relu1", "conv_group_{}", "fc_out"),
    ],
)
@pytest.mark.parametrize("bias", [False, True], ids=["no biases", "biases before BN"])
def test_networks_with_names_that_nobody_knows_compute_the_same(stem, units, head, bias):
    theirs = randomize_weights(OddNet(stem, units, head, bias)).double()
    identified = identify_network(theirs.state_dict())
    assert identified.name == "cifar-resnet14,shortcut=project"
    converted = convert_foreign_weights(theirs.state_dict(), identified)
    assert "matched by shape and order" in converted.caveats
    assert ("biases of 15 convolutions were subtracted" in converted.caveats) == bias
    assert converted.unexpected == ()
    ours = build(identified).double().eval()
    ours.load_state_dict(converted.tensors)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "identified"),
    {
        "resnet50": "resnet50",
        "resnext50_32x4d": "resnext50_32x4d",
        "seresnet50": "seresnet50",
        "resnet50d": "resnet50d",
        "resnet50c": "resnet50c",
        "resnetv2_18d": "resnetv2_18d",
        "seresnext26t_32x4d": "seresnext26t_32x4d",
    }.items(),
)
def test_the_network_of_a_file_is_derived_from_its_shapes_and_names(name, identified):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=7)
    state = {key: torch.empty_like(t, device="cpu") for key, t in theirs.state_dict().items()}
    found = identify_network(state)
    assert (found.name, found.classes) == (identified, 7)


def test_a_network_that_two_names_fit_is_not_identified():
    state = ThirdPartyCifarResNet(3, "A").state_dict()
    flat = rename_modules(state, random.Random(0), is_flat=True)
    with pytest.raises(UsageError, match=r"may be those of cifar-resnet20 or cifar-preresnet20"):
        identify_network(flat)
    deep = timm.create_model("resnet18d").state_dict()
    flat = rename_modules(deep, random.Random(0), is_flat=True)
    with pytest.raises(UsageError, match=r"may be those of resnet18,stem=deep or resnet18d"):
        identify_network(flat)


def test_a_file_whose_bns_are_folded_into_the_convolutions_gives_the_same_outputs():
    theirs = randomize_weights(ThirdPartyCifarResNet(1, "B")).double()
    folded = ThirdPartyCifarResNet(1, "B").double().eval()
    state = {}
    modules = dict(theirs.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            norm = modules[re.sub(r"conv(\d)$", r"bn\1", name).replace("shortcut.0", "shortcut.1")]
            fused = nn.utils.fuse_conv_bn_eval(module, norm)
            state |= {f"{name}.weight": fused.weight, f"{name}.bias": fused.bias}
    state |= {f"linear.{key}": t for key, t in theirs.linear.state_dict().items()}
    assert state.keys() < folded.state_dict().keys() | {key for key in state if "bias" in key}
    asked = network("cifar-resnet8,shortcut=B")
    converted = convert_foreign_weights(state, asked)
    assert "BNs are folded into" in converted.caveats
    ours = build(asked).double().eval()
    ours.load_state_dict(converted.tensors)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-10)


def test_a_stride_on_the_3x3_is_kept_for_derived_bottlenecks():
    state = torchvision.models.resnet50().state_dict()
    renamed = rename_modules(state, random.Random(0), is_flat=False)
    identified = identify_network(renamed)
    assert identified.name == "resnet50,stride=3x3"
    converted = convert_foreign_weights(renamed, identified)
    assert adopt_foreign_stride(identified, identified.name, converted) == identified

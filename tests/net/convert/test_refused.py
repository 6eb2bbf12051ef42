"""Weight files that are refused, and caveats about those that are accepted."""

import re

import pytest
import torch

from residua.config.papers import network
from residua.errors import RecordError
from residua.net.build import build
from residua.net.convert.caveats import ZERO_PADDING_CAVEAT
from residua.net.convert.names import map_names_to_project
from residua.net.convert.state_dict import read_state_dict
from residua.net.convert.weights import (
    convert_foreign_weights,
    convert_to_project,
    count_head_classes,
)
from tests.third_party import ThirdPartyCifarResNet, ThirdPartyWideResNet, timm


def make_torchvision_style_names(asked):
    timm_names = map_names_to_project(asked, "timm").values()
    stages = [
        re.sub(r"stages\.(\d)\.blocks\.", lambda found: f"layer{int(found[1]) + 1}.", name)
        for name in timm_names
    ]
    return [
        re.sub(r"(?<=\.)norm(\d)", r"bn\1", name)
        .replace("stem.conv", "conv1")
        .replace("head.fc", "fc")
        .replace("downsample.conv", "downsample.0")
        .replace("norm.", "bn.")
        for name in stages
    ]


UNTAGGED_NOTE = "the file cannot show the {} of {}: evaluate the network before you trust it"


def make_torchvision_state(name):
    asked = network(name)
    return convert_to_project(build(asked).state_dict(), asked, "torchvision")


REFUSED_FILES = {
    "the file has 9 + 9 + 9 units, cifar-resnet20 has 3 + 3 + 3: is it cifar-resnet56?": (
        "cifar-resnet20",
        lambda: ThirdPartyCifarResNet(9, "A").state_dict(),
    ),
    "the file has 2 + 2 + 2 + 2 units, cifar-resnet20 has 3 + 3 + 3: is it resnet18?": (
        "cifar-resnet20",
        lambda: make_torchvision_state("resnet18"),
    ),
    "the file's units have 2 convolutions, those of resnet50 have 3: is it resnet34?": (
        "resnet50",
        lambda: make_torchvision_state("resnet34"),
    ),
    "the file has a projection at the shortcut of stage2.unit1 (layer2.0.shortcut.0.weight), "
    "cifar-resnet20 has none there: "
    "is it cifar-resnet20,shortcut=B?": (
        "cifar-resnet20",
        lambda: ThirdPartyCifarResNet(3, "B").state_dict(),
    ),
    "the file has no projection at the shortcut of stage2.unit1, cifar-resnet20,shortcut=project "
    "has one there: "
    "is it cifar-resnet20?": (
        "cifar-resnet20,shortcut=B",
        lambda: ThirdPartyCifarResNet(3, "A").state_dict(),
    ),
    "block1.layer.0.conv1.weight is 32x16x3x3, but cifar-wrn16-4 needs 64x16x3x3; 62 more shapes "
    "differ: is it cifar-wrn16-2?": (
        "cifar-wrn16-4",
        lambda: ThirdPartyWideResNet(2, 2).state_dict(),
    ),
    "layer1.0.bn3.weight is 256, but preresnet50 needs 64; 127 more shapes differ: is it "
    "resnet50?": (
        "preresnet50",
        lambda: make_torchvision_state("resnet50"),
    ),
    "linear.weight is for 100 classes, cifar-resnet8 has 10": (
        "cifar-resnet8",
        lambda: ThirdPartyCifarResNet(1, "A", 100).state_dict(),
    ),
    "the file lacks the running_var of norm 2 of stage3.unit1, which cifar-resnet8 needs": (
        "cifar-resnet8",
        lambda: {
            k: t
            for k, t in ThirdPartyCifarResNet(1, "A").state_dict().items()
            if k != "layer3.0.bn2.running_var"
        },
    ),
    "the file lacks the bias of head, which cifar-resnet8 needs": (
        "cifar-resnet8",
        lambda: {
            k: t
            for k, t in ThirdPartyCifarResNet(1, "A").state_dict().items()
            if k != "linear.bias"
        },
    ),
    "cifar-wrn16-2 has no place for block1.layer.0.conv2.bias": (  # no BN follows it
        "cifar-wrn16-2",
        lambda: (
            ThirdPartyWideResNet(2, 2).state_dict() | {"block1.layer.0.conv2.bias": torch.zeros(32)}
        ),
    ),
    "cifar-resnet8 has no place for layer1.0.se.fc1.weight": (
        "cifar-resnet8",
        lambda: (
            ThirdPartyCifarResNet(1, "A").state_dict()
            | {"layer1.0.se.fc1.weight": torch.zeros(4, 16)}
        ),
    ),
    "features.0 is neither a convolution nor a BN (it has weight), so this is not cifar-resnet8; "
    "its first tensors are features.0.weight 1, features.1.weight 1, classifier.weight 1": (
        "cifar-resnet8",
        lambda: {f"{n}.weight": torch.zeros(1) for n in ("features.0", "features.1", "classifier")},
    ),
    "the file already uses residua's own tensor names, as the model.safetensors of a model folder "
    "does: give the model folder instead of the file": (
        "cifar-resnet8",
        lambda: build(network("cifar-resnet8")).state_dict(),
    ),
    "the file has 2 + 2 + 2 + 2 units, preresnet34 has 3 + 4 + 6 + 3: is it resnetv2_18?": (
        "preresnet34",
        lambda: timm.create_model("resnetv2_18").state_dict(),
    ),
    "timm and preresnet18 compute different outputs with these weights: the first unit of timm "
    "forks "
    "before the activation, that of preresnet18 after it (He et al. 2016, appendix); "
    "with fork=shape-change, it forks before it": (
        "preresnet18",
        lambda: timm.create_model("resnetv2_18").state_dict(),
    ),
}


@pytest.mark.parametrize("sentence", REFUSED_FILES)
def test_weights_of_another_network_are_refused_with_the_difference(sentence):
    name, theirs = REFUSED_FILES[sentence]
    with pytest.raises(RecordError) as refused:
        convert_foreign_weights(theirs(), network(name))
    assert str(refused.value) == sentence


def test_pre_activation_weights_of_unknown_origin_get_a_warning():
    asked = network("cifar-preresnet20,shortcut=B")
    theirs = dict(
        zip(make_torchvision_style_names(asked), build(asked).state_dict().values(), strict=True)
    )
    assert "much code forks before it" in convert_foreign_weights(theirs, asked).caveats


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("cifar-resnet8,shortcut=B", ""),
        ("cifar-resnet8,shortcut=B,join=drop-path", ""),
        ("cifar-resnet8", ZERO_PADDING_CAVEAT),
        ("cifar-resnet8,shortcut=pad-last", ""),
        ("cifar-plain8", UNTAGGED_NOTE.format("lack of shortcuts", "cifar-plain8")),
        (
            "cifar-resnet8,shortcut=B,order=relu-before-add,join=constant",
            UNTAGGED_NOTE.format(
                "scaled joins and the order of BN and ReLU",
                "cifar-resnet8,shortcut=project,order=relu-before-add,join=constant",
            ),
        ),
    ],
)
def test_properties_that_a_file_cannot_show_are_noted(name, note):
    asked = network(name)
    assert convert_foreign_weights(make_torchvision_state(name), asked).caveats == note


def test_original_akamaster_option_a_weights_get_no_note():
    assert (
        convert_foreign_weights(
            ThirdPartyCifarResNet(1, "A").state_dict(), network("cifar-resnet8")
        ).caveats
        == ""
    )


INVALID_TENSORS = {
    "linear.bias is 9, but cifar-resnet8 needs 10": {"linear.bias": torch.zeros(9)},
    "linear.weight is a single number, but cifar-resnet8 needs 10x64": {
        "linear.weight": torch.tensor(1.0)
    },
    "conv1.weight is a single number, but cifar-resnet8 needs 16x3x3x3": {
        "conv1.weight": torch.tensor(1.0)
    },
    "layer1.0.conv1.weight is a single number, but cifar-resnet8 needs 16x16x3x3": {
        "layer1.0.conv1.weight": torch.tensor(1.0)
    },
    "bn1.bias is sparse, nested or empty (meta): save dense tensors": {
        "bn1.bias": torch.zeros(16).to_sparse()
    },
    "bn1.weight is sparse, nested or empty (meta): save dense tensors": {
        "bn1.weight": torch.zeros(16, device="meta")
    },
    "linear.weight is not finite everywhere": {"linear.weight": torch.full((10, 64), torch.nan)},
    "linear.bias is not finite everywhere": {"linear.bias": torch.full((10,), torch.inf)},
    "bn1.bias is not finite everywhere": {
        "bn1.bias": torch.full((16,), 1e300, dtype=torch.float64)
    },
    "bn1.running_var is negative somewhere, but a variance cannot be": {
        "bn1.running_var": torch.full((16,), -1.0)
    },
    "bn1.weight is of type int8, not of floating-point numbers": {
        "bn1.weight": torch.ones(16, dtype=torch.int8)
    },
    "bn1.running_mean is of type bool, not of floating-point numbers": {
        "bn1.running_mean": torch.ones(16, dtype=torch.bool)
    },
    "linear.bias is of type complex64, not of floating-point numbers": {
        "linear.bias": torch.ones(10, dtype=torch.complex64)
    },
    "linear.weight is as large as 2.6e+36, which no trained network is": {
        "linear.weight": torch.full((10, 64), -2.6e36)
    },
    "bn1.running_var is as large as 1.0e+30, which no trained network is": {
        "bn1.running_var": torch.full((16,), 1e30)
    },
    "bn1.num_batches_tracked is not a count": {"bn1.num_batches_tracked": torch.tensor(1j)},
}


@pytest.mark.parametrize("sentence", INVALID_TENSORS)
def test_tensors_that_cannot_be_weights_are_refused(sentence):
    with pytest.raises(RecordError) as refused:
        convert_foreign_weights(
            ThirdPartyCifarResNet(1, "A").state_dict() | INVALID_TENSORS[sentence],
            network("cifar-resnet8"),
        )
    assert str(refused.value) == sentence


def test_statistics_of_16_bit_pixels_that_are_not_normalised_are_accepted():
    large = {"bn1.running_mean": torch.full((16,), 1e6), "bn1.running_var": torch.full((16,), 1e13)}
    state = ThirdPartyCifarResNet(1, "A").state_dict() | large
    assert convert_foreign_weights(state, network("cifar-resnet8")).unexpected == ()


def test_a_flipped_exponent_bit_in_a_file_without_checksums_is_refused(tmp_path):
    path, state = tmp_path / "x.th", ThirdPartyCifarResNet(1, "A").state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    start = whole.index(state["layer3.0.conv2.weight"].numpy().tobytes())
    for number in range(0, 36_864, 4_001):
        damaged = bytearray(whole)
        damaged[start + 4 * number + 3] ^= 0x40  # the highest bit of the exponent
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"^layer3.0.conv2.weight is as large as \d"):
            convert_foreign_weights(read_state_dict(path), network("cifar-resnet8"))


def test_a_nine_digit_stage_number_is_not_a_stage():
    strange = {
        "layer999999999.0.conv1.weight": torch.zeros(1),
        "layer1.999999999.conv1.weight": torch.zeros(1),
    }
    assert convert_foreign_weights(
        ThirdPartyCifarResNet(1, "A").state_dict() | strange, network("cifar-resnet8")
    ).unexpected == tuple(strange)


def test_a_file_with_absurdly_many_units_is_refused_quickly():
    with pytest.raises(
        RecordError,
        match=r"the file has 1 \+ 1 \+ 1 \+ 0 .* 9999 units, cifar-resnet8 has 1 \+ 1 \+ 1$",
    ):
        convert_foreign_weights(
            ThirdPartyCifarResNet(1, "A").state_dict()
            | {"layer99.9998.conv9.weight": torch.zeros(1)},
            network("cifar-resnet8"),
        )


def test_a_scalar_head_gives_zero_classes():
    assert (
        count_head_classes(
            ThirdPartyCifarResNet(1, "A").state_dict() | {"linear.weight": torch.tensor(1.0)}
        )
        == 0
    )

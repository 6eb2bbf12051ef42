import re

import pytest
import torch

from residua.config.papers import network
from residua.config.timm_names import LISTED_TIMM_NETWORKS
from residua.errors import UsageError
from residua.net.build import build
from residua.net.convert.caveats import explain_output_difference
from residua.net.convert.names import map_names_to_project
from residua.net.convert.weights import (
    adopt_foreign_stride,
    convert_foreign_weights,
    convert_to_project,
)
from tests.third_party import (
    ThirdPartyCifarResNet,
    ThirdPartyWideResNet,
    randomize_weights,
    timm,
    torchvision,
)


def load_converted(theirs, name, classes=None):
    """The conversion, the network that it belongs to, and our module with the weights."""
    requested = network(name, classes=classes)
    conversion = convert_foreign_weights(theirs, requested)
    actual_network = adopt_foreign_stride(requested, name, conversion)
    net = build(actual_network)
    net.load_state_dict(conversion.tensors)
    return conversion, actual_network, net.eval()


def assert_round_trip(third_party_net, name, project):
    """Check that no key is lost, float64 outputs agree, and exported weights equal the imported."""
    theirs = randomize_weights(third_party_net).state_dict()
    conversion, actual_network, net = load_converted(theirs, name)
    assert conversion.ours_by_theirs.keys() == theirs.keys()
    assert (conversion.missing, conversion.unexpected, conversion.caveats) == ((), (), "")
    exported_state = convert_to_project(net.state_dict(), actual_network, project)
    assert exported_state.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(exported_state[key], tensor), key
        assert exported_state[key].dtype == tensor.dtype
    images = torch.randn(
        2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        difference = (third_party_net.double()(images) - net.double()(images)).abs().max().item()
    assert difference < 1e-10


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"]
)
def test_torchvision_networks_compute_the_same_and_round_trip_unchanged(name):
    ours = {"wide_resnet50_2": "wide-resnet50-2"}.get(name, name)
    assert_round_trip(torchvision.models.get_model(name), ours, "torchvision")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("resnet50", "resnet50"),
        ("resnetv2_50", "preresnet50"),
        ("resnetv2_101", "preresnet101"),
    ],
)
def test_timm_networks_compute_the_same_and_round_trip_unchanged(name, ours):
    assert_round_trip(timm.create_model(name), ours, "timm")


def list_hugging_face_keys(units, layers):
    """The keys of ResNetForImageClassification of transformers 5.23, listed by hand."""
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def list_conv_bn_keys(name):
        return [f"{name}.convolution.weight", *(f"{name}.normalization.{tensor}" for tensor in bn)]

    keys = list_conv_bn_keys("resnet.embedder.embedder")
    for stage, n in enumerate(units):
        if layers == 3 or stage > 0:
            keys += list_conv_bn_keys(f"resnet.encoder.stages.{stage}.layers.0.shortcut")
        for unit in range(n):
            for layer in range(layers):
                keys += list_conv_bn_keys(
                    f"resnet.encoder.stages.{stage}.layers.{unit}.layer.{layer}"
                )
    return {*keys, "classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    ("name", "units", "layers", "count"),
    [("resnet18", (2, 2, 2, 2), 2, 122), ("resnet50", (3, 4, 6, 3), 3, 320)],
)
def test_our_hugging_face_names_match_transformers(name, units, layers, count):
    asked = network(name)
    theirs = list_hugging_face_keys(units, layers)
    assert len(theirs) == count
    assert set(map_names_to_project(asked, "huggingface").values()) == theirs
    net = randomize_weights(build(asked))
    ported = convert_foreign_weights(
        convert_to_project(net.state_dict(), asked, "huggingface"), asked
    )
    assert all(
        torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items()
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_hugging_face_networks_compute_the_same_and_round_trip_unchanged(name):
    transformers = pytest.importorskip("transformers")
    asked = network(name)
    config = transformers.ResNetConfig(
        layer_type="basic" if len(asked.unit.kernels) == 2 else "bottleneck",
        depths=[stage.units for stage in asked.stages],
        hidden_sizes=[stage.width for stage in asked.stages],
        num_labels=1000,
    )

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = transformers.ResNetForImageClassification(config)

        def state_dict(self):
            return self.net.state_dict()

        def forward(self, images):
            return self.net(images).logits

    assert_round_trip(Scores(), name, "huggingface")


@pytest.mark.parametrize(("n", "option"), [(3, "A"), (5, "A"), (9, "A"), (5, "B"), (9, "B")])
def test_third_party_cifar_networks_of_any_depth_are_bit_identical(n, option):
    peer = randomize_weights(ThirdPartyCifarResNet(n, option))
    ported, found, net = load_converted(
        {f"module.{key}": tensor for key, tensor in peer.state_dict().items()},
        f"cifar-resnet{6 * n + 2},shortcut={option}",
    )
    assert len(ported.ours_by_theirs) == len(peer.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(peer(images), net(images))
    back = convert_to_project(net.state_dict(), found, "torchvision")
    assert back["fc.weight"].equal(peer.linear.weight)


def test_a_third_party_wide_residual_net_is_bit_identical():
    peer = randomize_weights(ThirdPartyWideResNet(2, 2))
    ported, _, net = load_converted(peer.state_dict(), "cifar-wrn16-2")
    assert (ported.unexpected, ported.caveats) == ((), "")
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(peer(images), net(images))


def to_pytorchcv_key(key):
    """A key in torchvision's form as imgclsmob spells it for CIFAR."""
    key = re.sub(
        r"layer(\d)\.(\d+)", lambda found: f"features.stage{found[1]}.unit{int(found[2]) + 1}", key
    )
    key = re.sub(r"\.conv(\d)", r".body.conv\1.conv", key)
    key = re.sub(r"\.bn(\d)", r".body.conv\1.bn", key)
    key = key.replace("downsample.0", "identity_conv.conv").replace(
        "downsample.1", "identity_conv.bn"
    )
    return (
        key.replace("fc.", "output.")
        .replace("conv1.", "features.init_block.conv.", key.startswith("conv1."))
        .replace("bn1.", "features.init_block.bn.", key.startswith("bn1."))
    )


def to_dxy_key(key):
    """A key in torchvision's form as D-X-Y/ResNeXt-DenseNet and code based on it spell it."""
    key = re.sub(r"^(conv|bn)1", lambda found: {"conv": "conv_1_3x3", "bn": "bn_1"}[found[1]], key)
    key = re.sub(r"\.(conv|bn)(\d)", lambda found: f".{found[1]}_{'abc'[int(found[2]) - 1]}", key)
    return re.sub(r"^layer(\d)", r"stage_\1", key).replace("fc.", "classifier.")


KEY_SPELLINGS = {
    "pytorchcv": to_pytorchcv_key,
    "D-X-Y": to_dxy_key,
    "kuangliu": lambda key: key.replace("downsample", "shortcut").replace("fc.", "linear."),
    "DataParallel": "module.{}".format,
    "Lightning": "model.{}".format,
    "torch.compile": "_orig_mod.{}".format,
    "compiled DataParallel": "_orig_mod.module.{}".format,
    "a normalisation before it": "1.{}".format,
    "a contrastive learner": "module.encoder.{}".format,
    "OpenMMLab": lambda key: f"head.{key}" if key.startswith("fc.") else f"backbone.{key}",
    "wrapped OpenMMLab": lambda key: (
        f"module.head.{key}" if key.startswith("fc.") else f"module.backbone.{key}"
    ),
}


@pytest.mark.parametrize("spelling", KEY_SPELLINGS)
@pytest.mark.parametrize(
    "name", ["cifar-resnet14,shortcut=B", "cifar-resnet20,block=bottleneck,shortcut=B"]
)
def test_other_key_spellings_of_the_same_network_are_recognised(spelling, name):
    asked = network(name)
    net = randomize_weights(build(asked))
    theirs = {
        KEY_SPELLINGS[spelling](key): tensor
        for key, tensor in convert_to_project(net.state_dict(), asked, "torchvision").items()
    }
    ported = convert_foreign_weights(theirs, asked)
    assert ported.ours_by_theirs.keys() == theirs.keys()
    assert all(
        torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items()
    )


def test_a_head_that_is_a_convolution_is_reshaped():
    theirs = ThirdPartyCifarResNet(1, "A").state_dict()
    theirs["linear.weight"] = theirs["linear.weight"][:, :, None, None]
    assert convert_foreign_weights(theirs, network("cifar-resnet8")).tensors[
        "head.1.weight"
    ].shape == (10, 64)


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_a_head_behind_dropout_is_recognised_by_its_shape(prefix):
    theirs = torchvision.models.resnet18(num_classes=7)
    theirs.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(512, 7))
    state = {
        f"{prefix}{key}": tensor for key, tensor in randomize_weights(theirs).state_dict().items()
    }
    conversion, _, net = load_converted(state, "resnet18", classes=7)
    assert conversion.ours_by_theirs[f"{prefix}fc.1.weight"] == "head.1.weight"
    assert (conversion.missing, conversion.unexpected) == ((), ())
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(theirs(images), net(images), atol=1e-4)


@pytest.mark.parametrize("name", ["fc_out", "classifier.1", "head.fc", "logits", "my_linear"])
def test_a_head_is_recognised_by_its_shape_under_any_name(name):
    theirs = ThirdPartyCifarResNet(1, "A").state_dict()
    renamed = {key.replace("linear", name): tensor for key, tensor in theirs.items()}
    conversion = convert_foreign_weights(renamed, network("cifar-resnet8"))
    assert conversion.ours_by_theirs[f"{name}.weight"] == "head.1.weight"
    assert torch.equal(conversion.tensors["head.1.bias"], theirs["linear.bias"])


OTHER_HEADS = {
    "two layers": {"fc.0": (32, 64), "fc.2": (10, 32)},
    "a norm before the layer": {"fc.0": (64,), "fc.1": (10, 64)},
    "another number of columns": {"fc.1": (10, 128)},
    "a kernel of 3x3": {"fc.1": (10, 64, 3, 3)},
}


@pytest.mark.parametrize("case", OTHER_HEADS)
def test_layers_that_are_not_a_plain_head_are_not_taken_for_one(case):
    theirs = ThirdPartyCifarResNet(1, "A").state_dict()
    theirs = {key: tensor for key, tensor in theirs.items() if "linear" not in key}
    layers = {f"{name}.weight": torch.zeros(shape) for name, shape in OTHER_HEADS[case].items()}
    conversion = convert_foreign_weights(theirs | layers, network("cifar-resnet8"))
    assert conversion.missing == ("head.1.weight", "head.1.bias")
    assert conversion.unexpected == tuple(layers)


def test_old_files_without_num_batches_tracked_get_zeros():
    theirs = {
        key: tensor
        for key, tensor in randomize_weights(ThirdPartyCifarResNet(1, "A")).state_dict().items()
        if "num_batches" not in key
    }
    ported, _, net = load_converted(theirs, "cifar-resnet8")
    assert ported.missing == ()
    assert net.stem[1].num_batches_tracked.item() == 0


def test_harmless_unknown_tensors_are_listed_as_unexpected():
    theirs = ThirdPartyCifarResNet(1, "A").state_dict()
    strange = {
        "layer1.0.conv1.total_ops": torch.zeros(1),
        "auxiliary.fc.weight": torch.zeros(2, 2),
        "n_averaged": torch.tensor(3),
    }
    assert convert_foreign_weights(theirs | strange, network("cifar-resnet8")).unexpected == tuple(
        strange
    )


def test_missing_head_tensors_are_listed():
    theirs = {
        key: tensor
        for key, tensor in ThirdPartyCifarResNet(1, "A").state_dict().items()
        if "linear" not in key
    }
    ported = convert_foreign_weights(theirs, network("cifar-resnet8"))
    assert ported.missing == ("head.1.weight", "head.1.bias")


@pytest.mark.parametrize(
    ("name", "spelling", "found"),
    [
        ("resnet50", "", "resnet50,stride=3x3"),
        ("resnet50,stride=1x1", "", "resnet50"),
        ("resnet50,stride=3x3", "", "resnet50,stride=3x3"),
        ("resnet34", "", "resnet34"),
        (
            "cifar-resnet29,block=bottleneck,shortcut=B",
            "",
            "cifar-resnet29,block=bottleneck,shortcut=project,stride=3x3",
        ),
        (
            "cifar-resnet29,block=bottleneck,shortcut=B",
            "pytorchcv",
            "cifar-resnet29,block=bottleneck,shortcut=project,stride=3x3",
        ),
        ("resnet50", "pytorchcv", "resnet50"),
    ],
)
def test_third_party_bottlenecks_stride_on_the_3x3_unless_the_name_says_otherwise(
    name, spelling, found
):
    asked = network(name, classes=7)
    theirs = convert_to_project(build(asked).state_dict(), asked, "torchvision")
    ported = convert_foreign_weights(
        {KEY_SPELLINGS[spelling](key) if spelling else key: t for key, t in theirs.items()}, asked
    )
    chosen = adopt_foreign_stride(asked, name, ported)
    assert (chosen.name, chosen.classes) == (found, 7)
    assert chosen.unit.stride_at == ("3x3" in found)


@pytest.mark.parametrize("name", ["fc-resnet10", "fc-plain10", "lecture-resnet12"])
def test_networks_without_bn_round_trip(name):
    net = randomize_weights(build(network(name)))
    ported = convert_foreign_weights(
        convert_to_project(net.state_dict(), network(name), "torchvision"), network(name)
    )
    assert all(
        torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items()
    )


@pytest.mark.parametrize(
    ("name", "project", "sentence"),
    [
        (
            "cifar-highway20",
            "torchvision",
            "cifar-highway20 cannot be converted: it has parts (gates, scales or VLAD) "
            "that other projects have no name for",
        ),
        (
            "cifar-resnet20,head=vlad",
            "timm",
            "cannot be converted: it has parts (gates, scales or VLAD) that other projects have "
            "no name for",
        ),
        (
            "preresnet50",
            "torchvision",
            "preresnet50 cannot be written for torchvision, which has no tail norm: choose timm, "
            "which has",
        ),
        (
            "preresnet50",
            "huggingface",
            "preresnet50 cannot be written for huggingface, which has no tail norm: choose timm, "
            "which has",
        ),
        (
            "resnet18",
            "keras",
            "there is no project 'keras': choose from torchvision, timm, huggingface",
        ),
    ],
)
def test_parts_without_a_name_in_the_other_project_are_refused(name, project, sentence):
    with pytest.raises(UsageError) as refused:
        map_names_to_project(network(name), project)
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize(
    ("name", "project", "sentence"),
    [
        ("resnet18", "torchvision", ""),
        ("resnet50,stride=3x3", "timm", ""),
        (
            "resnet50",
            "huggingface",
            "bottlenecks of huggingface stride on the 3x3, those of resnet50 on the 1x1",
        ),
        ("preresnet50,stride=3x3", "timm", ""),
        (
            "preresnet18",
            "timm",
            "the first unit of timm forks before the activation, that of preresnet18 after it "
            "(He et al. 2016, appendix); with fork=shape-change, it forks before it",
        ),
        ("resnet18,join=drop-path", "torchvision", ""),
        ("resnet18,join=dropout", "torchvision", ""),
        (
            "resnet18,join=constant",
            "torchvision",
            "joins of torchvision add, those of resnet18,join=constant scale",
        ),
        ("plain18", "timm", "timm has no networks with the shortcuts of plain18"),
        (
            "resnet18,shortcut=A",
            "timm",
            "timm has no networks with the shortcuts of resnet18,shortcut=pad",
        ),
        (
            "resnet18,shortcut=C",
            "timm",
            "timm has no networks with the shortcuts of resnet18,shortcut=project-all",
        ),
        (
            "resnet18,stem=3x3",
            "huggingface",
            "huggingface has no networks with the stem of resnet18,stem=3x3",
        ),
        *((name, "timm", "") for name in LISTED_TIMM_NETWORKS),
        (
            "resnet18,attention=se",
            "timm",
            "timm has no networks with the attention of resnet18,attention=se",
        ),
        ("resnet50,stride=3x3,attention=se", "timm", ""),  # hidden layers as wide as timm's
        (
            "seresnet50",
            "torchvision",
            "torchvision has no networks with the attention of seresnet50",
        ),
        (
            "resnext50_32x4d",
            "huggingface",
            "huggingface has no networks with the inner widths or groups of resnext50_32x4d",
        ),
        ("resnext50_32x4d", "torchvision", ""),
        ("wide_resnet50_2", "torchvision", ""),
        (
            "resnet50d",
            "torchvision",
            "torchvision has no networks with the stem of resnet50d; torchvision has no networks "
            "with the shortcuts of resnet50d",
        ),
        (
            "cifar-resnet20",
            "torchvision",
            "networks of torchvision have 4 stages, cifar-resnet20 has 3",
        ),
        (
            "resnet50,order=relu-before-add,join=constant",
            "torchvision",
            "joins of torchvision add, those of resnet50,order=relu-before-add,join=constant "
            "scale; bottlenecks of torchvision "
            "stride on the 3x3, those of resnet50,order=relu-before-add,join=constant on the 1x1; "
            "torchvision has no networks "
            "with the order of BN and ReLU of resnet50,order=relu-before-add,join=constant",
        ),
    ],
)
def test_differences_that_weights_cannot_show_are_reported(name, project, sentence):
    assert explain_output_difference(network(name), project) == sentence

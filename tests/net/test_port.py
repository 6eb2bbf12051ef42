import re

import pytest
import torch

from residua.errors import UsageError
from residua.net.build import build
from residua.net.otherwise import computes_otherwise
from residua.net.port import from_theirs, names_of, striding_as_elsewhere, to_theirs
from residua.spec.papers import network
from tests.peers import CifarPeer, WidePeer, randomised, timm, torchvision


def loaded(theirs, name, classes=None):
    """What was ported, the network, and our module with the weights."""
    asked = network(name, classes=classes)
    ported = from_theirs(theirs, asked)
    found = striding_as_elsewhere(asked, name, ported)
    net = build(found)
    net.load_state_dict(ported.tensors)
    return ported, found, net.eval()


def assert_both_ways(peer, name, project):
    """Every key is accounted for, outputs are equal in float64, and what is written back is what was read."""
    theirs = randomised(peer).state_dict()
    ported, found, net = loaded(theirs, name)
    assert ported.renamed.keys() == theirs.keys()
    assert (ported.missing, ported.unexpected, ported.note) == ((), (), "")
    back = to_theirs(net.state_dict(), found, project)
    assert back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(back[key], tensor), key
        assert back[key].dtype == tensor.dtype
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = (peer.double()(images) - net.double()(images)).abs().max().item()
    assert difference < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"])
def test_torchvisions_networks_compute_the_same_here_and_come_back_unchanged(name):
    ours = {"wide_resnet50_2": "wide-resnet50-2"}.get(name, name)
    assert_both_ways(torchvision.models.get_model(name), ours, "torchvision")


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
def test_timms_networks_compute_the_same_here_and_come_back_unchanged(name, ours):
    assert_both_ways(timm.create_model(name), ours, "timm")


def hugging_face_keys(units, layers):
    """What ResNetForImageClassification of transformers 5.23 holds, listed by hand."""
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def pair(name):
        return [f"{name}.convolution.weight", *(f"{name}.normalization.{tensor}" for tensor in bn)]

    keys = pair("resnet.embedder.embedder")
    for stage, n in enumerate(units):
        if layers == 3 or stage > 0:
            keys += pair(f"resnet.encoder.stages.{stage}.layers.0.shortcut")
        for unit in range(n):
            for layer in range(layers):
                keys += pair(f"resnet.encoder.stages.{stage}.layers.{unit}.layer.{layer}")
    return {*keys, "classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    ("name", "units", "layers", "count"), [("resnet18", (2, 2, 2, 2), 2, 122), ("resnet50", (3, 4, 6, 3), 3, 320)]
)
def test_hugging_faces_names_are_theirs(name, units, layers, count):
    asked = network(name)
    theirs = hugging_face_keys(units, layers)
    assert len(theirs) == count
    assert set(names_of(asked, "huggingface").values()) == theirs
    net = randomised(build(asked))
    ported = from_theirs(to_theirs(net.state_dict(), asked, "huggingface"), asked)
    assert all(torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_hugging_faces_networks_compute_the_same_here_and_come_back_unchanged(name):
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

    assert_both_ways(Scores(), name, "huggingface")


@pytest.mark.parametrize(("n", "option"), [(3, "A"), (5, "A"), (9, "A"), (5, "B"), (9, "B")])
def test_cifar_networks_of_any_depth_give_the_same_bits(n, option):
    peer = randomised(CifarPeer(n, option))
    ported, found, net = loaded(
        {f"module.{key}": tensor for key, tensor in peer.state_dict().items()}, f"cifar-resnet{6 * n + 2},shortcut={option}"
    )
    assert len(ported.renamed) == len(peer.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(peer(images), net(images))
    back = to_theirs(net.state_dict(), found, "torchvision")
    assert back["fc.weight"].equal(peer.linear.weight)


def test_a_wide_residual_net_gives_the_same_bits():
    peer = randomised(WidePeer(2, 2))
    ported, _, net = loaded(peer.state_dict(), "cifar-wrn16-2")
    assert (ported.unexpected, ported.note) == ((), "")
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(peer(images), net(images))


def pytorchcv(key):
    """A key of torchvision's form as imgclsmob spells it for CIFAR."""
    key = re.sub(r"layer(\d)\.(\d+)", lambda found: f"features.stage{found[1]}.unit{int(found[2]) + 1}", key)
    key = re.sub(r"\.conv(\d)", r".body.conv\1.conv", key)
    key = re.sub(r"\.bn(\d)", r".body.conv\1.bn", key)
    key = key.replace("downsample.0", "identity_conv.conv").replace("downsample.1", "identity_conv.bn")
    return (
        key.replace("fc.", "output.")
        .replace("conv1.", "features.init_block.conv.", key.startswith("conv1."))
        .replace("bn1.", "features.init_block.bn.", key.startswith("bn1."))
    )


def dxy(key):
    """As D-X-Y/ResNeXt-DenseNet spells it, and many of its heirs."""
    key = re.sub(r"^(conv|bn)1", lambda found: {"conv": "conv_1_3x3", "bn": "bn_1"}[found[1]], key)
    key = re.sub(r"\.(conv|bn)(\d)", lambda found: f".{found[1]}_{'abc'[int(found[2]) - 1]}", key)
    return re.sub(r"^layer(\d)", r"stage_\1", key).replace("fc.", "classifier.")


SPELLINGS = {
    "pytorchcv": pytorchcv,
    "D-X-Y": dxy,
    "kuangliu": lambda key: key.replace("downsample", "shortcut").replace("fc.", "linear."),
    "DataParallel": "module.{}".format,
    "Lightning": "model.{}".format,
    "torch.compile": "_orig_mod.{}".format,
    "compiled DataParallel": "_orig_mod.module.{}".format,
    "a normalisation before it": "1.{}".format,
    "a contrastive learner": "module.encoder.{}".format,
    "OpenMMLab": lambda key: f"head.{key}" if key.startswith("fc.") else f"backbone.{key}",
    "wrapped OpenMMLab": lambda key: f"module.head.{key}" if key.startswith("fc.") else f"module.backbone.{key}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["cifar-resnet14,shortcut=B", "cifar-resnet20,block=bottleneck,shortcut=B"])
def test_other_spellings_of_the_same_network_are_understood(spelling, name):
    asked = network(name)
    net = randomised(build(asked))
    theirs = {SPELLINGS[spelling](key): tensor for key, tensor in to_theirs(net.state_dict(), asked, "torchvision").items()}
    ported = from_theirs(theirs, asked)
    assert ported.renamed.keys() == theirs.keys()
    assert all(torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items())


def test_a_head_that_is_a_convolution_is_reshaped():
    theirs = CifarPeer(1, "A").state_dict()
    theirs["linear.weight"] = theirs["linear.weight"][:, :, None, None]
    assert from_theirs(theirs, network("cifar-resnet8")).tensors["head.1.weight"].shape == (10, 64)


def test_files_from_before_bn_counted_its_batches_get_counts_of_0():
    theirs = {key: tensor for key, tensor in randomised(CifarPeer(1, "A")).state_dict().items() if "num_batches" not in key}
    ported, _, net = loaded(theirs, "cifar-resnet8")
    assert ported.missing == ()
    assert net.stem[1].num_batches_tracked.item() == 0


def test_what_has_no_place_but_does_no_harm_is_only_listed():
    theirs = CifarPeer(1, "A").state_dict()
    strange = {"layer1.0.conv1.total_ops": torch.zeros(1), "auxiliary.fc.weight": torch.zeros(2, 2), "n_averaged": torch.tensor(3)}
    assert from_theirs(theirs | strange, network("cifar-resnet8")).unexpected == tuple(strange)


def test_a_file_without_a_head_says_which_tensors_are_missing():
    theirs = {key: tensor for key, tensor in CifarPeer(1, "A").state_dict().items() if "linear" not in key}
    ported = from_theirs(theirs, network("cifar-resnet8"))
    assert ported.missing == ("head.1.weight", "head.1.bias")


@pytest.mark.parametrize(
    ("name", "spelling", "found"),
    [
        ("resnet50", "", "resnet50,stride=3x3"),
        ("resnet50,stride=1x1", "", "resnet50"),
        ("resnet50,stride=3x3", "", "resnet50,stride=3x3"),
        ("resnet34", "", "resnet34"),
        ("cifar-resnet29,block=bottleneck,shortcut=B", "", "cifar-resnet29,block=bottleneck,shortcut=project,stride=3x3"),
        ("cifar-resnet29,block=bottleneck,shortcut=B", "pytorchcv", "cifar-resnet29,block=bottleneck,shortcut=project,stride=3x3"),
        ("resnet50", "pytorchcv", "resnet50"),
    ],
)
def test_foreign_bottlenecks_stride_on_their_3x3_unless_the_name_says_otherwise(name, spelling, found):
    asked = network(name, classes=7)
    theirs = to_theirs(build(asked).state_dict(), asked, "torchvision")
    ported = from_theirs({SPELLINGS[spelling](key) if spelling else key: t for key, t in theirs.items()}, asked)
    chosen = striding_as_elsewhere(asked, name, ported)
    assert (chosen.name, chosen.classes) == (found, 7)
    assert chosen.unit.stride_at == ("3x3" in found)


@pytest.mark.parametrize("name", ["fc-resnet10", "fc-plain10", "lecture-resnet12"])
def test_networks_without_bn_go_there_and_come_back(name):
    net = randomised(build(network(name)))
    ported = from_theirs(to_theirs(net.state_dict(), network(name), "torchvision"), network(name))
    assert all(torch.equal(tensor, ported.tensors[ours]) for ours, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "project", "sentence"),
    [
        (
            "cifar-highway20",
            "torchvision",
            "cifar-highway20 has parts (gates, scales or VLAD) that other projects have no name for",
        ),
        ("cifar-resnet20,head=vlad", "timm", "has parts (gates, scales or VLAD) that other projects have no name for"),
        ("preresnet50", "torchvision", "torchvision has no name for the tail norm of preresnet50, timm has"),
        ("preresnet50", "huggingface", "huggingface has no name for the tail norm of preresnet50, timm has"),
        ("resnet18", "keras", "no project 'keras': choose from torchvision, timm, huggingface"),
    ],
)
def test_what_another_project_has_no_name_for_is_not_written(name, project, sentence):
    with pytest.raises(UsageError) as refused:
        names_of(network(name), project)
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize(
    ("name", "project", "sentence"),
    [
        ("resnet18", "torchvision", ""),
        ("resnet50,stride=3x3", "timm", ""),
        ("resnet50", "huggingface", "bottlenecks of huggingface stride on the 3x3, those of resnet50 on the 1x1"),
        ("preresnet50,stride=3x3", "timm", ""),
        ("preresnet18", "timm", "its first unit forks before the activation, ours after it (He et al. 2016, appendix)"),
        ("resnet18,join=drop-path", "torchvision", ""),
        ("resnet18,join=dropout", "torchvision", ""),
        ("resnet18,join=constant", "torchvision", "joins of torchvision add, those of resnet18,join=constant scale"),
        ("plain18", "timm", "shortcuts of timm are option B, those of plain18 are not"),
        ("resnet18,shortcut=A", "timm", "shortcuts of timm are option B, those of resnet18,shortcut=pad are not"),
        ("resnet18,shortcut=C", "timm", "shortcuts of timm are option B, those of resnet18,shortcut=project-all are not"),
        (
            "resnet18,stem=3x3",
            "huggingface",
            "stems of huggingface are a 7x7 convolution of stride 2 and a max-pool, that of resnet18,stem=3x3 is not",
        ),
        ("cifar-resnet20", "torchvision", "networks of torchvision have 4 stages, cifar-resnet20 has 3"),
        (
            "resnet50,order=relu-before-add,join=constant",
            "torchvision",
            "joins of torchvision add, those of resnet50,order=relu-before-add,join=constant scale; bottlenecks of torchvision "
            "stride on the 3x3, those of resnet50,order=relu-before-add,join=constant on the 1x1; torchvision has no networks "
            "whose BN and ReLU stand where those of resnet50,order=relu-before-add,join=constant do",
        ),
    ],
)
def test_what_no_weight_tells_is_told(name, project, sentence):
    assert computes_otherwise(network(name), project) == sentence

import json
import os
import subprocess
import sys

import pytest
import torch

import residua
from residua.config.model import ModelConfig
from residua.errors import RecordError
from residua.net.convert.state_dict import write_state_dict
from residua.net.convert.weights import convert_to_project
from residua.net.model_folder import save_pretrained
from tests.third_party import ThirdPartyCifarResNet, randomize_weights


@pytest.fixture
def third_party_file(tmp_path):
    """A weight file with another project's names and ten classes, and its network."""
    net = randomize_weights(ThirdPartyCifarResNet(1, "A"))
    torch.save({"net": net.state_dict()}, tmp_path / "peer.pth")
    return tmp_path / "peer.pth", net


def write_model_folder(folder, name, **shape):
    net = randomize_weights(residua.create_model(name, **shape))
    spec = net.plan.network
    classes = tuple(map(str, range(spec.classes)))
    config = ModelConfig(
        network=spec, classes=classes, mean=(0.5,) * spec.input[0], std=(0.5,) * spec.input[0]
    )
    save_pretrained(net, config, folder)
    return net


def states_equal(net, other, except_names=()):
    state, other_state = net.state_dict(), other.state_dict()
    return state.keys() == other_state.keys() and [
        name for name in state if not torch.equal(state[name], other_state[name])
    ] == list(except_names)


def test_create_model_loads_a_third_party_weight_file(third_party_file):
    path, theirs = third_party_file
    net = residua.create_model("cifar-resnet8", pretrained=path).eval()
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(net(images), theirs(images))


def test_another_number_of_classes_gets_a_new_seeded_head_and_keeps_the_body(third_party_file):
    path, theirs = third_party_file
    net = residua.create_model("cifar-resnet8", num_classes=7, pretrained=path, seed=5)
    fresh = residua.create_model("cifar-resnet8", num_classes=7, seed=5)
    assert net.head[1].weight.shape == (7, 64)
    assert torch.equal(net.head[1].weight, fresh.head[1].weight)
    assert not net.head[1].bias.any()
    images = torch.randn(4, 3, 32, 32)
    seen = []
    theirs.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    theirs(images)
    assert torch.equal(net.eval()(images), net.head[1](seen[0]))


def test_the_same_number_of_classes_keeps_the_head(third_party_file):
    path, _ = third_party_file
    assert states_equal(
        residua.create_model("cifar-resnet8", num_classes=10, pretrained=path),
        residua.create_model("cifar-resnet8", pretrained=path),
    )


def test_a_class_count_mismatch_is_refused_with_both_numbers(tmp_path):
    torch.save(ThirdPartyCifarResNet(1, "A", 100).state_dict(), tmp_path / "x.pth")
    with pytest.raises(RecordError, match="linear.weight is for 100 classes, cifar-resnet8 has 10"):
        residua.create_model("cifar-resnet8", pretrained=tmp_path / "x.pth")
    assert residua.create_model(
        "cifar-resnet8", num_classes=100, pretrained=tmp_path / "x.pth"
    ).head[1].weight.shape == (100, 64)


def test_a_backbone_without_a_head_needs_a_new_one(tmp_path):
    name = "cifar-resnet8,shortcut=B"
    torch.save(
        {
            key: t
            for key, t in ThirdPartyCifarResNet(1, "B").state_dict().items()
            if "linear" not in key
        },
        tmp_path / "x.pth",
    )
    with pytest.raises(
        RecordError,
        match="x.pth has no head, but cifar-resnet8,shortcut=project has 10 classes: "
        "give num_classes to train a new head",
    ):
        residua.create_model(name, pretrained=tmp_path / "x.pth")
    net = residua.create_model(name, num_classes=10, pretrained=tmp_path / "x.pth", seed=3)
    assert torch.equal(net.head[1].weight, residua.create_model(name, seed=3).head[1].weight)


def test_bottlenecks_stride_on_the_layer_used_in_training(tmp_path):
    net = residua.create_model("cifar-resnet11,block=bottleneck,shortcut=B")
    write_state_dict(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"),
        tmp_path / "x.safetensors",
    )
    for name, at in (
        ("cifar-resnet11,block=bottleneck,shortcut=B", 1),
        ("cifar-resnet11,block=bottleneck,shortcut=B,stride=1x1", 0),
    ):
        assert (
            residua.create_model(
                name, pretrained=tmp_path / "x.safetensors"
            ).plan.network.unit.stride_at
            == at
        )
    write_model_folder(tmp_path / "folder", "cifar-resnet11,block=bottleneck,shortcut=B,stride=3x3")
    assert (
        residua.create_model(
            "cifar-resnet11,block=bottleneck,shortcut=B", pretrained=tmp_path / "folder"
        ).plan.network.unit.stride_at
        == 1
    )
    with pytest.raises(
        RecordError,
        match="folder holds cifar-resnet11,block=bottleneck,shortcut=project,stride=3x3, not",
    ):
        residua.create_model(
            "cifar-resnet11,block=bottleneck,shortcut=B,stride=1x1", pretrained=tmp_path / "folder"
        )


@pytest.mark.parametrize(
    "name", ["cifar-resnet8", "cifar-preresnet8", "cifar-highway8", "cifar-resnet8,head=vlad"]
)
def test_create_model_loads_a_model_folder(tmp_path, name):
    net = write_model_folder(tmp_path / "model", name)
    assert states_equal(residua.create_model(name, pretrained=tmp_path / "model"), net)
    head = f"head.{len(net.head) - 1}"
    assert not states_equal(
        residua.create_model(name, num_classes=3, pretrained=tmp_path / "model"), net
    )
    fresh = residua.create_model(name, num_classes=10, pretrained=tmp_path / "model")
    assert torch.equal(fresh.get_submodule(head).weight, net.get_submodule(head).weight)


@pytest.mark.parametrize(
    ("asked", "shape", "sentence"),
    [
        ("cifar-resnet14", {}, "model holds cifar-resnet8, not cifar-resnet14"),
        (
            "cifar-resnet8,shortcut=B",
            {},
            "model holds cifar-resnet8, not cifar-resnet8,shortcut=project",
        ),
        (
            "cifar-resnet8",
            {"input": (1, 28, 28)},
            r"model takes images of 3 channels, not 1: give input=\(3, 32, 32\)",
        ),
        (
            "cifar-resnet8",
            {},
            "model has 4 classes, but cifar-resnet8 has 10 classes: give num_classes to train a "
            "new head",
        ),
    ],
)
def test_a_model_folder_of_another_network_is_refused(tmp_path, asked, shape, sentence):
    write_model_folder(tmp_path / "model", "cifar-resnet8", num_classes=4)
    with pytest.raises(RecordError, match=sentence):
        residua.create_model(asked, pretrained=tmp_path / "model", **shape)


def test_a_missing_path_is_said_to_be_missing(tmp_path):
    for nowhere in ("weights/nowhere.pth", "nowhere", tmp_path / "a" / "b" / "c"):
        with pytest.raises(
            RecordError, match=f"there is no file or folder {nowhere}: check the path$"
        ):
            residua.create_model("cifar-resnet8", pretrained=nowhere)
    with pytest.raises(
        RecordError,
        match="there is no file or folder runs/typo: check the path, or hf:runs/typo if it is on",
    ):
        residua.create_model("cifar-resnet8", pretrained="runs/typo")
    with pytest.raises(
        RecordError,
        match=r"is not a model folder, and holds none of model.safetensors, pytorch_model.bin",
    ):
        residua.create_model("cifar-resnet8", pretrained=tmp_path)


def test_a_network_without_published_weights_is_said_to_have_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecordError,
        match=r"check the path; no weights of cifar-resnet14 are published \(residua models",
    ):
        residua.create_model("cifar-resnet14", pretrained="cifar-resnet14")


def test_ambiguous_pre_activation_weights_give_a_warning(tmp_path):
    net = residua.create_model("cifar-preresnet8")
    theirs = convert_to_project(net.state_dict(), net.plan.network, "timm")
    pairs = [
        ("stem.conv", "conv1"),
        ("head.fc", "fc"),
        (".norm", ".bn"),
        *((f"stages.{s}.blocks", f"layer{s + 1}") for s in range(3)),
    ]
    for before, after in pairs:
        theirs = {name.replace(before, after): tensor for name, tensor in theirs.items()}
    torch.save(
        {name.replace("norm.", "bn."): tensor for name, tensor in theirs.items()},
        tmp_path / "x.pth",
    )
    with pytest.warns(UserWarning, match="much code forks before it"):
        residua.create_model("cifar-preresnet8", pretrained=tmp_path / "x.pth")


def add_to_hub_cache(cache, name, files):
    """Move files into a folder laid out as the cache of huggingface_hub."""
    repository = cache / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    files.rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def run_offline(cache, code):
    """The last line that a process prints which runs `code` without a network connection."""
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    return (process.stdout + process.stderr).strip().splitlines()[-1]


CREATE_PRETRAINED_SCRIPT = (
    "import residua; net = residua.create_model('cifar-resnet8', pretrained='{}'); "
    "print(net.stem[0].weight.sum().item())"
)


def test_create_model_loads_networks_from_the_hub(tmp_path):
    net = write_model_folder(tmp_path / "ours", "cifar-resnet8")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"architectures": ["ResNet"]}))
    state = convert_to_project(net.state_dict(), net.plan.network, "torchvision")
    torch.save(
        {name.replace("fc.", "linear."): tensor for name, tensor in state.items()},
        theirs / "pytorch_model.bin",
    )
    for name in ("ours", "theirs"):
        add_to_hub_cache(tmp_path, f"someone/{name}", tmp_path / name)
        assert (
            float(run_offline(tmp_path, CREATE_PRETRAINED_SCRIPT.format(f"hf:someone/{name}")))
            == net.stem[0].weight.sum().item()
        )


def test_a_hub_name_that_cannot_be_downloaded_gives_a_one_line_error(tmp_path):
    last = run_offline(tmp_path, CREATE_PRETRAINED_SCRIPT.format("hf:someone/nothing"))
    assert last.startswith(
        "residua.errors.RecordError: hf:someone/nothing could not be downloaded from the "
        "Hugging Face hub: "
    )


def test_without_huggingface_hub_the_error_names_the_library(tmp_path):
    last = run_offline(
        tmp_path,
        "import sys; sys.modules['huggingface_hub'] = None; "
        + CREATE_PRETRAINED_SCRIPT.format("hf:someone/nothing"),
    )
    assert last == (
        "residua.errors.UsageError: downloading hf:someone/nothing needs huggingface_hub, "
        "which is not installed: pip install huggingface_hub"
    )

"""Weights in ONNX, Keras and Flax files, each written by its own library."""

import json
import zipfile

import h5py
import msgpack
import numpy as np
import pytest
import torch

from residua.config.papers import network
from residua.errors import RecordError
from residua.net.build import build
from residua.net.convert.state_dict import read_state_dict
from residua.net.convert.weights import (
    adopt_foreign_stride,
    convert_foreign_weights,
    identify_network,
)
from tests.third_party import ThirdPartyCifarResNet, randomize_weights, timm, torchvision


def build_from_file(path, name=""):
    """Our network with the weights of a file, the network's name, and the caveats."""
    tensors = read_state_dict(path)
    asked = network(name) if name else identify_network(tensors)
    converted = convert_foreign_weights(tensors, asked)
    assert (converted.missing, converted.unexpected) == ((), ())
    actual = adopt_foreign_stride(asked, name or asked.name, converted)
    net = build(actual)
    net.load_state_dict(converted.tensors)
    return net.eval(), actual.name, converted.caveats


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("is_folded", [False, True], ids=["with BN", "BN folded"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: torchvision.models.resnet18(), "resnet18"),
        (lambda: torchvision.models.resnet50(), "resnet50,stride=3x3"),
        (lambda: timm.create_model("seresnet18"), "seresnet18"),
        (lambda: ThirdPartyCifarResNet(2, "B"), "cifar-resnet14,shortcut=project"),
    ],
    ids=["resnet18", "resnet50", "seresnet18", "cifar"],
)
def test_onnx_files_of_other_networks_give_the_same_outputs(tmp_path, make, name, is_folded):
    theirs = randomize_weights(make())
    mode = torch.onnx.TrainingMode
    images = torch.randn(2, 3, 64, 64)
    torch.onnx.export(
        theirs,
        (images,),
        str(tmp_path / "x.onnx"),
        dynamo=False,
        training=mode.EVAL if is_folded else mode.PRESERVE,
        do_constant_folding=is_folded,
    )
    ours, found, caveats = build_from_file(tmp_path / "x.onnx")
    assert (found.replace("resnet50,stride=3x3", "resnet50")) == name.replace(
        "resnet50,stride=3x3", "resnet50"
    )
    assert ("BNs are folded into" in caveats) == is_folded
    if found == "resnet50":  # the names are torchvision's
        ours, *_ = build_from_file(tmp_path / "x.onnx", "resnet50,stride=3x3")
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-3)


UNIT_LAYERS = [  # in the order in which Keras lists the layers of its resnet50
    *((f"{i}_{kind}", kind) for i in (1, 2) for kind in ("conv", "bn")),
    *(("0_conv", "conv"), ("3_conv", "conv"), ("0_bn", "bn"), ("3_bn", "bn")),
]


def list_keras_layers(net):
    """The layers of a resnet50 as keras.applications has them: (name, tensors by Keras's names)."""
    layers = [("conv1_conv", net.conv1), ("conv1_bn", net.bn1)]
    for s in range(1, 5):
        for u, unit in enumerate(net.get_submodule(f"layer{s}")):
            for name, kind in UNIT_LAYERS:
                number = name[0]
                if number == "0" and unit.downsample is None:
                    continue
                module = (
                    unit.downsample[0 if kind == "conv" else 1]
                    if number == "0"
                    else getattr(unit, f"{kind}{number}")
                )
                layers.append((f"conv{s + 1}_block{u + 1}_{name}", module))
    return [*layers, ("predictions", net.fc)]


def list_keras_tensors(module):
    """The tensors of a module by Keras's names, in its layouts; convolutions get a bias of 0."""
    if isinstance(module, torch.nn.BatchNorm2d):
        values = module.weight, module.bias, module.running_mean, module.running_var
        names = "gamma", "beta", "moving_mean", "moving_variance"
        return {n: v.detach().numpy() for n, v in zip(names, values, strict=True)}
    axes = (2, 3, 1, 0) if module.weight.ndim == 4 else (1, 0)
    bias = torch.full((len(module.weight),), 0.25) if module.bias is None else module.bias
    return {
        "kernel": module.weight.detach().permute(axes).numpy(),
        "bias": bias.detach().numpy(),
    }


@pytest.fixture
def paper_resnet50():
    """A resnet50 of torchvision that strides on the 1x1, with the biases and epsilons of Keras."""
    net = randomize_weights(torchvision.models.resnet50(num_classes=5))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1.001e-5
        if getattr(module, "downsample", None) is not None:
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return net


def test_a_keras_h5_file_gives_the_outputs_of_the_network(tmp_path, paper_resnet50):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layers = list_keras_layers(paper_resnet50)
        file.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, module in layers:
            tensors = list_keras_tensors(module)
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in tensors]
            for key, value in tensors.items():
                group[f"{name}/{key}:0"] = value
    for module in paper_resnet50.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bias = torch.nn.Parameter(torch.full((len(module.weight),), 0.25))
    ours, found, caveats = build_from_file(tmp_path / "x.h5")
    assert (found, "padding SAME" in caveats) == ("resnet50", False)
    assert "the biases of 53 convolutions were subtracted" in caveats
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), paper_resnet50(images), rtol=1e-3, atol=1e-4)


def test_a_keras_archive_gives_the_outputs_of_the_network(tmp_path, paper_resnet50):
    net, layers, counts = paper_resnet50, [], {}
    with h5py.File(tmp_path / "weights", "w") as file:
        for name, module in list_keras_layers(net):
            kind, place = {
                torch.nn.Conv2d: ("Conv2D", "conv2d"),
                torch.nn.Linear: ("Dense", "dense"),
                torch.nn.BatchNorm2d: ("BatchNormalization", "batch_normalization"),
            }[type(module)]
            config = {"name": name} | ({"epsilon": 1.001e-5} if kind.startswith("B") else {})
            layers.append({"class_name": kind, "config": config})
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            place += f"_{number}" if number else ""
            tensors = list_keras_tensors(module)
            if isinstance(module, torch.nn.Conv2d):
                del tensors["bias"]  # use_bias=False
            for i, value in enumerate(tensors.values()):
                file[f"layers/{place}/vars/{i}"] = value
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.write(tmp_path / "weights", "model.weights.h5")
    ours, found, _ = build_from_file(tmp_path / "x.keras")
    assert found == "resnet50"
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), net(images), rtol=1e-3, atol=1e-4)


def pack_flax_array(array):
    content = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
    return msgpack.ExtType(1, content)


def write_flax_file(net, path):
    """Write the tensors of a CIFAR net as flax.serialization does, under the names of Flax."""
    params, statistics = {}, {}
    names = {"conv1": "conv_init", "bn1": "bn_init", "linear": "head"}
    for s in (1, 2, 3):
        for u in range(2):
            unit = f"ResNetBlock_{2 * (s - 1) + u}"
            names |= {
                f"layer{s}.{u}.conv1": f"{unit}/Conv_0",
                f"layer{s}.{u}.bn1": f"{unit}/BatchNorm_0",
                f"layer{s}.{u}.conv2": f"{unit}/Conv_1",
                f"layer{s}.{u}.bn2": f"{unit}/BatchNorm_1",
                f"layer{s}.{u}.shortcut.0": f"{unit}/conv_proj",
                f"layer{s}.{u}.shortcut.1": f"{unit}/norm_proj",
            }

    def insert(tree, name, suffix, array):
        for word in name.split("/"):
            tree = tree.setdefault(word, {})
        tree[suffix] = pack_flax_array(np.ascontiguousarray(array))

    modules = dict(net.named_modules())
    for theirs, flax_name in sorted(names.items(), key=lambda pair: pair[1]):
        if theirs not in modules:
            continue
        tensors = list_keras_tensors(modules[theirs])
        if theirs.startswith(("conv", "layer")):
            tensors.pop("bias", None)
        for key, value in tensors.items():
            flax_key = {
                "gamma": "scale",
                "beta": "bias",
                "moving_mean": "mean",
                "moving_variance": "var",
            }.get(key, key)
            tree = statistics if key.startswith("moving") else params
            insert(tree, flax_name, flax_key, value)
    content = {"params": params, "batch_stats": statistics}
    path.write_bytes(msgpack.packb(content, use_bin_type=True))


def test_a_flax_file_gives_the_outputs_of_the_network(tmp_path):
    net = randomize_weights(ThirdPartyCifarResNet(2, "B"))
    write_flax_file(net, tmp_path / "x.msgpack")
    ours, found, caveats = build_from_file(tmp_path / "x.msgpack")
    assert found == "cifar-resnet14,shortcut=project"
    assert "padding SAME" in caveats
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), net(images), rtol=1e-4, atol=1e-5)


def write_linked_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file["conv"] = h5py.ExternalLink("/etc/passwd", "/")


def write_inflated_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(1 << 40,), dtype="f4", chunks=True)


BAD_FILES = {
    "a TFLite file": (
        "x.tflite",
        lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100)),
        "is a TFLite file, whose weights are fused and often rounded to 8 bits: give the Keras "
        "file that it was made from",
    ),
    "links": (
        "x.h5",
        write_linked_h5,
        "refers to other places by links: give a file without them",
    ),
    "inflated": (
        "x.h5",
        write_inflated_h5,
        "asks for much more memory than its size: give an intact file",
    ),
    "damaged ONNX": (
        "x.onnx",
        lambda path: path.write_bytes(b"\xff" * 100),
        "is damaged or not an ONNX file",
    ),
    "damaged Keras": (
        "x.h5",
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
        "is damaged or not a Keras file",
    ),
    "damaged Flax": (
        "x.msgpack",
        lambda path: path.write_bytes(b"\xc1" * 100),
        "is damaged or not a Flax file",
    ),
    "no weights": (
        "x.msgpack",
        lambda path: path.write_bytes(msgpack.packb({"params": {"a": 1}})),
        "holds no weights of convolutions that could be read: give a file of floating-point "
        "weights, not a quantised one",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_of_another_framework_gives_one_sentence(tmp_path, case):
    name, write, sentence = BAD_FILES[case]
    write(tmp_path / name)
    with pytest.raises(RecordError) as refused:
        read_state_dict(tmp_path / name)
    assert str(refused.value) == f"{tmp_path / name} {sentence}"

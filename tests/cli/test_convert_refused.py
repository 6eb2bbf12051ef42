"""`residua convert`: one line for each bad file and each usage error."""

import os
import shutil

import pytest
import torch

import residua
from residua.net.convert.state_dict import write_state_dict
from residua.net.convert.weights import convert_to_project
from tests.cli.convert_runner import CIFAR10_OPTIONS, run_convert
from tests.third_party import ThirdPartyCifarResNet


class MaliciousPickle:
    """An object that runs a shell command in the process that unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def truncate_file(path):
    path.write_bytes(path.read_bytes()[:-100])


def save_malicious(path):
    torch.save(
        {
            "state_dict": ThirdPartyCifarResNet(1, "A").state_dict(),
            "x": MaliciousPickle(path.parent / "ran"),
        },
        path,
    )


def make_saver(net, key="{}"):
    return lambda path: torch.save(
        {key.format(name): tensor for name, tensor in net.state_dict().items()}, path
    )


def make_changed_saver(changed_name, change):
    """Make a function that saves a network's tensors, one of them changed."""
    state = ThirdPartyCifarResNet(1, "A").state_dict()
    return lambda path: torch.save(
        {f"module.{key}": change(t) if key == changed_name else t for key, t in state.items()}, path
    )


def save_truncated(path):
    make_saver(ThirdPartyCifarResNet(1, "A"))(path)
    truncate_file(path)


def save_truncated_safetensors(path):
    write_state_dict(ThirdPartyCifarResNet(1, "A").state_dict(), path)
    truncate_file(path)


BAD_FILES = {
    "another depth": (
        "x.pth",
        make_saver(ThirdPartyCifarResNet(9, "A"), "module.{}"),
        "the file has 9 + 9 + 9 units, cifar-resnet8 has 1 + 1 + 1: is it cifar-resnet56?",
    ),
    "unknown names": (
        "x.pth",
        make_saver(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16))),
        "the file does not hold cifar-resnet8, by name or by shape and order; its first tensors "
        "are 0.weight 16x3x3x3, 0.bias 16, 1.weight 16, 1.bias 16, 1.running_mean 16, "
        "1.running_var 16, 1.num_batches_tracked a single number",
    ),
    "another class count": (
        "x.pth",
        make_saver(ThirdPartyCifarResNet(1, "A", 100)),
        "linear.weight is for 100 classes, cifar-resnet8 has 10",
    ),
    "option B": (
        "x.pth",
        make_saver(ThirdPartyCifarResNet(1, "B")),
        "the file has a projection at the shortcut of stage2.unit1 "
        "(layer2.0.shortcut.0.weight), cifar-resnet8 has none there: "
        "is it cifar-resnet8,shortcut=B?",
    ),
    "truncated": ("x.pth", save_truncated, "{path} is damaged or not written by torch.save"),
    "truncated safetensors": (
        "x.safetensors",
        save_truncated_safetensors,
        (
            "{path} is damaged or not a safetensors file: Error while deserializing header: "
            "incomplete metadata, file not fully covered"
        ),
    ),
    "a text": (
        "x.pth",
        lambda path: path.write_text("no weights\n"),
        "{path} is damaged or not written by torch.save",
    ),
    "poisoned": (
        "x.pth",
        save_malicious,
        f"{{path}} was not loaded, for safety: reading it would run {os.system.__module__}.system; "
        "give a state_dict, "
        "as torch.save(model.state_dict(), FILE) writes it",
    ),
    "no file": (
        "x.pth",
        lambda path: None,
        "there is no file or folder {path}: check the path",
    ),
    "a folder": (
        "x",
        lambda path: path.mkdir(),
        "{path} is a folder: give a weights file, or add --to PROJECT, which writes its "
        "weights for another project",
    ),
    "a short bias": (
        "x.pth",
        make_changed_saver("linear.bias", lambda bias: bias[:9]),
        "module.linear.bias is 9, but cifar-resnet8 needs 10",
    ),
    "a sparse tensor": (
        "x.pth",
        make_changed_saver("conv1.weight", torch.Tensor.to_sparse),
        "module.conv1.weight is sparse, nested or empty (meta): save dense tensors",
    ),
    "numbers that are not finite": (
        "x.pth",
        make_changed_saver("linear.weight", lambda weight: weight * torch.nan),
        "module.linear.weight is not finite everywhere",
    ),
    "our own names": (
        "x.safetensors",
        lambda path: write_state_dict(residua.create_model("cifar-resnet8").state_dict(), path),
        (
            "the file already uses residua's own tensor names, as the model.safetensors of a model "
            "folder does: give the model folder instead of the file"
        ),
    ),
    "no head": (
        "x.pth",
        lambda path: torch.save(
            {
                k: t
                for k, t in ThirdPartyCifarResNet(1, "A").state_dict().items()
                if "linear" not in k
            },
            path,
        ),
        (
            "{path} has no classification head (its last tensors: "
            "layer3.0.bn2.bias 64, layer3.0.bn2.running_mean 64, layer3.0.bn2.running_var 64, "
            "layer3.0.bn2.num_batches_tracked a single number), which a model folder needs: use "
            "create_model(..., pretrained=...) in Python, which adds a new head"
        ),
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gives_a_one_line_error_and_writes_nothing(capsys, tmp_path, case):
    name, make, sentence = BAD_FILES[case]
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_convert(
        capsys,
        tmp_path / name,
        "--model",
        "cifar-resnet8",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "out",
    )
    assert (code, out) == (1, "")
    assert err == f"residua: {sentence.format(path=tmp_path / name)}"
    assert sorted(tmp_path.rglob("*")) == before


def test_another_width_gives_a_one_line_error(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8,width=2")
    torch.save(
        convert_to_project(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth"
    )
    code, _, err = run_convert(
        capsys,
        tmp_path / "x.pth",
        "--model",
        "cifar-resnet8",
        *CIFAR10_OPTIONS,
        "--out",
        tmp_path / "out",
    )
    assert (code, err) == (
        1,
        (
            "residua: layer1.0.conv1.weight is 32x16x3x3, but cifar-resnet8 needs 16x16x3x3; "
            "29 more shapes differ: is it cifar-resnet8,width=2?"
        ),
    )


MEAN_AND_STD = "--mean 1 1 1 --std 1 1 1"
TWO_CLASSES = "--model cifar-resnet8 --classes a b"
NOT_IN_FILE = (
    "must be given: the file holds cifar-resnet8, but not the names of the classes and the "
    "normalisation"
)
USAGE_ERRORS = {
    "--out out": f"--classes and --mean and --std {NOT_IN_FILE}",
    f"{TWO_CLASSES} --std 1 1 1 --out out": f"--mean {NOT_IN_FILE}",
    f"{TWO_CLASSES} --mean 1 1 --std 1 1 1 --out out": (
        "--mean has 2 numbers, but cifar-resnet8 takes images of 3 channels"
    ),
    f"{TWO_CLASSES} --mean 1 1 x --std 1 1 1 --out out": (
        "--mean: could not convert string to float: 'x'"
    ),
    f"{TWO_CLASSES} --mean 1 1 1 --std 1 0 1 --out out": (
        "--std 1 0 1 is invalid: give numbers above 0"
    ),
    f"{TWO_CLASSES} --mean 1 1 nan --std 1 1 1 --out out": (
        "--mean 1 1 nan is invalid: give numbers"
    ),
    f"--model cifar-resnet8 --classes a,b,a {MEAN_AND_STD} --out out": (
        "--classes must be distinct names, but 'a' appears 2 times"
    ),
    f"--model cifar-resnet8 --classes x.pth {MEAN_AND_STD} --out out": (
        "--classes x.pth is not a text file: give a file with one class name per line"
    ),
    f"--model cifar-resnet9 --classes a b {MEAN_AND_STD} --out out": (
        "cifar-resnet networks cannot have 9 layers: depth must be 6n+2, e.g. 8 or 14"
    ),
    f"{TWO_CLASSES} {MEAN_AND_STD} --out taken": "taken already exists: choose another --out",
    f"{TWO_CLASSES} {MEAN_AND_STD}": "--out is missing: see residua convert --help",
}


@pytest.mark.parametrize("arguments", USAGE_ERRORS)
def test_a_usage_error_gives_one_line(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    torch.save(ThirdPartyCifarResNet(1, "A").state_dict(), "x.pth")
    code, out, err = run_convert(capsys, "x.pth", *arguments.split())
    assert (code, out) == (2, "")
    assert err == f"residua: {USAGE_ERRORS[arguments]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "x.pth"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            "model --to torchvison --out x.pth",
            2,
            "there is no project 'torchvison': did you mean 'torchvision'?",
        ),
        (
            "model --to torchvision --out x",
            2,
            "x has an unknown file format: use .safetensors, .pth, .th, .pt or .bin",
        ),
        (
            "model --to torchvision --mean 1 --out x.pth",
            2,
            "--to takes the network, the class names and the normalisation from the model folder: "
            "leave out --mean",
        ),
        ("model --to torchvision --out peer.th", 2, "peer.th already exists: choose another --out"),
        (
            "peer.th --to torchvision --out x.pth",
            1,
            "peer.th is not a model folder: give one, or leave out --to if this is another "
            "project's weights file",
        ),
        (
            "none --to torchvision --out x.pth",
            1,
            "none does not exist: give the folder of a run or of a model",
        ),
        (
            "empty --to torchvision --out x.pth",
            1,
            "empty is not a model folder: it has no config.json",
        ),
        (
            "damaged --to torchvision --out x.pth",
            1,
            "damaged/model.safetensors does not match its config.json: ",
        ),
    ],
)
def test_an_impossible_export_gives_a_one_line_error_and_writes_nothing(
    capsys, akamaster_file, tmp_path, monkeypatch, arguments, code, sentence
):
    monkeypatch.chdir(tmp_path)
    run_convert(
        capsys, akamaster_file[0], "--model", "cifar-resnet8", *CIFAR10_OPTIONS, "--out", "model"
    )
    shutil.copytree("model", "damaged")
    truncate_file(tmp_path / "damaged" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    exit_code, out, err = run_convert(capsys, *arguments.split())
    assert (exit_code, out) == (code, "")
    assert err.startswith(f"residua: {sentence}")
    assert sorted(tmp_path.rglob("*")) == before

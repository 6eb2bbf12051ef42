"""`residua convert` as scripts use it: what it writes, the keys of --json, exit codes, and one sentence for each mistake."""

import json
import os
import shutil

import pytest
import torch

import residua
from residua.cli.main import main
from residua.net.folder import read_config
from residua.net.port import to_theirs
from residua.net.weights import read_state, write_state
from tests.peers import CifarPeer, randomised

MEAN, STD = ("0.485", "0.456", "0.406"), ("0.229", "0.224", "0.225")
SAID = ["--classes", "cifar10", "--mean", *MEAN, "--std", *STD]


def said(capsys, *arguments):
    """Exit code, standard output, and the one line on standard error."""
    try:
        code = main(["convert", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 1
    return code, out, err.strip()


@pytest.fixture
def peer(tmp_path):
    """akamaster's ResNet-8, as that project saves it."""
    net = randomised(CifarPeer(1, "A"))
    state = {f"module.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "peer.th")
    return tmp_path / "peer.th", net


def test_a_file_becomes_a_model_folder(capsys, peer, tmp_path):
    path, theirs = peer
    code, out, err = said(capsys, path, "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "model")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{tmp_path / 'model'}: cifar-resnet8, 10 classes, 75,290 parameters",
        "44 tensors renamed: conv1.weight -> stem.0.weight, layer2.0.bn1.running_var -> stages.stage2.0.branch.1.running_var, "
        "linear.bias -> head.1.bias",
    ]
    config = read_config(tmp_path / "model")
    assert config.classes == residua.spec.dataset.dataset("cifar10").classes
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(residua.from_pretrained(tmp_path / "model")(images), theirs(images))


def test_how_images_are_resized_and_the_licence_travel_with_the_weights(capsys, peer, tmp_path):
    given = [peer[0], "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "m", "--license", "bsd-2-clause"]
    code, _, err = said(capsys, *given, "--resize", "20")
    assert (code, err) == (2, "residua: resize=20 is too small to cut 32 x 32 pixels out: give at least 32")
    assert said(capsys, *given, "--resize", "36", "--interpolation", "bicubic")[0] == 0
    config = read_config(tmp_path / "m")
    assert (config.resize, config.interpolation, config.license) == (36, "bicubic", "bsd-2-clause")
    assert 'license: "bsd-2-clause"' in (tmp_path / "m" / "README.md").read_text()


def test_json_has_the_keys_that_scripts_rely_on(capsys, tmp_path):
    theirs = CifarPeer(1, "A", 2).state_dict() | {"n_averaged": torch.tensor(1)}
    torch.save(theirs, tmp_path / "x.pth")
    given = [
        "--model",
        "cifar-resnet8",
        "--classes",
        "cat,dog",
        "--mean=-0.5,.4,0",
        "--std",
        "1",
        "1",
        "1",
        "--out",
        tmp_path / "m",
    ]
    code, out, err = said(capsys, tmp_path / "x.pth", *given, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == ["folder", "renamed", "missing", "unexpected", "parameters"]
    assert found["folder"] == str(tmp_path / "m")
    assert found["renamed"]["layer3.0.conv2.weight"] == "stages.stage3.0.branch.3.weight"
    assert (found["missing"], found["unexpected"]) == ([], ["n_averaged"])
    assert found["parameters"] == sum(p.numel() for p in residua.from_pretrained(tmp_path / "m").parameters())
    config = read_config(tmp_path / "m")
    assert (config.classes, config.mean) == (("cat", "dog"), (-0.5, 0.4, 0.0))


def test_what_is_left_out_is_printed(capsys, tmp_path):
    torch.save(CifarPeer(1, "A").state_dict() | {"n_averaged": torch.tensor(1)}, tmp_path / "x.pth")
    _, out, _ = said(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "m")
    assert out.splitlines()[-1] == "1 left out, for cifar-resnet8 has none such: n_averaged"


def test_classes_can_be_listed_in_a_file(capsys, tmp_path):
    torch.save(CifarPeer(1, "A", 2).state_dict(), tmp_path / "x.pth")
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    given = ["--classes", tmp_path / "names.txt", "--mean", *MEAN, "--std", *STD, "--out", tmp_path / "m"]
    assert said(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *given)[0] == 0
    assert read_config(tmp_path / "m").classes == ("tench, Tinca tinca", "goldfish, Carassius auratus")


def test_a_data_set_of_grey_images_makes_a_network_for_them(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8", input=(1, 28, 28))
    torch.save(to_theirs(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth")
    given = ["--classes", "mnist", "--mean", "0.13", "--std", "0.31", "--out", tmp_path / "m"]
    assert said(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *given)[0] == 0
    assert read_config(tmp_path / "m").network.input == (1, 28, 28)


def test_a_configuration_file_says_what_options_say(capsys, peer, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"source: {peer[0]}\nmodel: cifar-resnet8\nclasses: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
        f"mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]\nout: {tmp_path / 'm'}\n"
    )
    assert said(capsys, "--config", tmp_path / "c.yaml")[0] == 0
    config = read_config(tmp_path / "m")
    assert (config.classes, config.mean) == (tuple("0123456789"), (0.485, 0.456, 0.406))


def test_a_configuration_file_may_say_one_thing_without_a_list(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8,shortcut=B", input=(1, 28, 28))
    torch.save(to_theirs(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth")
    said_there = f"source: {tmp_path / 'x.pth'}\nmodel: cifar-resnet8,shortcut=B\nclasses: mnist\nmean: 0\nstd: 0.3\n"
    (tmp_path / "c.yaml").write_text(f"{said_there}out: {tmp_path / 'm'}\n")
    assert said(capsys, "--config", tmp_path / "c.yaml")[::2] == (0, "")
    assert (read_config(tmp_path / "m").mean, read_config(tmp_path / "m").std) == ((0.0,), (0.3,))


def test_a_list_of_classes_may_be_longer_than_a_files_name(capsys, tmp_path):
    names = [f"class-{i}" for i in range(1000)]
    torch.save(CifarPeer(1, "A", 1000).state_dict(), tmp_path / "x.pth")
    given = ["--classes", ",".join(names), "--mean", *MEAN, "--std", *STD, "--out", tmp_path / "m"]
    assert said(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *given)[0] == 0
    assert read_config(tmp_path / "m").classes == tuple(names)


@pytest.mark.parametrize(
    ("classes", "numbers", "sentence"),
    [
        ("mnist", ".13", ""),
        ("a,b,c,d,e,f,g,h,i,j", ".1,.2,.3,.4", ""),
        (
            "a,b,c,d,e,f,g,h,i,j", ".1,.2,.3,.4,.5",
            "--mean has 5 numbers, fc-resnet10 takes 784 numbers, so that the channels must divide them",
        ),
        ("mnist", ".1,.2", "--mean has 2 numbers, the images have 1 channels"),
    ],
)  # fmt: skip
def test_a_fully_connected_net_takes_images_of_any_channels_that_divide_its_features(capsys, tmp_path, classes, numbers, sentence):
    net = randomised(residua.create_model("fc-resnet10"))
    torch.save(to_theirs(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth")
    given = ["--classes", classes, "--mean", numbers, "--std", numbers, "--out", tmp_path / "m"]
    code, _, err = said(capsys, tmp_path / "x.pth", "--model", "fc-resnet10", *given)
    assert (code, err) == ((2, f"residua: {sentence}") if sentence else (0, ""))
    if not sentence:
        images = torch.randn(3, 1, 28, 28)
        assert torch.equal(residua.from_pretrained(tmp_path / "m")(images), net(images))


def test_a_bottlenecks_stride_is_told(capsys, tmp_path):
    name = "cifar-resnet11,block=bottleneck,shortcut=B"
    net = residua.create_model(name)
    torch.save(to_theirs(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth")
    code, _, err = said(capsys, tmp_path / "x.pth", "--model", name, *SAID, "--out", tmp_path / "m", "--json")
    name = name.replace("=B", "=project")
    assert (code, err) == (
        0,
        f"residua: read as {name},stride=3x3, for others' bottlenecks stride on the 3x3: "
        f"ask for {name},stride=1x1 where these do not",
    )
    assert read_config(tmp_path / "m").network.unit.stride_at == 1
    code, _, err = said(capsys, tmp_path / "x.pth", "--model", f"{name},stride=1x1", *SAID, "--out", tmp_path / "p", "--json")
    assert (code, err) == (0, "")
    assert read_config(tmp_path / "p").network.unit.stride_at == 0
    code, _, err = said(capsys, tmp_path / "p", "--to", "torchvision", "--out", tmp_path / "y.pth")
    assert (code, err) == (
        0,
        f"residua: no network of torchvision computes the same with these weights: networks of torchvision have 4 stages, "
        f"{name} has 3; bottlenecks of torchvision stride on the 3x3, those of {name} on the 1x1",
    )


@pytest.mark.parametrize("file", ["x.safetensors", "x.pth"])
def test_a_model_folder_becomes_a_file_and_comes_back(capsys, peer, tmp_path, file):
    path, theirs = peer
    said(capsys, path, "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "model")
    code, out, err = said(capsys, tmp_path / "model", "--to", "torchvision", "--out", tmp_path / file, "--json")
    found = json.loads(out)
    assert code == 0
    assert err.endswith("computes the same with these weights: networks of torchvision have 4 stages, cifar-resnet8 has 3")
    assert list(found) == ["file", "renamed"]
    assert found["renamed"]["head.1.bias"] == "fc.bias"
    written = read_state(tmp_path / file)
    assert len(written) == 44
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(written[key.replace("linear", "fc")], tensor)
    assert said(capsys, tmp_path / file, "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "again")[0] == 0
    ours, again = (residua.from_pretrained(tmp_path / folder).state_dict() for folder in ("model", "again"))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_a_runs_last_network_is_written(capsys, tmp_path):
    assert main(["train", "digits", "--model", "cifar-resnet8", "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    code, out, _ = said(capsys, tmp_path / "run", "--to", "huggingface", "--out", tmp_path / "x.safetensors")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'x.safetensors'}: 44 tensors renamed: stem.0.weight -> resnet.embedder")


@pytest.mark.slow
def test_the_peers_resnet20_makes_827_errors_on_the_test_images_of_cifar10(capsys, real_data, tmp_path):
    weights = real_data / "peer-weights" / "resnet20-12fca82f.th"
    if not weights.exists():
        pytest.skip(f"there is no {weights}")
    code, out, err = said(capsys, weights, "--model", "cifar-resnet20", *SAID, "--out", tmp_path / "m", "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["renamed"]) == 97
    assert main(["evaluate", str(tmp_path / "m"), "cifar10", "--data-dir", str(real_data), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["count"], score["wrong"]) == (10_000, 827)


class Poison:
    """What runs a command in whoever unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def poisoned(path):
    torch.save({"state_dict": CifarPeer(1, "A").state_dict(), "x": Poison(path.parent / "ran")}, path)


def saved(net, key="{}"):
    return lambda path: torch.save({key.format(name): tensor for name, tensor in net.state_dict().items()}, path)


def changed(name, change):
    """What saves a network's tensors, one of them changed."""
    state = CifarPeer(1, "A").state_dict()
    return lambda path: torch.save({f"module.{key}": change(t) if key == name else t for key, t in state.items()}, path)


def truncated(path):
    saved(CifarPeer(1, "A"))(path)
    cut(path)


def truncated_safetensors(path):
    write_state(CifarPeer(1, "A").state_dict(), path)
    cut(path)


BAD = {
    "another depth": (
        "x.pth", saved(CifarPeer(9, "A"), "module.{}"),
        "the file has 9 + 9 + 9 units, cifar-resnet8 has 1 + 1 + 1: is it cifar-resnet56?",
    ),
    "unknown names": (
        "x.pth", saved(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16))),
        "the file holds no residual network that we know: none of its names (0, 1, ...) is that of a first layer "
        "(conv1, stem.conv, ...)",
    ),
    "another class count": ("x.pth", saved(CifarPeer(1, "A", 100)), "linear.weight is for 100 classes, cifar-resnet8 has 10"),
    "option B": (
        "x.pth", saved(CifarPeer(1, "B")),
        "the file has a projection at the shortcut of stage2.unit1 (layer2.0.shortcut.0.weight), cifar-resnet8 has none there: "
        "is it cifar-resnet8,shortcut=B?",
    ),
    "truncated": ("x.pth", truncated, "{path} is damaged, or no file of torch.save"),
    "truncated safetensors": (
        "x.safetensors", truncated_safetensors,
        "{path} is damaged, or no safetensors file: Error while deserializing header: incomplete metadata, file not fully covered",
    ),
    "a text": ("x.pth", lambda path: path.write_text("no weights\n"), "{path} is damaged, or no file of torch.save"),
    "poisoned": (
        "x.pth", poisoned,
        f"{{path}} asks to run {os.system.__module__}.system when it is read, which was refused: what is wanted is a state_dict, "
        "as torch.save(model.state_dict(), FILE) writes it",
    ),
    "no file": ("x.pth", lambda path: None, "there is no file {path}"),
    "a folder": (
        "x", lambda path: path.mkdir(), "{path} is a folder: give another project's file, or --to to write this folder's weights",
    ),
    "a short bias": (
        "x.pth", changed("linear.bias", lambda bias: bias[:9]), "module.linear.bias is 9 where cifar-resnet8 wants 10",
    ),
    "a sparse tensor": (
        "x.pth", changed("conv1.weight", torch.Tensor.to_sparse),
        "module.conv1.weight is sparse, nested or empty (meta): save dense tensors",
    ),
    "numbers that are not finite": (
        "x.pth", changed("linear.weight", lambda weight: weight * torch.nan), "module.linear.weight is not finite everywhere",
    ),
    "our own names": (
        "x.safetensors", lambda path: write_state(residua.create_model("cifar-resnet8").state_dict(), path),
        "the file has our own names, as model.safetensors of a model folder: use that folder as it is",
    ),
    "no head": (
        "x.pth", lambda path: torch.save({k: t for k, t in CifarPeer(1, "A").state_dict().items() if "linear" not in k}, path),
        "{path} holds no head, and a model folder needs one: create_model(..., pretrained=...) makes it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(capsys, tmp_path, case):
    name, make, sentence = BAD[case]
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = said(capsys, tmp_path / name, "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err == f"residua: {sentence.format(path=tmp_path / name)}"
    assert sorted(tmp_path.rglob("*")) == before


def test_another_width_is_one_sentence_too(capsys, tmp_path):
    net = residua.create_model("cifar-resnet8,width=2")
    torch.save(to_theirs(net.state_dict(), net.plan.network, "torchvision"), tmp_path / "x.pth")
    code, _, err = said(capsys, tmp_path / "x.pth", "--model", "cifar-resnet8", *SAID, "--out", tmp_path / "out")
    assert (code, err) == (
        1,
        "residua: layer1.0.conv1.weight is 32x16x3x3 where cifar-resnet8 wants 16x16x3x3, and so with 29 more",
    )


NUMBERS = "--mean 1 1 1 --std 1 1 1"
USAGE = {
    f"--classes a b {NUMBERS} --out out": "--model must be given, for a file of weights does not say it",
    "--out out": "--model and --classes and --mean and --std must be given, for a file of weights does not say it",
    "--model cifar-resnet8 --classes a b --std 1 1 1 --out out": "--mean must be given, for a file of weights does not say it",
    "--model cifar-resnet8 --classes a b --mean 1 1 --std 1 1 1 --out out": (
        "--mean has 2 numbers, cifar-resnet8 takes images of 3 channels"
    ),
    "--model cifar-resnet8 --classes a b --mean 1 1 x --std 1 1 1 --out out": "--mean: could not convert string to float: 'x'",
    "--model cifar-resnet8 --classes a b --mean 1 1 1 --std 1 0 1 --out out": "--std 1 0 1 is impossible: give numbers above 0",
    "--model cifar-resnet8 --classes a b --mean 1 1 nan --std 1 1 1 --out out": "--mean 1 1 nan is impossible: give numbers",
    f"--model cifar-resnet8 --classes a,b,a {NUMBERS} --out out": "--classes must be names that differ: 'a' is there 2 times",
    f"--model cifar-resnet8 --classes x.pth {NUMBERS} --out out": (
        "--classes x.pth is no text file: give one with a name in each line"
    ),
    f"--model cifar-resnet9 --classes a b {NUMBERS} --out out": (
        "no 9-layer cifar-resnet network: depth must be 6n+2, e.g. 8 or 14"
    ),
    f"--model cifar-resnet8 --classes a b {NUMBERS} --out taken": "taken exists already: choose another --out",
    f"--model cifar-resnet8 --classes a b {NUMBERS}": "OUT is missing: residua convert --help says what it is",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_a_request_that_makes_no_sense_is_one_sentence(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    torch.save(CifarPeer(1, "A").state_dict(), "x.pth")
    code, out, err = said(capsys, "x.pth", *arguments.split())
    assert (code, out) == (2, "")
    assert err == f"residua: {USAGE[arguments]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "x.pth"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("model --to torchvison --out x.pth", 2, "no project 'torchvison': did you mean 'torchvision'?"),
        ("model --to torchvision --out x", 2, "x says no format: end it in .safetensors, .pth, .th, .pt or .bin"),
        ("model --to torchvision --mean 1 --out x.pth", 2, "--mean cannot be given with --to: the model folder says it"),
        ("model --to torchvision --out peer.th", 2, "peer.th exists already: choose another --out"),
        ("none --to torchvision --out x.pth", 1, "none is no model folder: leave out --to to read it as another project's weights"),
        ("empty --to torchvision --out x.pth", 1, "empty is no model folder: it has no config.json"),
        ("damaged --to torchvision --out x.pth", 1, "damaged/model.safetensors does not fit its config.json: "),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(capsys, peer, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    said(capsys, peer[0], "--model", "cifar-resnet8", *SAID, "--out", "model")
    shutil.copytree("model", "damaged")
    cut(tmp_path / "damaged" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    found, out, err = said(capsys, *arguments.split())
    assert (found, out) == (code, "")
    assert err.startswith(f"residua: {sentence}")
    assert sorted(tmp_path.rglob("*")) == before

import json

import numpy as np
import pytest
import torch
from torch import nn

import residua
from residua.cli.main import main
from residua.errors import UsageError
from residua.report.signals_record import read_signals_record
from tests.same_weights import require_equal_weights

RNG = np.random.default_rng(7)
QUICKLY = {"images": 4, "quiet": True, "device": "cpu"}


def make_grey_arrays(count=20, classes=10):
    return RNG.integers(0, 256, (count, 8, 8), dtype=np.uint8), np.arange(count) % classes


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return residua.train(
        "cifar-resnet8",
        "digits",
        steps=3,
        quiet=True,
        precision="fp32",
        out=tmp_path_factory.mktemp("runs") / "run",
    )


def test_python_and_the_command_line_measure_the_same_signals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = residua.signals("cifar-resnet8", "digits", seed=3, out="a", **QUICKLY)
    arguments = ["--data", "digits", "--seed", "3", "--images", "4", "--device", "cpu"]
    assert main(["signals", "cifar-resnet8", *arguments, "--out", "b"]) == 0
    stored = [(tmp_path / folder / "signals.json").read_text() for folder in "ab"]
    assert stored[0] == stored[1]
    assert (tmp_path / "a" / "report.html").exists()
    assert read_signals_record(tmp_path / "a" / "signals.json") == record
    assert (
        repr(record)
        == f"SignalsRecord(cifar-resnet8, untrained: {len(record.names)} units, digits)"
    )


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert residua.signals("cifar-resnet8", "digits", **QUICKLY).images == 4
    assert list(tmp_path.iterdir()) == []


def test_a_trained_network_has_the_same_signals_in_every_form(result):
    records = [
        residua.signals(given, **QUICKLY)
        for given in (result.folder, str(result.folder), result, result.classifier)
    ]
    assert all(record == records[0] for record in records)
    assert records[0].data == "digits"
    assert records[0].trained
    assert records[0].predicted


def test_a_module_is_measured_on_arrays_normalised_by_their_own_statistics():
    pixels, labels = make_grey_arrays(6)
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8), num_classes=6, seed=2)
    before = residua.create_model("cifar-resnet8", input=(1, 8, 8), num_classes=6, seed=2)
    record = residua.signals(net, (pixels, labels), images=6, quiet=True, device="cpu")
    require_equal_weights(net, before)
    levels = torch.from_numpy(pixels).double()[:, None] / 255
    x = ((levels - levels.mean()) / levels.std(correction=0)).float()
    outputs = []
    net.units[0].register_forward_hook(lambda unit, inputs, output: outputs.append(output))
    net.train()(x)
    assert record.measured["mean"][0] == pytest.approx(outputs[0].mean().item(), rel=1e-4)


def test_a_new_network_is_measured_on_arrays_by_its_name():
    data = make_grey_arrays(8, classes=4)
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8), num_classes=4, seed=5)
    by_name = residua.signals("cifar-resnet8", data, seed=5, **QUICKLY)
    assert not by_name.trained
    assert by_name.measured == residua.signals(net, data, **QUICKLY).measured


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def test_a_module_of_the_users_own_has_a_unit_at_each_addition(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(Doubling(), Doubling(), nn.Flatten(), nn.Linear(64, 10))
    record = residua.signals(net, "digits", out=tmp_path / "s", **QUICKLY)
    assert record.names == ["0", "1"]
    assert record.depth == 3
    assert record.predicted == {}
    assert json.loads((tmp_path / "s" / "signals.json").read_text())["null"] is None
    assert "Sequential" in (tmp_path / "s" / "report.html").read_text()


def test_what_cannot_be_measured_is_refused_with_one_sentence(result, tmp_path):
    grey = make_grey_arrays()
    (tmp_path / "thesis.tex").write_text("")
    small = residua.create_model("cifar-resnet8", num_classes=3)
    cases = [
        (("cifar-resnet8", "digits"), {"images": 1}, "signals need at least 2 images, got 1"),
        ((result, grey), {"images": 21}, "21 images are too many: give at most 20"),
        (
            (result.net,),
            {},
            "a module does not record the data that it was trained on: give data=NAME",
        ),
        ((small, "digits"), {}, "cifar-resnet8 takes images of .* and has 3 classes, but digits"),
        ((nn.Flatten(), "digits"), {}, "has no trainable parameters"),
        (("vlad", "digits"), {}, "vlad has no units"),
        (("cifar-resnet8", "digits"), {"out": tmp_path}, "choose another out$"),
    ]
    for arguments, keywords, message in cases:
        with pytest.raises(UsageError, match=message):
            residua.signals(*arguments, **{"quiet": True} | keywords)

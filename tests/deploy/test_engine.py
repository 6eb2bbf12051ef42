"""Every engine is the same function as evaluation: pixels -> softmax of the network's scores."""

import pytest
import torch

import residua
from residua.data.augment import normalise
from residua.deploy import engine as engines
from residua.deploy.engine import Engine, engine
from residua.errors import RecordError, UsageError
from residua.extras import EXTRAS
from residua.net.folder import from_pretrained, save_pretrained
from residua.spec.model import ModelConfig
from tests.peers import randomised

NETS = {
    "torch": ("cifar-resnet8", "cifar-preresnet8,shortcut=B", "cifar-resnet11,block=bottleneck", "cifar-highway8", "fc-resnet10"),
    "onnx": ("cifar-resnet8",),  # other nets: test_export.py
    "openvino": ("cifar-preresnet8,shortcut=B", "cifar-highway8", "cifar-resnet8,head=vlad", "fc-resnet10"),
}
FP32 = {"torch": "torch fp32", "onnx": "onnx fp32", "openvino": "openvino fp32"}


def model(path, name="cifar-resnet8", temperature=1.0):
    net = randomised(residua.create_model(name, num_classes=3, input=(3, 16, 16)))
    config = ModelConfig(
        network=net.plan.network, classes=("a", "b", "c"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), temperature=temperature
    )
    save_pretrained(net, config, path)
    return path


def evaluated(folder, pixels):
    """Scores (n, classes) as evaluation computes them."""
    net, config = from_pretrained(folder), residua.net.folder.read_config(folder)
    with torch.inference_mode():
        return net(normalise(pixels, config.mean, config.std)) / config.temperature


def noise(count):
    return torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize(("name", "net"), [(name, net) for name, nets in NETS.items() for net in nets])
def test_an_engine_gives_the_probabilities_of_evaluation_for_any_number_of_images(tmp_path, monkeypatch, name, net):
    if name != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    monkeypatch.setattr(engines, "cpu_has_bf16", lambda: False)
    folder = model(tmp_path / "model", net, temperature=5.0)
    runs, pixels = engine(folder, name), noise(5)
    assert runs.name.startswith(FP32[name])
    expected = evaluated(folder, pixels).softmax(1)
    for count in (5, 1):
        found = runs(pixels[:count])
        assert found.dtype == torch.float32
        assert (found - expected[:count]).abs().max() < 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # and images differ


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_moves_probabilities_by_less_than_a_hundredth(tmp_path, name):
    pytest.importorskip(name)
    if not engines.cpu_has_bf16():
        pytest.skip("this CPU has no bf16")
    folder = model(tmp_path / "model")
    runs = engine(folder, name)
    assert "bf16" in runs.name
    assert (runs(noise(8)) - evaluated(folder, noise(8)).softmax(1)).abs().max() < 0.01


def test_auto_takes_an_engine_that_agrees_with_plain_pytorch(tmp_path):
    folder = model(tmp_path / "model")
    assert (engine(folder)(noise(8)) - evaluated(folder, noise(8)).softmax(1)).abs().max() < 0.01


def test_auto_takes_plain_pytorch_where_no_fast_engine_holds_the_accuracy(tmp_path, monkeypatch):
    def wrong(net, config):
        yield Engine("wrong", config, lambda pixels: torch.eye(3)[torch.arange(len(pixels)) % 3])

    monkeypatch.setattr(engines, "fastest", wrong)
    assert engine(model(tmp_path / "model")).name == "torch fp32, folded BN"


def test_auto_takes_pytorch_where_a_translator_fails_or_is_missing(tmp_path, monkeypatch):
    def failing(net, config):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "openvino_engine", failing)
    folder = model(tmp_path / "model")
    assert engine(folder).name.startswith("torch")
    monkeypatch.setitem(EXTRAS, "openvino", ("openvino", ("no_such_package",)))
    monkeypatch.setitem(EXTRAS, "onnx", ("export", ("no_such_package",)))
    assert engine(folder).name.startswith("torch")
    with pytest.raises(UsageError, match=r"onnx needs no-such-package, which is not installed: pip install 'residua\[export\]'"):
        engine(folder, "onnx")
    with pytest.raises(UsageError, match=r"needs no-such-package, which is not installed: pip install 'residua\[openvino\]'"):
        engine(folder, "openvino")


def test_what_cannot_be_run_is_named(tmp_path):
    with pytest.raises(UsageError, match="no engine 'torhc': did you mean 'torch'"):
        engine(model(tmp_path / "model"), "torhc")
    with pytest.raises(RecordError, match="is no model folder"):
        engine(tmp_path)


def test_the_config_travels_with_the_engine(tmp_path):
    folder = model(tmp_path / "model")
    assert engine(folder, "torch").config == residua.net.folder.read_config(folder)

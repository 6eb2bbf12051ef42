"""Every engine is the same function as evaluation: pixels -> softmax of the network's scores."""

import pytest
import torch

import residua
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.deploy import engine as engines
from residua.deploy.engine import InferenceEngine, load_engine
from residua.errors import RecordError, UsageError
from residua.extras import EXTRA_PACKAGES
from residua.net.model_folder import from_pretrained, save_pretrained
from tests.third_party import randomize_weights

ENGINE_NETWORKS = {
    "torch": (
        "cifar-resnet8",
        "cifar-preresnet8,shortcut=B",
        "cifar-resnet11,block=bottleneck",
        "cifar-highway8",
        "fc-resnet10",
    ),
    "onnx": ("cifar-resnet8",),  # other nets: test_export.py
    "openvino": (
        "cifar-preresnet8,shortcut=B",
        "cifar-highway8",
        "cifar-resnet8,head=vlad",
        "fc-resnet10",
    ),
}
FP32_ENGINE_NAMES = {"torch": "torch fp32", "onnx": "onnx fp32", "openvino": "openvino fp32"}


def write_model_folder(path, name="cifar-resnet8", temperature=1.0):
    net = randomize_weights(residua.create_model(name, num_classes=3, input=(3, 16, 16)))
    config = ModelConfig(
        network=net.plan.network,
        classes=("a", "b", "c"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.25),
        temperature=temperature,
    )
    save_pretrained(net, config, path)
    return path


def compute_evaluation_scores(folder, pixels):
    """Scores (n, classes) as evaluation computes them."""
    net, config = from_pretrained(folder), residua.net.model_folder.read_config(folder)
    with torch.inference_mode():
        return net(normalise_pixels(pixels, config.mean, config.std)) / config.temperature


def make_random_pixels(count):
    return torch.randint(
        256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.mark.parametrize(
    ("name", "net"), [(name, net) for name, nets in ENGINE_NETWORKS.items() for net in nets]
)
def test_every_engine_matches_the_probabilities_of_evaluation_at_any_batch_size(
    tmp_path, monkeypatch, name, net
):
    if name != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    monkeypatch.setattr(engines, "cpu_has_bf16", lambda: False)
    folder = write_model_folder(tmp_path / "model", net, temperature=5.0)
    fp32_engine, pixels = load_engine(folder, name), make_random_pixels(5)
    assert fp32_engine.description.startswith(FP32_ENGINE_NAMES[name])
    expected = compute_evaluation_scores(folder, pixels).softmax(1)
    for count in (5, 1):
        found = fp32_engine(pixels[:count])
        assert found.dtype == torch.float32
        assert (found - expected[:count]).abs().max() < 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # and images differ


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_changes_probabilities_by_less_than_0_01(tmp_path, name):
    pytest.importorskip(name)
    if not engines.cpu_has_bf16():
        pytest.skip("this CPU has no bf16")
    folder = write_model_folder(tmp_path / "model")
    bf16_engine = load_engine(folder, name)
    assert "bf16" in bf16_engine.description
    assert (
        bf16_engine(make_random_pixels(8))
        - compute_evaluation_scores(folder, make_random_pixels(8)).softmax(1)
    ).abs().max() < 0.01


def test_auto_chooses_an_engine_that_agrees_with_plain_pytorch(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    assert (
        load_engine(folder)(make_random_pixels(8))
        - compute_evaluation_scores(folder, make_random_pixels(8)).softmax(1)
    ).abs().max() < 0.01


def test_auto_falls_back_to_pytorch_when_faster_engines_are_inaccurate(tmp_path, monkeypatch):
    def yield_wrong_engine(net, config):
        yield InferenceEngine(
            "wrong", config, lambda pixels: torch.eye(3)[torch.arange(len(pixels)) % 3]
        )

    monkeypatch.setattr(engines, "build_engines_by_speed", yield_wrong_engine)
    assert (
        load_engine(write_model_folder(tmp_path / "model")).description == "torch fp32, folded BN"
    )


def test_auto_falls_back_to_pytorch_when_conversion_fails_or_a_library_is_missing(
    tmp_path, monkeypatch
):
    def raise_error(net, config):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "build_openvino_engine", raise_error)
    folder = write_model_folder(tmp_path / "model")
    assert load_engine(folder).description.startswith("torch")
    monkeypatch.setitem(EXTRA_PACKAGES, "openvino", ("openvino", ("no_such_package",)))
    monkeypatch.setitem(EXTRA_PACKAGES, "onnx", ("export", ("no_such_package",)))
    assert load_engine(folder).description.startswith("torch")
    with pytest.raises(
        UsageError,
        match=r"onnx needs no-such-package, which is not installed: pip install 'residua\[export\]'",
    ):
        load_engine(folder, "onnx")
    with pytest.raises(
        UsageError,
        match=r"needs no-such-package, which is not installed: pip install 'residua\[openvino\]'",
    ):
        load_engine(folder, "openvino")


def test_an_unknown_engine_and_a_folder_without_a_model_are_reported(tmp_path):
    with pytest.raises(UsageError, match="no engine 'torhc': did you mean 'torch'"):
        load_engine(write_model_folder(tmp_path / "model"), "torhc")
    with pytest.raises(RecordError, match="is no model folder"):
        load_engine(tmp_path)


def test_an_engine_carries_the_model_config(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    assert load_engine(folder, "torch").config == residua.net.model_folder.read_config(folder)

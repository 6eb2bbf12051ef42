"""Every engine computes the same probabilities as evaluation does."""

import pytest
import torch
from PIL import Image

import residua
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.deploy import engine as engines
from residua.deploy.engine import InferenceEngine, build_engine
from residua.errors import RecordError, UsageError
from residua.extras import EXTRA_PACKAGES, list_missing_packages
from residua.net.model_folder import load_model_folder, save_pretrained
from tests.cli_runner import run_cli
from tests.third_party import randomize_weights

ENGINE_NETWORKS = {
    "torch": (
        "cifar-resnet8",
        "cifar-preresnet8,shortcut=B",
        "cifar-resnet11,block=bottleneck",
        "cifar-highway8",
        "fc-resnet10",
    ),
    "onnx": ("cifar-resnet8",),  # other networks: test_export.py
    "openvino": (
        "cifar-preresnet8,shortcut=B",
        "cifar-highway8",
        "cifar-resnet8,head=vlad",
        "fc-resnet10",
    ),
}
FP32_DESCRIPTIONS = {"torch": "torch fp32", "onnx": "onnx fp32", "openvino": "openvino fp32"}


def make_model(name="cifar-resnet8", temperature=1.0):
    net = randomize_weights(residua.create_model(name, num_classes=3, input=(3, 16, 16)))
    config = ModelConfig(
        network=net.plan.network,
        classes=("a", "b", "c"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.25),
        temperature=temperature,
    )
    return net, config


def compute_evaluation_probabilities(net, config, pixels):
    """Probabilities (n, classes) as evaluation computes them."""
    with torch.inference_mode():
        scores = net(normalise_pixels(pixels, config.mean, config.std))
    return (scores / config.temperature).softmax(1)


def skip_without(engine):
    """Skip a test if the packages of an engine are missing.

    pytest.importorskip would import OpenVINO with its telemetry.
    """
    if engine != "torch" and list_missing_packages(engine):
        pytest.skip(f"{engine} is not installed")


def make_random_pixels(count):
    return torch.randint(
        256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.mark.parametrize(
    ("name", "network_name"),
    [(name, network_name) for name, names in ENGINE_NETWORKS.items() for network_name in names],
)
def test_every_engine_matches_the_probabilities_of_evaluation_at_any_batch_size(
    monkeypatch, name, network_name
):
    skip_without(name)
    monkeypatch.setattr(engines, "device_has_bf16", lambda device: False)
    model = make_model(network_name, temperature=5.0)
    fp32_engine, pixels = build_engine(*model, name), make_random_pixels(5)
    assert fp32_engine.description.startswith(FP32_DESCRIPTIONS[name])
    expected = compute_evaluation_probabilities(*model, pixels)
    for count in (5, 1):
        probabilities = fp32_engine(pixels[:count])
        assert probabilities.dtype == torch.float32
        assert (probabilities - expected[:count]).abs().max() < 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # and images differ


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_changes_probabilities_by_less_than_0_01(name):
    skip_without(name)
    if not engines.device_has_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no bf16")
    model, pixels = make_model(), make_random_pixels(8)
    bf16_engine = build_engine(*model, name)
    assert "bf16" in bf16_engine.description
    expected = compute_evaluation_probabilities(*model, pixels)
    assert (bf16_engine(pixels) - expected).abs().max() < 0.01


def test_auto_chooses_an_engine_that_agrees_with_plain_pytorch():
    model, pixels = make_model(), make_random_pixels(8)
    expected = compute_evaluation_probabilities(*model, pixels)
    assert (build_engine(*model)(pixels) - expected).abs().max() < 0.01


@pytest.mark.parametrize("scores", [100 * torch.eye(3), torch.full((3, 3), torch.nan)])
def test_auto_falls_back_to_pytorch_when_faster_engines_are_inaccurate(monkeypatch, scores):
    def yield_wrong_engine(net, config):
        yield InferenceEngine("wrong", config, lambda pixels: scores[torch.arange(len(pixels)) % 3])

    monkeypatch.setattr(engines, "build_engines_by_speed", yield_wrong_engine)
    assert build_engine(*make_model()).description == "torch fp32, folded BN"


def test_auto_falls_back_to_pytorch_when_conversion_fails_or_a_library_is_missing(monkeypatch):
    def raise_error(net, config):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "build_openvino_engine", raise_error)
    model = make_model()
    assert build_engine(*model).description.startswith("torch")
    monkeypatch.setitem(EXTRA_PACKAGES, "openvino", ("no_such_package",))
    monkeypatch.setitem(EXTRA_PACKAGES, "onnx", ("no_such_package",))
    assert build_engine(*model).description.startswith("torch")
    with pytest.raises(
        UsageError,
        match="onnx needs no-such-package, which is not installed: pip install no-such-package",
    ):
        build_engine(*model, "onnx")
    with pytest.raises(
        UsageError,
        match="openvino needs no-such-package, which is not installed: pip install no-such-package",
    ):
        build_engine(*model, "openvino")


def test_auto_builds_no_other_engine_for_a_few_images(monkeypatch):
    """Another engine is built for more images, or for a number that is not known."""
    built = []
    monkeypatch.setattr(
        engines,
        "build_openvino_engine",
        lambda net, config: built.append("openvino") or engines.build_torch_engine(net, config),
    )
    monkeypatch.setattr(engines, "list_missing_packages", lambda feature: [])
    for count, names in ((1, 0), (100, 0), (101, 1), (None, 1)):
        built.clear()
        engine = build_engine(*make_model(), image_count=count)
        assert (len(built), engine.description.startswith("torch")) == (names, True), count
        assert names or engine.description == "torch fp32, folded BN"


def test_predicting_one_image_takes_pytorch(tmp_path, monkeypatch, capsys):
    def fail(net, config):
        raise AssertionError("no other engine is tried for one image")

    monkeypatch.setattr(engines, "build_engines_by_speed", fail)
    save_pretrained(*make_model(), tmp_path / "m")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    code, _, message = run_cli(capsys, "predict", tmp_path / "m", tmp_path / "a.png")
    assert code == 0, message


def test_an_unknown_engine_and_a_folder_without_a_model_are_reported(tmp_path):
    with pytest.raises(UsageError, match="there is no engine 'torhc': did you mean 'torch'"):
        build_engine(*make_model(), "torhc")
    with pytest.raises(RecordError, match="is not a model folder"):
        load_model_folder(tmp_path)


def test_an_engine_carries_the_model_config():
    net, config = make_model()
    assert build_engine(net, config, "torch").config == config


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
def test_building_an_engine_leaves_the_network_unchanged(name):
    skip_without(name)
    net, config = make_model()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    build_engine(net, config, name)
    assert list(before) == list(net.state_dict())
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_openvino_reports_no_conversion_to_its_makers():
    skip_without("openvino")
    build_engine(*make_model(), "openvino")
    from openvino.tools.ovc import convert_impl, telemetry_stub

    assert convert_impl.tm is telemetry_stub

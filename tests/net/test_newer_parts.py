"""What takes a network takes the parts of ResNeXt, SE, ECA and ResNet-D too."""

from copy import deepcopy
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from residua.analysis.network_lesions import LesionSampling, measure_lesions
from residua.analysis.signals import measure_signals
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.serialize import from_json, to_json
from residua.config.stages import Stem
from residua.deploy.export import export_model
from residua.errors import UsageError
from residua.net.build import build
from residua.net.fold_bn import fold_batchnorm
from residua.net.model_folder import from_pretrained, save_pretrained
from residua.net.surgery import append_identity_units, remove_shortcuts, remove_units
from residua.report.network_diagram import render_network_diagram
from tests.third_party import randomize_weights

DEEP_STEM = Stem(width=16, inner_widths=(4, 8))
NETWORKS = {
    "ResNeXt-D with SE": replace(
        network("cifar-resnet20,block=bottleneck,groups=4x4d,attention=se,shortcut=D"),
        stem=DEEP_STEM,
    ),
    "pre-activation with ECA": replace(
        network("cifar-preresnet14,attention=eca,fork=shape-change,shortcut=D"), stem=DEEP_STEM
    ),
    "whitened stem, leads and SiLU": network("cifar-record11,width=0.5"),
    "half width": network("cifar-resnet14,width=0.5,attention=se-timm"),
}


@pytest.fixture(params=NETWORKS, scope="module")
def net(request):
    return randomize_weights(build(NETWORKS[request.param]))


IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)


@torch.no_grad()
def test_json_describes_the_network(net):
    described = to_json(net.plan.network)
    assert from_json(type(net.plan.network), described) == net.plan.network
    assert plan(net.plan.network).parameters == sum(p.numel() for p in net.parameters())


@torch.no_grad()
def test_folded_bn_gives_the_same_outputs(net):
    double = build(net.plan.network).double().eval()
    double.load_state_dict(net.state_dict())
    images = IMAGES.double()
    torch.testing.assert_close(fold_batchnorm(double)(images), double(images))


@torch.no_grad()
def test_a_deeper_network_gives_bit_identical_outputs_and_its_new_units_can_be_removed(net):
    if "silu" in net.plan.network.unit.order.after:
        with pytest.raises(UsageError, match="SiLU after the addition, which changes"):
            append_identity_units(net, 2, 2)
        return
    deeper = append_identity_units(net, 2, 2)
    assert torch.equal(deeper(IMAGES), net(IMAGES))
    added = net.plan.network.stages[1].units
    original = remove_units(deeper, [f"stage2.unit{added + 1}", f"stage2.unit{added + 2}"])
    assert original.plan.network.stages == net.plan.network.stages
    assert torch.equal(original(IMAGES), net(IMAGES))


def test_the_plain_twin_has_the_weights_outside_the_shortcuts(net):
    plain = remove_shortcuts(net)
    kept = {name: value for name, value in net.state_dict().items() if ".shortcut." not in name}
    assert plain.state_dict().keys() == kept.keys()
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in kept.items())


def test_signals_are_those_of_a_hook_on_the_module(net):
    outputs = []
    training_net = deepcopy(net).train()  # signals are those of a training step
    for unit in training_net.units:
        unit.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        training_net(IMAGES)
    signals = measure_signals(net, IMAGES, LABELS)
    assert [signal.name for signal in signals] == [planned.name for planned in net.plan.units]
    for signal, output in zip(signals, outputs, strict=True):
        assert signal.variance == pytest.approx(output.double().var(correction=0).item(), rel=1e-3)


def test_lesions_delete_every_unit(net):
    sampling = LesionSampling(draws=1)
    result = measure_lesions(net, "net", IMAGES, LABELS, sampling, lambda *counts: None)
    assert len(result.units) == len(net.units)


def test_the_diagram_names_the_attention_and_the_pooled_shortcut(net):
    diagram = render_network_diagram(net.plan)
    attention = net.plan.network.unit.attention
    assert attention is None or f">{attention.symbol}<" in diagram
    assert (">max-pool 2×2, /2<" in diagram) == bool(net.plan.network.stages[0].lead)
    assert (">average pool" in diagram) == (net.plan.network.unit.shortcut == "pool-project")


def make_config(net):
    statistics = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    return ModelConfig(network=net.plan.network, classes=tuple("abcdefghij"), **statistics)


def test_an_exported_file_computes_the_same_after_saving_and_loading(net, tmp_path):
    config = make_config(net)
    save_pretrained(net, config, tmp_path / "model")
    loaded = from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), net(IMAGES))
    facts = export_model(loaded, config, "onnx", tmp_path / "model.onnx")
    assert facts["difference"] < 1e-4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs without labels, half of which calibrate."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = (
        torch.randn(24, 32, 32, 3, generator=torch.Generator().manual_seed(1)) * 64 + 128
    ).clamp(0, 255)
    for number, image in enumerate(pixels.byte()):
        Image.fromarray(image.numpy()).save(folder / f"{number}.png")
    return folder


def test_every_convolution_of_an_int8_file_is_quantised_and_its_scores_stay_close(
    net, photos, tmp_path
):
    images = IMAGES.clamp(-2, 2)  # the range of pixels
    net = deepcopy(net).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(images)  # with the statistics of the images, so that these have different scores
        expected = net.eval()(images)
    path = tmp_path / "int8.onnx"
    facts = export_model(net, make_config(net), "onnx", path, calibration_source=str(photos))
    assert facts["images"] == 12
    nodes = onnx.load(path).graph.node
    origin = {output: node.op_type for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) >= sum(layer.op == "weight" for layer in net.plan.layers) - 1
    assert {origin[name] for node in convolutions for name in node.input[:2]} == {
        "DequantizeLinear"
    }
    session = onnxruntime.InferenceSession(path)
    scores = torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])
    spread = (expected - expected.mean(0)).norm()  # the error of scores that are equal for all
    assert (scores - expected).norm() < 0.5 * spread

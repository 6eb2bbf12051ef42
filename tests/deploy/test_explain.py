import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import residua
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.deploy.explain import GradCamExplainer, draw_heat_overlay
from residua.deploy.explained_class import find_class_index
from residua.errors import UsageError
from tests.third_party import randomize_weights

pytest.importorskip("captum")


def make_explainer(name="cifar-resnet8", channels=3):
    net = randomize_weights(residua.create_model(name, num_classes=4, input=(channels, 16, 16)))
    config = ModelConfig(
        network=net.plan.network,
        classes=tuple("abcd"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    return net, GradCamExplainer(net, config)


def make_random_pixels(count, channels=3):
    return torch.randint(
        256,
        (count, channels, 16, 16),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )


@pytest.mark.parametrize(("name", "channels"), [("cifar-resnet8", 3), ("cifar-preresnet8", 1)])
def test_the_heat_map_equals_a_handwritten_grad_cam(name, channels):
    net, explainer = make_explainer(name, channels)
    pixels, classes = make_random_pixels(5, channels), torch.tensor([0, 1, 2, 3, 1])
    x = net.stem(normalise_pixels(pixels, (0.5,) * channels, (0.25,) * channels))
    for stage in net.stages.values():
        x = stage(x)
    maps = x.detach().requires_grad_()
    net.head(maps)[torch.arange(5), classes].sum().backward()
    cam = F.relu((maps.grad.mean((2, 3), keepdim=True) * maps).sum(1)).detach()
    large = F.interpolate(cam[:, None], (16, 16), mode="bilinear")[:, 0]
    largest = large.amax((1, 2), keepdim=True)
    assert (largest > 0).sum() >= 3
    assert torch.allclose(
        explainer.compute_heatmaps(pixels, classes),
        torch.where(largest > 0, large / largest, 0),
        atol=1e-5,
    )
    assert all(parameter.grad is None for parameter in net.stem.parameters())


def test_the_saved_picture_shows_the_image_next_to_its_heat_map(tmp_path):
    _, explainer = make_explainer()
    pixels = make_random_pixels(1)[0]
    explainer.save_overlay(pixels, 2, tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as file:
        image = np.asarray(file)
    assert image.shape == (224, 448, 3)
    assert np.array_equal(image[::14, :224:14], pixels.permute(1, 2, 0).numpy())


def test_a_class_to_explain_is_found_by_name_and_near_names_are_suggested():
    classes = ("tench", "white shark", "tiger shark", *(f"class{i}" for i in range(40)))
    assert find_class_index(classes, "tiger shark") == 2
    for name, sentence in (
        ("shark", "there is no class 'shark': did you mean 'white shark' or 'tiger shark'?"),
        ("Tench", "there is no class 'Tench': did you mean 'tench'?"),
        ("tenhc", "there is no class 'tenhc': did you mean 'tench'?"),
        (
            "dog",
            "there is no class 'dog': give one of the model's 43 classes, such as tench, white "
            "shark, tiger shark",
        ),
    ):
        with pytest.raises(UsageError) as refused:
            find_class_index(classes, name)
        assert str(refused.value) == sentence
    for name in ("", "dog"):
        with pytest.raises(UsageError, match=": choose from cat, owl"):
            find_class_index(("cat", "owl"), name)


def test_a_zero_heat_map_only_darkens_the_image():
    grey = torch.full((1, 300, 200), 100, dtype=torch.uint8)
    image = np.asarray(draw_heat_overlay(grey, torch.zeros(300, 200)))
    assert set(image[:, :400].flatten()) == {100}
    assert set(image[:, 400:].flatten()) == {80}


def test_a_network_without_feature_maps_is_refused():
    with pytest.raises(
        UsageError, match="Grad-CAM needs convolutional stages, and fc-resnet10 has none"
    ):
        net = residua.create_model("fc-resnet10", num_classes=2)
        GradCamExplainer(
            net, ModelConfig(network=net.plan.network, classes=("a", "b"), mean=(0.5,), std=(0.5,))
        )


def test_without_captum_a_one_line_error_gives_the_package(monkeypatch):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match=re.escape("Grad-CAM needs captum, which is not installed: pip install captum"),
    ):
        make_explainer()

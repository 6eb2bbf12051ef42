import numpy as np
import pytest
import torch

import residua
from residua.errors import UsageError
from residua.net.folder import network_from, save_pretrained
from residua.net.vlad import TOGETHER, VladNetwork
from residua.spec.model import ModelConfig
from residua.spec.vlad import VladClassifier


def filled(**changes):
    """VLAD with random numbers, for images (2, 9, 8)."""
    parts = {"patch": 3, "dimensions": 5, "words": 4, "cells": 2} | changes
    net = VladNetwork(VladClassifier(input=(2, 9, 8), classes=3, **parts))
    generator = torch.Generator().manual_seed(0)
    for buffer in net.buffers():
        buffer.normal_(generator=generator)
    return net


def images(count, dtype=torch.float32):
    return torch.randn(count, 2, 9, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def by_loops(net, image):
    """The descriptor of one image (c, h, w), patch by patch."""
    value = net.value
    mean, whitening, words = (getattr(net, name).numpy() for name in ("mean", "whitening", "words"))
    rows, columns = (np.array_split(range(side - value.patch + 1), value.cells) for side in image.shape[1:])
    descriptor = []
    for cell_rows in rows:
        for cell_columns in columns:
            sums = np.zeros_like(words)
            for r in cell_rows:
                for c in cell_columns:
                    patch = image[:, r : r + value.patch, c : c + value.patch].ravel()
                    patch = patch - patch.mean()
                    patch = patch / np.sqrt((patch**2).mean() + value.contrast)
                    x = (patch - mean) @ whitening
                    nearest = np.argmin([((x - word) ** 2).sum() for word in words])
                    sums[nearest] += x - words[nearest]
            descriptor += sums.ravel().tolist()
    v = np.array(descriptor)
    v = np.sign(v) * np.sqrt(np.abs(v))
    return v / np.sqrt((v**2).sum())


@pytest.mark.parametrize(
    "changes", [{}, {"cells": 1}, {"cells": 3}, {"patch": 8}, {"patch": 4, "words": 1}, {"contrast": 1e-9}], ids=str
)
def test_descriptors_are_those_of_plain_loops(changes):
    net = filled(**({"cells": 1} if "patch" in changes else {}) | changes).double()
    for image, descriptor in zip(images(3, torch.float64), net.describe(images(3, torch.float64)), strict=True):
        assert np.abs(descriptor.numpy() - by_loops(net, image.numpy())).max() < 1e-10


def test_a_word_that_no_patch_is_near_leaves_zeros():
    net = filled().double()
    net.words[2] = 1e3
    x = images(2, torch.float64)
    parts = net.describe(x).reshape(2, 4, 4, 5)  # image, cell, word, dimension
    assert not parts[:, :, 2].any()
    assert parts[:, :, [0, 1, 3]].any()
    assert np.abs(net.describe(x)[0].numpy() - by_loops(net, x[0].numpy())).max() < 1e-10


def test_descriptors_have_length_1_and_blank_images_none_that_is_not_a_number():
    net = filled()
    assert torch.allclose(net.describe(images(5)).norm(dim=1), torch.ones(5))
    assert net(torch.zeros(2, 2, 9, 8)).isfinite().all()


def test_scores_do_not_depend_on_how_many_images_come_together():
    net, x = filled().double(), images(2 * TOGETHER + 3, torch.float64)
    alone = torch.cat([net(image[None]) for image in x])
    assert net(x).shape == (len(x), 3)
    assert (net(x) - alone).abs().max() < 1e-12


def test_bf16_around_it_changes_nothing():
    net, x = filled(), images(4)
    with torch.autocast("cpu", torch.bfloat16):
        scores = net(x)
    assert torch.equal(scores, net(x))


def test_no_images_have_no_scores():
    assert filled()(images(0)).shape == (0, 3)


def test_gradients_of_the_image_are_finite():
    net, x = filled(words=20), images(2).requires_grad_()
    net(x).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_a_graph_exported_from_some_images_takes_another_number():
    net = filled().eval()
    graph = torch.export.export(net, (images(3),), dynamic_shapes={"images": {0: torch.export.Dim("n")}})
    assert torch.allclose(graph.module()(images(7)), net(images(7)), atol=1e-6)


def test_a_model_folder_gives_back_the_same_scores(tmp_path):
    net = filled()
    config = ModelConfig(network=net.value, classes=("a", "b", "c"), mean=(0.5, 0.5), std=(0.25, 0.25), dataset="letters")
    save_pretrained(net, config, tmp_path / "model")
    assert torch.equal(residua.from_pretrained(tmp_path / "model")(images(4)), net(images(4)))
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"3 classes, input 2x9x8, {net.value.parameters:,} parameters; fitted to letters." in card
    assert net.value.parameters == sum(buffer.numel() for buffer in net.buffers())
    with pytest.raises(UsageError, match="holds VLAD, which has no units: give the folder of a network"):
        network_from(tmp_path / "model")

import numpy as np
import pytest
import torch

import residua
from residua.config.model import ModelConfig
from residua.config.vlad_config import VladClassifier
from residua.errors import UsageError
from residua.net.model_folder import load_residual_network, save_pretrained
from residua.net.vlad import IMAGES_PER_CHUNK, VladNetwork


def make_random_vlad(**changes):
    """VLAD with random numbers, for images (2, 9, 8)."""
    fields = {"patch": 3, "dimensions": 5, "words": 4, "cells": 2} | changes
    net = VladNetwork(VladClassifier(input=(2, 9, 8), classes=3, **fields))
    generator = torch.Generator().manual_seed(0)
    for buffer in net.buffers():
        buffer.normal_(generator=generator)
    return net


def make_random_images(count, dtype=torch.float32):
    return torch.randn(count, 2, 9, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def compute_descriptor_by_loops(net, image):
    """The descriptor of one image (c, h, w), patch by patch."""
    value = net.classifier
    mean, whitening, words = (getattr(net, name).numpy() for name in ("mean", "whitening", "words"))
    rows, columns = (
        np.array_split(range(side - value.patch + 1), value.cells) for side in image.shape[1:]
    )
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
    "changes",
    [{}, {"cells": 1}, {"cells": 3}, {"patch": 8}, {"patch": 4, "words": 1}, {"contrast": 1e-9}],
    ids=str,
)
def test_descriptors_match_plain_loops(changes):
    net = make_random_vlad(**({"cells": 1} if "patch" in changes else {}) | changes).double()
    for image, descriptor in zip(
        make_random_images(3, torch.float64),
        net.compute_descriptors(make_random_images(3, torch.float64)),
        strict=True,
    ):
        assert (
            np.abs(descriptor.numpy() - compute_descriptor_by_loops(net, image.numpy())).max()
            < 1e-10
        )


def test_a_visual_word_without_patches_gives_zeros():
    net = make_random_vlad().double()
    net.words[2] = 1e3
    x = make_random_images(2, torch.float64)
    parts = net.compute_descriptors(x).reshape(2, 4, 4, 5)  # image, cell, word, dimension
    assert not parts[:, :, 2].any()
    assert parts[:, :, [0, 1, 3]].any()
    assert (
        np.abs(
            net.compute_descriptors(x)[0].numpy() - compute_descriptor_by_loops(net, x[0].numpy())
        ).max()
        < 1e-10
    )


def test_descriptors_have_unit_length_and_blank_images_give_no_nan():
    net = make_random_vlad()
    assert torch.allclose(net.compute_descriptors(make_random_images(5)).norm(dim=1), torch.ones(5))
    assert net(torch.zeros(2, 2, 9, 8)).isfinite().all()


def test_scores_do_not_depend_on_the_batch_size():
    net, x = (
        make_random_vlad().double(),
        make_random_images(2 * IMAGES_PER_CHUNK + 3, torch.float64),
    )
    alone = torch.cat([net(image[None]) for image in x])
    assert net(x).shape == (len(x), 3)
    assert (net(x) - alone).abs().max() < 1e-12


def test_bf16_autocast_changes_nothing():
    net, x = make_random_vlad(), make_random_images(4)
    with torch.autocast("cpu", torch.bfloat16):
        scores = net(x)
    assert torch.equal(scores, net(x))


def test_an_empty_batch_gives_empty_scores():
    assert make_random_vlad()(make_random_images(0)).shape == (0, 3)


def test_gradients_with_respect_to_the_image_are_finite():
    net, x = make_random_vlad(words=20), make_random_images(2).requires_grad_()
    net(x).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_an_exported_graph_accepts_another_batch_size():
    net = make_random_vlad().eval()
    graph = torch.export.export(
        net, (make_random_images(3),), dynamic_shapes={"images": {0: torch.export.Dim("n")}}
    )
    assert torch.allclose(
        graph.module()(make_random_images(7)), net(make_random_images(7)), atol=1e-6
    )


def test_a_saved_vlad_model_is_loaded_unchanged(tmp_path):
    net = make_random_vlad()
    config = ModelConfig(
        network=net.classifier,
        classes=("a", "b", "c"),
        mean=(0.5, 0.5),
        std=(0.25, 0.25),
        dataset="letters",
    )
    save_pretrained(net, config, tmp_path / "model")
    assert torch.equal(
        residua.from_pretrained(tmp_path / "model")(make_random_images(4)),
        net(make_random_images(4)),
    )
    card = (tmp_path / "model" / "README.md").read_text()
    assert (
        f"3 classes, input 2x9x8, {net.classifier.parameters:,} parameters; fitted to letters."
        in card
    )
    assert net.classifier.parameters == sum(buffer.numel() for buffer in net.buffers())
    with pytest.raises(
        UsageError, match="holds VLAD, which has no units: give the folder of a network"
    ):
        load_residual_network(tmp_path / "model")

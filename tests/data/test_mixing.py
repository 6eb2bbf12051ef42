"""Mixup and CutMix: images and labels are mixed by equal shares, in any batch size."""

import pytest
import torch

from residua.config.augmentation import Augmentation
from residua.config.optimisers import Sgd
from residua.config.papers import network
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import random_bits_from_keys
from residua.data.images import Images
from residua.data.mixing import apply_mixup_or_cutmix
from residua.errors import UsageError
from residua.net.build import build
from residua.training.step import TrainingStep
from tests.training.short_runs import CPU_FP32

RANDOM_BITS = random_bits_from_keys(3, torch.arange(500)[:, None], torch.arange(4))


def test_label_shares_equal_pixel_shares():
    """Black images are mixed with white ones, so that the mean level is the partners' share."""
    images, partners = torch.zeros(500, 1, 40, 40), torch.ones(500, 1, 40, 40)
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.2, 0.3)):
        pixels, own_share = apply_mixup_or_cutmix(images, partners, mixup, cutmix, RANDOM_BITS)
        assert torch.allclose(pixels.mean((1, 2, 3)), 1 - own_share, atol=1e-5)
        untouched = (own_share == 1).float().mean().item()
        assert abs(untouched - (1 - mixup - cutmix)) < 0.08, (mixup, cutmix, untouched)


def test_cutmix_replaces_whole_pixels_and_mixup_blends_evenly():
    images, partners = torch.zeros(500, 1, 40, 40), torch.ones(500, 1, 40, 40)
    assert set(
        apply_mixup_or_cutmix(images, partners, 0.0, 1.0, RANDOM_BITS)[0].unique().tolist()
    ) == {0.0, 1.0}
    blended, own_share = apply_mixup_or_cutmix(images, partners, 1.0, 0.0, RANDOM_BITS)
    assert blended.std((1, 2, 3)).max() < 1e-6
    assert 0.4 < own_share.mean() < 0.6


def test_mixed_labels_are_class_shares_and_independent_of_the_batch_size():
    labels = torch.arange(60) % 3
    images = Images(torch.randint(0, 256, (60, 3, 12, 12), dtype=torch.uint8), labels)
    augment = Augmentation(pad=2, mixup=0.5, cutmix=0.5)
    large, small = [
        TrainingBatches(images, size, augment, (0.5,) * 3, (0.2,) * 3, 1, num_classes=4)
        for size in (20, 10)
    ]
    pixels, shares = large.make_batch(1)
    assert shares.shape == (20, 4)
    assert torch.allclose(shares.sum(1), torch.ones(20))
    assert shares[:, 3].max() == 0
    halves = [small.make_batch(step) for step in (2, 3)]
    assert torch.equal(pixels, torch.cat([x for x, _ in halves]))
    assert torch.equal(shares, torch.cat([y for _, y in halves]))


def test_a_step_on_one_hot_labels_equals_a_step_on_class_indices():
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    results = []
    for target in (labels, torch.nn.functional.one_hot(labels, 10).float()):
        net = build(network("cifar-resnet8", input=(3, 8, 8)), seed=1).train()
        loss, wrong = TrainingStep(net, Sgd(), CPU_FP32, label_smoothing=0.1)(images, target, 0.1)
        results.append((loss.item(), wrong.item(), net.stem[0].weight.sum().item()))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_probabilities_above_one_are_refused():
    with pytest.raises(
        UsageError,
        match=r"mixup=0.7 and cutmix=0.5 add up to more than 1: each image gets at most one of "
        r"them, so their probabilities must sum to at most 1",
    ):
        Augmentation(mixup=0.7, cutmix=0.5)

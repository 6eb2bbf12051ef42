"""Samples that are mixed: image and label by the same share, and the same ones whatever the batch."""

import pytest
import torch

from residua.data.augment import mix
from residua.data.batches import Batches
from residua.data.counter import bits
from residua.data.read import Images
from residua.errors import UsageError
from residua.net.build import build
from residua.spec.papers import network
from residua.spec.recipe import Augment, Sgd
from residua.train.step import Step
from tests.train.runs import CPU

DRAWS = bits(3, torch.arange(500)[:, None], torch.arange(4))


def test_a_share_of_the_label_is_the_share_of_the_pixels():
    """Of black images with white guests, the mean level is the guests' share."""
    own, guests = torch.zeros(500, 1, 40, 40), torch.ones(500, 1, 40, 40)
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.2, 0.3)):
        pixels, kept = mix(own, guests, mixup, cutmix, DRAWS)
        assert torch.allclose(pixels.mean((1, 2, 3)), 1 - kept, atol=1e-5)
        untouched = (kept == 1).float().mean().item()
        assert abs(untouched - (1 - mixup - cutmix)) < 0.08, (mixup, cutmix, untouched)


def test_a_box_is_whole_and_a_blend_is_even():
    own, guests = torch.zeros(500, 1, 40, 40), torch.ones(500, 1, 40, 40)
    assert set(mix(own, guests, 0.0, 1.0, DRAWS)[0].unique().tolist()) == {0.0, 1.0}
    blended, kept = mix(own, guests, 1.0, 0.0, DRAWS)
    assert blended.std((1, 2, 3)).max() < 1e-6
    assert 0.4 < kept.mean() < 0.6


def test_labels_are_shares_of_classes_and_the_same_in_any_batch():
    labels = torch.arange(60) % 3
    images = Images(torch.randint(0, 256, (60, 3, 12, 12), dtype=torch.uint8), labels)
    augment = Augment(pad=2, mixup=0.5, cutmix=0.5)
    large, small = [Batches(images, size, augment, (0.5,) * 3, (0.2,) * 3, 1, classes=4) for size in (20, 10)]
    pixels, shares = large.at(1)
    assert shares.shape == (20, 4)
    assert torch.allclose(shares.sum(1), torch.ones(20))
    assert shares[:, 3].max() == 0
    halves = [small.at(step) for step in (2, 3)]
    assert torch.equal(pixels, torch.cat([x for x, _ in halves]))
    assert torch.equal(shares, torch.cat([y for _, y in halves]))


def test_a_step_on_whole_shares_is_a_step_on_labels():
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    ends = []
    for target in (labels, torch.nn.functional.one_hot(labels, 10).float()):
        net = build(network("cifar-resnet8", input=(3, 8, 8)), seed=1).train()
        loss, wrong = Step(net, Sgd(), CPU, smoothing=0.1)(images, target, 0.1)
        ends.append((loss.item(), wrong.item(), net.stem[0].weight.sum().item()))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_probabilities_above_one_are_refused():
    with pytest.raises(UsageError, match=r"mixup=0.7 and cutmix=0.5 are probabilities of one choice: give 1 at most together"):
        Augment(mixup=0.7, cutmix=0.5)

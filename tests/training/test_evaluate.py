import pytest
import torch
from torch import nn

from residua.data.images import Images
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine

CPU_FP32 = Machine(torch.device("cpu"), "fp32")


class BrightnessClassifier(nn.Module):
    """Scores class k by how close the mean of an image is to k."""

    def forward(self, images):
        return -((images.mean((1, 2, 3))[:, None] - torch.arange(8.0)) ** 2)


def make_uniform_images(levels, labels):
    return Images(
        torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2),
        torch.tensor(labels),
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
def test_each_image_counts_once_for_any_batch_size(batch_size):
    images = make_uniform_images([0, 1, 2, 3, 7, 7, 0], [0, 1, 2, 1, 7, 0, 7])
    score = evaluate_network(
        BrightnessClassifier(), images, (0.0,), (1 / 255,), CPU_FP32, batch_size
    )
    assert (score.count, score.wrong, score.wrong5) == (7, 3, 2)
    assert score.error == pytest.approx(3 / 7)
    scores = -((images.pixels[:, 0, 0, 0].float()[:, None] - torch.arange(8.0)) ** 2)
    assert score.loss == pytest.approx(nn.functional.cross_entropy(scores, images.labels).item())


class LeftRightClassifier(nn.Module):
    """Scores two classes by the left and the right column of an image."""

    def forward(self, images):
        return images.mean((1, 2))


def test_mirrored_images_are_averaged():
    pixels = torch.tensor([[[[3, 0]]], [[[0, 1]]], [[[5, 5]]]], dtype=torch.uint8)
    images = Images(pixels, torch.tensor([1, 1, 0]))
    plain, mirrored = [
        evaluate_network(
            LeftRightClassifier(),
            images,
            (0.0,),
            (1 / 255,),
            CPU_FP32,
            views="mirror" if mirror else "none",
        )
        for mirror in (False, True)
    ]
    assert plain.wrong == 1
    p = torch.stack([pixels[:, 0, 0].float(), pixels[:, 0, 0].float().flip(1)]).softmax(2).mean(0)
    assert mirrored.loss == pytest.approx(nn.functional.nll_loss(p.log(), images.labels).item())
    # the mean of both views is symmetric, so each side has probability 1/2
    assert mirrored.loss == pytest.approx(torch.tensor(2.0).log().item())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_with_a_score_that_is_not_finite_counts_as_wrong(bad):
    """Whatever its label is; `topk` and `argmax` take nan for the largest score."""

    class FaultyClassifier(BrightnessClassifier):
        def forward(self, images):
            scores = super().forward(images)
            scores[0] = torch.where(torch.arange(8) == 2, bad, scores[0])
            return scores

    for label in range(8):
        images = make_uniform_images([0, 1], [label, 1])
        score = evaluate_network(FaultyClassifier(), images, (0.0,), (1 / 255,), CPU_FP32)
        assert (score.wrong, score.wrong5) == (1, 1)
        assert not torch.tensor(score.loss).isfinite()


def test_a_net_is_evaluated_in_eval_mode_and_its_mode_is_restored():
    net = nn.Sequential(nn.BatchNorm2d(1), BrightnessClassifier()).train()
    before = net[0].running_mean.clone()
    evaluate_network(net, make_uniform_images([0, 1], [0, 1]), (0.0,), (1.0,), CPU_FP32)
    assert net.training
    assert torch.equal(net[0].running_mean, before)


def test_fewer_than_five_classes_have_a_top5_error_of_zero():
    class Two(nn.Module):
        def forward(self, images):
            return images.new_zeros(len(images), 2)

    assert (
        evaluate_network(
            Two(), make_uniform_images([0, 1], [0, 1]), (0.0,), (1.0,), CPU_FP32
        ).wrong5
        == 0
    )

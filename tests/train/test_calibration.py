import numpy as np
import pytest
import torch
from scipy.special import softmax

from residua.train.calibration import BINS, calibration, fitted, fitted_by_halves
from tests import peers  # noqa: F401 -- torchmetrics imports torchvision


def drawn(count=4000, classes=5, temperature=1.0, seed=0):
    """Scores whose softmax at `temperature` is true: each label is drawn from it."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 3, (count, classes)).astype(np.float32)
    p = softmax(scores / temperature, axis=1)
    return scores, (p.cumsum(1) < generator.random((count, 1))).sum(1).clip(max=classes - 1)


def test_ece_and_loss_are_torchmetrics_and_torchs():
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores, labels = drawn(temperature=2.0)
    found = calibration(scores, labels)
    p, truth = torch.from_numpy(scores).softmax(1), torch.from_numpy(labels)
    theirs = multiclass_calibration_error(p, truth, 5, n_bins=BINS, norm="l1").item()
    assert found.ece == pytest.approx(theirs, abs=1e-6)
    assert found.ece > 0.05
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(p.log(), truth).item(), rel=1e-6)
    assert sum(b.count for b in found.bins) == len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    scores, labels = drawn(20_000, temperature=temperature)
    assert fitted(scores, labels) == pytest.approx(temperature, rel=0.05)
    assert calibration(scores, labels, np.full((20_000, 1), temperature, np.float32)).ece < 0.015


def test_the_loss_is_least_at_the_fitted_temperature():
    scores, labels = drawn(temperature=3.0)
    best = fitted(scores, labels)
    losses = [calibration(scores, labels, np.full((len(labels), 1), t, np.float32)).loss for t in (0.97 * best, best, 1.03 * best)]
    assert losses[1] < min(losses[0], losses[2])


def test_no_image_has_a_say_in_its_own_temperature():
    scores, labels = drawn(400, temperature=2.0)
    before = fitted_by_halves(scores, labels)
    assert set(before[::2, 0]).isdisjoint(before[1::2, 0])
    labels[::2] = 0  # of the even images
    after = fitted_by_halves(scores, labels)
    assert np.array_equal(before[::2], after[::2])
    assert not np.array_equal(before[1::2], after[1::2])


def test_a_network_that_is_always_right_is_given_a_finite_temperature():
    scores = np.eye(4, dtype=np.float32) * 9
    assert 0 < fitted(scores, np.arange(4)) < 0.2
    assert np.isfinite(fitted_by_halves(scores[:1], np.array([0]))).all()

import numpy as np
import pytest
import torch
from scipy.special import softmax

from residua.training.calibration import (
    CALIBRATION_BINS,
    TemperatureGain,
    cross_fit_temperatures,
    fit_temperature,
    measure_calibration,
    measure_temperature_gain,
)
from tests import third_party  # noqa: F401 -- torchmetrics imports torchvision


def sample_calibrated_scores(count=4000, classes=5, temperature=1.0, seed=0):
    """Scores that are calibrated at `temperature`: labels are drawn from their softmax."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 3, (count, classes)).astype(np.float32)
    p = softmax(scores / temperature, axis=1)
    return scores, (p.cumsum(1) < generator.random((count, 1))).sum(1).clip(max=classes - 1)


def test_ece_and_loss_match_torchmetrics_and_torch():
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores, labels = sample_calibrated_scores(temperature=2.0)
    found = measure_calibration(scores, labels)
    p, truth = torch.from_numpy(scores).softmax(1), torch.from_numpy(labels)
    theirs = multiclass_calibration_error(p, truth, 5, n_bins=CALIBRATION_BINS, norm="l1").item()
    assert found.ece == pytest.approx(theirs, abs=1e-6)
    assert found.ece > 0.05
    assert found.loss == pytest.approx(
        torch.nn.functional.cross_entropy(p.log(), truth).item(), rel=1e-6
    )
    assert sum(b.count for b in found.bins) == len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_true_temperature_is_recovered(temperature):
    scores, labels = sample_calibrated_scores(20_000, temperature=temperature)
    assert fit_temperature(scores, labels) == pytest.approx(temperature, rel=0.05)
    assert (
        measure_calibration(scores, labels, np.full((20_000, 1), temperature, np.float32)).ece
        < 0.015
    )


def test_the_fitted_temperature_minimises_the_loss():
    scores, labels = sample_calibrated_scores(temperature=3.0)
    best = fit_temperature(scores, labels)
    losses = [
        measure_calibration(scores, labels, np.full((len(labels), 1), t, np.float32)).loss
        for t in (0.97 * best, best, 1.03 * best)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_cross_fitting_never_uses_an_image_for_its_own_temperature():
    scores, labels = sample_calibrated_scores(400, temperature=2.0)
    before = cross_fit_temperatures(scores, labels)
    assert set(before[::2, 0]).isdisjoint(before[1::2, 0])
    labels[::2] = 0  # changes the temperatures of odd images alone
    after = cross_fit_temperatures(scores, labels)
    assert np.array_equal(before[::2], after[::2])
    assert not np.array_equal(before[1::2], after[1::2])


def test_a_perfect_network_gets_a_finite_temperature():
    scores = np.eye(4, dtype=np.float32) * 9
    assert 0 < fit_temperature(scores, np.arange(4)) < 0.2
    assert np.isfinite(cross_fit_temperatures(scores[:1], np.array([0]))).all()


@pytest.mark.parametrize(("count", "temperature"), [(400, 2.0), (400, 1.0), (151, 1.3)])
def test_the_gain_is_the_paired_difference_of_the_losses_of_images_not_fitted_on(
    count, temperature
):
    scores, labels = sample_calibrated_scores(count, temperature=temperature)
    truth = torch.from_numpy(labels)
    gains = torch.empty(count, dtype=torch.float64)
    for start in (0, 1):
        other = fit_temperature(scores[1 - start :: 2], labels[1 - start :: 2])
        before, after = (
            torch.nn.functional.cross_entropy(
                torch.from_numpy(scores[start::2]).double() / t, truth[start::2], reduction="none"
            )
            for t in (1.0, other)
        )
        gains[start::2] = before - after
    found = measure_temperature_gain(scores, labels)
    assert found.mean == pytest.approx(gains.mean().item(), rel=1e-3, abs=1e-6)
    assert found.standard_error == pytest.approx((gains.std() / count**0.5).item(), rel=1e-3)


def test_a_gain_counts_only_beyond_its_standard_error():
    assert measure_temperature_gain(*sample_calibrated_scores(temperature=2.0)).is_beyond_its_error
    kept = [
        measure_temperature_gain(*sample_calibrated_scores(200, seed=seed)).is_beyond_its_error
        for seed in range(20)
    ]
    assert sum(kept) <= 4  # these scores are calibrated: what is kept, is kept by chance
    assert not TemperatureGain(0.1, 0.2).is_beyond_its_error
    assert not TemperatureGain(float("nan"), 0.2).is_beyond_its_error
    assert not TemperatureGain(0.1, float("nan")).is_beyond_its_error

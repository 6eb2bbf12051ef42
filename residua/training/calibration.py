"""Calibration of probabilities: expected calibration error and temperature scaling.

Both follow Guo et al. 2017.  The logits are divided by the temperature before the softmax.  A
temperature above 1 makes a network less confident, and one below 1 makes it more confident.  The
most probable class never changes.
"""

from dataclasses import dataclass
from math import exp, isfinite, log, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from residua.config.evaluation_results import CalibrationBin, CalibrationResult

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]

CALIBRATION_BINS = 15  # as Guo et al.
MAX_TEMPERATURE = 100.0  # the fit searches between 1 / MAX_TEMPERATURE and MAX_TEMPERATURE


def measure_calibration(
    logits: FloatArray, labels: LabelArray, temperatures: FloatArray | None = None
) -> CalibrationResult:
    """Measure the calibration of softmax(logits / temperatures).

    `logits` is (n, classes) and `labels` (n,).  `temperatures` (n, 1) has one value per image; None
    means a temperature of 1 for all images.
    """
    scaled_logits = logits if temperatures is None else logits / temperatures
    log_probs = log_softmax(scaled_logits, axis=1)
    confidence = np.exp(log_probs.max(1)).astype(np.float64)
    correct = log_probs.argmax(1) == labels
    # bin i holds confidences in (i / bins, (i + 1) / bins]
    bin_indices = np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1
    bin_indices = np.clip(bin_indices, 0, CALIBRATION_BINS - 1)
    counts = np.bincount(bin_indices, minlength=CALIBRATION_BINS)
    sums = [
        np.bincount(bin_indices, weights=values, minlength=CALIBRATION_BINS)
        for values in (confidence, correct)
    ]
    means = [np.divide(s, counts, out=np.zeros(CALIBRATION_BINS), where=counts > 0) for s in sums]
    bins = tuple(
        CalibrationBin(int(n), float(c), float(a)) for n, c, a in zip(counts, *means, strict=True)
    )
    return CalibrationResult(
        ece=sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(labels),
        loss=mean_cross_entropy(log_probs, labels),
        bins=bins,
    )


def fit_temperature(logits: FloatArray, labels: LabelArray) -> float:
    """Fit the temperature t that minimises the mean cross-entropy of softmax(logits / t)."""

    def loss_at(log_temperature: float) -> float:
        temperature = np.float32(exp(log_temperature))
        return mean_cross_entropy(log_softmax(logits / temperature, axis=1), labels)

    bounds = (-log(MAX_TEMPERATURE), log(MAX_TEMPERATURE))
    best = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(exp(best.x))


def cross_fit_temperatures(logits: FloatArray, labels: LabelArray) -> FloatArray:
    """Fit a temperature on each half of the images, and assign it to the other half's images.

    Returns temperatures (n, 1).  The halves are the images with an even and with an odd index.  If
    the other half is empty, the temperature is 1.
    """
    odd = np.arange(len(labels)) % 2 == 1
    temperatures = np.empty((len(labels), 1), np.float32)
    for half in (odd, ~odd):
        temperatures[half] = fit_temperature(logits[~half], labels[~half]) if (~half).any() else 1.0
    return temperatures


@dataclass(frozen=True, slots=True)
class TemperatureGain:
    """How much a temperature lowers the mean loss of images that it was not fitted on, in nats."""

    mean: float
    standard_error: float

    @property
    def is_beyond_its_error(self) -> bool:
        """Whether the loss falls by more than the standard error; False if either is not finite."""
        return isfinite(self.standard_error) and self.mean > self.standard_error


def measure_temperature_gain(logits: FloatArray, labels: LabelArray) -> TemperatureGain:
    """Compare each image's loss with that at the temperature fitted on the other half."""
    return compare_losses(logits, labels, cross_fit_temperatures(logits, labels))


def compare_losses(
    logits: FloatArray, labels: LabelArray, temperatures: FloatArray
) -> TemperatureGain:
    """Compare each image's loss with that of softmax(logits / temperatures)."""
    before, after = (
        image_losses(log_softmax(scaled, axis=1), labels)
        for scaled in (logits, logits / temperatures)
    )
    gains = before - after
    return TemperatureGain(
        float(gains.mean()), float(gains.std(ddof=1) / sqrt(len(gains))) if len(gains) > 1 else nan
    )


def image_losses(log_probs: FloatArray, labels: LabelArray) -> NDArray[np.float64]:
    """Return the cross-entropy (n,) of each image, in nats, from log probabilities (n, classes)."""
    return -log_probs[np.arange(len(labels)), labels].astype(np.float64)


def mean_cross_entropy(log_probs: FloatArray, labels: LabelArray) -> float:
    """Compute the mean cross-entropy of log probabilities (n, classes), in nats, in float64."""
    return float(image_losses(log_probs, labels).mean())

"""Calibration of probabilities: expected calibration error and temperature scaling.

Both follow Guo et al. 2017.  A temperature divides the logits before the softmax: above 1 it makes
a network less confident, below 1 more, and it never changes which class is the most probable.
"""

from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from residua.config.evaluation_results import CalibrationBin, CalibrationResult

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]

CALIBRATION_BINS = 15  # as Guo et al.
MAX_TEMPERATURE = 100.0  # the fit searches from its inverse to this


def measure_calibration(
    logits: FloatArray, labels: LabelArray, temperatures: FloatArray | None = None
) -> CalibrationResult:
    """Calibration of softmax(logits / temperatures), for logits (n, classes) and labels (n,).

    `temperatures` (n, 1) has one value per image; None means 1.
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
    """The temperature that minimises the mean cross-entropy of softmax(logits / temperature)."""

    def loss_at(log_temperature: float) -> float:
        temperature = np.float32(exp(log_temperature))
        return mean_cross_entropy(log_softmax(logits / temperature, axis=1), labels)

    bounds = (-log(MAX_TEMPERATURE), log(MAX_TEMPERATURE))
    best = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(exp(best.x))


def cross_fit_temperatures(logits: FloatArray, labels: LabelArray) -> FloatArray:
    """Temperatures (n, 1), each fitted on images that do not include its own.

    Images of even index get the temperature fitted on those of odd index, and the reverse.
    """
    odd = np.arange(len(labels)) % 2 == 1
    temperatures = np.empty((len(labels), 1), np.float32)
    for half in (odd, ~odd):
        temperatures[half] = fit_temperature(logits[~half], labels[~half]) if (~half).any() else 1.0
    return temperatures


def mean_cross_entropy(log_probs: FloatArray, labels: LabelArray) -> float:
    """Mean cross-entropy in nats of log probabilities (n, classes), summed in float64."""
    label_log_probs = log_probs[np.arange(len(labels)), labels].astype(np.float64)
    return float(-label_log_probs.mean())

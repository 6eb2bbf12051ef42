"""Are the probabilities true?  Reliability, and the one number that makes scores less, or more, sure (Guo et al. 2017)."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from residua.config.evaluation_results import CalibrationBin, CalibrationResult

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]

CALIBRATION_BINS = 15  # as Guo et al.
MAX_TEMPERATURE = (
    100.0  # a temperature beyond this, or below its inverse, says that there is nothing to fit
)


def measure_calibration(
    logits: FloatArray, labels: LabelArray, temperatures: FloatArray | None = None
) -> CalibrationResult:
    """The reliability of softmax(scores / temperatures), of scores (n, classes) and temperatures (n, 1), 1 where none are given."""
    log_probs = log_softmax(logits if temperatures is None else logits / temperatures, axis=1)
    confidence, correct = np.exp(log_probs.max(1)).astype(np.float64), log_probs.argmax(1) == labels
    bin_indices = np.clip(
        np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1
    )  # (i / BINS, (i + 1) / BINS]
    counts = np.bincount(bin_indices, minlength=CALIBRATION_BINS)
    sums = [
        np.bincount(bin_indices, weights=values, minlength=CALIBRATION_BINS)
        for values in (confidence, correct)
    ]
    means = [np.divide(s, counts, out=np.zeros(CALIBRATION_BINS), where=counts > 0) for s in sums]
    bins = tuple(
        CalibrationBin(int(n), float(c), float(a)) for n, c, a in zip(counts, *means, strict=True)
    )
    ece = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(labels)
    return CalibrationResult(
        ece=ece, loss=float(-select_label_log_probs(log_probs, labels).mean()), bins=bins
    )


def fit_temperature(logits: FloatArray, labels: LabelArray) -> float:
    """The temperature at which the mean cross-entropy of softmax(scores / temperature) is least."""

    def loss(log_temperature: float) -> float:
        return float(
            -select_label_log_probs(
                log_softmax(logits / np.float32(exp(log_temperature)), axis=1), labels
            ).mean()
        )

    return float(
        exp(
            minimize_scalar(
                loss,
                bounds=(-log(MAX_TEMPERATURE), log(MAX_TEMPERATURE)),
                method="bounded",
                options={"xatol": 1e-4},
            ).x
        )
    )


def cross_fit_temperatures(logits: FloatArray, labels: LabelArray) -> FloatArray:
    """A temperature (n, 1) for each image, fitted on the half of the images (every other one) that it is not of."""
    odd = np.arange(len(labels)) % 2 == 1
    temperatures = np.empty((len(labels), 1), np.float32)
    for half in (odd, ~odd):
        temperatures[half] = fit_temperature(logits[~half], labels[~half]) if (~half).any() else 1.0
    return temperatures


def select_label_log_probs(log_probs: FloatArray, labels: LabelArray) -> NDArray[np.float64]:
    """log p of each image's own class."""
    return log_probs[np.arange(len(labels)), labels].astype(np.float64)

"""Are the probabilities true?  Reliability, and the one number that makes scores less, or more, sure (Guo et al. 2017)."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from residua.spec.evaluation import Bin, Calibration

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]

BINS = 15  # as Guo et al.
HOTTEST = 100.0  # a temperature beyond this, or below its inverse, says that there is nothing to fit


def calibration(scores: Scores, labels: Labels, temperatures: Scores | None = None) -> Calibration:
    """The reliability of softmax(scores / temperatures), of scores (n, classes) and temperatures (n, 1), 1 where none are given."""
    likely = log_softmax(scores if temperatures is None else scores / temperatures, axis=1)
    confidence, right = np.exp(likely.max(1)).astype(np.float64), likely.argmax(1) == labels
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (i / BINS, (i + 1) / BINS]
    counts = np.bincount(which, minlength=BINS)
    sums = [np.bincount(which, weights=values, minlength=BINS) for values in (confidence, right)]
    means = [np.divide(s, counts, out=np.zeros(BINS), where=counts > 0) for s in sums]
    bins = tuple(Bin(int(n), float(c), float(a)) for n, c, a in zip(counts, *means, strict=True))
    ece = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(labels)
    return Calibration(ece=ece, loss=float(-true(likely, labels).mean()), bins=bins)


def fitted(scores: Scores, labels: Labels) -> float:
    """The temperature at which the mean cross-entropy of softmax(scores / temperature) is least."""

    def loss(log_temperature: float) -> float:
        return float(-true(log_softmax(scores / np.float32(exp(log_temperature)), axis=1), labels).mean())

    return float(exp(minimize_scalar(loss, bounds=(-log(HOTTEST), log(HOTTEST)), method="bounded", options={"xatol": 1e-4}).x))


def fitted_by_halves(scores: Scores, labels: Labels) -> Scores:
    """A temperature (n, 1) for each image, fitted on the half of the images (every other one) that it is not of."""
    odd = np.arange(len(labels)) % 2 == 1
    temperatures = np.empty((len(labels), 1), np.float32)
    for half in (odd, ~odd):
        temperatures[half] = fitted(scores[~half], labels[~half]) if (~half).any() else 1.0
    return temperatures


def true(likely: Scores, labels: Labels) -> NDArray[np.float64]:
    """log p of each image's own class."""
    return likely[np.arange(len(labels)), labels].astype(np.float64)

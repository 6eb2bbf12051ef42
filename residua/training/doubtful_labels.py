"""Find labels that are probably wrong, from the probabilities that a network gives its images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from residua.config.evaluation_results import DOUBTFUL_SHARE_OF_CHANCE, DoubtfulLabel
from residua.data.preprocessed_images import NamedImages
from residua.training.calibration import FloatArray, LabelArray

MAX_DOUBTFUL_LABELS = 500  # that an evaluation records
MAX_PICTURED_LABELS = 48  # those whose images it records, too

SecondOpinion = Callable[[NDArray[np.int64]], FloatArray]
"""Predicts log probabilities (m, classes) of the images at m positions with other weights."""


def find_doubtful_labels(
    log_probs: FloatArray,
    labels: LabelArray,
    temperatures: FloatArray,
    ask_second_opinion: SecondOpinion | None = None,
) -> NDArray[np.int64]:
    """Find the positions of images whose labels are probably wrong, the least probable first.

    This is confident learning (Northcutt et al. 2021, section 3.1) on the probabilities
    softmax(log_probs / temperatures): another class is the most probable one, and its probability
    is at least the mean probability that images of that class give it.  The label's probability
    must also be below its own class's mean and below half of 1 / classes, which is our choice.
    With a second opinion, both must agree on the class, and on that the label is improbable.
    """
    probs = softmax(log_probs / temperatures, axis=1)
    count, class_count = probs.shape
    every, guesses = np.arange(count), log_probs.argmax(1)
    label_probs = probs[every, labels]
    class_sums = np.bincount(labels, weights=label_probs, minlength=class_count)
    class_counts = np.bincount(labels, minlength=class_count)
    means = np.divide(
        class_sums, class_counts, out=np.full(class_count, np.inf), where=class_counts > 0
    )
    # Without this limit, a network that was right on 56 % of 500 photographs, 25 of them labelled
    # wrongly on purpose, listed 108 of which 18 were wrong; with it, 39 of which 17 were wrong.
    limit = DOUBTFUL_SHARE_OF_CHANCE / class_count
    is_doubtful = (
        (guesses != labels)
        & (probs[every, guesses] >= means[guesses])
        & (label_probs < np.minimum(means[labels], limit))
    )
    positions = np.flatnonzero(is_doubtful)
    positions = positions[np.argsort(label_probs[positions], kind="stable")]
    if ask_second_opinion is None or not len(positions):
        return positions
    other_log_probs = ask_second_opinion(positions)
    other_probs = softmax(other_log_probs / temperatures[positions], axis=1)
    agrees = (other_log_probs.argmax(1) == guesses[positions]) & (
        other_probs[np.arange(len(positions)), labels[positions]] < limit
    )
    confirmed: NDArray[np.int64] = positions[agrees]
    return confirmed


def describe_doubtful_labels(
    named_images: NamedImages,
    log_probs: FloatArray,
    positions: NDArray[np.int64],
) -> tuple[DoubtfulLabel, ...]:
    """Describe the labels of the images at the first `MAX_DOUBTFUL_LABELS` of `positions`.

    The probabilities are the network's own, without a temperature, as those of the mistakes are.
    """
    positions = positions[:MAX_DOUBTFUL_LABELS]
    probs = softmax(log_probs[positions], axis=1)
    labels = named_images.images.labels.numpy()[positions]
    return tuple(
        DoubtfulLabel(
            where=named_images.names[position],
            label=int(label),
            guess=int(row.argmax()),
            label_probability=float(row[label]),
            probability=float(row.max()),
        )
        for position, label, row in zip(positions, labels, probs, strict=True)
    )

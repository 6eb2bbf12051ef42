"""What an evaluation found: counts, calibration, and the most confident mistakes; the `evaluation.json` that a page is made of."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

from residua.config.serialize import FORMAT_VERSION

Z_95 = NormalDist().inv_cdf(0.975)  # 95 %, both sides


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Between what a share lies with 95 % after `part` of `whole` were counted; 0 and 1 where nothing was (Wilson 1927, Eq. 2)."""
    if not total:
        return 0.0, 1.0
    p, a = count / total, Z_95 * Z_95 / total
    center, half_width = (p + a / 2) / (1 + a), sqrt(p * (1 - p) * a + a * a / 4) / (1 + a)
    return max(center - half_width, 0.0), min(center + half_width, 1.0)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The images whose highest probability lies in one of equally wide ranges."""

    count: int
    confidence: float  # mean of that probability
    accuracy: float  # share of these images whose most probable class is right


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """How far probabilities are true: of images called with 80 %, 80 % should be right (Guo et al. 2017)."""

    ece: float  # expected calibration error: mean of |accuracy - confidence| over images, by bins; in [0, 1]
    loss: float  # mean cross-entropy, nats
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidentMistake:
    """An image taken for another class."""

    where: str  # which image
    thumbnail: str  # a data URI
    truth: int
    guess: int
    probability: float  # of the guess


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A network on all images of a split.  Shares are in [0, 1]; intervals hold the truth with 95 % (Wilson 1927)."""

    model: str
    dataset: str
    split: str
    mirror: bool
    classes: tuple[str, ...]
    count: int
    wrong: int
    wrong5: int  # the right class is not among the five likeliest
    loss: float
    error_interval: tuple[float, float]
    top5_error_interval: tuple[float, float]
    confusion: tuple[tuple[int, ...], ...]  # rows: true classes; columns: most probable ones
    recall_intervals: tuple[
        tuple[float, float], ...
    ]  # of each class; (0, 1) where no image is of it
    calibration: CalibrationResult  # of the network's own softmax
    scaled: CalibrationResult  # with its scores divided by a temperature that was fitted on other images
    temperature: float
    fitted: Literal[
        "folder", "dev", "halves"
    ]  # where the temperature is from: see `train/calibration.py`
    mistakes: tuple[ConfidentMistake, ...]  # the most confident first
    left_out: tuple[str, ...] = ()  # files that could not be used, each with the reason
    environment: tuple[tuple[str, str], ...] = ()
    format: int = FORMAT_VERSION

    @property
    def error_rate(self) -> float:
        return self.wrong / self.count

    @property
    def top5_error_rate(self) -> float:
        return self.wrong5 / self.count

    def count_images_of_class(self, class_index: int) -> int:
        """How many images are of class `k`."""
        return sum(self.confusion[class_index])

    def count_predictions_of_class(self, class_index: int) -> int:
        """How many images are taken for class `k`."""
        return sum(row[class_index] for row in self.confusion)

    def class_recall(self, class_index: int) -> float | None:
        """The share of the images of class `k` that are taken for it; None where there are none."""
        return (
            self.confusion[class_index][class_index] / self.count_images_of_class(class_index)
            if self.count_images_of_class(class_index)
            else None
        )

    def class_precision(self, class_index: int) -> float | None:
        """The share of the images taken for class `k` that are of it; None where there are none."""
        return (
            self.confusion[class_index][class_index] / self.count_predictions_of_class(class_index)
            if self.count_predictions_of_class(class_index)
            else None
        )

    def most_frequent_confusions(self) -> list[tuple[int, int, int]]:
        """(images, true class, most probable class) of each kind of mistake, the most frequent first."""
        confusions = [
            (n, i, j)
            for i, row in enumerate(self.confusion)
            for j, n in enumerate(row)
            if n and i != j
        ]
        return sorted(confusions, key=lambda mistake: (-mistake[0], *mistake[1:]))

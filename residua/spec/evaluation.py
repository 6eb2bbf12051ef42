"""What an evaluation found: counts, calibration, and the most confident mistakes; the `evaluation.json` that a page is made of."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

from residua.spec.text import FORMAT

Z = NormalDist().inv_cdf(0.975)  # 95 %, both sides


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Between what a share lies with 95 % after `part` of `whole` were counted; 0 and 1 where nothing was (Wilson 1927, Eq. 2)."""
    if not whole:
        return 0.0, 1.0
    p, a = part / whole, Z * Z / whole
    middle, half = (p + a / 2) / (1 + a), sqrt(p * (1 - p) * a + a * a / 4) / (1 + a)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose highest probability lies in one of equally wide ranges."""

    count: int
    confidence: float  # mean of that probability
    accuracy: float  # share of these images whose most probable class is right


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far probabilities are true: of images called with 80 %, 80 % should be right (Guo et al. 2017)."""

    ece: float  # expected calibration error: mean of |accuracy - confidence| over images, by bins; in [0, 1]
    loss: float  # mean cross-entropy, nats
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An image taken for another class."""

    where: str  # which image
    thumbnail: str  # a data URI
    truth: int
    guess: int
    probability: float  # of the guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
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
    recall_intervals: tuple[tuple[float, float], ...]  # of each class; (0, 1) where no image is of it
    calibration: Calibration  # of the network's own softmax
    scaled: Calibration  # with its scores divided by a temperature that was fitted on other images
    temperature: float
    fitted: Literal["folder", "dev", "halves"]  # where the temperature is from: see `train/calibration.py`
    mistakes: tuple[Mistake, ...]  # the most confident first
    left_out: tuple[str, ...] = ()  # files that could not be used, each with the reason
    environment: tuple[tuple[str, str], ...] = ()
    format: int = FORMAT

    @property
    def error(self) -> float:
        return self.wrong / self.count

    @property
    def top5_error(self) -> float:
        return self.wrong5 / self.count

    def images(self, k: int) -> int:
        """How many images are of class `k`."""
        return sum(self.confusion[k])

    def called(self, k: int) -> int:
        """How many images are taken for class `k`."""
        return sum(row[k] for row in self.confusion)

    def recall(self, k: int) -> float | None:
        """The share of the images of class `k` that are taken for it; None where there are none."""
        return self.confusion[k][k] / self.images(k) if self.images(k) else None

    def precision(self, k: int) -> float | None:
        """The share of the images taken for class `k` that are of it; None where there are none."""
        return self.confusion[k][k] / self.called(k) if self.called(k) else None

    def confusions(self) -> list[tuple[int, int, int]]:
        """(images, true class, most probable class) of each kind of mistake, the most frequent first."""
        found = [(n, i, j) for i, row in enumerate(self.confusion) for j, n in enumerate(row) if n and i != j]
        return sorted(found, key=lambda mistake: (-mistake[0], *mistake[1:]))

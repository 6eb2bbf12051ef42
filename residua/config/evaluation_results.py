"""Results of an evaluation, as `evaluation.json` stores them: counts, calibration, mistakes."""

from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import NormalDist
from typing import Literal, Self

from residua.config.image_views import ImageViews
from residua.config.serialize import FORMAT_VERSION

LabelCheck = Literal["", "last", "last and best"]
# A label is doubted only if its probability is below this share of 1 / classes; our choice.
DOUBTFUL_SHARE_OF_CHANCE = 0.5
MIN_CALIBRATION_IMAGES = 100  # our choice; below, a gain by a temperature is mostly noise
Z_95 = NormalDist().inv_cdf(0.975)  # two-sided 95 %


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the proportion `count` / `total` (Wilson 1927).

    The interval is (0, 1) if `total` is 0.
    """
    if not total:
        return 0.0, 1.0
    p, a = count / total, Z_95 * Z_95 / total
    center, half_width = (p + a / 2) / (1 + a), sqrt(p * (1 - p) * a + a * a / 4) / (1 + a)
    return max(center - half_width, 0.0), min(center + half_width, 1.0)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin of a calibration diagram.

    Images are grouped into bins by the probability of their predicted class.  All bins are equally
    wide.

    count       number of images in the bin
    confidence  mean probability of the predicted class over the bin's images
    accuracy    fraction of the bin's images whose predicted class is right
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """How well predicted probabilities agree with observed accuracies.

    Probabilities are calibrated if, for example, 80 % of the predictions with probability 80 % are
    right.

    ece   expected calibration error in [0, 1]: the mean of |accuracy - confidence| over the bins,
          weighted by their number of images (Guo et al. 2017)
    loss  mean cross-entropy in nats
    """

    ece: float
    loss: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedImage:
    """An image of an evaluation, with the class that the network gives it.

    where         the image's path, or its position in the data set
    thumbnail     the image as a data URI
    truth, guess  indices of the true class and of the most probable class
    probability   predicted probability of the most probable class
    """

    where: str
    thumbnail: str
    truth: int
    guess: int
    probability: float


@dataclass(frozen=True, slots=True)
class DoubtfulLabel:
    """A label that is probably wrong, by confident learning (Northcutt et al. 2021).

    where              the image's path, or its position in the data set
    label, guess       indices of the label and of the most probable class
    label_probability  predicted probability of the label
    probability        predicted probability of the most probable class
    """

    where: str
    label: int
    guess: int
    label_probability: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A network's results on all images of a split.

    All intervals are 95 % confidence intervals (Wilson 1927).

    mirror            whether `views` is "mirror"
    six_views         whether `views` is "six"
    ten_crops         whether `views` is "10"
    count             number of images
    wrong             number of images whose true class is not the most probable class
    wrong5            number of images whose true class is not among the five most probable classes
    loss              mean cross-entropy in nats
    confusion         number of images by true class (rows) and most probable class (columns)
    recall_intervals  interval of each class's recall; (0, 1) for a class without images
    calibration       calibration of the network's own softmax
    scaled            calibration of softmax(scores / temperature), with the temperature fitted on
                      other images
    temperature       the temperature; for "halves" the mean of two, which no image has
    half_temperatures the temperatures of the images at even and at odd positions, for "halves"; in
                      older records empty
    fitted            where the temperature comes from: "folder" (stored in the model folder), "dev"
                      (fitted on the dev split), or "halves" (fitted for each half of the images
                      on the other half)
    mistakes          misclassified images, the most confident mistake first
    examples          other images of the cells of the confusion matrix, as many as fit on a page
    left_out          files that could not be read, each with the reason
    temperature_note  which temperature this evaluation stored or removed, or why it did neither
    label_check       which networks doubt a label: "last" (this one alone), "last and best" (also
                      that of the run's best epoch), or "" (labels were not checked)
    doubtful_count    number of labels that are probably wrong; `labels_to_check` leaves them out
                      if the network is not clearly better than guessing
    doubtful_labels   the first of them, the most doubtful label first
    doubts_are_scaled whether their probabilities are at the temperature, as in older records, and
                      not the network's own, as those of the mistakes are
    loss_change_error standard error of the mean by which the temperature changes an image's loss,
                      in nats; None for a single image, and in older records
    """

    model: str
    dataset: str
    split: str
    mirror: bool
    classes: tuple[str, ...]
    count: int
    wrong: int
    wrong5: int
    loss: float
    error_interval: tuple[float, float]
    top5_error_interval: tuple[float, float]
    confusion: tuple[tuple[int, ...], ...]
    recall_intervals: tuple[tuple[float, float], ...]
    calibration: CalibrationResult
    scaled: CalibrationResult
    temperature: float
    fitted: Literal["folder", "dev", "halves"]
    mistakes: tuple[ClassifiedImage, ...]
    left_out: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    temperature_note: str = field(default="", metadata={"added_later": True})
    examples: tuple[ClassifiedImage, ...] = field(default=(), metadata={"added_later": True})
    label_check: LabelCheck = field(default="", metadata={"added_later": True})
    doubtful_count: int = field(default=0, metadata={"added_later": True})
    doubtful_labels: tuple[DoubtfulLabel, ...] = field(default=(), metadata={"added_later": True})
    loss_change_error: float | None = field(default=None, metadata={"added_later": True})
    half_temperatures: tuple[float, ...] = field(default=(), metadata={"added_later": True})
    doubts_are_scaled: bool = field(default=True, metadata={"added_later": True})
    six_views: bool = field(default=False, metadata={"added_later": True})
    ten_crops: bool = field(default=False, metadata={"added_later": True})
    format: int = FORMAT_VERSION

    @property
    def views(self) -> ImageViews:
        """The views of each image whose predictions were averaged."""
        if self.ten_crops:
            return "10"
        return "six" if self.six_views else "mirror" if self.mirror else "none"

    def with_views(self, views: ImageViews) -> Self:
        """Return this result as that of the averaged `views`."""
        return replace(
            self,
            mirror=views == "mirror",
            six_views=views == "six",
            ten_crops=views == "10",
        )

    @property
    def error_rate(self) -> float:
        """The fraction of misclassified images, in [0, 1]."""
        return self.wrong / self.count

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly, in [0, 1]."""
        return (self.count - self.wrong) / self.count

    def __repr__(self) -> str:
        low, high = [100 * (1 - limit) for limit in reversed(self.error_interval)]
        return (
            f"EvaluationResult({self.model}, accuracy {100 * self.accuracy:.1f} %, "
            f"95 % interval {low:.1f} to {high:.1f}, count {self.count:,}, split {self.split})"
        )

    @property
    def top5_error_rate(self) -> float:
        return self.wrong5 / self.count

    @property
    def most_frequent_share(self) -> float:
        """The share of the most frequent class: what always guessing that class gets right."""
        return max(map(sum, self.confusion)) / self.count

    @property
    def is_clearly_better_than_guessing(self) -> bool:
        """Whether the accuracy's 95 % interval lies above the share of the most frequent class.

        The result is True if all images are of one class: then guessing cannot be told apart.
        """
        share = self.most_frequent_share
        return share >= 1 or 1 - self.error_interval[1] > share

    @property
    def labels_to_check(self) -> tuple[DoubtfulLabel, ...]:
        """The recorded doubtful labels; none if the network is not clearly better than guessing."""
        return self.doubtful_labels if self.is_clearly_better_than_guessing else ()

    @property
    def labels_to_check_count(self) -> int:
        return self.doubtful_count if self.is_clearly_better_than_guessing else 0

    def count_images_of_class(self, class_index: int) -> int:
        return sum(self.confusion[class_index])

    def count_predictions_of_class(self, class_index: int) -> int:
        """Return the number of images whose most probable class is `class_index`."""
        return sum(row[class_index] for row in self.confusion)

    def class_recall(self, class_index: int) -> float | None:
        """Return the fraction of a class's images that are classified correctly.

        The result is None for a class without images.
        """
        images = self.count_images_of_class(class_index)
        return self.confusion[class_index][class_index] / images if images else None

    def class_precision(self, class_index: int) -> float | None:
        """Return the fraction of correct predictions among all predictions of this class.

        The result is None if no image is predicted as this class.
        """
        predictions = self.count_predictions_of_class(class_index)
        return self.confusion[class_index][class_index] / predictions if predictions else None

    def most_frequent_confusions(self) -> list[tuple[int, int, int]]:
        """List confusions as (image count, true class, predicted class), most frequent first."""
        confusions = [
            (n, i, j)
            for i, row in enumerate(self.confusion)
            for j, n in enumerate(row)
            if n and i != j
        ]
        return sorted(confusions, key=lambda mistake: (-mistake[0], *mistake[1:]))

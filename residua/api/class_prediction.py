"""The predicted classes of an image, as `Classifier.predict` returns them."""

from dataclasses import dataclass

from residua.report.format import format_percent


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """The predicted classes of one image.

    source       the path or URL of the image, or its number, e.g. "image 3"
    label        the most probable class; "" if the image could not be read
    probability  its probability, in [0, 1]
    top          the most probable classes with their probabilities, in descending order
    error        why the image could not be read; "" if it was
    """

    source: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.source} {self.error}"
        return f"{self.label} ({format_percent(self.probability)})"

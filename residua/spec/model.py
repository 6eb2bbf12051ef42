"""What travels with a trained network's weights: all that a prediction needs to know."""

from dataclasses import dataclass

from residua.spec.text import FORMAT
from residua.spec.vlad import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The `config.json` of a model folder."""

    network: Classifier
    classes: tuple[str, ...]  # names, in the order of the scores
    mean: tuple[float, ...]  # of each channel, pixels in [0, 1]
    std: tuple[float, ...]
    dataset: str = ""
    fingerprint: str = ""  # of the training images
    recipe: str = ""
    test_error: float | None = None
    residua: str = ""  # versions
    torch: str = ""
    format: int = FORMAT

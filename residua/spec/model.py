"""What travels with a trained network's weights: all that a prediction needs to know."""

from dataclasses import dataclass, field
from math import isfinite

from residua.errors import UsageError
from residua.spec.text import FORMAT
from residua.spec.vlad import Classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The `config.json` of a model folder; UsageError where its parts contradict each other."""

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
    temperature: float = field(default=1.0, metadata={"younger": True})  # the scores are divided by it before the softmax
    format: int = FORMAT

    def __post_init__(self) -> None:
        name, means = self.network.name, len(self.mean)
        if len(self.classes) != self.network.classes:
            raise UsageError(f"{name} has {self.network.classes} classes: give as many names, not {len(self.classes)}")
        if means != len(self.std):
            raise UsageError(f"{means} means and {len(self.std)} stds do not fit: give one of each for every channel")
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise UsageError(f"means {self.mean} and stds {self.std} are impossible: give finite numbers, and stds above 0")
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature {self.temperature} is impossible: give a number above 0")
        if sentence := unfit(self.network, means):
            raise UsageError(f"{sentence}: got {means} means")


def unfit(network: Classifier, channels: int) -> str:
    """Why `network` takes no images of so many channels; empty where it does, as a fully connected net of a multiple does."""
    first = network.input[0]
    if len(network.input) > 1 and channels != first:
        return f"{network.name} takes images of {first} channels"
    if channels < 1 or first % channels:
        return f"{network.name} takes {first} numbers, so that the channels must divide them"
    return ""

"""What travels with a trained network's weights: all that a prediction needs to know."""

from dataclasses import dataclass, field
from math import isfinite, isqrt
from typing import Literal

from residua.config.serialize import FORMAT_VERSION
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """How an image file becomes a network's input: its shape, and how the image is resized to it."""

    input: tuple[int, int, int]  # channels, height, width
    resize: int = 0  # the shorter side, in pixels, before the middle is cut out; 0: straight to the input's size
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if min(self.input) < 1:
            raise UsageError(
                f"images of {self.input} are impossible: give channels, height and width above 0"
            )
        if self.resize and self.resize < max(self.input[1:]):
            height, width = self.input[1:]
            raise UsageError(
                f"resize={self.resize} is too small to cut {height} x {width} pixels out: give at least {max(height, width)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The `config.json` of a model folder; UsageError where its parts contradict each other."""

    network: ClassifierConfig
    classes: tuple[str, ...]  # names, in the order of the scores
    mean: tuple[float, ...]  # of each channel, pixels in [0, 1]
    std: tuple[float, ...]
    dataset: str = ""
    fingerprint: str = ""  # of the training images
    recipe: str = ""
    test_error: float | None = None
    residua: str = ""  # versions
    torch: str = ""
    resize: int = field(default=0, metadata={"added_later": True})  # as in `View`
    interpolation: Interpolation = field(default="bilinear", metadata={"added_later": True})
    temperature: float = field(
        default=1.0, metadata={"added_later": True}
    )  # probabilities are softmax(scores / temperature)
    weights: str = field(default="", metadata={"added_later": True})  # SHA-256 of model.safetensors
    test_images: int = field(
        default=0, metadata={"added_later": True}
    )  # that `test_error` was counted on
    license: str = field(
        default="", metadata={"added_later": True}
    )  # of the weights, as the Hugging Face hub names it: apache-2.0
    format: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        name, means = self.network.name, len(self.mean)
        if len(self.classes) != self.network.classes:
            raise UsageError(
                f"{name} has {self.network.classes} classes: give as many names, not {len(self.classes)}"
            )
        if means != len(self.std):
            raise UsageError(
                f"{means} means and {len(self.std)} stds do not fit: give one of each for every channel"
            )
        if not all(map(isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise UsageError(
                f"means {self.mean} and stds {self.std} are impossible: give finite numbers, and stds above 0"
            )
        if mismatch := explain_channel_mismatch(self.network, means):
            raise UsageError(f"{mismatch}: got {means} means")
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(
                f"temperature={self.temperature} is impossible: give a finite number above 0"
            )
        if self.resize:
            ImagePreprocessing(self.input, self.resize, self.interpolation)

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the images; those of a fully connected net are squares."""
        if len(self.network.input) == 3:
            channels, height, width = self.network.input
            return channels, height, width
        numbers, channels = self.network.input[0], len(self.mean)
        side = isqrt(numbers // channels)
        if side * side * channels != numbers:
            raise UsageError(
                f"{self.network.name} takes {numbers} numbers, which are no square of {channels} channels"
            )
        return channels, side, side


def explain_channel_mismatch(network: ClassifierConfig, channels: int) -> str:
    """Why `network` takes no images of so many channels; empty where it does, as a fully connected net of a multiple does."""
    input_numbers = network.input[0]
    if len(network.input) > 1 and channels != input_numbers:
        return f"{network.name} takes images of {input_numbers} channels"
    if channels < 1 or input_numbers % channels:
        return (
            f"{network.name} takes {input_numbers} numbers, so that the channels must divide them"
        )
    return ""

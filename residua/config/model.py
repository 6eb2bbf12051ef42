"""The `config.json` of a model folder: all that a prediction needs, except the weights."""

from collections import Counter
from dataclasses import dataclass, field
from math import isqrt, nextafter
from typing import Literal

from residua.config.checks import check_range
from residua.config.fold import Fold
from residua.config.image_views import ImageViews, parse_views
from residua.config.serialize import FORMAT_VERSION
from residua.config.size_limits import check_name_lengths
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]
# Of one image file; our choice: photographs of phones with 108 megapixels fit.
MAX_IMAGE_PIXELS = 128_000_000
MAX_WHITE_LEVEL = 2**31 - 1
# Beyond these, inputs or probabilities of a network could overflow; all are our choice.
MIN_STD, MAX_NORMALISER = 1e-6, 1e6
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """How an image file becomes a network's input.

    input        (channels, height, width)
    resize       length in pixels to which the shorter side is resized before the center crop; 0 if
                 the image is resized directly to the input's size, without a crop
    white_level  the level of white in grey images of more than 8 bits, e.g. 4095 for 12 bits;
                 0 stands for 65535 or, in floating point, for 1, 255 or 65535
    scaled_decoding  whether a JPEG file is decoded at a half, a quarter or an eighth of its sides
                 where that is still at least the size to which it is resized: several times as
                 fast for large photographs, and slightly different pixels
    """

    input: tuple[int, int, int]
    resize: int = 0
    interpolation: Interpolation = "bilinear"
    white_level: int = field(default=0, metadata={"added_later": True})
    scaled_decoding: bool = field(default=False, metadata={"added_later": True})

    def __post_init__(self) -> None:
        check_white_level(self.white_level)
        if min(self.input) < 1:
            raise UsageError(
                f"input {self.input} is invalid: give channels, height and width above 0"
            )
        if self.resize and self.resize < max(self.input[1:]):
            height, width = self.input[1:]
            raise UsageError(
                f"resize={self.resize} is too small for a center crop of {height} x {width} "
                f"pixels: give at least {max(height, width)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The `config.json` of a model folder.  Raises UsageError if its parts contradict each other.

    classes         class names, in the order of the scores
    mean, std       of each channel, for pixels in [0, 1]; the input is (pixels - mean) / std
    fingerprint     fingerprint of the training images
    recipe          name of the recipe by which the network was trained
    test_error      error in [0, 1] on `test_images` test images
    test_views      the views of each test image whose predictions were averaged for it
    residua, torch  versions of the packages that wrote the folder
    resize          as in `ImagePreprocessing`
    interpolation   as in `ImagePreprocessing`
    white_level     as in `ImagePreprocessing`
    scaled_decoding  as in `ImagePreprocessing`
    temperature     divisor of the scores: probabilities are softmax(scores / temperature)
    weights         SHA-256 of the file model.safetensors
    license         license of the weights, or of those that their training started from, as the
                    Hugging Face hub names it, e.g. apache-2.0
    train_digests   which photographs or arrays the run trained on: base64 of 4 bytes of the SHA-256
                    sum of each file or, after "pixels:", of each array's pixels (c, h, w)
    dev_digests     the same for the dev images, by which its best epoch was chosen
    fold            the fold of the training images that was held out as the dev split, if any
    published_as    name of the published weights that these are; "" for all other weights
    published_sum   SHA-256 of the file that was published, in hexadecimal
    weights_from    name of the weights that the training started from; "" for random ones
    weights_from_sum  SHA-256 of these weights, in hexadecimal
    trained_on_dev  whether the dev images of the data set were trained on too, in this run or in
                    that of the weights that it started from
    ema             decay per step of the running average of weights that the folder holds; 0 for
                    the weights of one step
    """

    network: ClassifierConfig
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str = ""
    fingerprint: str = ""
    recipe: str = ""
    test_error: float | None = None
    residua: str = ""
    torch: str = ""
    resize: int = field(default=0, metadata={"added_later": True})
    interpolation: Interpolation = field(default="bilinear", metadata={"added_later": True})
    temperature: float = field(default=1.0, metadata={"added_later": True})
    weights: str = field(default="", metadata={"added_later": True})
    test_images: int = field(default=0, metadata={"added_later": True})
    license: str = field(default="", metadata={"added_later": True})
    white_level: int = field(default=0, metadata={"added_later": True})
    train_digests: str = field(default="", metadata={"added_later": True})
    dev_digests: str = field(default="", metadata={"added_later": True})
    fold: Fold | None = field(default=None, metadata={"added_later": True})
    published_as: str = field(default="", metadata={"added_later": True})
    published_sum: str = field(default="", metadata={"added_later": True})
    ema: float = field(default=0.0, metadata={"added_later": True})
    trained_on_dev: bool = field(default=False, metadata={"added_later": True})
    test_views: ImageViews = field(default="none", metadata={"added_later": True})
    weights_from: str = field(default="", metadata={"added_later": True})
    weights_from_sum: str = field(default="", metadata={"added_later": True})
    scaled_decoding: bool = field(default=False, metadata={"added_later": True})
    format: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        name, means = self.network.name, len(self.mean)
        if len(self.classes) != self.network.classes:
            raise UsageError(
                f"{name} has {self.network.classes} classes, but {len(self.classes)} class names "
                "were given: give one name per class"
            )
        check_name_lengths(self.classes, "a class")
        for class_name, count in Counter(self.classes).items():
            if count > 1:
                raise UsageError(
                    f"class names must be distinct, but {class_name!r} appears {count} times: "
                    "rename all but one"
                )
        if means != len(self.std):
            raise UsageError(
                f"{means} means and {len(self.std)} stds do not match: "
                "give one of each for every channel"
            )
        if not all(abs(mean) <= MAX_NORMALISER for mean in self.mean) or not all(
            MIN_STD <= std <= MAX_NORMALISER for std in self.std
        ):
            raise UsageError(
                f"means {self.mean} and stds {self.std} are invalid: give means of at most "
                f"{MAX_NORMALISER:,.0f}, and stds from {MIN_STD} to {MAX_NORMALISER:,.0f}"
            )
        if mismatch := explain_channel_mismatch(self.network, means):
            raise UsageError(
                f"{mismatch}, but {means} means are given: give one mean and one std per channel"
            )
        if self.test_error is not None:
            check_range(self.test_error, "test_error", 0, nextafter(1, 2))
        check_range(self.test_images, "test_images", 0)
        check_range(self.temperature, "temperature", MIN_TEMPERATURE, MAX_TEMPERATURE)
        check_white_level(self.white_level)
        object.__setattr__(self, "test_views", parse_views(self.test_views))
        if self.resize:
            ImagePreprocessing(self.input, self.resize, self.interpolation, self.white_level)

    @property
    def input(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of the input images.

        The images of a fully connected net are square.  Raises UsageError if its number of inputs
        does not allow this.
        """
        if len(self.network.input) == 3:
            channels, height, width = self.network.input
            return channels, height, width
        numbers, channels = self.network.input[0], len(self.mean)
        side = isqrt(numbers // channels)
        if side * side * channels != numbers:
            raise UsageError(
                f"{self.network.name} takes {numbers} input values, which cannot be arranged "
                f"as a square image with {channels} channels (one per mean): give one mean per "
                "channel of the images"
            )
        return channels, side, side


def check_white_level(level: int) -> None:
    """Raise UsageError unless `level` is a possible white level, or 0 for the usual one."""
    if not 0 <= level <= MAX_WHITE_LEVEL:
        raise UsageError(
            f"white_level={level} is invalid: give the pixel value of white, "
            "e.g. 4095 for 12-bit images"
        )


def explain_channel_mismatch(network: ClassifierConfig, channels: int) -> str:
    """Return the reason why `network` cannot take images of `channels` channels; "" if it can.

    A fully connected net takes any number of channels that divides its number of inputs.
    """
    input_numbers = network.input[0]
    if len(network.input) > 1 and channels != input_numbers:
        return f"{network.name} takes images of {input_numbers} channels"
    if channels < 1 or input_numbers % channels:
        return f"{network.name} takes {input_numbers} numbers, which the channels must divide"
    return ""

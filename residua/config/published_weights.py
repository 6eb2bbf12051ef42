"""Published weights as values: whose they are, where they are, and how to tell that they are right.

`weight_table` lists those that are known, and `weight_registry` finds them by name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from residua.config.imagenet_classes import IMAGENET, read_imagenet_classes
from residua.config.model import ImagePreprocessing, Interpolation, ModelConfig
from residua.config.papers import network
from residua.errors import UsageError

HUB_ADDRESS = re.compile(
    r"https://huggingface\.co/(?P<repository>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[\w.-]+)/"
    r"(?P<file>[\w.-]+)"
)
WEIGHT_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
RESERVED_NAME = "none"  # of random weights
SUM_DIGITS = 64  # of a whole SHA-256 in hexadecimal
MIN_SUM_DIGITS = 8  # torchvision's file names carry so many
NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)")
PACKAGE_PREFIX = "package:"  # of the address of weights that come with residua
PACKAGED_MODELS = Path(__file__).resolve().parents[1] / "packaged_models"  # their model folders


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """Weights that somebody has published.  Raises UsageError if a field is impossible.

    network         name of the network in the file, as `residua.config.papers.network` takes it
    address         URL of the file; for the Hugging Face hub
                    https://huggingface.co/OWNER/NAME/resolve/REVISION/FILE, and package:NAME for
                    those that come with residua
    sha256          SHA-256 of the file in hexadecimal, or the first digits that its publisher
                    states; "" if the hub states it only when asked
    licence         as the Hugging Face hub names it, e.g. apache-2.0; "" if none is stated
    class_names     in the order of the scores; () stands for ImageNet's 1,000
    mean, std       of each channel, for pixels in [0, 1]
    side            of the square images, in pixels
    resize          as in `ImagePreprocessing`
    top1_error      on ImageNet's validation images of this side, or else on the test images of
                    `dataset`, in [0, 1], as its publisher states it; None if it states none
    dataset         name of the data whose test images `top1_error` counts; "" stands for ImageNet
                    if the classes are ImageNet's, and else for unknown data
    """

    name: str
    network: str
    address: str
    sha256: str = ""
    licence: str = ""
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    side: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"
    top1_error: float | None = None
    dataset: str = ""

    def __post_init__(self) -> None:
        is_name = WEIGHT_NAME.fullmatch(self.name) and self.short_name != RESERVED_NAME
        if not is_name or ".." in self.name:
            raise UsageError(
                f"{self.name[:100]!r} cannot name weights: use at most 100 letters, digits and "
                f". _ - alone, and another word than {RESERVED_NAME}"
            )
        check_sha256(self.sha256, self.name)
        has_address = is_url(self.address) and self.published_file not in ("", ".", "..")
        if not (has_address or self.is_packaged):
            raise UsageError(
                f"the address {self.address!r} of {self.name} is not the URL of a file: "
                "write https://HOST/FILE"
            )
        for text in (self.licence, self.dataset, *self.class_names):
            if not text.isprintable():
                raise UsageError(f"{text!r} of {self.name} has control characters: leave them out")
        if self.top1_error is not None and not 0 <= self.top1_error <= 1:
            raise UsageError(
                f"top1_error {self.top1_error} of {self.name} is invalid: give a share from 0 to 1"
            )
        ImagePreprocessing(self.input, self.resize, self.interpolation)

    @property
    def input(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of an image."""
        return len(self.mean), self.side, self.side

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the scores."""
        return self.class_names or tuple(read_imagenet_classes().values())

    @property
    def measured_on(self) -> str | None:
        """The name of the data on whose test images `top1_error` was counted; None if unknown."""
        return self.dataset or (None if self.class_names else IMAGENET)

    @property
    def short_name(self) -> str:
        """The name without its tag: `resnet50` of `resnet50.a1_in1k`."""
        return self.name.partition(".")[0]

    @property
    def is_non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return forbids_commercial_use(self.licence)

    @property
    def is_packaged(self) -> bool:
        """Whether their model folder comes with residua."""
        return self.address == f"{PACKAGE_PREFIX}{self.name}"

    @property
    def hub_file(self) -> tuple[str, str, str] | None:
        """Repository, revision and file on the Hugging Face hub; None for any other address."""
        match = HUB_ADDRESS.fullmatch(self.address)
        return (match["repository"], match["revision"], match["file"]) if match else None

    @property
    def published_file(self) -> str:
        """The name of the file at its publisher: the last part of the address."""
        return urlsplit(self.address).path.rsplit("/", 1)[-1]

    @property
    def file_name(self) -> str:
        """The name of the file in the cache: NAME with the suffix of the published file."""
        return f"{self.name}{Path(self.published_file).suffix}"

    @property
    def has_full_sha256(self) -> bool:
        """Whether all digits of the sum are known before the file is there."""
        return len(self.sha256) == SUM_DIGITS


def forbids_commercial_use(licence: str) -> bool:
    """Return whether a licence, by its name, forbids commercial use, e.g. cc-by-nc-4.0."""
    return bool(NON_COMMERCIAL.search(licence.lower()))


def check_sha256(digits: str, name: str) -> None:
    """Raise UsageError unless `digits` begin a SHA-256 sum, or are "" because it is unknown."""
    is_possible = re.fullmatch(r"[0-9a-f]*", digits) and len(digits) <= SUM_DIGITS
    if not is_possible or (digits and len(digits) < MIN_SUM_DIGITS):
        raise UsageError(
            f"sha256 {digits!r} of {name} is not a SHA-256 sum: give its {SUM_DIGITS} hexadecimal "
            f"digits, or at least the first {MIN_SUM_DIGITS}"
        )


def is_url(text: str) -> bool:
    """Return whether a text is the URL of something on a web server, or of a local file."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  raises ValueError if it is not a number
    except ValueError:
        return False
    return parts.scheme == "file" or (parts.scheme in ("http", "https") and bool(parts.hostname))


def make_published_config(weights: PublishedWeights, sha256: str) -> ModelConfig:
    """Make the config of the model folder of published weights.

    `sha256` is the sum of the published file.  The versions that convert it are left out.  Raises
    UsageError if the fields of the weights contradict each other.
    """
    return ModelConfig(
        network=network(weights.network, input=weights.input, classes=len(weights.classes)),
        classes=weights.classes,
        mean=weights.mean,
        std=weights.std,
        resize=weights.resize,
        interpolation=weights.interpolation,
        license=weights.licence,
        published_as=weights.name,
        published_sum=sha256,
    )

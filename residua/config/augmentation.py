"""Data augmentation: the random changes of training images."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from residua.config.checks import check_range
from residua.config.dataset import Dataset
from residua.config.registry import Part
from residua.errors import UsageError, unknown_name_error

MAX_RANDOM_CHANGES = 100  # of RandAugment, far more than is useful; our choice
MAX_SHORTER_SIDE = 4096  # in pixels; our choice
MAX_ALPHA = 1000  # of mixup, whose proportions are then all near 1/2; our choice


PadMode = Literal["mean", "reflect"]


class BatchTransform(Part):
    """Base class of random image changes defined outside this package; see `Augmentation.extra`.

    The implementation is a function `f(transform, pixels, bits) -> pixels`.  `pixels` (n, c, h, w)
    are uint8 or float, in [0, 255].  `bits` (n, k) holds k = `random_numbers_per_image` random
    int64 numbers below 2^63 for each image.  The function must take all its randomness from `bits`,
    so that a run resumes bit-identically.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def description(self) -> str:
        """A clause that describes the change, e.g. `pixels are inverted with probability 0.5`.

        Reports print it in a list of changes, after "; ".
        """

    @property
    def random_numbers_per_image(self) -> int:
        """The number of random int64 numbers that the transform needs for each image."""
        return 1


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The random changes of training images, in the order in which they are applied.

    area, stretch  crop at random and resize to the input's size (Szegedy et al. 2015, section 6);
                   the crop's share of the image's area is uniform in [area, 1], and its aspect
                   ratio log-uniform in [1 / stretch, stretch]; with area=1, the default, images
                   are padded by `pad` instead
    shorter_side   crop at random to the input's size from the image resized so that its shorter
                   side is a random whole number of pixels in [shorter_side[0], shorter_side[1]],
                   all equally likely (scale augmentation; He et al. 2015, section 3.4); (), the
                   default, does not resize
    pad            pad each side by `pad` pixels, then crop at random to the input's size
    pad_mode       what the padding shows: "mean" is the mean colour, "reflect" the image's edge,
                   reflected
    flip           mirror with probability 1/2, if the data set allows it
    alternate_flip  mirror by turns instead: half of the images, drawn once, in epochs 0, 2, ...,
                   and the other half in epochs 1, 3, ... (Jordan 2024)
    colour         multiply brightness, contrast and saturation by factors in [1 - colour,
                   1 + colour] (Howard 2013)
    trivial        apply TrivialAugment (Müller & Hutter 2021)
    randaugment    apply this number of random changes to each image, one after another, all of
                   the strength `magnitude`, 0 to 30 (RandAugment, Cubuk et al. 2020).  Changes and
                   ranges are torchvision's, except that geometric changes are interpolated
                   bilinearly and not to the nearest pixel, shifts may be fractions of a pixel,
                   shears keep the center and not the top left corner in its place, and areas
                   outside the original image get the mean colour, not black
    extra          apply these registered transforms, in this order
    cut            fill a square of side `cut` pixels with the mean colour (DeVries & Taylor 2017)
    pca_colour     add to each pixel of a colour image the principal components of ImageNet's
                   colours, each times its eigenvalue and a normal number of this standard
                   deviation (Krizhevsky et al. 2012, section 4.1, with 0.1)
    erasing        probability of filling a random box with the mean colour: 2 % to 33 % of the
                   image, of an aspect ratio that is log-uniform in [0.3, 3.3] (Zhong et al. 2020)
    mixup          probability of blending an image with another one (Zhang et al. 2018)
    cutmix         probability of pasting a box of another image into an image (Yun et al. 2019);
                   in mixup and CutMix the labels are mixed in the same proportion as the images,
                   and this proportion is drawn uniformly
    mixup_alpha    mixup draws the proportion from the beta distribution (mixup_alpha, mixup_alpha);
                   1, the default, is the uniform one
    """

    pad: int = 4
    flip: bool = True
    cut: int = field(default=0, metadata={"added_later": True})
    area: float = field(default=1.0, metadata={"added_later": True})
    stretch: float = field(default=4 / 3, metadata={"added_later": True})
    colour: float = field(default=0.0, metadata={"added_later": True})
    trivial: bool = field(default=False, metadata={"added_later": True})
    mixup: float = field(default=0.0, metadata={"added_later": True})
    cutmix: float = field(default=0.0, metadata={"added_later": True})
    extra: tuple[BatchTransform, ...] = field(default=(), metadata={"added_later": True})
    randaugment: int = field(default=0, metadata={"added_later": True})
    magnitude: int = field(default=9, metadata={"added_later": True})
    pad_mode: PadMode = field(default="mean", metadata={"added_later": True})
    alternate_flip: bool = field(default=False, metadata={"added_later": True})
    shorter_side: tuple[int, ...] = field(default=(), metadata={"added_later": True})
    pca_colour: float = field(default=0.0, metadata={"added_later": True})
    erasing: float = field(default=0.0, metadata={"added_later": True})
    mixup_alpha: float = field(default=1.0, metadata={"added_later": True})

    def __post_init__(self) -> None:
        check_range(self.pad, "pad", 0)
        check_range(self.cut, "cut", 0)
        if self.pad_mode not in get_args(PadMode):
            raise unknown_name_error("pad_mode", str(self.pad_mode), get_args(PadMode))
        if not 0 < self.area <= 1:
            raise UsageError(f"area={self.area} is invalid: it must be above 0 and at most 1")
        check_range(self.stretch, "stretch", 1)
        check_range(self.colour, "colour", 0, 1)
        check_range(self.randaugment, "randaugment", 0, MAX_RANDOM_CHANGES + 1)
        check_range(self.magnitude, "magnitude", 0, 31)
        check_range(self.mixup, "mixup", 0)
        check_range(self.cutmix, "cutmix", 0)
        if self.mixup + self.cutmix > 1:
            raise UsageError(
                f"mixup={self.mixup} and cutmix={self.cutmix} add up to more than 1: each image "
                "gets at most one of them, so their probabilities must sum to at most 1"
            )

        check_range(self.erasing, "erasing", 0, 1, may_equal_high=True)
        check_range(self.pca_colour, "pca_colour", 0, 1, may_equal_high=True)
        check_range(self.mixup_alpha, "mixup_alpha", 0.01, MAX_ALPHA)
        self.check_shorter_side()

    def check_shorter_side(self) -> None:
        """Raise UsageError unless `shorter_side` is () or a range, and the only kind of crop."""
        object.__setattr__(self, "shorter_side", tuple(self.shorter_side))
        if not self.shorter_side:
            return
        if len(self.shorter_side) != 2 or not (
            1 <= self.shorter_side[0] <= self.shorter_side[1] <= MAX_SHORTER_SIDE
        ):
            raise UsageError(
                f"shorter_side={list(self.shorter_side)} is invalid: give the smallest and the "
                f"largest number of pixels, e.g. [256, 480], at most {MAX_SHORTER_SIDE:,}"
            )
        if self.area < 1 or self.pad:
            other = "area" if self.area < 1 else "pad"
            raise UsageError(
                f"shorter_side and {other} are two ways to crop at random: set augment.{other}="
                f"{'1' if self.area < 1 else '0'}, or leave shorter_side out"
            )

    @property
    def takes_boxes(self) -> bool:
        """Whether each image is resized from a random box of it."""
        return self.area < 1 or bool(self.shorter_side)

    def adapt_to_dataset(self, dataset: Dataset) -> "Augmentation":
        """Return this augmentation, with `flip` off if mirroring may change an image's class.

        Raises UsageError if `pca_colour` is set for images without colour.
        """
        if self.pca_colour and dataset.input[0] != 3:
            raise UsageError(
                f"pca_colour needs images of 3 channels, and {dataset.name} has "
                f"{dataset.input[0]}: set augment.pca_colour=0"
            )
        return replace(self, flip=self.flip and dataset.flip_keeps_class)

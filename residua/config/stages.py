"""The stem and the stages of a network: its first layers, and its groups of units of one width."""

from dataclasses import dataclass, field
from math import isfinite

from residua.config.checks import require_odd_kernels
from residua.config.registry import Part, register
from residua.config.size_limits import check_stride
from residua.errors import UsageError, unknown_name_error

LEAD_OPS = ("weight", "maxpool", "bn", "relu", "silu")
MAX_WHITENED_IMAGES = 10**6  # our choice


class StemStart(Part):
    """Base class of initial weights that the stem takes from training images.

    The implementation is a function `f(start, layer, images) -> None`, which sets the weights of
    `layer`, an nn.Conv2d, in place.  `images` (n, c, h, w) are the first `image_count` training
    images, normalised, in fp32.  The layer has a bias.  Its weight is not trained; its bias is.
    Until there are images, it has the usual random weights.  A module that is given to
    `residua.train` keeps the weights that it has.
    """

    __slots__ = ()

    image_count: int


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Whitening(StemStart):
    """Filters that whiten the patches of the images, and the negatives of the same filters.

    The filters are the eigenvectors of the patches' covariance, each divided by the square root of
    its eigenvalue (Page 2019, "How to train your ResNet 8"; the negatives are Jordan 2024).

    image_count  number of training images whose patches are used
    eps          constant that is added to the eigenvalues
    """

    image_count: int = 5000
    eps: float = 5e-4

    def __post_init__(self) -> None:
        if not 1 <= self.image_count <= MAX_WHITENED_IMAGES:
            raise UsageError(
                f"image_count={self.image_count} is invalid: give 1 to {MAX_WHITENED_IMAGES:,}"
            )
        if not (self.eps > 0 and isfinite(self.eps)):
            raise UsageError(f"eps={self.eps} is invalid: give a number above 0")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a network: consecutive units of the same width.

    width   output channels of every unit
    units   number of units
    stride  stride of the first unit
    pool    whether a 3x3 max-pool of stride 2 comes before the first unit
    lead    layers before the first unit: `weight` is a 3x3 convolution to `width` channels, and
            `maxpool` a 2x2 max-pool of stride 2, e.g. "weight maxpool bn silu"; "" for none
    """

    width: int
    units: int
    stride: int = 1
    pool: bool = False
    lead: str = field(default="", metadata={"added_later": True})

    def __post_init__(self) -> None:
        if min(self.width, self.units) < 1:
            raise UsageError(
                f"a stage of width {self.width} and {self.units} units is invalid: "
                "each must be at least 1"
            )
        check_stride(self.stride)
        for op in self.lead.split():
            if op not in LEAD_OPS:
                raise unknown_name_error("operation", op, LEAD_OPS)
        if self.lead.split().count("weight") > 1:
            raise UsageError(f"lead={self.lead!r} is invalid: it may contain 'weight' only once")
        if self.lead and self.pool:
            raise UsageError(
                "lead and pool cannot be combined: leave pool out, and add 'maxpool' to lead"
            )

    @property
    def lead_has_weight(self) -> bool:
        """Whether a convolution comes before the first unit."""
        return "weight" in self.lead.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first weight layers and, if `pool` is set, a 3x3 max-pool of stride 2.

    The papers' stems have one weight layer, of `width` outputs (He et al. 2015, Table 1).
    `inner_widths` are the outputs of further weight layers before it, each followed by BN and ReLU;
    the first layer has the stride.  Widths 32, 32 and 64 make the stem of ResNet-C (He et al. 2019,
    Fig. 2b).  With `start`, the weights come from training images; the kernel may then be even, and
    an even kernel is not padded.
    """

    width: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False
    inner_widths: tuple[int, ...] = field(default=(), metadata={"added_later": True})
    start: StemStart | None = field(default=None, metadata={"added_later": True})

    def __post_init__(self) -> None:
        if self.start is None:
            require_odd_kernels((self.kernel,))
        elif self.kernel < 1:
            raise UsageError(f"a stem kernel of {self.kernel} is invalid: give at least 1")
        elif self.inner_widths:
            raise UsageError(
                "a stem whose weights come from images has one layer: leave inner_widths out"
            )
        for width in (*self.inner_widths, self.width):
            if width < 1:
                raise UsageError(f"a stem of width {width} is invalid: it must be at least 1")
        check_stride(self.stride)

    def check_input(self, input: tuple[int, ...]) -> None:
        """Raise UsageError if `start` cannot make this stem's filters for images `input`."""
        if self.start is None:
            return
        if len(input) != 3:
            raise UsageError(
                "a stem whose weights come from images needs images (channels, height, width): "
                "leave start out"
            )
        if min(input[1:]) < self.kernel:
            raise UsageError(
                f"images of {input[1]} x {input[2]} pixels are too small for a stem whose kernel "
                f"has {self.kernel}: give larger images"
            )
        patch_values = input[0] * self.kernel**2
        if self.width % 2:
            raise UsageError(f"a whitened stem of {self.width} filters is odd: give an even width")
        if self.width > 2 * patch_values:
            channels = -(-self.width // (2 * self.kernel**2))
            raise UsageError(
                f"a whitened stem of {self.width} filters needs images of {channels} channels or "
                f"more, and these have {input[0]}: choose another model, or a stem of at most "
                f"{2 * patch_values} filters"
            )

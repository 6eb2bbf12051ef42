"""Random changes of images: TrivialAugment and RandAugment, colour components, erased boxes.

TrivialAugment and RandAugment make changes of fourteen kinds, with 31 strengths each.

TrivialAugment (Müller & Hutter 2021) makes one change of random strength per image, in the paper's
wide range.  There is one difference: the paper shifts images of any size by up to 32 pixels, and
this module by up to a seventh of the side, which is 32 pixels of 224.  RandAugment (Cubuk et al.
2020) makes several changes of one strength, in narrower ranges.  Shears keep the center of an image
in its place, where torchvision's keep its top left corner; shifts may be fractions of a pixel, and
geometric changes are interpolated bilinearly, where torchvision takes the nearest pixel.  Each kind
of change gets the whole batch, and changes only the images for which the random bits select it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import log, pi, radians, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.data.augment import bits_to_uniform

TRIVIAL_CHANGES = (
    "identity",
    "shear x",
    "shear y",
    "shift x",
    "shift y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "stretch",
    "equalize",
)
STRENGTH_LEVELS = 31
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as in Pillow
# Of the colours in [0, 1] of ImageNet's training images, as fb.resnet.torch published them; each
# column of the second is a component of red, green and blue.
COLOUR_EIGENVALUES = (0.2175, 0.0188, 0.0045)
COLOUR_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
ERASED_SHARES, ERASED_RATIOS = (0.02, 0.33), (0.3, 3.3)  # as in torchvision
BLUR_KERNEL = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # divided by 13, as in Pillow


@dataclass(frozen=True, slots=True)
class ChangeRanges:
    """The strengths of the changes at the highest level, `STRENGTH_LEVELS` - 1.

    geometric        shears as slopes, shifts in half sides, the unit of `affine_grid`, and the
                     angle of rotation in radians
    colour           change of the factor on brightness, saturation, contrast and sharpness
    posterized_bits  lowest bits of a level, of 8, that are set to 0
    """

    geometric: Mapping[str, float]
    colour: float
    posterized_bits: int


TRIVIAL_RANGES = ChangeRanges(
    {"shear x": 0.99, "shear y": 0.99, "shift x": 2 / 7, "shift y": 2 / 7, "rotate": 0.75 * pi},
    colour=0.99,
    posterized_bits=6,
)
RAND_RANGES = ChangeRanges(  # of Cubuk et al. 2019, as in torchvision
    {
        "shear x": 0.3,
        "shear y": 0.3,
        "shift x": 2 * 150 / 331,
        "shift y": 2 * 150 / 331,
        "rotate": radians(30),
    },
    colour=0.9,
    posterized_bits=4,
)


def apply_trivial_augment(pixels: Tensor, mean: tuple[float, ...], random_bits: Tensor) -> Tensor:
    """Apply one random change to each image (n, c, h, w) with levels in [0, 255]; returns fp32.

    `random_bits` (n, 3) chooses the change, its strength and its sign.  A geometric change fills
    the area outside the original image with the mean colour.
    """
    change_indices = random_bits[:, 0] % len(TRIVIAL_CHANGES)
    level = random_bits[:, 1] % STRENGTH_LEVELS
    sign = 1 - 2 * (random_bits[:, 2] % 2)
    signed_strength = level / (STRENGTH_LEVELS - 1) * sign
    return apply_selected_changes(pixels.float(), change_indices, level, signed_strength, mean)


def apply_rand_augment(
    pixels: Tensor, magnitude: int, mean: tuple[float, ...], random_bits: Tensor
) -> Tensor:
    """Apply k random changes to each image (n, c, h, w) with levels in [0, 255]; returns fp32.

    `random_bits` (n, 2 k) chooses the kind and the sign of each change; a kind may occur twice.
    `magnitude` is the level of all changes, from 0 to 30.
    """
    x = pixels.float()
    level = torch.full((len(x),), magnitude, device=x.device)
    for bits in random_bits.reshape(len(x), -1, 2).unbind(1):
        change_indices, sign = bits[:, 0] % len(TRIVIAL_CHANGES), 1 - 2 * (bits[:, 1] % 2)
        signed_strength = level / (STRENGTH_LEVELS - 1) * sign
        x = apply_selected_changes(x, change_indices, level, signed_strength, mean, RAND_RANGES)
    return x


def apply_selected_changes(
    x: Tensor,
    change_indices: Tensor,
    level: Tensor,
    signed_strength: Tensor,
    mean: tuple[float, ...],
    ranges: ChangeRanges = TRIVIAL_RANGES,
) -> Tensor:
    """Apply to each image (n, c, h, w) the change of `TRIVIAL_CHANGES` that its index selects.

    `change_indices` is (n,).  The strength of a change is passed in two forms, both (n,): `level`
    in [0, 30] and `signed_strength` in [-1, 1].  Each kind of change uses at most one of them.
    """

    def mask_of_change(name: str) -> Tensor:
        return (change_indices == TRIVIAL_CHANGES.index(name))[:, None, None, None]

    factor = (1 + ranges.colour * signed_strength)[:, None, None, None]
    level = level[:, None, None, None]
    x = apply_geometric_changes(x, change_indices, signed_strength, mean, ranges)
    # Each interpolates between a degraded image and the image, or extrapolates beyond it.
    for name, degrade in (
        ("brightness", torch.zeros_like),
        ("saturation", compute_luma),
        ("contrast", compute_mean_luma),
        ("sharpness", blur_3x3),
    ):
        x = torch.where(mask_of_change(name), degrade(x).lerp(x, factor).clamp(0, 255), x)
    step = 2.0 ** (level / ((STRENGTH_LEVELS - 1) / ranges.posterized_bits)).round()
    x = torch.where(mask_of_change("posterize"), (x / step).floor() * step, x)
    threshold = 255 - 255 * level / (STRENGTH_LEVELS - 1)
    x = torch.where(mask_of_change("solarize") & (x >= threshold), 255 - x, x)
    x = torch.where(mask_of_change("stretch"), apply_autocontrast(x), x)
    # Histograms are slow, so they are made only for the images concerned.
    equalize_indices = (change_indices == TRIVIAL_CHANGES.index("equalize")).nonzero()[:, 0]
    return x.index_copy(0, equalize_indices, equalize_histogram(x[equalize_indices]))


def apply_geometric_changes(
    x: Tensor,
    change_indices: Tensor,
    signed_strength: Tensor,
    mean: tuple[float, ...],
    ranges: ChangeRanges,
) -> Tensor:
    """Shear, shift or rotate those of the images (n, c, h, w) for which such a change is selected.

    The other images stay bit-identical.  Rotation is about the center; interpolation is bilinear.
    """
    height, width = x.shape[2:]
    amounts = {
        name: torch.where(
            change_indices == TRIVIAL_CHANGES.index(name), strength * signed_strength, 0.0
        )
        for name, strength in ranges.geometric.items()
    }
    cos, sin = amounts["rotate"].cos(), amounts["rotate"].sin()
    # The grid's units are half sides: shears and rotations are scaled by the aspect ratio.
    shear_x = (amounts["shear x"] + sin) * height / width
    shear_y = (amounts["shear y"] - sin) * width / height
    row_x = torch.stack([cos, shear_x, amounts["shift x"]], dim=1)
    row_y = torch.stack([shear_y, cos, amounts["shift y"]], dim=1)
    affine = torch.stack([row_x, row_y], dim=1)
    # Zeros outside the image become the mean colour.
    mean_colour = x.new_tensor([255 * m for m in mean])[:, None, None]
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    warped = F.grid_sample(
        x - mean_colour, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    is_geometric = (change_indices > 0) & (change_indices <= TRIVIAL_CHANGES.index("rotate"))
    return torch.where(is_geometric[:, None, None, None], warped + mean_colour, x)


def compute_luma(x: Tensor) -> Tensor:
    """Compute the luma (n, 1, h, w) of RGB images; return other images unchanged."""
    if x.shape[1] != 3:
        return x
    return (x * x.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)


def compute_mean_luma(x: Tensor) -> Tensor:
    """Compute the mean luma of each grey or RGB image (n, c, h, w), as (n, 1, 1, 1)."""
    return compute_luma(x).mean((2, 3), keepdim=True)


def blur_3x3(x: Tensor) -> Tensor:
    """Blur images with the 3 x 3 `BLUR_KERNEL`; border pixels are unchanged, as in Pillow."""
    kernel = (x.new_tensor(BLUR_KERNEL) / 13).expand(x.shape[1], 1, 3, 3)
    inner = F.conv2d(x, kernel, groups=x.shape[1])
    inner_rows = torch.cat([x[:, :, 1:-1, :1], inner, x[:, :, 1:-1, -1:]], 3)
    return torch.cat([x[:, :, :1], inner_rows, x[:, :, -1:]], 2)


def apply_autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel's levels linearly to [0, 255]; a channel with one level is unchanged."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1e-6)), x)


def equalize_histogram(x: Tensor) -> Tensor:
    """Make the 256 levels of each channel about equally frequent, by Pillow's integer formula."""
    levels = x.round().long().flatten(2)  # (n, c, pixels)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts = counts.scatter_add(2, levels, torch.ones_like(levels))
    count_of_highest = counts.gather(2, levels.amax(2, keepdim=True))[:, :, 0]
    step = (counts.sum(2) - count_of_highest) // 255  # (n, c)
    below = counts.cumsum(2) - counts
    table = ((below + (step // 2)[:, :, None]) // step.clamp(min=1)[:, :, None]).clamp(max=255)
    equalized_pixels = table.gather(2, levels).view(x.shape).float()
    return torch.where((step > 0)[:, :, None, None], equalized_pixels, x)


def add_colour_components(pixels: Tensor, deviation: float, random_bits: Tensor) -> Tensor:
    """Add random shares of the principal components of ImageNet's colours (n, 3, h, w); fp32.

    Each component of an image is added times its eigenvalue and a normal number of standard
    deviation `deviation` (Krizhevsky et al. 2012, section 4.1).  `random_bits` is (n, 3).  Levels
    of [0, 255] may leave this range.
    """
    # float64, in which no share is rounded to 1, where the quantile is infinite
    shares = ((random_bits >> 39).double() + 0.5) / 2**24
    normal = (2 * shares - 1).erfinv() * sqrt(2) * deviation
    eigenvalues, components = colour_components(pixels.device)
    shift = (components @ (normal.float() * eigenvalues)[:, :, None]) * 255
    return pixels.float() + shift[:, :, :, None]


@cache
def colour_components(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (3,) and, in columns, the eigenvectors (3, 3) of ImageNet's colours.

    The result is cached, because each new copy of it to a GPU would force a synchronisation.
    """
    with torch.inference_mode(False):
        return (
            torch.tensor(COLOUR_EIGENVALUES, device=device),
            torch.tensor(COLOUR_EIGENVECTORS, device=device),
        )


def erase_boxes(
    pixels: Tensor, probability: float, mean: tuple[float, ...], random_bits: Tensor
) -> Tensor:
    """Fill a random box of some images (n, c, h, w) with the mean colour (Zhong et al. 2020).

    `random_bits` (n, 5) decides whether, and chooses the box's share of the area, the logarithm of
    its aspect ratio (height over width), and its place.  Ranges are torchvision's.  A box higher or
    wider than the image is cut to it, where torchvision draws another.
    """
    height, width = pixels.shape[2:]
    selector, area, ratio = bits_to_uniform(random_bits[:, :3]).unbind(1)
    (low, high), (flat, steep) = ERASED_SHARES, map(log, ERASED_RATIOS)
    area = (low + (high - low) * area) * height * width
    ratio = torch.exp(flat + (steep - flat) * ratio)
    sides = (area * ratio).sqrt(), (area / ratio).sqrt()
    inside = []
    for bits, side, full_side in zip(
        random_bits[:, 3:].unbind(1), sides, (height, width), strict=True
    ):
        length = side.round().long().clamp(1, full_side)
        start = bits % (full_side - length + 1)
        offset = torch.arange(full_side, device=pixels.device) - start[:, None]
        inside.append((offset >= 0) & (offset < length[:, None]))
    rows, columns = inside
    erased = rows[:, :, None] & columns[:, None, :] & (selector < probability)[:, None, None]
    levels = [pixels[:, i].masked_fill(erased, round(255 * level)) for i, level in enumerate(mean)]
    return torch.stack(levels, dim=1)

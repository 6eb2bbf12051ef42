"""Augmentation of a whole batch on its device, and normalisation of uint8 pixels.

Every random function takes the random bits of each sample as an argument, so that the augmentation
of a sample does not depend on the rest of its batch.
"""

from collections.abc import Sequence
from functools import cache
from math import exp, log, sqrt
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.config.augmentation import BatchTransform, PadMode
from residua.config.registry import implementation_of
from residua.errors import UsageError


def pad_with_mean(pixels: Tensor, margin: int, mean: tuple[float, ...]) -> Tensor:
    """Surround images (n, c, h, w) uint8 with `margin` pixels of the mean colour on every side.

    The mean of each channel is in [0, 1], and is rounded to a whole level in [0, 255].  After
    normalisation the border is zero up to this rounding.  He et al. 2015 pad with zeros after
    subtracting the mean.
    """
    channels = [
        F.pad(pixels[:, i], (margin,) * 4, value=round(255 * level)) for i, level in enumerate(mean)
    ]
    return torch.stack(channels, dim=1)


def pad_images(pixels: Tensor, margin: int, mode: PadMode, mean: tuple[float, ...]) -> Tensor:
    """Surround uint8 images (n, c, h, w) with `margin` pixels, as `Augmentation.pad_mode` says."""
    if mode == "reflect":
        return pad_by_reflection(pixels, margin)
    return pad_with_mean(pixels, margin, mean)


def pad_by_reflection(pixels: Tensor, margin: int) -> Tensor:
    """Surround images (n, c, h, w) with `margin` pixels of the image itself, reflected at its edge.

    The pixel at the edge is not repeated.  Raises UsageError unless `margin` is smaller than the
    images' sides.
    """
    for dim in (2, 3):
        side = pixels.shape[dim]
        if margin >= side:
            raise UsageError(
                f"images of {side} pixels cannot be padded by {margin} reflected ones: give a "
                "smaller pad, or pad_mode=mean"
            )
        positions = torch.arange(-margin, side + margin, device=pixels.device).abs()
        reflected = torch.where(positions < side, positions, 2 * (side - 1) - positions)
        pixels = pixels.index_select(dim, reflected)
    return pixels


def random_crop(padded: Tensor, size: tuple[int, int], random_bits: Tensor) -> Tensor:
    """Crop each image (n, c, H, W) to `size` (h, w) at a random position; `random_bits` is (n,)."""
    height, width = size
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, c, rows, columns, h, w), a view
    rows, columns = windows.shape[2:4]
    image_indices = torch.arange(len(padded), device=padded.device)
    return windows[image_indices, :, random_bits % rows, random_bits // rows % columns]


def random_resized_crop(
    pixels: Tensor,
    size: tuple[int, int],
    min_area: float,
    max_aspect_ratio: float,
    random_bits: Tensor,
) -> Tensor:
    """Resize a random box of each image (n, c, H, W) uint8 to `size`, as fp32 (n, c, h, w).

    `random_bits` is (n, 4).  The box's share of the image's area is uniform in [min_area, 1]; the
    logarithm of its aspect ratio, width over height, is uniform in [-log(max_aspect_ratio),
    log(max_aspect_ratio)].  A box wider or higher than the image is cut to the image's width or
    height.  Interpolation is bilinear.
    """
    height, width = pixels.shape[2:]
    area_share, aspect_ratio, x, y = bits_to_uniform(random_bits).unbind(1)
    area_share = min_area + (1 - min_area) * area_share
    aspect_ratio = torch.exp((2 * aspect_ratio - 1) * log(max_aspect_ratio))
    width_share = (area_share * aspect_ratio * (height / width)).sqrt().clamp(max=1)
    height_share = (area_share / aspect_ratio * (width / height)).sqrt().clamp(max=1)
    affine = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    affine[:, 0, 0], affine[:, 0, 2] = width_share, (2 * x - 1) * (1 - width_share)
    affine[:, 1, 1], affine[:, 1, 2] = height_share, (2 * y - 1) * (1 - height_share)
    return resample_boxes(pixels, affine, size)


Coordinate = TypeVar("Coordinate", int, Tensor)


def draw_scaled_box(
    size: tuple[int, int],
    crop_size: tuple[int, int],
    shorter_side: tuple[int, ...],
    random_bits: Sequence[Coordinate],
) -> tuple[float | Tensor, float | Tensor, float | Tensor, float | Tensor]:
    """Draw the box of an image that a random crop at a random scale shows (He et al. 2015).

    The image of `size` (height, width) is thought to be resized so that its shorter side is a whole
    number of pixels in [shorter_side[0], shorter_side[1]], at least that of the crop, and then
    cropped to `crop_size` (h, w) at a whole pixel.  Resizing the box to `crop_size` gives the same
    crop.  Returns its left, top, right and bottom in pixels of the image, as Pillow takes them.

    `random_bits` are three numbers for one image, or three tensors (n,) for n images of one size,
    whose boxes are then tensors (n,).
    """
    (height, width), (crop_height, crop_width) = size, crop_size
    low = max(shorter_side[0], crop_height, crop_width)
    scale, y, x = random_bits[:3]
    side = scale % (max(shorter_side[1], low) - low + 1) + low
    resized_height = side * height // min(height, width)
    resized_width = side * width // min(height, width)
    top = y % (resized_height - crop_height + 1)
    left = x % (resized_width - crop_width + 1)
    by_y, by_x = height / resized_height, width / resized_width
    return left * by_x, top * by_y, (left + crop_width) * by_x, (top + crop_height) * by_y


def random_scaled_crop(
    pixels: Tensor, size: tuple[int, int], shorter_side: tuple[int, ...], random_bits: Tensor
) -> Tensor:
    """Crop each image (n, c, H, W) uint8 at a random scale to `size`, as fp32 (n, c, h, w).

    The box is that of `draw_scaled_box` with `random_bits` (n, 3).  Interpolation is bilinear.
    """
    height, width = pixels.shape[2:]
    left, top, right, bottom = draw_scaled_box(
        (height, width), size, shorter_side, random_bits.unbind(1)
    )
    affine = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    affine[:, 0, 0], affine[:, 0, 2] = (right - left) / width, (left + right) / width - 1
    affine[:, 1, 1], affine[:, 1, 2] = (bottom - top) / height, (top + bottom) / height - 1
    return resample_boxes(pixels, affine, size)


def resample_boxes(pixels: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample images (n, c, H, W) bilinearly by `affine` (n, 2, 3) of torch's `affine_grid`."""
    grid = F.affine_grid(affine, [*pixels.shape[:2], *size], align_corners=False)
    return F.grid_sample(
        pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def draw_crop_box(
    size: tuple[int, int],
    min_area: float,
    max_aspect_ratio: float,
    random_bits: Sequence[int],
) -> tuple[float, float, float, float]:
    """Draw the box of `random_resized_crop` in one image of `size` (h, w), from its four numbers.

    The box is (left, top, right, bottom), in pixels.
    """
    # one image at a time in float64, because vector instructions may round the last ones of a
    # batch differently from the others
    height, width = size
    area_share, aspect_ratio, x, y = [(bits >> 39) / 2**24 for bits in random_bits]
    area_share = min_area + (1 - min_area) * area_share
    aspect_ratio = exp((2 * aspect_ratio - 1) * log(max_aspect_ratio))
    box_width = width * min(sqrt(area_share * aspect_ratio * height / width), 1)
    box_height = height * min(sqrt(area_share / aspect_ratio * width / height), 1)
    left, top = x * (width - box_width), y * (height - box_height)
    return left, top, min(left + box_width, width), min(top + box_height, height)


def shrink_images(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (n, c, H, W) to a smaller `size`, as fp32; images of that size stay the same.

    Interpolation is bilinear, over as many pixels as one of the result covers (antialiasing).
    """
    if tuple(pixels.shape[2:]) == size:
        return pixels
    return F.interpolate(pixels.float(), size, mode="bilinear", align_corners=False, antialias=True)


def shrink_sides(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Multiply height and width by `share`, rounded to whole pixels, at least 1."""
    height, width = size
    return max(round(share * height), 1), max(round(share * width), 1)


def apply_extra_transforms(
    pixels: Tensor, transforms: Sequence[BatchTransform], random_bits: Tensor
) -> Tensor:
    """Apply registered transforms to images (n, c, h, w), each with its own of the bits (n, k)."""
    counts = [transform.random_numbers_per_image for transform in transforms]
    for transform, bits in zip(transforms, torch.split(random_bits, counts, dim=1), strict=True):
        pixels = implementation_of(transform)(transform, pixels, bits)
    return pixels


def jitter_colours(pixels: Tensor, max_change: float, random_bits: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation of each image (n, c, h, w) by random factors.

    Factors are uniform in [1 - max_change, 1 + max_change]; `random_bits` is (n, 3).  A fully
    desaturated image is the plain mean of its channels (our choice).  `apply_trivial_augment` uses
    the luma instead, as Pillow does.
    """
    factors = 1 + max_change * (2 * bits_to_uniform(random_bits) - 1)
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    x = (pixels.float() * brightness).clamp(0, 255)
    x = x.mean((1, 2, 3), keepdim=True).lerp(x, contrast)
    return x.mean(1, keepdim=True).lerp(x, saturation).clamp(0, 255)


def bits_to_uniform(random_bits: Tensor) -> Tensor:
    """Convert 63 random bits to a uniform fp32 number in [0, 1), using the upper 24 bits."""
    return (random_bits >> 39).float() / 2**24


def random_horizontal_flip(pixels: Tensor, random_bits: Tensor) -> Tensor:
    """Mirror each image (n, c, h, w) whose number in `random_bits` (n,) is odd."""
    return torch.where((random_bits % 2 == 1)[:, None, None, None], pixels.flip(3), pixels)


def alternating_flip(pixels: Tensor, random_bits: Tensor, epochs: int | Tensor) -> Tensor:
    """Mirror each image (n, c, h, w) in every second epoch (Jordan 2024).

    `epochs` is the epoch of all images, or of each (n,).  `random_bits` (n,) must not depend on it:
    an image whose number is odd is mirrored in epochs 0, 2, ..., another one in epochs 1, 3, ...
    """
    return random_horizontal_flip(pixels, random_bits + epochs % 2)


def apply_cutout(pixels: Tensor, side: int, mean: tuple[float, ...], random_bits: Tensor) -> Tensor:
    """Fill a square of `side` pixels in each image with the mean colour (DeVries & Taylor 2017).

    The center of the square is any pixel of the image, so part of the square may lie outside.
    Images (n, c, h, w) are modified in place; `random_bits` is (n,).
    """
    height, width = pixels.shape[2:]
    center_rows, center_columns = random_bits % height, random_bits // height % width
    rows, columns = [
        torch.arange(size, device=random_bits.device) - center[:, None] + side // 2
        for size, center in ((height, center_rows), (width, center_columns))
    ]
    rows_in_square, columns_in_square = [(i >= 0) & (i < side) for i in (rows, columns)]
    in_square = rows_in_square[:, :, None] & columns_in_square[:, None, :]
    for channel, level in enumerate(mean):
        pixels[:, channel].masked_fill_(in_square, round(255 * level))
    return pixels


def normalise_pixels(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Compute (x / 255 - mean) / std of pixels x (n, c, h, w), as fp32 in channels-last format."""
    scale, shift = normalisation_scale_and_shift(mean, std, pixels.device)
    return pixels.to(torch.float32, memory_format=torch.channels_last) * scale + shift


@cache
def normalisation_scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift, each (c, 1, 1), of `normalise_pixels`: x * scale + shift.

    The result is cached, because each new copy of it to a GPU would force a synchronisation.
    """
    # The first caller may be in inference mode, whose tensors autograd refuses; later ones train.
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        return scale[:, None, None], shift[:, None, None]

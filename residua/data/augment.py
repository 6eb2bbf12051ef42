"""Augmentation of a whole batch, each sample by its own random bits; and uint8 -> normalised float."""

from functools import cache
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_with_mean(pixels: Tensor, margin: int, mean: tuple[float, ...]) -> Tensor:
    """Images (n, c, h, w) uint8 -> (n, c, h + 2 margin, w + 2 margin), bordered with the mean colour.

    That is zero after normalisation (to half a grey level), as He et al. 2015 pad images whose mean was subtracted.
    """
    channels = [
        F.pad(pixels[:, i], (margin,) * 4, value=round(255 * level)) for i, level in enumerate(mean)
    ]
    return torch.stack(channels, dim=1)


def random_crop(padded: Tensor, size: tuple[int, int], random_bits: Tensor) -> Tensor:
    """A window of `size` at a random place of each image: (n, c, H, W) and bits (n,) -> (n, c, h, w)."""
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
    """A part of each image (n, c, H, W) uint8, brought to `size`, as fp32 (n, c, h, w); bits are (n, 4).

    Its share of the image is even in [area, 1], its width over its height even on a log scale in [1 / stretch, stretch]; what does
    not fit in is made as wide or as high as the image.  Between pixels values are linear.
    """
    height, width = pixels.shape[2:]
    area_share, aspect_ratio, x, y = bits_to_uniform(random_bits).unbind(1)
    area_share, aspect_ratio = (
        min_area + (1 - min_area) * area_share,
        torch.exp((2 * aspect_ratio - 1) * log(max_aspect_ratio)),
    )
    width_share = (area_share * aspect_ratio * (height / width)).sqrt().clamp(max=1)  # of the width
    height_share = (area_share / aspect_ratio * (width / height)).sqrt().clamp(max=1)
    affine = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    affine[:, 0, 0], affine[:, 0, 2] = width_share, (2 * x - 1) * (1 - width_share)
    affine[:, 1, 1], affine[:, 1, 2] = height_share, (2 * y - 1) * (1 - height_share)
    grid = F.affine_grid(affine, [*pixels.shape[:2], *size], align_corners=False)
    return F.grid_sample(
        pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def jitter_colours(pixels: Tensor, max_change: float, random_bits: Tensor) -> Tensor:
    """Brightness, contrast and saturation of each image (n, c, h, w), times a factor in [1 - most, 1 + most]; bits are (n, 3)."""
    brightness, contrast, saturation = (1 + max_change * (2 * bits_to_uniform(random_bits) - 1))[
        :, :, None, None, None
    ].unbind(1)
    x = (pixels.float() * brightness).clamp(0, 255)
    x = x.mean((1, 2, 3), keepdim=True).lerp(x, contrast)
    return x.mean(1, keepdim=True).lerp(x, saturation).clamp(0, 255)


def apply_mixup_or_cutmix(
    pixels: Tensor,
    others: Tensor,
    mixup_probability: float,
    cutmix_probability: float,
    random_bits: Tensor,
) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w), some blended with others (n, c, h, w), some with a box of them; and the share (n,) each keeps of itself.

    Bits are (n, 4): which of the two, if any; the share; where the box lies, of which what stands out is cut off.
    """
    height, width = pixels.shape[2:]
    selector, share, x, y = bits_to_uniform(random_bits).unbind(1)
    half_side = (1 - share).sqrt() / 2
    rows, columns = [
        (torch.arange(side, device=pixels.device) + 0.5) / side for side in (height, width)
    ]
    rows_in_box, columns_in_box = [
        (place - at[:, None]).abs() < half_side[:, None] for place, at in ((rows, y), (columns, x))
    ]
    box = (rows_in_box[:, :, None] & columns_in_box[:, None, :])[:, None]  # (n, 1, h, w)
    is_cutmix, is_mixup = (
        selector < cutmix_probability,
        (selector >= cutmix_probability) & (selector < cutmix_probability + mixup_probability),
    )
    own_share = torch.where(
        is_cutmix,
        1 - box.float().mean((1, 2, 3)),
        torch.where(is_mixup, share, torch.ones_like(share)),
    )
    own_weight = torch.where(
        is_cutmix[:, None, None, None], 1 - box.float(), own_share[:, None, None, None]
    )
    return others.float().lerp(pixels.float(), own_weight), own_share


def bits_to_uniform(random_bits: Tensor) -> Tensor:
    """63 random bits as fp32 in [0, 1)."""
    return (random_bits >> 39).float() / 2**24


def random_horizontal_flip(pixels: Tensor, random_bits: Tensor) -> Tensor:
    """Mirror each image (n, c, h, w) whose bits (n,) are odd."""
    return torch.where((random_bits % 2 == 1)[:, None, None, None], pixels.flip(3), pixels)


def apply_cutout(pixels: Tensor, side: int, mean: tuple[float, ...], random_bits: Tensor) -> Tensor:
    """The mean colour in a square of `side` pixels, its middle anywhere in each image (n, c, h, w) (DeVries & Taylor 2017)."""
    height, width = pixels.shape[2:]
    rows, columns = (
        (torch.arange(size, device=random_bits.device) - middle[:, None] + side // 2)
        for size, middle in ((height, random_bits % height), (width, random_bits // height % width))
    )
    in_square = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[
        :, None, :
    ]
    for channel, level in enumerate(mean):
        pixels[:, channel].masked_fill_(in_square, round(255 * level))
    return pixels


def normalise_pixels(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Levels (n, c, h, w) in [0, 255], uint8 or not -> (x / 255 - mean) / std in fp32, channels last."""
    scale, shift = normalisation_scale_and_shift(mean, std, pixels.device)
    return pixels.to(torch.float32, memory_format=torch.channels_last) * scale + shift


@cache
def normalisation_scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of each channel (c, 1, 1), copied to a device once: it would be waited for each time."""
    with torch.inference_mode(False):  # whoever asks first, they are for training too
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        return scale[:, None, None], shift[:, None, None]

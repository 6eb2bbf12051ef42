"""Augmentation of a whole batch, each sample by its own random bits; and uint8 -> normalised float."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def pad(pixels: Tensor, margin: int, mean: tuple[float, ...]) -> Tensor:
    """Images (n, c, h, w) uint8 -> (n, c, h + 2 margin, w + 2 margin), bordered with the mean colour.

    That is zero after normalisation (to half a grey level), as He et al. 2015 pad images whose mean was subtracted.
    """
    channels = [F.pad(pixels[:, i], (margin,) * 4, value=round(255 * level)) for i, level in enumerate(mean)]
    return torch.stack(channels, dim=1)


def crop(padded: Tensor, size: tuple[int, int], bits: Tensor) -> Tensor:
    """A window of `size` at a random place of each image: (n, c, H, W) and bits (n,) -> (n, c, h, w)."""
    height, width = size
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, c, rows, columns, h, w), a view
    rows, columns = windows.shape[2:4]
    which = torch.arange(len(padded), device=padded.device)
    return windows[which, :, bits % rows, bits // rows % columns]


def flip(pixels: Tensor, bits: Tensor) -> Tensor:
    """Mirror each image (n, c, h, w) whose bits (n,) are odd."""
    return torch.where((bits % 2 == 1)[:, None, None, None], pixels.flip(3), pixels)


def cut_out(pixels: Tensor, side: int, mean: tuple[float, ...], bits: Tensor) -> Tensor:
    """The mean colour in a square of `side` pixels, its middle anywhere in each image (n, c, h, w) (DeVries & Taylor 2017)."""
    height, width = pixels.shape[2:]
    rows, columns = (
        (torch.arange(size, device=bits.device) - middle[:, None] + side // 2) for size, middle in
        ((height, bits % height), (width, bits // height % width))
    )  # fmt: skip
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    for channel, level in enumerate(mean):
        pixels[:, channel].masked_fill_(inside, round(255 * level))
    return pixels


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (n, c, h, w) -> (x / 255 - mean) / std in fp32, channels last."""
    scale, shift = scale_and_shift(mean, std, pixels.device)
    return pixels.to(torch.float32, memory_format=torch.channels_last) * scale + shift


@cache
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each channel (c, 1, 1), copied to a device once: it would be waited for each time."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]

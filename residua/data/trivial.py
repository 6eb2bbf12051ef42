"""TrivialAugment (Müller & Hutter 2021): one of fourteen changes to each image, of one of 31 strengths, and nothing to tune.

Strengths are the paper's wide ones; but an image is shifted by up to a seventh of its side at any size, which is 32 of 224 pixels.
The whole batch goes through each kind of change at once, and random bits alone decide who is touched by it.
"""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

CHANGES = (
    "identity", "shear x", "shear y", "shift x", "shift y", "rotate", "brightness", "saturation", "contrast", "sharpness",
    "posterize", "solarize", "stretch", "equalize",
)  # fmt: skip
LEVELS = 31
MOST = {"shear x": 0.99, "shear y": 0.99, "shift x": 2 / 7, "shift y": 2 / 7, "rotate": 0.75 * pi}  # a shift is of half a side
GREY = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as Pillow's
BLUR = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # over 13, as Pillow's


def trivial(pixels: Tensor, mean: tuple[float, ...], bits: Tensor) -> Tensor:
    """Levels (n, c, h, w) in [0, 255] -> the same in fp32, changed; bits are (n, 3): what, how much, which way.

    What a turn uncovers has the mean colour.
    """
    which, level = bits[:, 0] % len(CHANGES), bits[:, 1] % LEVELS
    signed = level / (LEVELS - 1) * (1 - 2 * (bits[:, 2] % 2))  # in [-1, 1]
    return changed(pixels.float(), which, level, signed, mean)


def changed(x: Tensor, which: Tensor, level: Tensor, signed: Tensor, mean: tuple[float, ...]) -> Tensor:
    """Change `which` of CHANGES on each of the images (n, c, h, w), by a level in [0, 30] or a signed share in [-1, 1]."""

    def at(name: str) -> Tensor:
        return (which == CHANGES.index(name))[:, None, None, None]

    factor, level = (1 + 0.99 * signed)[:, None, None, None], level[:, None, None, None]
    x = moved(x, which, signed, mean)
    for name, faded in (("brightness", torch.zeros_like), ("saturation", grey), ("contrast", flat), ("sharpness", blurred)):
        x = torch.where(at(name), faded(x).lerp(x, factor).clamp(0, 255), x)
    step = 2.0 ** (level / ((LEVELS - 1) / 6)).round()  # 8 bits to 2
    x = torch.where(at("posterize"), (x / step).floor() * step, x)
    x = torch.where(at("solarize") & (x >= 255 - 255 * level / (LEVELS - 1)), 255 - x, x)
    x = torch.where(at("stretch"), stretched(x), x)
    chosen = (which == CHANGES.index("equalize")).nonzero()[:, 0]
    return x.index_copy(0, chosen, equalized(x[chosen]))


def moved(x: Tensor, which: Tensor, signed: Tensor, mean: tuple[float, ...]) -> Tensor:
    """Sheared, shifted or turned about the middle, between pixels linearly; the others as they are, to the bit."""
    height, width = x.shape[2:]
    by = {name: torch.where(which == CHANGES.index(name), most * signed, 0.0) for name, most in MOST.items()}
    cos, sin = by["rotate"].cos(), by["rotate"].sin()
    where = torch.stack([
        torch.stack([cos, (by["shear x"] + sin) * height / width, by["shift x"]], dim=1),
        torch.stack([(by["shear y"] - sin) * width / height, cos, by["shift y"]], dim=1),
    ], dim=1)  # fmt: skip
    uncovered = x.new_tensor([255 * m for m in mean])[:, None, None]
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    there = F.grid_sample(x - uncovered, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + uncovered
    touched = (which > 0) & (which <= CHANGES.index("rotate"))
    return torch.where(touched[:, None, None, None], there, x)


def grey(x: Tensor) -> Tensor:
    """Brightness (n, 1, h, w) of each pixel."""
    return (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True) if x.shape[1] == 3 else x


def flat(x: Tensor) -> Tensor:
    """The mean brightness (n, 1, 1, 1) of each image."""
    return grey(x).mean((2, 3), keepdim=True)


def blurred(x: Tensor) -> Tensor:
    """Each pixel but those of the border averaged with its neighbours."""
    kernel = (x.new_tensor(BLUR) / 13).expand(x.shape[1], 1, 3, 3)
    inner = F.conv2d(x, kernel, groups=x.shape[1])
    return torch.cat([x[:, :, :1], torch.cat([x[:, :, 1:-1, :1], inner, x[:, :, 1:-1, -1:]], 3), x[:, :, -1:]], 2)


def stretched(x: Tensor) -> Tensor:
    """Each channel's levels brought to [0, 255], where it has more than one."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1e-6)), x)


def equalized(x: Tensor) -> Tensor:
    """Each channel's 256 levels made about equally frequent, by the whole-number rule of Pillow's `equalize`."""
    levels = x.round().long().flatten(2)  # (n, c, pixels)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts = counts.scatter_add(2, levels, torch.ones_like(levels))
    step = (counts.sum(2) - counts.gather(2, levels.amax(2, keepdim=True))[:, :, 0]) // 255  # (n, c)
    below = counts.cumsum(2) - counts
    table = ((below + (step // 2)[:, :, None]) // step.clamp(min=1)[:, :, None]).clamp(max=255)
    found = table.gather(2, levels).view(x.shape).float()
    return torch.where((step > 0)[:, :, None, None], found, x)

"""TrivialAugment (Müller & Hutter 2021): one of fourteen changes to each image, of one of 31 strengths, and nothing to tune.

Strengths are the paper's wide ones; but an image is shifted by up to a seventh of its side at any size, which is 32 of 224 pixels.
The whole batch goes through each kind of change at once, and random bits alone decide who is touched by it.
"""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

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
MAX_GEOMETRIC_STRENGTH = {
    "shear x": 0.99,
    "shear y": 0.99,
    "shift x": 2 / 7,
    "shift y": 2 / 7,
    "rotate": 0.75 * pi,
}  # a shift is of half a side
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as Pillow's
BLUR_KERNEL = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # over 13, as Pillow's


def apply_trivial_augment(pixels: Tensor, mean: tuple[float, ...], random_bits: Tensor) -> Tensor:
    """Levels (n, c, h, w) in [0, 255] -> the same in fp32, changed; bits are (n, 3): what, how much, which way.

    What a turn uncovers has the mean colour.
    """
    change_indices, level = (
        random_bits[:, 0] % len(TRIVIAL_CHANGES),
        random_bits[:, 1] % STRENGTH_LEVELS,
    )
    signed_strength = (
        level / (STRENGTH_LEVELS - 1) * (1 - 2 * (random_bits[:, 2] % 2))
    )  # in [-1, 1]
    return apply_selected_changes(pixels.float(), change_indices, level, signed_strength, mean)


def apply_selected_changes(
    x: Tensor,
    change_indices: Tensor,
    level: Tensor,
    signed_strength: Tensor,
    mean: tuple[float, ...],
) -> Tensor:
    """Change `which` of CHANGES on each of the images (n, c, h, w), by a level in [0, 30] or a signed share in [-1, 1]."""

    def mask_of_change(name: str) -> Tensor:
        return (change_indices == TRIVIAL_CHANGES.index(name))[:, None, None, None]

    factor, level = (1 + 0.99 * signed_strength)[:, None, None, None], level[:, None, None, None]
    x = apply_geometric_changes(x, change_indices, signed_strength, mean)
    for name, degrade in (
        ("brightness", torch.zeros_like),
        ("saturation", compute_luma),
        ("contrast", compute_mean_luma),
        ("sharpness", blur_3x3),
    ):
        x = torch.where(mask_of_change(name), degrade(x).lerp(x, factor).clamp(0, 255), x)
    step = 2.0 ** (level / ((STRENGTH_LEVELS - 1) / 6)).round()  # 8 bits to 2
    x = torch.where(mask_of_change("posterize"), (x / step).floor() * step, x)
    x = torch.where(
        mask_of_change("solarize") & (x >= 255 - 255 * level / (STRENGTH_LEVELS - 1)), 255 - x, x
    )
    x = torch.where(mask_of_change("stretch"), apply_autocontrast(x), x)
    equalize_indices = (change_indices == TRIVIAL_CHANGES.index("equalize")).nonzero()[:, 0]
    return x.index_copy(0, equalize_indices, equalize_histogram(x[equalize_indices]))


def apply_geometric_changes(
    x: Tensor, change_indices: Tensor, signed_strength: Tensor, mean: tuple[float, ...]
) -> Tensor:
    """Sheared, shifted or turned about the middle, between pixels linearly; the others as they are, to the bit."""
    height, width = x.shape[2:]
    amounts = {
        name: torch.where(
            change_indices == TRIVIAL_CHANGES.index(name), most * signed_strength, 0.0
        )
        for name, most in MAX_GEOMETRIC_STRENGTH.items()
    }
    cos, sin = amounts["rotate"].cos(), amounts["rotate"].sin()
    affine = torch.stack(
        [
            torch.stack(
                [cos, (amounts["shear x"] + sin) * height / width, amounts["shift x"]], dim=1
            ),
            torch.stack(
                [(amounts["shear y"] - sin) * width / height, cos, amounts["shift y"]], dim=1
            ),
        ],
        dim=1,
    )
    uncovered = x.new_tensor([255 * m for m in mean])[:, None, None]
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    warped = (
        F.grid_sample(
            x - uncovered, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        + uncovered
    )
    is_geometric = (change_indices > 0) & (change_indices <= TRIVIAL_CHANGES.index("rotate"))
    return torch.where(is_geometric[:, None, None, None], warped, x)


def compute_luma(x: Tensor) -> Tensor:
    """Brightness (n, 1, h, w) of each pixel."""
    return (
        (x * x.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        if x.shape[1] == 3
        else x
    )


def compute_mean_luma(x: Tensor) -> Tensor:
    """The mean brightness (n, 1, 1, 1) of each image."""
    return compute_luma(x).mean((2, 3), keepdim=True)


def blur_3x3(x: Tensor) -> Tensor:
    """Each pixel but those of the border averaged with its neighbours."""
    kernel = (x.new_tensor(BLUR_KERNEL) / 13).expand(x.shape[1], 1, 3, 3)
    inner = F.conv2d(x, kernel, groups=x.shape[1])
    return torch.cat(
        [x[:, :, :1], torch.cat([x[:, :, 1:-1, :1], inner, x[:, :, 1:-1, -1:]], 3), x[:, :, -1:]], 2
    )


def apply_autocontrast(x: Tensor) -> Tensor:
    """Each channel's levels brought to [0, 255], where it has more than one."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1e-6)), x)


def equalize_histogram(x: Tensor) -> Tensor:
    """Each channel's 256 levels made about equally frequent, by the whole-number rule of Pillow's `equalize`."""
    levels = x.round().long().flatten(2)  # (n, c, pixels)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts = counts.scatter_add(2, levels, torch.ones_like(levels))
    step = (
        counts.sum(2) - counts.gather(2, levels.amax(2, keepdim=True))[:, :, 0]
    ) // 255  # (n, c)
    below = counts.cumsum(2) - counts
    table = ((below + (step // 2)[:, :, None]) // step.clamp(min=1)[:, :, None]).clamp(max=255)
    equalized_pixels = table.gather(2, levels).view(x.shape).float()
    return torch.where((step > 0)[:, :, None, None], equalized_pixels, x)

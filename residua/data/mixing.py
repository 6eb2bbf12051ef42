"""Mixing of images and labels: mixup and CutMix."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from residua.config.augmentation import Augmentation
from residua.data.augment import bits_to_uniform

QUANTILES = 4096  # of a beta distribution, between which others are interpolated


def apply_mixup_or_cutmix(
    pixels: Tensor,
    others: Tensor,
    mixup_probability: float,
    cutmix_probability: float,
    random_bits: Tensor,
    mixup_alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mix each image (n, c, h, w) with its partner in `others`: by mixup, by CutMix or not at all.

    Returns the images as fp32, and the weight (n,) in [0, 1] of each image's own label.  The four
    numbers per image of `random_bits` (n, 4) choose the method, the weight, and the x and y of the
    center of the CutMix box.  The part of the box outside the image is cut off.  The weight is
    uniform, and in mixup it is of the beta distribution (mixup_alpha, mixup_alpha).
    """
    selector, share, x, y = bits_to_uniform(random_bits).unbind(1)
    in_box = mask_cutmix_boxes(pixels.shape[2], pixels.shape[3], share, x, y)
    is_cutmix = selector < cutmix_probability
    is_mixup = ~is_cutmix & (selector < cutmix_probability + mixup_probability)
    box_complement = 1 - in_box.float()
    mixup_share = share if mixup_alpha == 1 else find_beta_quantiles(share, mixup_alpha)
    mixup_share = torch.where(is_mixup, mixup_share, torch.ones_like(share))
    own_share = torch.where(is_cutmix, 1 - in_box.float().mean((1, 2, 3)), mixup_share)
    own_weight = torch.where(
        is_cutmix[:, None, None, None], box_complement, own_share[:, None, None, None]
    )
    return others.float().lerp(pixels.float(), own_weight), own_share


def mix_samples(
    samples: tuple[Tensor, Tensor],
    partners: tuple[Tensor, Tensor],
    augment: Augmentation,
    random_bits: Tensor,
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Mix samples with their partners: images (n, c, h, w) and class weights (n, classes), fp32.

    `samples` and `partners` are images (n, c, h, w) with their labels (n,).  `random_bits` (n, 4)
    are those of `apply_mixup_or_cutmix`.
    """
    (pixels, labels), (partner_pixels, partner_labels) = samples, partners
    pixels, own_share = apply_mixup_or_cutmix(
        pixels, partner_pixels, augment.mixup, augment.cutmix, random_bits, augment.mixup_alpha
    )
    one_hot, partner_one_hot = [F.one_hot(y, num_classes).float() for y in (labels, partner_labels)]
    return pixels, partner_one_hot.lerp(one_hot, own_share[:, None])


def mask_cutmix_boxes(height: int, width: int, own_share: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return a mask (n, 1, h, w) of the pixels that each image takes from its CutMix partner.

    Each box covers 1 - own_share of the image's area.  Its center (x, y) is in [0, 1], relative to
    width and height.  Parts outside the image are cut off.  `own_share`, `x`, `y` are (n,).
    """
    half_side = ((1 - own_share).sqrt() / 2)[:, None]
    rows, columns = [
        (torch.arange(side, device=own_share.device) + 0.5) / side for side in (height, width)
    ]
    rows_in_box = (rows - y[:, None]).abs() < half_side
    columns_in_box = (columns - x[:, None]).abs() < half_side
    return (rows_in_box[:, :, None] & columns_in_box[:, None, :])[:, None]


def find_beta_quantiles(shares: Tensor, alpha: float) -> Tensor:
    """Find the quantiles of the beta distribution (alpha, alpha) at `shares` (n,) in [0, 1).

    They are interpolated between `QUANTILES` exact ones.
    """
    table = tabulate_beta_quantiles(alpha, shares.device)
    position = shares * QUANTILES
    index = position.long()
    return table[index].lerp(table[index + 1], position - index)


@cache
def tabulate_beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Tabulate the quantiles of the beta distribution (alpha, alpha) at k / `QUANTILES`.

    The table is cached, because each new copy of it to a GPU would force a synchronisation.
    """
    levels = np.arange(QUANTILES + 1) / QUANTILES
    with torch.inference_mode(False):
        return torch.tensor(betaincinv(alpha, alpha, levels), dtype=torch.float32, device=device)

"""The endless stream of training batches, as a function of the step."""

from functools import lru_cache

import torch
from torch import Tensor

from residua.data.augment import crop, cut_out, flip, normalise, pad
from residua.data.counter import bits, permutation
from residua.data.read import Images
from residua.errors import UsageError
from residua.spec.recipe import Augment

ORDER, CROP, FLIP = range(3)  # what random bits are for
CUT = 5


class Batches:
    """Batch `step` holds samples [step b, (step + 1) b) of epoch after epoch, each epoch in a new random order.

    So every image is seen once an epoch, no batch is partial, and a run resumes at any step with nothing restored.
    A `share` (i, n) is the i-th of n equal runs of samples of each batch: n processes see together what one alone would.
    """

    def __init__(
        self, images: Images, batch_size: int, augment: Augment, mean: tuple[float, ...], std: tuple[float, ...], seed: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        if batch_size > len(images):
            raise UsageError(f"a batch of {batch_size} is larger than the {len(images)} training images: choose at most that")
        self.images, self.batch_size, self.augment = images, batch_size, augment
        self.mean, self.std, self.seed, self.share = mean, std, seed, share
        self.size = (images.pixels.shape[2], images.pixels.shape[3])
        self.pixels = pad(images.pixels, augment.pad, mean) if augment.pad else images.pixels
        self.order = lru_cache(maxsize=2)(self.order_of)

    def order_of(self, epoch: int) -> Tensor:
        return permutation(len(self.images), self.seed, ORDER, epoch).to(self.images.labels.device)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The share of batch `step`: images (b / n, c, h, w) fp32, normalised and augmented, and labels (b / n,)."""
        parts, (i, n) = [], self.share
        place, end = [step * self.batch_size + self.batch_size * k // n for k in (i, i + 1)]
        while place < end:
            epoch, start = divmod(place, len(self.images))
            which = self.order(epoch)[start : start + end - place]
            parts.append(self.augmented(epoch, which))
            place += len(which)
        pixels = torch.cat([p for p, _ in parts])
        labels = torch.cat([self.images.labels[which] for _, which in parts])
        return normalise(pixels, self.mean, self.std), labels

    def augmented(self, epoch: int, which: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.pixels[which]
        if self.augment.pad:
            pixels = crop(pixels, self.size, bits(self.seed, CROP, epoch, which))
        if self.augment.flip:
            pixels = flip(pixels, bits(self.seed, FLIP, epoch, which))
        if self.augment.cut:
            pixels = cut_out(pixels, self.augment.cut, self.mean, bits(self.seed, CUT, epoch, which))
        return pixels, which

"""The endless stream of training batches, as a function of the step."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.data.augment import crop, cut_out, flip, mix, normalise, pad, recolour, resized_crop
from residua.data.counter import bits, permutation
from residua.data.read import Images
from residua.data.trivial import trivial
from residua.errors import UsageError
from residua.spec.dataset import Dataset
from residua.spec.memory import PADDED
from residua.spec.recipe import Augment, Recipe

ORDER, CROP, FLIP, COLOUR, TURN, CUT, MIX, OTHER, TRIVIAL = range(9)  # what random bits are for


class Batches:
    """Batch `step` holds samples [step b, (step + 1) b) of epoch after epoch, each epoch in a new random order.

    So every image is seen once an epoch, no batch is partial, and a run resumes at any step with nothing restored.
    A `share` (i, n) is the i-th of n equal runs of samples of each batch: n processes see together what one alone would.
    Images may be larger than their `size` in a batch: crops are cut from the whole of them, or else the middle is.
    With `balance` an epoch has as many samples, but each class has an equal part of them.
    """

    def __init__(
        self, images: Images, batch_size: int, augment: Augment, mean: tuple[float, ...], std: tuple[float, ...], seed: int,
        share: tuple[int, int] = (0, 1), *, size: tuple[int, int] | None = None, balance: bool = False,
        classes: int = 0,
    ) -> None:  # fmt: skip
        if batch_size > len(images):
            raise UsageError(f"a batch of {batch_size} is larger than the {len(images)} training images: choose at most that")
        self.images, self.batch_size, self.augment = images, batch_size, augment
        self.mean, self.std, self.seed, self.share = mean, std, seed, share
        self.size, self.classes = size or images.size, classes or int(images.labels.max()) + 1
        self.late = augment.pad if images.pixels.nbytes > PADDED else 0  # too large to be padded all at once
        self.pixels = pad(images.pixels, augment.pad, mean) if augment.pad > self.late else images.pixels
        labels = images.labels.cpu()
        self.members = [(labels == c).nonzero()[:, 0] for c in sorted(set(labels.tolist()))] if balance else []
        self.order = lru_cache(maxsize=2)(self.order_of)

    def order_of(self, epoch: int) -> Tensor:
        """The samples of an epoch (n,): image number i, or, the k-th time that one is drawn in an epoch, i + k n."""
        order = self.balanced(epoch) if self.members else permutation(len(self.images), self.seed, ORDER, epoch)
        return order.to(self.images.labels.device)

    def balanced(self, epoch: int) -> Tensor:
        """As many samples of each class, its images in turn, each time round in another order."""
        count = len(self.images)
        wanted = -(-count // len(self.members))
        drawn = []
        for label, images in enumerate(self.members):
            turns = range(-(-wanted // len(images)))
            orders = [images[permutation(len(images), self.seed, TURN, epoch, label, k)] + k * count for k in turns]
            drawn.append(torch.cat(orders)[:wanted])
        every = torch.cat(drawn)
        return every[permutation(len(every), self.seed, ORDER, epoch)[:count]]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The share of batch `step`: images (b / n, c, h, w) fp32, normalised and augmented, and labels.

        Labels are (b / n,) int64, or, where samples are mixed, (b / n, classes), each class's share.
        """
        parts, (i, n) = [], self.share
        place, end = [step * self.batch_size + self.batch_size * k // n for k in (i, i + 1)]
        make = self.mixed if self.augment.mixup + self.augment.cutmix else self.augmented
        while place < end:
            epoch, start = divmod(place, len(self.images))
            samples = self.order(epoch)[start : start + end - place]
            parts.append(make(epoch, samples))
            place += len(samples)
        pixels = torch.cat([p for p, _ in parts])
        return normalise(pixels, self.mean, self.std), torch.cat([labels for _, labels in parts])

    def mixed(self, epoch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) with a part of another training image each, and each class's share (n, classes)."""
        others = bits(self.seed, OTHER, epoch, samples) % len(self.images)
        pixels, labels = self.augmented(epoch, samples)
        guests, theirs = self.augmented(epoch, others + len(self.images) * (len(self.images) + samples))  # by bits of their own
        pixels, kept = mix(pixels, guests, self.augment.mixup, self.augment.cutmix, self.draws(4, MIX, epoch, samples))
        one_hot, other = [F.one_hot(y, self.classes).float() for y in (labels, theirs)]
        return pixels, other.lerp(one_hot, kept[:, None])

    def augmented(self, epoch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) and labels (n,)."""
        which, augment = samples % len(self.images), self.augment
        pixels = self.pixels[which]
        if self.late:
            pixels = pad(pixels, self.late, self.mean)
        if augment.area < 1:
            pixels = resized_crop(pixels, self.size, augment.area, augment.stretch, self.draws(4, CROP, epoch, samples))
        elif augment.pad:
            pixels = crop(pixels, self.size, bits(self.seed, CROP, epoch, samples))
        else:
            pixels = Images(pixels, which).middle(self.size).pixels
        if augment.flip:
            pixels = flip(pixels, bits(self.seed, FLIP, epoch, samples))
        if augment.colour:
            pixels = recolour(pixels, augment.colour, self.draws(3, COLOUR, epoch, samples))
        if augment.trivial:
            pixels = trivial(pixels, self.mean, self.draws(3, TRIVIAL, epoch, samples))
        if augment.cut:
            pixels = cut_out(pixels, augment.cut, self.mean, bits(self.seed, CUT, epoch, samples))
        return pixels, self.images.labels[which]

    def draws(self, count: int, use: int, epoch: int, samples: Tensor) -> Tensor:
        """So many random bits for each sample (n, count)."""
        return torch.stack([bits(self.seed, use, epoch, samples, i) for i in range(count)], dim=1)


def batches_of(
    images: Images,
    recipe: Recipe,
    data: Dataset,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    share: tuple[int, int],
) -> Batches:
    """The batches that a recipe makes of the training images of a data set."""
    size = data.input[1], data.input[2]
    return Batches(images, recipe.batch_size, recipe.augment.on(data), mean, std, seed, share, size=size, balance=recipe.balance)

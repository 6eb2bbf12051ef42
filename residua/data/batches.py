"""The endless stream of training batches, as a function of the step."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.config.dataset import Dataset
from residua.config.memory import MAX_PREPADDED_BYTES
from residua.config.recipe import Augmentation, Recipe
from residua.data.augment import (
    apply_cutout,
    apply_mixup_or_cutmix,
    jitter_colours,
    normalise_pixels,
    pad_with_mean,
    random_crop,
    random_horizontal_flip,
    random_resized_crop,
)
from residua.data.counter_rng import random_bits_from_keys, random_permutation
from residua.data.read import Images
from residua.data.trivial_augment import apply_trivial_augment
from residua.errors import UsageError

(
    ORDER_STREAM,
    CROP_STREAM,
    FLIP_STREAM,
    COLOUR_STREAM,
    CLASS_ORDER_STREAM,
    CUTOUT_STREAM,
    MIX_STREAM,
    MIX_PARTNER_STREAM,
    TRIVIAL_AUGMENT_STREAM,
) = range(9)  # what random bits are for


class TrainingBatches:
    """Batch `step` holds samples [step b, (step + 1) b) of epoch after epoch, each epoch in a new random order.

    So every image is seen once an epoch, no batch is partial, and a run resumes at any step with nothing restored.
    A `share` (i, n) is the i-th of n equal runs of samples of each batch: n processes see together what one alone would.
    Images may be larger than their `size` in a batch: crops are cut from the whole of them, or else the middle is.
    With `balance` an epoch has as many samples, but each class has an equal part of them.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        augment: Augmentation,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
        rank_and_world_size: tuple[int, int] = (0, 1),
        *,
        crop_size: tuple[int, int] | None = None,
        balance_classes: bool = False,
        num_classes: int = 0,
    ) -> None:
        if batch_size > len(images):
            raise UsageError(
                f"a batch of {batch_size} is larger than the {len(images)} training images: choose at most that"
            )
        self.images, self.batch_size, self.augment = images, batch_size, augment
        self.mean, self.std, self.seed, self.rank_and_world_size = (
            mean,
            std,
            seed,
            rank_and_world_size,
        )
        self.crop_size, self.num_classes = (
            crop_size or images.image_size,
            num_classes or int(images.labels.max()) + 1,
        )
        self.on_the_fly_padding = (
            augment.pad if images.pixels.nbytes > MAX_PREPADDED_BYTES else 0
        )  # too large to be padded all at once
        self.pixels = (
            pad_with_mean(images.pixels, augment.pad, mean)
            if augment.pad > self.on_the_fly_padding
            else images.pixels
        )
        labels = images.labels.cpu()
        self.images_by_class = (
            [(labels == c).nonzero()[:, 0] for c in sorted(set(labels.tolist()))]
            if balance_classes
            else []
        )
        self.epoch_order = lru_cache(maxsize=2)(self.compute_epoch_order)

    def compute_epoch_order(self, epoch: int) -> Tensor:
        """The samples of an epoch (n,): image number i, or, the k-th time that one is drawn in an epoch, i + k n."""
        order = (
            self.compute_balanced_order(epoch)
            if self.images_by_class
            else random_permutation(len(self.images), self.seed, ORDER_STREAM, epoch)
        )
        return order.to(self.images.labels.device)

    def compute_balanced_order(self, epoch: int) -> Tensor:
        """As many samples of each class, its images in turn, each time round in another order."""
        count = len(self.images)
        images_per_class = -(-count // len(self.images_by_class))
        samples_by_class = []
        for label, images in enumerate(self.images_by_class):
            passes = range(-(-images_per_class // len(images)))
            orders = [
                images[
                    random_permutation(len(images), self.seed, CLASS_ORDER_STREAM, epoch, label, k)
                ]
                + k * count
                for k in passes
            ]
            samples_by_class.append(torch.cat(orders)[:images_per_class])
        all_samples = torch.cat(samples_by_class)
        return all_samples[
            random_permutation(len(all_samples), self.seed, ORDER_STREAM, epoch)[:count]
        ]

    def make_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The share of batch `step`: images (b / n, c, h, w) fp32, normalised and augmented, and labels.

        Labels are (b / n,) int64, or, where samples are mixed, (b / n, classes), each class's share.
        """
        pieces, (i, n) = [], self.rank_and_world_size
        position, end = [step * self.batch_size + self.batch_size * k // n for k in (i, i + 1)]
        make_samples = (
            self.mix_samples if self.augment.mixup + self.augment.cutmix else self.augment_samples
        )
        while position < end:
            epoch, start = divmod(position, len(self.images))
            samples = self.epoch_order(epoch)[start : start + end - position]
            pieces.append(make_samples(epoch, samples))
            position += len(samples)
        pixels = torch.cat([p for p, _ in pieces])
        return normalise_pixels(pixels, self.mean, self.std), torch.cat(
            [labels for _, labels in pieces]
        )

    def mix_samples(self, epoch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) with a part of another training image each, and each class's share (n, classes)."""
        partners = random_bits_from_keys(self.seed, MIX_PARTNER_STREAM, epoch, samples) % len(
            self.images
        )
        pixels, labels = self.augment_samples(epoch, samples)
        partner_pixels, partner_labels = self.augment_samples(
            epoch, partners + len(self.images) * (len(self.images) + samples)
        )  # by bits of their own
        pixels, own_share = apply_mixup_or_cutmix(
            pixels,
            partner_pixels,
            self.augment.mixup,
            self.augment.cutmix,
            self.draw_sample_bits(4, MIX_STREAM, epoch, samples),
        )
        one_hot, partner_one_hot = [
            F.one_hot(y, self.num_classes).float() for y in (labels, partner_labels)
        ]
        return pixels, partner_one_hot.lerp(one_hot, own_share[:, None])

    def augment_samples(self, epoch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) and labels (n,)."""
        image_indices, augment = samples % len(self.images), self.augment
        pixels = self.pixels[image_indices]
        if self.on_the_fly_padding:
            pixels = pad_with_mean(pixels, self.on_the_fly_padding, self.mean)
        if augment.area < 1:
            pixels = random_resized_crop(
                pixels,
                self.crop_size,
                augment.area,
                augment.stretch,
                self.draw_sample_bits(4, CROP_STREAM, epoch, samples),
            )
        elif augment.pad:
            pixels = random_crop(
                pixels,
                self.crop_size,
                random_bits_from_keys(self.seed, CROP_STREAM, epoch, samples),
            )
        else:
            pixels = Images(pixels, image_indices).center_crop(self.crop_size).pixels
        if augment.flip:
            pixels = random_horizontal_flip(
                pixels, random_bits_from_keys(self.seed, FLIP_STREAM, epoch, samples)
            )
        if augment.colour:
            pixels = jitter_colours(
                pixels, augment.colour, self.draw_sample_bits(3, COLOUR_STREAM, epoch, samples)
            )
        if augment.trivial:
            pixels = apply_trivial_augment(
                pixels, self.mean, self.draw_sample_bits(3, TRIVIAL_AUGMENT_STREAM, epoch, samples)
            )
        if augment.cut:
            pixels = apply_cutout(
                pixels,
                augment.cut,
                self.mean,
                random_bits_from_keys(self.seed, CUTOUT_STREAM, epoch, samples),
            )
        return pixels, self.images.labels[image_indices]

    def draw_sample_bits(self, count: int, stream: int, epoch: int, samples: Tensor) -> Tensor:
        """So many random bits for each sample (n, count)."""
        return torch.stack(
            [random_bits_from_keys(self.seed, stream, epoch, samples, i) for i in range(count)],
            dim=1,
        )


def make_training_batches(
    images: Images,
    recipe: Recipe,
    dataset: Dataset,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    rank_and_world_size: tuple[int, int],
) -> TrainingBatches:
    """The batches that a recipe makes of the training images of a data set."""
    crop_size = dataset.input[1], dataset.input[2]
    return TrainingBatches(
        images,
        recipe.batch_size,
        recipe.augment.adapt_to_dataset(dataset),
        mean,
        std,
        seed,
        rank_and_world_size,
        crop_size=crop_size,
        balance_classes=recipe.balance,
    )

"""The endless stream of training batches, as a function of the step."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from residua.config.augmentation import Augmentation
from residua.config.dataset import Dataset
from residua.config.memory import MAX_PREPADDED_BYTES
from residua.config.recipe import Recipe
from residua.config.registry import implementation_of
from residua.data.augment import (
    alternating_flip,
    apply_cutout,
    apply_mixup_or_cutmix,
    jitter_colours,
    normalise_pixels,
    pad_images,
    random_crop,
    random_horizontal_flip,
    random_resized_crop,
    shrink_images,
)
from residua.data.counter_rng import RandomStream, random_bits_from_keys
from residua.data.epoch_orders import EpochOrders
from residua.data.images import Images
from residua.data.random_changes import apply_rand_augment, apply_trivial_augment
from residua.data.user_transform import UserTransform, apply_user_transform
from residua.errors import UsageError


class TrainingBatches:
    """Computes the augmented training batch of any step.

    The epochs, each in a new random order, form one sequence of samples.  Batch `step` holds the
    samples [step * b, (step + 1) * b) of the sequence, where b is the batch size.  So each image is
    used once per epoch, no batch is partial, and a run resumes at any step without stored state.

    `share` selects positions in each batch: data-parallel processes together compute the batch
    that a single process would.  By default it is the whole batch.  Images may be larger than
    `crop_size`.  Random crops are taken from the whole image; without random crops, the center of
    the image is used.  With `balance_classes` an epoch has the same number of samples, but equally
    many of each class, so that some images are repeated and others left out.  `transform` is
    applied to each image first.  `size_at_step` gives the share of `crop_size` to which the sides
    of a step's augmented images are shrunk.  Raises UsageError if the batch is larger than the data
    set.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        augment: Augmentation,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
        share: range | None = None,
        *,
        crop_size: tuple[int, int] | None = None,
        balance_classes: bool = False,
        num_classes: int = 0,
        transform: UserTransform | None = None,
        size_at_step: Callable[[int], float] | None = None,
    ) -> None:
        if batch_size > len(images):
            raise UsageError(
                f"batch size {batch_size} exceeds the {len(images)} training images: "
                f"choose at most {len(images)}"
            )
        self.images, self.batch_size, self.augment = images, batch_size, augment
        self.mean, self.std, self.seed = mean, std, seed
        self.share = range(batch_size) if share is None else share
        self.crop_size = crop_size or images.image_size
        self.num_classes = num_classes or int(images.labels.max()) + 1
        self.transform, self.size_at_step = transform, size_at_step
        # Padding all images in advance copies them, and a large data set may not fit twice; the
        # user's transform gets images without padding.
        is_large = images.pixels.nbytes > MAX_PREPADDED_BYTES
        self.on_the_fly_padding = augment.pad if is_large or transform else 0
        self.pixels = (
            pad_images(images.pixels, augment.pad, augment.pad_mode, mean)
            if augment.pad > self.on_the_fly_padding
            else images.pixels
        )
        self.orders = EpochOrders(images.labels, seed, balance_classes=balance_classes)

    @property
    def can_be_captured(self) -> bool:
        """Whether `assemble` only starts kernels, so that a CUDA graph can hold it."""
        augment = self.augment
        calls_user_code = self.transform is not None or bool(augment.extra)
        waits_for_device = augment.trivial or augment.randaugment  # for the images to equalize
        return not calls_user_code and not waits_for_device

    def make_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Make this rank's part of batch `step`: as many images and labels as its share has.

        Images (m, c, h, w) are fp32, augmented and normalised.  Labels are int64 (m,) or, with
        mixup or CutMix, fp32 weights of the classes (m, classes).
        """
        self.load_orders(step)
        return self.assemble(step, self.size_share(step))

    def load_orders(self, step: int) -> None:
        """Compute the orders of the epochs from which batch `step` takes samples, if need be."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        self.orders.load({first // len(self.images), (end - 1) // len(self.images)})

    def size_share(self, step: int) -> float:
        """Return the share of `crop_size` that the sides of the images of batch `step` have."""
        return 1.0 if self.size_at_step is None else self.size_at_step(step)

    def assemble(self, step: int | Tensor, size_share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Assemble the images and labels of `make_batch`; `load_orders` must be called before.

        `step` may be a scalar int64 tensor on the device of the images.  The call does not wait for
        the device unless `can_be_captured` is False.
        """
        device = self.images.labels.device
        own_positions = torch.arange(self.share.start, self.share.stop, device=device)
        positions = step * self.batch_size + own_positions
        epochs = positions // len(self.images)
        samples = self.orders.rows[epochs % 2, positions % len(self.images)]
        is_mixed = self.augment.mixup + self.augment.cutmix
        make_samples = self.mix_samples if is_mixed else self.augment_samples
        pixels, labels = make_samples(epochs, samples)
        pixels = shrink_images(pixels, shrink_sides(self.crop_size, size_share))
        return normalise_pixels(pixels, self.mean, self.std), labels

    def mix_samples(self, epochs: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Augment and mix samples: images (n, c, h, w) and class weights (n, classes).

        `epochs` and `samples` are (n,), here and below.
        """
        count = len(self.images)
        pixels, labels = self.augment_samples(epochs, samples)
        partners = self.draw_bits(RandomStream.MIX_PARTNER, epochs, samples) % count
        # A sample number of its own gives the partner its own augmentation.
        partner_samples = partners + count * (count + samples)
        partner_pixels, partner_labels = self.augment_samples(epochs, partner_samples)
        pixels, own_share = apply_mixup_or_cutmix(
            pixels,
            partner_pixels,
            self.augment.mixup,
            self.augment.cutmix,
            self.draw_several_bits(4, RandomStream.MIX, epochs, samples),
        )
        one_hot, partner_one_hot = [
            F.one_hot(y, self.num_classes).float() for y in (labels, partner_labels)
        ]
        return pixels, partner_one_hot.lerp(one_hot, own_share[:, None])

    def augment_samples(self, epochs: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented images (n, c, h, w) and the labels (n,) of sample numbers (n,).

        The images are not yet normalised; their levels are in [0, 255].
        """
        augment = self.augment
        pixels = self.crop_samples(epochs, samples)
        if augment.flip and augment.alternate_flip:
            # of each image, in all epochs
            random_bits = random_bits_from_keys(
                self.seed, RandomStream.FLIP, samples % len(self.images)
            )
            pixels = alternating_flip(pixels, random_bits, epochs)
        elif augment.flip:
            pixels = random_horizontal_flip(
                pixels, self.draw_bits(RandomStream.FLIP, epochs, samples)
            )
        if augment.colour:
            random_bits = self.draw_several_bits(3, RandomStream.COLOUR, epochs, samples)
            pixels = jitter_colours(pixels, augment.colour, random_bits)
        if augment.trivial:
            random_bits = self.draw_several_bits(3, RandomStream.TRIVIAL_AUGMENT, epochs, samples)
            pixels = apply_trivial_augment(pixels, self.mean, random_bits)
        if augment.randaugment:
            count = 2 * augment.randaugment
            random_bits = self.draw_several_bits(count, RandomStream.RAND_AUGMENT, epochs, samples)
            pixels = apply_rand_augment(pixels, augment.magnitude, self.mean, random_bits)
        if augment.extra:
            pixels = self.apply_extra_transforms(pixels, epochs, samples)
        if augment.cut:
            random_bits = self.draw_bits(RandomStream.CUTOUT, epochs, samples)
            pixels = apply_cutout(pixels, augment.cut, self.mean, random_bits)
        return pixels, self.images.labels[samples % len(self.images)]

    def apply_extra_transforms(self, pixels: Tensor, epochs: Tensor, samples: Tensor) -> Tensor:
        """Apply `augment.extra` to images (n, c, h, w), each transform with its own bits."""
        transforms = self.augment.extra
        counts = [transform.random_numbers_per_image for transform in transforms]
        random_bits = self.draw_several_bits(sum(counts), RandomStream.EXTRA, epochs, samples)
        for transform, bits in zip(
            transforms, torch.split(random_bits, counts, dim=1), strict=True
        ):
            pixels = implementation_of(transform)(transform, pixels, bits)
        return pixels

    def crop_samples(self, epochs: Tensor, samples: Tensor) -> Tensor:
        """Pad and crop the images (n, c, h, w) of sample numbers (n,) to `crop_size`."""
        augment, image_indices = self.augment, samples % len(self.images)
        pixels = self.pixels[image_indices]
        if self.transform is not None:
            pixels = apply_user_transform(pixels, self.transform, self.seed, epochs, samples)
        if self.on_the_fly_padding:
            pixels = pad_images(pixels, self.on_the_fly_padding, augment.pad_mode, self.mean)
        if augment.area < 1:
            random_bits = self.draw_several_bits(4, RandomStream.CROP, epochs, samples)
            return random_resized_crop(
                pixels, self.crop_size, augment.area, augment.stretch, random_bits
            )
        if augment.pad:
            random_bits = self.draw_bits(RandomStream.CROP, epochs, samples)
            return random_crop(pixels, self.crop_size, random_bits)
        return Images(pixels, image_indices).center_crop(self.crop_size).pixels

    def draw_bits(self, stream: RandomStream, epochs: Tensor, samples: Tensor) -> Tensor:
        """Draw a random integer from `stream` for each sample number (n,), as int64 (n,)."""
        return random_bits_from_keys(self.seed, stream, epochs, samples)

    def draw_several_bits(
        self, count: int, stream: RandomStream, epochs: Tensor, samples: Tensor
    ) -> Tensor:
        """Draw `count` random integers for each sample number (n,), as int64 (n, count)."""
        return torch.stack(
            [random_bits_from_keys(self.seed, stream, epochs, samples, i) for i in range(count)],
            dim=1,
        )


def shrink_sides(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Multiply height and width by `share`, rounded to whole pixels, at least 1."""
    height, width = size
    return max(round(share * height), 1), max(round(share * width), 1)


def make_training_batches(
    images: Images,
    recipe: Recipe,
    dataset: Dataset,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    share: range | None,
    transform: UserTransform | None = None,
) -> TrainingBatches:
    """Make the training batches that a recipe describes, from a data set's training images."""
    return TrainingBatches(
        images,
        recipe.batch_size,
        recipe.augment.adapt_to_dataset(dataset),
        mean,
        std,
        seed,
        share,
        crop_size=(dataset.input[1], dataset.input[2]),
        balance_classes=recipe.balance,
        transform=transform,
        size_at_step=partial(recipe.size_at_step, total_steps=recipe.total_steps(len(images)))
        if recipe.sizes
        else None,
    )

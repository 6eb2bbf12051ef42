"""The random changes of training samples: which of them, and by which random bits."""

import torch
from torch import Tensor

from residua.config.augmentation import Augmentation
from residua.data.augment import (
    alternating_flip,
    apply_cutout,
    apply_extra_transforms,
    jitter_colours,
    pad_images,
    random_crop,
    random_horizontal_flip,
    random_resized_crop,
    random_scaled_crop,
)
from residua.data.counter_rng import RandomStream, random_bits_from_keys
from residua.data.images import center_crop
from residua.data.random_changes import (
    add_colour_components,
    apply_rand_augment,
    apply_trivial_augment,
    erase_boxes,
)


class SampleChanges:
    """Crops and augments samples of `image_count` images, each by random bits of its own.

    In all methods, `epochs` and `samples`, the numbers of the samples, are (n,).
    """

    def __init__(
        self, augment: Augmentation, mean: tuple[float, ...], seed: int, image_count: int
    ) -> None:
        self.augment, self.mean, self.seed, self.image_count = augment, mean, seed, image_count

    def crop(
        self,
        pixels: Tensor,
        epochs: Tensor,
        samples: Tensor,
        size: tuple[int, int],
        margin: int,
    ) -> Tensor:
        """Pad images (n, c, H, W) by `margin` pixels, and crop them to `size`: (n, c, *size).

        The margin is 0 if the images are padded already.
        """
        augment = self.augment
        if margin:
            pixels = pad_images(pixels, margin, augment.pad_mode, self.mean)
        if augment.area < 1:
            random_bits = self.draw_several_bits(4, RandomStream.CROP, epochs, samples)
            return random_resized_crop(pixels, size, augment.area, augment.stretch, random_bits)
        if augment.shorter_side:
            random_bits = self.draw_several_bits(3, RandomStream.CROP, epochs, samples)
            return random_scaled_crop(pixels, size, augment.shorter_side, random_bits)
        if augment.pad:
            random_bits = self.draw_bits(RandomStream.CROP, epochs, samples)
            return random_crop(pixels, size, random_bits)
        return center_crop(pixels, size)

    def apply(self, pixels: Tensor, epochs: Tensor, samples: Tensor) -> Tensor:
        """Augment the crops (n, c, h, w) of samples; levels stay in [0, 255], as a rule."""
        augment = self.augment
        if augment.flip and augment.alternate_flip:
            # of each image, in all epochs
            random_bits = random_bits_from_keys(
                self.seed, RandomStream.FLIP, samples % self.image_count
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
            count = sum(transform.random_numbers_per_image for transform in augment.extra)
            random_bits = self.draw_several_bits(count, RandomStream.EXTRA, epochs, samples)
            pixels = apply_extra_transforms(pixels, augment.extra, random_bits)
        if augment.pca_colour:
            random_bits = self.draw_several_bits(3, RandomStream.PCA_COLOUR, epochs, samples)
            pixels = add_colour_components(pixels, augment.pca_colour, random_bits)
        if augment.erasing:
            random_bits = self.draw_several_bits(5, RandomStream.ERASING, epochs, samples)
            pixels = erase_boxes(pixels, augment.erasing, self.mean, random_bits)
        if augment.cut:
            random_bits = self.draw_bits(RandomStream.CUTOUT, epochs, samples)
            pixels = apply_cutout(pixels, augment.cut, self.mean, random_bits)
        return pixels

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

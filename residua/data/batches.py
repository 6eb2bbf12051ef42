"""The endless stream of training batches, as a function of the step."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from residua.config.augmentation import Augmentation
from residua.config.dataset import Dataset
from residua.config.memory import MAX_PREPADDED_BYTES
from residua.config.recipe import Recipe
from residua.data.augment import normalise_pixels, pad_images, shrink_images, shrink_sides
from residua.data.counter_rng import RandomStream
from residua.data.crop_prefetcher import CropPrefetcher, CropReader, CropRequest
from residua.data.epoch_orders import EpochOrders
from residua.data.images import Images
from residua.data.mixing import mix_samples
from residua.data.sample_changes import SampleChanges
from residua.data.streamed_images import ImageSet, StreamedImages
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
    of a step's augmented images are shrunk.  With `repeats`, a batch holds b / repeats samples of
    the sequence, each as many times.  Raises UsageError if the batch is larger than the data set.

    Of `StreamedImages`, the crops are decoded ahead in threads, until `close`, but for no step from
    `end_step` on.
    """

    def __init__(
        self,
        images: ImageSet,
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
        repeats: int = 1,
        end_step: int | None = None,
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
        self.transform, self.size_at_step, self.repeats = transform, size_at_step, repeats
        self.changes = SampleChanges(augment, mean, seed, len(images))
        self.prefetcher: CropPrefetcher | None = None
        order_labels = images.labels
        if isinstance(images, StreamedImages):
            reader = CropReader(images, self.changes, self.crop_size, transform)
            self.prefetcher = CropPrefetcher(self.request_crops, reader, end_step)
            self.margin = 0 if augment.takes_boxes else augment.pad
            order_labels = images.labels.cpu()  # where photographs are decoded
        else:
            self.store_pixels(images)
        self.orders = EpochOrders(order_labels, seed, balance_classes=balance_classes)

    def store_pixels(self, images: Images) -> None:
        """Keep the pixels of images in memory, padded in advance if that takes little memory."""
        # Padding all images in advance copies them, and a large data set may not fit twice; the
        # user's transform gets images without padding.
        pad, is_large = self.augment.pad, images.pixels.nbytes > MAX_PREPADDED_BYTES
        self.margin = pad if is_large or self.transform else 0
        self.pixels = (
            pad_images(images.pixels, pad, self.augment.pad_mode, self.mean)
            if pad > self.margin
            else images.pixels
        )

    @property
    def can_be_captured(self) -> bool:
        """Whether `assemble` only starts kernels, so that a CUDA graph can hold it."""
        augment = self.augment
        calls_user_code = self.transform is not None or bool(augment.extra)
        waits_for_device = augment.trivial or augment.randaugment  # for the images to equalize
        return not calls_user_code and not waits_for_device and self.prefetcher is None

    def make_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Make this rank's part of batch `step`: as many images and labels as its share has.

        Images (m, c, h, w) are fp32, augmented and normalised.  Labels are int64 (m,) or, with
        mixup or CutMix, fp32 weights of the classes (m, classes).
        """
        if self.prefetcher is not None:
            request, pixels = self.prefetcher.take(step)
            crops = [*pixels.chunk(len(request.parts))]
            if not self.augment.takes_boxes:  # these are centers, from which crops are taken
                crops = [
                    self.changes.crop(part, request.epochs, samples, self.crop_size, self.margin)
                    for part, samples in zip(crops, request.parts, strict=True)
                ]
            return self.augment_crops(request, crops, self.size_share(step))
        self.load_orders(step)
        return self.assemble(step, self.size_share(step))

    def close(self) -> None:
        """Stop to decode ahead; a later call of `make_batch` begins anew."""
        if self.prefetcher is not None:
            self.prefetcher.close()

    def count_wait(self, seconds: float) -> float:
        """Return how long the device waited for the last batch, which took `seconds` to make."""
        return seconds if self.prefetcher is None else self.prefetcher.pop_waited_seconds()

    def load_orders(self, step: int) -> None:
        """Compute the orders of the epochs from which batch `step` takes samples, if need be."""
        distinct = self.batch_size // self.repeats
        first, end = step * distinct, (step + 1) * distinct
        self.orders.load({first // len(self.images), (end - 1) // len(self.images)})

    def size_share(self, step: int) -> float:
        """Return the share of `crop_size` that the sides of the images of batch `step` have."""
        return 1.0 if self.size_at_step is None else self.size_at_step(step)

    def assemble(self, step: int | Tensor, size_share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Assemble the images and labels of `make_batch`; `load_orders` must be called before.

        `step` may be a scalar int64 tensor on the device of the images.  The call does not wait for
        the device unless `can_be_captured` is False.
        """
        request = self.request_samples(step)
        crops = [self.crop_samples(request.epochs, samples) for samples in request.parts]
        return self.augment_crops(request, crops, size_share)

    def request_crops(self, step: int) -> CropRequest:
        """Return the samples of this rank's part of batch `step`, on the CPU, to decode them."""
        self.load_orders(step)
        return self.request_samples(step)

    def request_samples(self, step: int | Tensor) -> CropRequest:
        """Return the samples of this rank's part of batch `step`, and their partners, if any."""
        share, device = self.share, self.orders.device
        numbers = torch.arange(share.start, share.stop, device=device)  # in the batch
        distinct, count = self.batch_size // self.repeats, len(self.images)
        positions = step * distinct + numbers % distinct
        epochs = positions // count
        samples = self.orders.rows[epochs % 2, positions % count]
        epochs = epochs * self.repeats + numbers // distinct  # bits of its own for each repeat
        if not self.augment.mixup + self.augment.cutmix:
            return CropRequest(epochs, (samples,))
        partners = self.changes.draw_bits(RandomStream.MIX_PARTNER, epochs, samples) % count
        # A sample number of its own gives the partner its own augmentation.
        return CropRequest(epochs, (samples, partners + count * (count + samples)))

    def augment_crops(
        self, request: CropRequest, crops: list[Tensor], size_share: float
    ) -> tuple[Tensor, Tensor]:
        """Augment, mix, shrink and normalise the crops of each of the parts of `request`."""
        epochs, parts = request.epochs, request.parts
        augmented = [
            (
                self.changes.apply(pixels, epochs, samples),
                self.images.labels[samples % len(self.images)],
            )
            for samples, pixels in zip(parts, crops, strict=True)
        ]
        pixels, labels = augmented[0]
        if len(augmented) > 1:
            random_bits = self.changes.draw_several_bits(4, RandomStream.MIX, epochs, parts[0])
            pixels, labels = mix_samples(
                augmented[0], augmented[1], self.augment, random_bits, self.num_classes
            )
        pixels = shrink_images(pixels, shrink_sides(self.crop_size, size_share))
        return normalise_pixels(pixels, self.mean, self.std), labels

    def crop_samples(self, epochs: Tensor, samples: Tensor) -> Tensor:
        """Return the crops (n, c, h, w) of sample numbers (n,), of images in memory."""
        pixels = self.pixels[samples % len(self.images)]
        if self.transform is not None:
            pixels = apply_user_transform(pixels, self.transform, self.seed, epochs, samples)
        return self.changes.crop(pixels, epochs, samples, self.crop_size, self.margin)


def make_training_batches(
    images: ImageSet,
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
        crop_size=recipe.full_train_size((dataset.input[1], dataset.input[2])),
        balance_classes=recipe.balance,
        transform=transform,
        size_at_step=partial(recipe.size_at_step, total_steps=recipe.total_steps(len(images)))
        if recipe.sizes
        else None,
        repeats=recipe.repeats,
        end_step=recipe.total_steps(len(images)),
    )

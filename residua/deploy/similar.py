"""Finds the training images most similar to a new image, by the cosine of their features.

The features of an image are the inputs of the network's last layer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.counter_rng import random_permutation
from residua.data.streamed_images import ImageSet
from residua.data.summary import DataSummary, ignore_summary
from residua.deploy.model_images import read_training_crops, resolve_dataset_of_model_shape
from residua.net.build import ResidualNetwork
from residua.net.fold_bn import fold_batchnorm
from residua.net.vlad import VladNetwork

MAX_COMPARED_IMAGES = 2000  # images in an index; our choice
FEATURE_BATCH_SIZE = 32

ShowProgress = Callable[[Iterable[Tensor]], Iterable[Tensor]]
"""Wraps an iterable of batches, e.g. in a progress bar."""


class FeatureExtractor(nn.Module):
    """Maps normalised images (n, c, h, w) to features (n, features) of unit length.

    The features are the inputs of the network's last layer.
    """

    def __init__(self, net: ResidualNetwork | VladNetwork) -> None:
        super().__init__()
        folded_net = fold_batchnorm(net).requires_grad_(False)
        self.net = folded_net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.net.compute_features(images).flatten(1), dim=1)


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """A training image that is similar to a query image."""

    pixels: Tensor  # (c, h, w) uint8
    class_name: str
    cosine: float  # cosine similarity of its features and the query's, in [-1, 1]


class SimilarImageIndex:
    """Images with their features, searchable for the nearest neighbours of a new image."""

    def __init__(
        self,
        net: ResidualNetwork | VladNetwork,
        config: ModelConfig,
        images: ImageSet,
        classes: tuple[str, ...],
        show_progress: ShowProgress = iter,
        max_images: int = MAX_COMPARED_IMAGES,
    ) -> None:
        """Index a random sample of at most `max_images` images.

        `classes[k]` is the name of label k.  The network is copied, not changed.
        """
        chosen_indices = random_permutation(len(images), 0)[:max_images]
        self.images = images[chosen_indices]
        self.classes = classes
        self.config = config
        self.extractor = FeatureExtractor(net).eval()
        batches = torch.split(self.images.pixels, FEATURE_BATCH_SIZE)
        self.image_features = torch.cat(
            [self.extract_features(batch) for batch in show_progress(batches)]
        )

    @torch.inference_mode()
    def extract_features(self, pixels: Tensor) -> Tensor:
        """Extract unit-length features (n, features) of images (n, c, h, w) uint8."""
        images = normalise_pixels(pixels, self.config.mean, self.config.std)
        features: Tensor = self.extractor(images)
        return features

    def find_nearest(self, pixels: Tensor, count: int) -> list[SimilarImage]:
        """Find the `count` images most similar to an image (c, h, w) uint8, nearest first."""
        cosines = self.image_features @ self.extract_features(pixels[None])[0]
        nearest = cosines.topk(min(count, len(self.image_features)))
        return [
            SimilarImage(self.images.pixels[i], self.classes[self.images.labels[i]], cosine)
            for i, cosine in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
        ]


def build_similar_image_index(
    net: ResidualNetwork | VladNetwork,
    config: ModelConfig,
    source: str,
    data_dir: Path | None = None,
    show_progress: ShowProgress = iter,
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> SimilarImageIndex:
    """Index the training images of `source`, a data set's name or a photo folder.

    `on_data` gets a summary of the data before the images are indexed.  Raises UsageError if the
    images do not have the shape that the network takes.
    """
    data = resolve_dataset_of_model_shape(source, config)
    images = read_training_crops(data, config, data_dir, on_data)
    return SimilarImageIndex(net, config, images, data.classes, show_progress)

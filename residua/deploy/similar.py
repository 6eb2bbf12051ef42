"""Training images that a network sees as it sees a new one: the nearest by the features before its last layer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.counter_rng import random_permutation
from residua.data.read import Images
from residua.net.build import ResidualNetwork
from residua.net.fold_bn import fold_batchnorm
from residua.net.vlad import VladNetwork

MAX_COMPARED_IMAGES = 2000  # images that are compared with; our choice
FEATURE_BATCH_SIZE = 32


class FeatureExtractor(nn.Module):
    """Images as a network takes them -> what its last layer takes (n, numbers), of length 1."""

    def __init__(self, net: ResidualNetwork | VladNetwork) -> None:
        super().__init__()
        self.net = fold_batchnorm(net).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(net, ResidualNetwork):
            self.net.head = self.net.head[:-1]

    def forward(self, images: Tensor) -> Tensor:
        features = (
            self.net.compute_descriptors(images)
            if isinstance(self.net, VladNetwork)
            else self.net(images)
        )
        return F.normalize(features.flatten(1), dim=1)


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """An image (c, h, w) uint8, the name of its class, and the cosine of the angle to its features."""

    pixels: Tensor
    class_name: str
    cosine: float


class SimilarImageIndex:
    """Images with their features, to find those that are like a new one."""

    def __init__(
        self,
        net: ResidualNetwork | VladNetwork,
        config: ModelConfig,
        images: Images,
        classes: tuple[str, ...],
        show_progress: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
        max_images: int = MAX_COMPARED_IMAGES,
    ) -> None:
        """At most so many of the images, drawn by chance; `bar` shows how far it is, batch by batch."""
        chosen_indices = random_permutation(len(images), 0)[:max_images]
        self.images, self.classes, self.config, self.extractor = (
            images[chosen_indices],
            classes,
            config,
            FeatureExtractor(net).eval(),
        )
        batches = torch.split(self.images.pixels, FEATURE_BATCH_SIZE)
        self.image_features = torch.cat(
            [self.extract_features(batch) for batch in show_progress(batches)]
        )

    @torch.inference_mode()
    def extract_features(self, pixels: Tensor) -> Tensor:
        """Features (n, numbers) of images (n, c, h, w) uint8."""
        features: Tensor = self.extractor(
            normalise_pixels(pixels, self.config.mean, self.config.std)
        )
        return features

    def find_nearest(self, pixels: Tensor, count: int) -> list[SimilarImage]:
        """The nearest images to (c, h, w) uint8, the nearest first."""
        nearest = (self.image_features @ self.extract_features(pixels[None])[0]).topk(
            min(count, len(self.image_features))
        )
        return [
            SimilarImage(self.images.pixels[i], self.classes[self.images.labels[i]], cosine)
            for i, cosine in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
        ]

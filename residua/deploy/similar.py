"""Training images that a network sees as it sees a new one: the nearest by the features before its last layer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.data.augment import normalise
from residua.data.counter import permutation
from residua.data.read import Images
from residua.net.build import ResidualNetwork
from residua.net.fuse import folded
from residua.net.vlad import VladNetwork
from residua.spec.model import ModelConfig

MOST = 2000  # images that are compared with; our choice
TOGETHER = 32


class Features(nn.Module):
    """Images as a network takes them -> what its last layer takes (n, numbers), of length 1."""

    def __init__(self, net: ResidualNetwork | VladNetwork) -> None:
        super().__init__()
        self.net = folded(net).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(net, ResidualNetwork):
            self.net.head = self.net.head[:-1]

    def forward(self, images: Tensor) -> Tensor:
        found = self.net.describe(images) if isinstance(self.net, VladNetwork) else self.net(images)
        return F.normalize(found.flatten(1), dim=1)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image (c, h, w) uint8, the name of its class, and the cosine of the angle to its features."""

    pixels: Tensor
    name: str
    cosine: float


class Album:
    """Images with their features, to find those that are like a new one."""

    def __init__(
        self, net: ResidualNetwork | VladNetwork, config: ModelConfig, images: Images, classes: tuple[str, ...],
        bar: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter, most: int = MOST,
    ) -> None:  # fmt: skip
        """At most so many of the images, drawn by chance; `bar` shows how far it is, batch by batch."""
        which = permutation(len(images), 0)[:most]
        self.images, self.classes, self.config, self.features = images[which], classes, config, Features(net).eval()
        batches = torch.split(self.images.pixels, TOGETHER)
        self.known = torch.cat([self.of(batch) for batch in bar(batches)])

    @torch.inference_mode()
    def of(self, pixels: Tensor) -> Tensor:
        """Features (n, numbers) of images (n, c, h, w) uint8."""
        found: Tensor = self.features(normalise(pixels, self.config.mean, self.config.std))
        return found

    def like(self, pixels: Tensor, count: int) -> list[Neighbour]:
        """The nearest images to (c, h, w) uint8, the nearest first."""
        found = (self.known @ self.of(pixels[None])[0]).topk(min(count, len(self.known)))
        return [
            Neighbour(self.images.pixels[i], self.classes[self.images.labels[i]], cosine)
            for i, cosine in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

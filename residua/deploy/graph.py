"""The whole function of a model folder, from an image's numbers to probabilities, as one module: what is translated."""

import torch
from torch import Tensor, nn

from residua.data.augment import scale_and_shift
from residua.net.fuse import folded
from residua.spec.model import ModelConfig

PIXELS, IMAGES, SCORES, PROBABILITIES = "pixels", "images", "scores", "probabilities"
"""Names of the input, uint8 or normalised, and of the outputs."""


class Graph(nn.Module):
    """Normalised images (n, c, h, w) fp32 -> class scores and probabilities, (n, classes) fp32 each.

    With `bakes` the normalisation is inside, and images come as uint8.  BN is folded.  Probabilities are
    softmax(scores / temperature).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, config: ModelConfig, *, bakes: bool) -> None:
        super().__init__()
        self.net, self.bakes, self.temperature = folded(net).requires_grad_(False), bakes, config.temperature
        self.shape, self.takes = config.input, PIXELS if bakes else IMAGES
        for name, numbers in zip(("scale", "shift"), scale_and_shift(config.mean, config.std, torch.device("cpu")), strict=True):
            self.register_buffer(name, numbers.clone())
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.bakes:
            images = images.to(torch.float32) * self.scale + self.shift
        scores = self.net(images)
        return scores, torch.softmax(scores / self.temperature, 1)

"""The whole function of a model folder, from pixels to probabilities, as one module: what engines run and exports hold."""

import torch
from torch import Tensor, nn

from residua.spec.model import ModelConfig

PIXELS, IMAGES, SCORES, PROBABILITIES = "pixels", "images", "scores", "probabilities"
"""Names of inputs, uint8 or normalised, and of outputs."""


class Graph(nn.Module):
    """Normalised images (n, c, h, w) -> class scores and probabilities, (n, classes) each, fp32.

    With `bakes` the normalisation is inside, and uint8 images come in.  Probabilities are softmax(scores / temperature).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, config: ModelConfig, *, bakes: bool) -> None:
        super().__init__()
        self.net, self.bakes, self.temperature = net, bakes, config.temperature
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in config.std])[:, None, None])
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(config.mean, config.std, strict=True)])[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.bakes:
            images = images.to(torch.float32) * self.scale + self.shift
        scores = self.net(images)
        return scores, torch.softmax(scores / self.temperature, 1)

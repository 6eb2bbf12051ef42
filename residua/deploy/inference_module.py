"""The whole function of a model folder, from an image's numbers to probabilities, as one module: what is translated."""

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalisation_scale_and_shift
from residua.net.fold_bn import fold_batchnorm

PIXELS_INPUT, IMAGES_INPUT, SCORES_OUTPUT, PROBABILITIES_OUTPUT = (
    "pixels",
    "images",
    "scores",
    "probabilities",
)
"""Names of the input, uint8 or normalised, and of the outputs."""


class InferenceModule(nn.Module):
    """Normalised images (n, c, h, w) fp32 -> class scores and probabilities, (n, classes) fp32 each.

    With `bakes` the normalisation is inside, and images come as uint8.  BN is folded.  Probabilities are
    softmax(scores / temperature).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, config: ModelConfig, *, bake_preprocessing: bool) -> None:
        super().__init__()
        self.net, self.bakes_preprocessing, self.temperature = (
            fold_batchnorm(net).requires_grad_(False),
            bake_preprocessing,
            config.temperature,
        )
        self.input_shape, self.input_name = (
            config.input,
            PIXELS_INPUT if bake_preprocessing else IMAGES_INPUT,
        )
        for name, numbers in zip(
            ("scale", "shift"),
            normalisation_scale_and_shift(config.mean, config.std, torch.device("cpu")),
            strict=True,
        ):
            self.register_buffer(name, numbers.clone())
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.bakes_preprocessing:
            images = images.to(torch.float32) * self.scale + self.shift
        scores = self.net(images)
        return scores, torch.softmax(scores / self.temperature, 1)

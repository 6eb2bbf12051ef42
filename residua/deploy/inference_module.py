"""A network with normalisation and softmax in one module, for export to other libraries."""

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalisation_scale_and_shift
from residua.data.image_views import compute_probabilities
from residua.net.fold_bn import fold_batchnorm

# Names of the tensors in exported files.
PIXELS_INPUT = "pixels"  # uint8
IMAGES_INPUT = "images"  # fp32, normalised
SCORES_OUTPUT = "scores"
PROBABILITIES_OUTPUT = "probabilities"


class ExportableClassifier(nn.Module):
    """Maps images (n, c, h, w) to class scores and probabilities, each (n, classes) fp32.

    The caller must pass normalised fp32 images.  With `bake_preprocessing` the caller passes uint8
    images instead, and the module normalises them.  Probabilities are
    softmax(scores / temperature).  The module uses a copy of the network with folded BN.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, config: ModelConfig, *, bake_preprocessing: bool) -> None:
        super().__init__()
        self.net = fold_batchnorm(net).requires_grad_(False)
        self.bakes_preprocessing = bake_preprocessing
        self.temperature = config.temperature
        self.input_shape = config.input
        self.input_name = PIXELS_INPUT if bake_preprocessing else IMAGES_INPUT
        scale, shift = normalisation_scale_and_shift(config.mean, config.std, torch.device("cpu"))
        # Clones, because the originals are cached and shared by all callers.
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.bakes_preprocessing:
            images = images.to(torch.float32) * self.scale + self.shift
        scores = self.net(images)
        return scores, compute_probabilities(scores, self.temperature)

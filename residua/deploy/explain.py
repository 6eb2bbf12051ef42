"""Where a network looks: Grad-CAM (Selvaraju et al. 2017) of its last stage, by captum."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from residua.data.augment import normalise
from residua.data.thumbnail import picture
from residua.errors import UsageError
from residua.extras import require
from residua.files import written_aside
from residua.net.build import ResidualNetwork
from residua.spec.model import ModelConfig

SMALLEST = 224  # pixels a side of an overlay
COLOURS = "inferno"


class Explainer:
    """Says which pixels of an image speak for a class."""

    def __init__(self, net: nn.Module, config: ModelConfig) -> None:
        """UsageError where captum is missing, or the network has no stages of maps."""
        require("Grad-CAM")
        from captum.attr import LayerGradCam  # type: ignore[import-untyped]

        if not isinstance(net, ResidualNetwork) or len(net.plan.network.input) != 3:
            raise UsageError(f"{config.network.name} has no stages of feature maps, which Grad-CAM looks at")
        self.config = config
        self.captum = LayerGradCam(net.eval(), list(net.stages.values())[-1])

    def heat(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """uint8 (n, c, h, w) and a class each (n,) -> (n, h, w) in [0, 1], the hottest pixel of each image 1; 0 where none is.

        relu(sum over channels of mean over positions of d score / d map, times map), made as large as the image.
        """
        images = normalise(pixels, self.config.mean, self.config.std)
        found = self.captum.attribute(images, classes, relu_attributions=True)
        maps = F.interpolate(found.detach(), pixels.shape[2:], mode="bilinear")[:, 0]
        return maps / maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)

    def draw(self, pixels: Tensor, which: int, path: Path) -> None:
        """Write a PNG of the image (c, h, w) uint8 beside itself under the heat of class `which`."""
        image = overlay(pixels, self.heat(pixels[None], torch.tensor([which]))[0])
        with written_aside(path) as aside:
            image.save(aside, "PNG")


def overlay(pixels: Tensor, heat: Tensor) -> Image.Image:
    """The image (c, h, w) uint8 beside itself under its heat (h, w), 224 pixels high or more."""
    from matplotlib import colormaps

    height, width = heat.shape
    scale = max(1, -(-SMALLEST // min(height, width)))
    size = (scale * width, scale * height)
    plain = picture(pixels).convert("RGB").resize(size, Image.Resampling.NEAREST)
    smooth = Image.fromarray(heat.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    levels = torch.from_numpy(np.array(smooth)).clamp(0, 1)
    colours = torch.from_numpy(colormaps[COLOURS](levels.numpy())[..., :3]).float() * 255
    share = 0.75 * levels[..., None].sqrt()
    under = torch.from_numpy(np.array(plain)).float() * 0.8
    hot = Image.fromarray((share * colours + (1 - share) * under).round().to(torch.uint8).numpy())
    both = Image.new("RGB", (2 * size[0], size[1]))
    both.paste(plain, (0, 0))
    both.paste(hot, (size[0], 0))
    return both

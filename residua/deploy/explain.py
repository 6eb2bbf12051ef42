"""Where a network looks: Grad-CAM (Selvaraju et al. 2017) of its last stage, by captum."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.thumbnails import pixels_to_image
from residua.errors import UsageError
from residua.extras import require_extra
from residua.files import atomic_write
from residua.net.build import ResidualNetwork

MIN_OVERLAY_SIDE = 224  # pixels a side of an overlay
HEAT_COLORMAP = "inferno"


class GradCamExplainer:
    """Says which pixels of an image speak for a class."""

    def __init__(self, net: nn.Module, config: ModelConfig) -> None:
        """UsageError where captum is missing, or the network has no stages of maps."""
        require_extra("Grad-CAM")
        from captum.attr import LayerGradCam  # type: ignore[import-untyped]

        if not isinstance(net, ResidualNetwork) or len(net.plan.network.input) != 3:
            raise UsageError(
                f"{config.network.name} has no stages of feature maps, which Grad-CAM looks at"
            )
        self.config = config
        self.layer_grad_cam = LayerGradCam(net.eval(), list(net.stages.values())[-1])

    def compute_heatmaps(self, pixels: Tensor, class_indices: Tensor) -> Tensor:
        """uint8 (n, c, h, w) and a class each (n,) -> (n, h, w) in [0, 1], the hottest pixel of each image 1; 0 where none is.

        relu(sum over channels of mean over positions of d score / d map, times map), made as large as the image.
        """
        images = normalise_pixels(pixels, self.config.mean, self.config.std)
        attributions = self.layer_grad_cam.attribute(images, class_indices, relu_attributions=True)
        heatmaps = F.interpolate(attributions.detach(), pixels.shape[2:], mode="bilinear")[:, 0]
        return heatmaps / heatmaps.amax((1, 2), keepdim=True).clamp_min(
            torch.finfo(heatmaps.dtype).tiny
        )

    def save_overlay(self, pixels: Tensor, class_index: int, path: Path) -> None:
        """Write a PNG of the image (c, h, w) uint8 beside itself under the heat of class `which`."""
        image = draw_heat_overlay(
            pixels, self.compute_heatmaps(pixels[None], torch.tensor([class_index]))[0]
        )
        with atomic_write(path) as temporary_path:
            image.save(temporary_path, "PNG")


def draw_heat_overlay(pixels: Tensor, heatmap: Tensor) -> Image.Image:
    """The image (c, h, w) uint8 beside itself under its heat (h, w), 224 pixels high or more."""
    from matplotlib import colormaps

    height, width = heatmap.shape
    scale = max(1, -(-MIN_OVERLAY_SIDE // min(height, width)))
    size = (scale * width, scale * height)
    original = pixels_to_image(pixels).convert("RGB").resize(size, Image.Resampling.NEAREST)
    smooth_heat = Image.fromarray(heatmap.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    heat_levels = torch.from_numpy(np.array(smooth_heat)).clamp(0, 1)
    colours = torch.from_numpy(colormaps[HEAT_COLORMAP](heat_levels.numpy())[..., :3]).float() * 255
    opacity = 0.75 * heat_levels[..., None].sqrt()
    dimmed = torch.from_numpy(np.array(original)).float() * 0.8
    blended = Image.fromarray(
        (opacity * colours + (1 - opacity) * dimmed).round().to(torch.uint8).numpy()
    )
    panels = Image.new("RGB", (2 * size[0], size[1]))
    panels.paste(original, (0, 0))
    panels.paste(blended, (size[0], 0))
    return panels

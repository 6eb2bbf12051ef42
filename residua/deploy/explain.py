"""Grad-CAM heat maps of a network's last stage (Selvaraju et al. 2017), computed with captum."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.thumbnails import pixels_to_image
from residua.errors import UsageError
from residua.extras import require_extra
from residua.files import atomic_write
from residua.net.build import ResidualNetwork

MIN_OVERLAY_SIDE = 224  # smallest length in pixels of the shorter side of an overlay
HEAT_COLORMAP = "inferno"


class GradCamExplainer:
    """Computes heat maps that show which pixels raise the score of a class."""

    def __init__(self, net: nn.Module, config: ModelConfig) -> None:
        """Prepare Grad-CAM for the last stage of `net`; switch `net` to evaluation mode.

        Raises UsageError if captum is not installed, or if the network has no convolutional stages.
        """
        require_extra("Grad-CAM")
        from captum.attr import LayerGradCam  # type: ignore[import-untyped]

        if not isinstance(net, ResidualNetwork) or len(net.plan.network.input) != 3:
            raise UsageError(
                f"Grad-CAM needs convolutional stages, and {config.network.name} has none"
            )
        self.config = config
        self.layer_grad_cam = LayerGradCam(net.eval(), list(net.stages.values())[-1])

    def compute_heatmaps(self, pixels: Tensor, class_indices: Tensor) -> Tensor:
        """Compute heat maps (n, h, w) in [0, 1] of images (n, c, h, w) uint8.

        `class_indices` (n,) holds the class to explain for each image.  Each channel of the last
        stage's output is weighted by the mean over positions of d score / d channel.  The heat map
        is the ReLU of the weighted sum of the channels, resized to the image and divided by its
        maximum.  It is 0 everywhere if no pixel raises the score.
        """
        images = normalise_pixels(pixels, self.config.mean, self.config.std)
        attributions = self.layer_grad_cam.attribute(images, class_indices, relu_attributions=True)
        heatmaps = F.interpolate(attributions.detach(), pixels.shape[2:], mode="bilinear")[:, 0]
        smallest_positive = torch.finfo(heatmaps.dtype).tiny
        return heatmaps / heatmaps.amax((1, 2), keepdim=True).clamp_min(smallest_positive)

    def compute_heatmap(self, pixels: Tensor, class_index: int) -> Tensor:
        """Compute the heat map (h, w) in [0, 1] of one image (c, h, w) uint8 for one class."""
        return self.compute_heatmaps(pixels[None], torch.tensor([class_index]))[0]

    def save_overlay(self, pixels: Tensor, class_index: int, path: Path) -> None:
        """Write a PNG of two panels: the image (c, h, w) uint8, and the image with its heat map."""
        image = draw_heat_overlay(pixels, self.compute_heatmap(pixels, class_index))
        with atomic_write(path) as temporary_path:
            image.save(temporary_path, "PNG")


def draw_heat_overlay(pixels: Tensor, heatmap: Tensor) -> Image.Image:
    """Draw two panels: the image (c, h, w) uint8, and the image with its heat map (h, w) on top.

    The heat map is in [0, 1].  Both panels are enlarged by an integer factor, so that the shorter
    side has at least `MIN_OVERLAY_SIDE` pixels.
    """
    height, width = heatmap.shape
    scale = max(1, -(-MIN_OVERLAY_SIDE // min(height, width)))
    size = (scale * width, scale * height)
    original = pixels_to_image(pixels).convert("RGB").resize(size, Image.Resampling.NEAREST)
    smooth_heat = Image.fromarray(heatmap.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    heat_levels = torch.from_numpy(np.array(smooth_heat)).clamp(0, 1)
    colours = torch.from_numpy(colour_heatmap(heat_levels)).float() * 255
    opacity = 0.75 * heat_levels[..., None].sqrt()
    dimmed = torch.from_numpy(np.array(original)).float() * 0.8
    blended = (opacity * colours + (1 - opacity) * dimmed).round().to(torch.uint8)
    panels = Image.new("RGB", (2 * size[0], size[1]))
    panels.paste(original, (0, 0))
    panels.paste(Image.fromarray(blended.numpy()), (size[0], 0))
    return panels


def draw_heat_layer(heatmap: Tensor) -> Image.Image:
    """Draw a heat map (h, w) in [0, 1] as an RGBA image; larger values are more opaque.

    The image is meant to be laid over the original.
    """
    layer = np.dstack([colour_heatmap(heatmap), heatmap.numpy()])
    return Image.fromarray(np.rint(255 * layer).astype(np.uint8), "RGBA")


def colour_heatmap(heatmap: Tensor) -> NDArray[np.float64]:
    """Convert a heat map (h, w) in [0, 1] to RGB values (h, w, 3) in [0, 1]."""
    from matplotlib import colormaps

    colours: NDArray[np.float64] = colormaps[HEAT_COLORMAP](heatmap.numpy())[..., :3]
    return colours

"""Images embedded in HTML pages as data URIs."""

import base64
from io import BytesIO
from typing import Literal

from PIL import Image
from torch import Tensor

MAX_THUMBNAIL_SIDE = 128  # pixels
MAX_PNG_SIDE = 40  # pixels; a larger photograph is several times larger as PNG than as JPEG


def make_thumbnail_uri(pixels: Tensor, max_side: int = MAX_THUMBNAIL_SIDE) -> str:
    """Encode pixels (c, h, w) uint8 as a data URI: a PNG if small, else a JPEG.

    An image with a longer side than `max_side` is scaled down to it.
    """
    image = pixels_to_image(pixels)
    image.thumbnail((max_side, max_side))
    return encode_data_uri(image, "PNG" if max(image.size) <= MAX_PNG_SIDE else "JPEG")


def pixels_to_image(pixels: Tensor) -> Image.Image:
    """Convert pixels (c, h, w) uint8 to an RGB image if c is 3, else channel 0 to a grey image."""
    channels_last = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]
    return Image.fromarray(channels_last.contiguous().numpy())


def encode_data_uri(image: Image.Image, image_format: Literal["PNG", "JPEG"] = "PNG") -> str:
    """Encode an image as a `data:image/...;base64,...` URI."""
    content = BytesIO()
    image.save(content, image_format, quality=85)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"

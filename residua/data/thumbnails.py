"""Images embedded in HTML pages as data URIs."""

import base64
from io import BytesIO
from typing import Literal

from PIL import Image
from torch import Tensor

MAX_THUMBNAIL_SIDE = 128  # pixels


def make_thumbnail_uri(pixels: Tensor) -> str:
    """Encode pixels (c, h, w) uint8 as a data URI: a PNG if small, else a scaled-down JPEG."""
    image = pixels_to_image(pixels)
    is_small = max(image.size) <= MAX_THUMBNAIL_SIDE
    image.thumbnail((MAX_THUMBNAIL_SIDE, MAX_THUMBNAIL_SIDE))
    return encode_data_uri(image, "PNG" if is_small else "JPEG")


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

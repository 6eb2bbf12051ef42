"""Images that stand in a page: pixels as a picture, small where they must be, as an address that holds them."""

import base64
from io import BytesIO
from typing import Literal

from PIL import Image
from torch import Tensor

MAX_THUMBNAIL_SIDE = 128  # pixels


def make_thumbnail_uri(pixels: Tensor) -> str:
    """(c, h, w) uint8 as a data URI: a PNG where it is as small as it stands, a JPEG where it had to be made smaller."""
    image = pixels_to_image(pixels)
    small = max(image.size) <= MAX_THUMBNAIL_SIDE
    image.thumbnail((MAX_THUMBNAIL_SIDE, MAX_THUMBNAIL_SIDE))
    return encode_data_uri(image, "PNG" if small else "JPEG")


def pixels_to_image(pixels: Tensor) -> Image.Image:
    """(c, h, w) uint8; three channels are red, green and blue; of any other number the first is shown in greys."""
    channels_last = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]
    return Image.fromarray(channels_last.contiguous().numpy())


def encode_data_uri(image: Image.Image, image_format: Literal["PNG", "JPEG"] = "PNG") -> str:
    """An image as an address that holds it."""
    content = BytesIO()
    image.save(content, image_format, quality=85)
    return (
        f"data:image/{image_format.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
    )

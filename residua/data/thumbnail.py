"""Images that stand in a page: pixels as a picture, small where they must be, as an address that holds them."""

import base64
from io import BytesIO
from typing import Literal

from PIL import Image
from torch import Tensor

LONGEST = 128  # pixels


def thumbnail(pixels: Tensor) -> str:
    """(c, h, w) uint8 as a data URI: a PNG where it is as small as it stands, a JPEG where it had to be made smaller."""
    image = picture(pixels)
    small = max(image.size) <= LONGEST
    image.thumbnail((LONGEST, LONGEST))
    return uri(image, "PNG" if small else "JPEG")


def picture(pixels: Tensor) -> Image.Image:
    """(c, h, w) uint8; three channels are red, green and blue; of any other number the first is shown in greys."""
    shown = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]
    return Image.fromarray(shown.contiguous().numpy())


def uri(image: Image.Image, kind: Literal["PNG", "JPEG"] = "PNG") -> str:
    """An image as an address that holds it."""
    content = BytesIO()
    image.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"

"""An image small enough to stand in a page."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

LONGEST = 128  # pixels


def thumbnail(pixels: Tensor) -> str:
    """(c, h, w) uint8 as a data URI: a PNG where it is as small as it stands, a JPEG where it had to be made smaller.

    Three channels are red, green and blue; of any other number the first is shown in greys.
    """
    channels = pixels if len(pixels) == 3 else pixels[:1]
    image = Image.fromarray(channels.permute(1, 2, 0).squeeze(2).contiguous().to(torch.uint8).numpy())
    small = max(image.size) <= LONGEST
    image.thumbnail((LONGEST, LONGEST))
    content = io.BytesIO()
    image.save(content, "PNG" if small else "JPEG", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content.getvalue()).decode()}"

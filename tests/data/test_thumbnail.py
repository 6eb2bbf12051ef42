import base64
import io

import pytest
import torch
from PIL import Image

from residua.data.thumbnail import thumbnail


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "L")])
def test_a_small_image_is_shown_to_the_bit(channels, mode):
    pixels = torch.randint(256, (channels, 8, 9), dtype=torch.uint8)
    image = opened(thumbnail(pixels))
    assert (image.format, image.mode, image.size) == ("PNG", mode, (9, 8))
    assert list(image.tobytes()) == (pixels if channels == 3 else pixels[:1]).permute(1, 2, 0).flatten().tolist()


def test_a_large_image_is_made_smaller():
    image = opened(thumbnail(torch.zeros(3, 224, 448, dtype=torch.uint8)))
    assert (image.format, image.size) == ("JPEG", (128, 64))

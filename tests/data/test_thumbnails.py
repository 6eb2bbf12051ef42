import base64
import io

import pytest
import torch
from PIL import Image

from residua.data.thumbnails import make_thumbnail_uri


def open_data_uri(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "L")])
def test_a_small_image_becomes_a_lossless_png(channels, mode):
    pixels = torch.randint(256, (channels, 8, 9), dtype=torch.uint8)
    image = open_data_uri(make_thumbnail_uri(pixels))
    assert (image.format, image.mode, image.size) == ("PNG", mode, (9, 8))
    assert (
        list(image.tobytes())
        == (pixels if channels == 3 else pixels[:1]).permute(1, 2, 0).flatten().tolist()
    )


def test_a_large_image_is_downscaled_to_a_jpeg():
    image = open_data_uri(make_thumbnail_uri(torch.zeros(3, 224, 448, dtype=torch.uint8)))
    assert (image.format, image.size) == ("JPEG", (128, 64))

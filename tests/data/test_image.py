"""Files of every kind -> pixels, by one way."""

import struct
import threading
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from residua.data.image import FORMATS, decode, prepared, quiet_pillow
from residua.errors import DataError, ImageError, UsageError
from residua.spec.model import ModelConfig, View
from residua.spec.papers import network
from residua.spec.text import from_json, to_json
from tests import peers  # noqa: F401 -- makes torchvision importable

RED, WHITE = (255, 0, 0), (255, 255, 255)


def photo(width=40, height=30, seed=0):
    """Smooth noise, which JPEG keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, format="PNG", **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def corner(content):
    image = decode(content)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def bomb(width, height):
    """The header of a PNG of that size, and next to nothing behind it."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_photograph(format):
    image = photo()
    found = decode(encoded(image, format))
    assert found.size == image.size
    assert np.abs(np.asarray(found, float) - np.asarray(image, float)).mean() < 15  # GIF has 256 colours


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_rgb_over_white(mode):
    format = "TIFF" if mode == "CMYK" else "PNG"
    assert corner(encoded(Image.new("RGB", (8, 8), WHITE).convert(mode), format)) == WHITE


def test_alpha_stands_over_white():
    assert corner(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))) == WHITE
    assert corner(encoded(Image.new("LA", (8, 8), (0, 0)))) == WHITE
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert corner(encoded(palette, "GIF", transparency=0)) == WHITE
    assert corner(encoded(palette, transparency=bytes([128, 255]))) == (127, 127, 127)


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    wanted = np.rint(ramp / 257).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        found = np.asarray(decode(encoded(Image.fromarray(ramp), format)))
        assert (found == wanted[:, :, None]).all(), format
    floating = np.asarray(decode(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF")))
    assert np.abs(floating[:, :, 0].astype(int) - wanted).max() <= 1


def test_an_image_is_turned_as_its_exif_says():
    image = Image.new("RGB", (16, 8), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise brings it upright
    found = decode(encoded(image, "JPEG", quality=100, subsampling=0, exif=exif))
    assert found.size == (8, 16)
    assert found.getpixel((4, 2))[1] < 64 < 192 < found.getpixel((4, 13))[1]


def test_the_first_frame_stands_for_a_film():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    assert corner(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED


WHOLE = encoded(photo(), "JPEG")
FAULTS = {
    "empty": (b"", "empty"),
    "text": (b"no image at all, only words\n" * 9, "not an image"),
    "a sound": (b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
    "half a JPEG": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "half a PNG": (encoded(photo())[:900], "truncated"),
    "half a BMP": (encoded(photo(), "BMP")[:900], "truncated"),
    "half a header": (WHOLE[:12], "truncated"),
    "a changed PNG": (encoded(photo())[:60] + b"\0" * 40 + encoded(photo())[100:], "damaged"),
    "ten gigapixels": (bomb(100_000, 100_000), "too large"),
    "half of what Pillow refuses itself": (bomb(11_000, 10_000), "too large"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_decoded_says_why_in_a_sentence(name, tmp_path):
    content, kind = FAULTS[name]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        decode(tmp_path / "x.jpg")
    assert caught.value.kind == kind, caught.value
    assert str(caught.value) == f"{tmp_path / 'x.jpg'} {caught.value.detail}"
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="^the image "):
        decode(content)


def test_a_file_that_is_not_there_is_unreadable(tmp_path):
    with pytest.raises(ImageError, match=r"gone.png cannot be read: No such file") as caught:
        decode(tmp_path / "gone.png")
    assert caught.value.kind == "unreadable"


def test_a_bomb_is_named_by_its_pixels_and_the_limit():
    with pytest.raises(ImageError, match=r"has 10,000,000,000 pixels, more than the 100,000,000 that are decoded"):
        decode(bomb(100_000, 100_000))
    with pytest.raises(ImageError, match="has 1,200 pixels, more than the 1,000"):
        decode(encoded(photo()), most_pixels=1000)


def test_threads_decode_side_by_side_and_leave_the_warnings_as_they_were():
    before, palette = warnings.filters[:], Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    content, seen = encoded(palette, transparency=bytes([0, 9])), []  # Pillow warns of these
    threads = [threading.Thread(target=lambda: seen.extend(corner(content) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [WHITE] * 80
    assert warnings.filters == before
    with quiet_pillow(), quiet_pillow():
        pass
    assert warnings.filters == before


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (33, 33), (100, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_is_resized_and_cut_as_torchvision_does_to_the_bit(size, interpolation):
    from torchvision.transforms import functional as F

    image, mode = photo(*size), F.InterpolationMode(interpolation)
    wanted = F.pil_to_tensor(F.center_crop(F.resize(image, 19, mode), [16, 16]))
    assert torch.equal(prepared(image, View((3, 16, 16), 19, interpolation)), wanted)
    straight = F.pil_to_tensor(F.resize(image, [16, 16], mode))
    assert torch.equal(prepared(image, View((3, 16, 16), 0, interpolation)), straight)


@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1)])
def test_a_thread_of_an_image_is_not_blown_up_beyond_all_memory(size):
    """Resized whole it would have 2.9 billion times 148 pixels."""
    assert prepared(Image.new("RGB", size, RED), View((3, 128, 128), 148))[0].eq(255).all()


def test_a_name_with_a_line_break_is_told_in_one_line(tmp_path):
    with pytest.raises(ImageError, match=r"two\\nlines.png cannot be read"):
        decode(tmp_path / "two\nlines.png")


def test_a_net_of_one_channel_gets_grey():
    pixels = prepared(photo(), View((1, 16, 16), 19))
    assert pixels.shape == (1, 16, 16)
    assert pixels.is_contiguous()
    assert torch.equal(pixels, prepared(photo().convert("L"), View((1, 16, 16), 19)))


def test_a_model_says_how_its_images_are_prepared():
    net, names = network("cifar-resnet8", input=(3, 16, 16)), tuple("abcdefghij")
    config = ModelConfig(network=net, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3, resize=19, interpolation="bicubic")
    assert torch.equal(prepared(photo(), config), prepared(photo(), View((3, 16, 16), 19, "bicubic")))
    flat = ModelConfig(network=network("fc-resnet10", input=(1, 8, 8)), classes=names, mean=(0.5,), std=(0.2,))
    assert flat.input == (1, 8, 8)
    assert prepared(photo(), flat).shape == (1, 8, 8)
    with pytest.raises(UsageError, match="resize=8 is too small to cut 16 x 16 pixels out: give at least 16"):
        ModelConfig(network=net, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3, resize=8)
    with pytest.raises(UsageError, match="temperature=0.0 is impossible"):
        ModelConfig(network=net, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3, temperature=0.0)


def test_an_older_config_is_read_and_a_plain_one_written_as_before():
    net = network("cifar-resnet8", input=(3, 16, 16))
    config = ModelConfig(network=net, classes=tuple("abcdefghij"), mean=(0.5,) * 3, std=(0.2,) * 3)
    written = to_json(config)
    assert not {"resize", "interpolation", "temperature"} & set(written)
    assert from_json(ModelConfig, written) == config

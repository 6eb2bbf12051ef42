"""Decoding and preprocessing of image files of every format, and of damaged ones."""

import struct
import threading
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.papers import network
from residua.config.serialize import from_json, to_json
from residua.data.decode import decode_image, preprocess_image, suspend_pillow_limits
from residua.errors import DataError, ImageError, UsageError
from tests import third_party  # noqa: F401 -- makes torchvision importable

RED, WHITE = (255, 0, 0), (255, 255, 255)


def make_photo(width=40, height=30, seed=0):
    """Smooth noise, which JPEG compression preserves."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode_image(image, format="PNG", **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def decode_corner_pixel(content):
    image = decode_image(content)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def make_png_bomb(width, height):
    """A PNG whose header announces the given size, with almost no data."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "format",
    ["JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"],
)
def test_every_format_decodes_to_the_same_photo(format):
    image = make_photo()
    found = decode_image(encode_image(image, format))
    assert found.size == image.size
    assert (
        np.abs(np.asarray(found, float) - np.asarray(image, float)).mean() < 15
    )  # GIF has 256 colours


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_is_converted_to_rgb_on_white(mode):
    format = "TIFF" if mode == "CMYK" else "PNG"
    assert (
        decode_corner_pixel(encode_image(Image.new("RGB", (8, 8), WHITE).convert(mode), format))
        == WHITE
    )


def test_transparent_pixels_are_blended_with_white():
    assert decode_corner_pixel(encode_image(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))) == WHITE
    assert decode_corner_pixel(encode_image(Image.new("LA", (8, 8), (0, 0)))) == WHITE
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert decode_corner_pixel(encode_image(palette, "GIF", transparency=0)) == WHITE
    assert decode_corner_pixel(encode_image(palette, transparency=bytes([128, 255]))) == (
        127,
        127,
        127,
    )


def test_16_bit_grayscale_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    wanted = np.rint(ramp / 257).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        found = np.asarray(decode_image(encode_image(Image.fromarray(ramp), format)))
        assert (found == wanted[:, :, None]).all(), format
    floating = np.asarray(
        decode_image(encode_image(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"))
    )
    assert np.abs(floating[:, :, 0].astype(int) - wanted).max() <= 1


def test_the_exif_orientation_is_applied():
    image = Image.new("RGB", (16, 8), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise brings it upright
    found = decode_image(encode_image(image, "JPEG", quality=100, subsampling=0, exif=exif))
    assert found.size == (8, 16)
    assert found.getpixel((4, 2))[1] < 64 < 192 < found.getpixel((4, 13))[1]


def test_only_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, WHITE)]
    assert (
        decode_corner_pixel(encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        == RED
    )


INTACT_JPEG = encode_image(make_photo(), "JPEG")
UNDECODABLE_FILES = {
    "empty": (b"", "empty"),
    "text": (b"no image at all, only words\n" * 9, "not an image"),
    "a sound": (b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
    "half a JPEG": (INTACT_JPEG[: len(INTACT_JPEG) // 2], "truncated"),
    "half a PNG": (encode_image(make_photo())[:900], "truncated"),
    "half a BMP": (encode_image(make_photo(), "BMP")[:900], "truncated"),
    "half a header": (INTACT_JPEG[:12], "truncated"),
    "a changed PNG": (
        encode_image(make_photo())[:60] + b"\0" * 40 + encode_image(make_photo())[100:],
        "damaged",
    ),
    "ten gigapixels": (make_png_bomb(100_000, 100_000), "too large"),
    "half of what Pillow refuses itself": (make_png_bomb(16_000, 10_000), "too large"),
}


@pytest.mark.parametrize("name", UNDECODABLE_FILES)
def test_an_undecodable_file_gives_a_one_line_reason(name, tmp_path):
    content, kind = UNDECODABLE_FILES[name]
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        decode_image(tmp_path / "x.jpg")
    assert caught.value.kind == kind, caught.value
    assert str(caught.value) == f"{tmp_path / 'x.jpg'} {caught.value.detail}"
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="^the image "):
        decode_image(content)


def test_a_missing_file_is_reported_as_unreadable(tmp_path):
    with pytest.raises(ImageError, match=r"gone.png cannot be read: No such file") as caught:
        decode_image(tmp_path / "gone.png")
    assert caught.value.kind == "unreadable"


def test_a_decompression_bomb_is_reported_with_its_pixels_and_the_limit():
    with pytest.raises(
        ImageError,
        match=r"has 10,000,000,000 pixels, more than the limit of 128,000,000 \(--max-pixels\)",
    ):
        decode_image(make_png_bomb(100_000, 100_000))
    with pytest.raises(ImageError, match="has 1,200 pixels, more than the limit of 1,000"):
        decode_image(encode_image(make_photo()), max_pixels=1000)


def test_threads_decode_in_parallel_and_leave_the_warning_filters_unchanged():
    before, palette = warnings.filters[:], Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    content, seen = encode_image(palette, transparency=bytes([0, 9])), []  # Pillow warns of these
    threads = [
        threading.Thread(
            target=lambda: seen.extend(decode_corner_pixel(content) for _ in range(20))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [WHITE] * 80
    assert warnings.filters == before
    with suspend_pillow_limits(), suspend_pillow_limits():
        pass
    assert warnings.filters == before


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (33, 33), (100, 20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_and_center_cropping_match_torchvision_bit_for_bit(size, interpolation):
    from torchvision.transforms import functional as F

    image, mode = make_photo(*size), F.InterpolationMode(interpolation)
    wanted = F.pil_to_tensor(F.center_crop(F.resize(image, 19, mode), [16, 16]))
    assert torch.equal(
        preprocess_image(image, ImagePreprocessing((3, 16, 16), 19, interpolation)), wanted
    )
    straight = F.pil_to_tensor(F.resize(image, [16, 16], mode))
    assert torch.equal(
        preprocess_image(image, ImagePreprocessing((3, 16, 16), 0, interpolation)), straight
    )


@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1)])
def test_a_very_thin_image_does_not_exhaust_memory_when_resized(size):
    """Resized without cropping it would have 2.9 billion times 148 pixels."""
    assert (
        preprocess_image(Image.new("RGB", size, RED), ImagePreprocessing((3, 128, 128), 148))[0]
        .eq(255)
        .all()
    )


def test_a_file_name_with_a_line_break_is_reported_on_one_line(tmp_path):
    with pytest.raises(ImageError, match=r"two\\nlines.png cannot be read"):
        decode_image(tmp_path / "two\nlines.png")


def test_a_one_channel_network_gets_grayscale_images():
    pixels = preprocess_image(make_photo(), ImagePreprocessing((1, 16, 16), 19))
    assert pixels.shape == (1, 16, 16)
    assert pixels.is_contiguous()
    assert torch.equal(
        pixels, preprocess_image(make_photo().convert("L"), ImagePreprocessing((1, 16, 16), 19))
    )


def test_the_model_config_determines_the_preprocessing():
    net, names = network("cifar-resnet8", input=(3, 16, 16)), tuple("abcdefghij")
    config = ModelConfig(
        network=net,
        classes=names,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        resize=19,
        interpolation="bicubic",
    )
    assert torch.equal(
        preprocess_image(make_photo(), config),
        preprocess_image(make_photo(), ImagePreprocessing((3, 16, 16), 19, "bicubic")),
    )
    flat = ModelConfig(
        network=network("fc-resnet10", input=(1, 8, 8)), classes=names, mean=(0.5,), std=(0.2,)
    )
    assert flat.input == (1, 8, 8)
    assert preprocess_image(make_photo(), flat).shape == (1, 8, 8)
    with pytest.raises(
        UsageError,
        match="resize=8 is too small for a center crop of 16 x 16 pixels: give at least 16",
    ):
        ModelConfig(network=net, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3, resize=8)
    with pytest.raises(UsageError, match="temperature=0.0 is invalid"):
        ModelConfig(network=net, classes=names, mean=(0.5,) * 3, std=(0.2,) * 3, temperature=0.0)


def test_an_older_config_is_read_and_default_fields_are_not_written():
    net = network("cifar-resnet8", input=(3, 16, 16))
    config = ModelConfig(network=net, classes=tuple("abcdefghij"), mean=(0.5,) * 3, std=(0.2,) * 3)
    written = to_json(config)
    assert not {"resize", "interpolation", "temperature"} & set(written)
    assert from_json(ModelConfig, written) == config

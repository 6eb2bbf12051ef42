"""Formats are known by their first bytes, and one that cannot be read says how it can."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, features

from residua.data.decode import decode_image
from residua.data.image_formats import (
    SUFFIXES_BY_FORMAT,
    explain_unreadable_format,
    identify_file_format,
    identify_format,
)
from residua.errors import ImageError
from tests.data.tiff_maker import make_tiff

PHOTO = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
).resize((40, 32), Image.Resampling.BICUBIC)


def encode(format, image=PHOTO, **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def make_ftyp(major, *brands):
    """The first box of an AVIF, HEIC or MP4 file."""
    body = b"ftyp" + major + bytes(4) + b"".join(brands)
    return struct.pack(">I", len(body) + 4) + body + b"\0\0\0\x08free"


@pytest.mark.parametrize("format", sorted(set(SUFFIXES_BY_FORMAT) - {"MPO", "HEIF"}))
def test_a_format_is_known_by_the_bytes_that_pillow_writes(format, tmp_path):
    content = encode(format)
    assert identify_format(content) == format
    (tmp_path / "x").write_bytes(content)
    assert identify_file_format(tmp_path / "x") == format
    assert identify_file_format(tmp_path / "gone") == ""
    assert identify_file_format(tmp_path) == ""


@pytest.mark.parametrize(
    ("start", "format"),
    [
        (make_ftyp(b"heic", b"mif1"), "HEIF"),
        (make_ftyp(b"mif1", b"miaf", b"heic"), "HEIF"),
        (make_ftyp(b"mif1", b"miaf", b"avif"), "AVIF"),
        (make_ftyp(b"avis", b"msf1"), "AVIF"),
        (make_ftyp(b"isom", b"mp41"), ""),
        (b"\xff\x4f\xff\x51" + bytes(9), "JPEG2000"),
        (b"P2 # a comment\n# another\n3 2\n", "PPM"),
        (b"P5\n3 2\n255\n", "PPM"),
        (b"P5 is a fire engine", ""),
        (b"P1" + b" " * 300, ""),
        (b"BM is no bitmap, but the beginning of a text", ""),
        (b"II*", ""),
        (b"RIFF\0\0\0\0WAVE", ""),
        (b"%PDF-1.7", ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_tell_formats_apart(start, format):
    assert identify_format(start) == format


def test_a_format_that_cannot_be_read_says_what_to_install(monkeypatch):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(ImageError) as caught:
        decode_image(make_ftyp(b"heic", b"mif1"))
    assert caught.value.kind == "unsupported"
    assert caught.value.detail == (
        "is a HEIC image, which needs pillow-heif: pip install pillow-heif"
    )
    for name, feature in (("AVIF", "avif"), ("JPEG2000", "jpg_2000"), ("WEBP", "webp")):
        monkeypatch.setattr(features, "check", lambda asked, missing=feature: asked != missing)
        with pytest.raises(ImageError, match=f"is a {name} image, which the installed Pillow"):
            decode_image(encode(name))
    monkeypatch.setattr("residua.data.image_formats.PILLOW_FEATURES", set())  # an older Pillow
    assert "pip install -U pillow" in explain_unreadable_format("AVIF")


def test_a_heic_image_is_decoded_upright():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    found = np.asarray(decode_image(encode("HEIF", quality=95)), float)
    assert np.abs(found - np.asarray(PHOTO, float)).mean() < 8


@pytest.mark.parametrize(
    "content",
    [
        make_tiff(bytes(64), 8, 8, 8, t254=1),
        make_tiff(bytes(64), 8, 8, 8, t50706=0x00000401),
        make_tiff(bytes(64), 8, 8, 8)[:8] + b"CR" + make_tiff(bytes(64), 8, 8, 8)[8:],
    ],
    ids=["a preview", "DNG", "CR2"],
)
def test_the_preview_of_a_raw_file_is_not_taken_for_the_image(content):
    if content[8:10] == b"CR":  # the directory is moved behind the mark
        content = content[:4] + struct.pack("<L", 10) + content[8:]
    with pytest.raises(ImageError, match="is a camera raw file") as caught:
        decode_image(content)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation_is_the_image(format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    content = encode(format, frames[0], save_all=True, append_images=frames[1:])
    red, green, blue = decode_image(content).getpixel((8, 8))
    assert red > 200 > 60 > max(green, blue)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM"])
def test_an_image_cut_off_anywhere_is_whole_or_refused(format):
    """A decoder may do without the last bytes of a file, but never without pixels."""
    content = encode(format)
    whole = np.asarray(decode_image(content))
    refused = 0
    for cut in [*range(1, 40), 99, len(content) // 3, len(content) // 2]:
        try:
            assert (np.asarray(decode_image(content[:-cut])) == whole).all(), cut
        except ImageError:
            refused += 1
    assert refused > 2


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_impossible_exif_orientation_changes_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = encode("JPEG")
    assert decode_image(encode("JPEG", exif=exif)).tobytes() == decode_image(plain).tobytes()


def test_an_inverted_cmyk_photograph_has_its_colours():
    """JPEG stores CMYK inverted where Adobe's marker says so, which Pillow writes."""
    colours = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    assert decode_image(encode("JPEG", colours, quality=100)).getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (3, 2)])
def test_images_of_extreme_sizes_are_decoded(size):
    for format in ("JPEG", "PNG", "BMP", "TIFF", "PPM"):
        assert decode_image(encode(format, Image.new("RGB", size, (1, 2, 3)))).size == size


def test_an_image_without_pixels_is_damaged():
    content = bytearray(encode("GIF", Image.new("P", (4, 4))))
    content[6:10] = bytes(4)  # the width and the height of the screen
    content[content.index(b",") + 5 : content.index(b",") + 9] = bytes(4)
    with pytest.raises(ImageError) as caught:
        decode_image(bytes(content))
    assert caught.value.kind == "damaged"


def test_a_larger_image_than_pillow_allows_is_decoded_if_the_limit_allows_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encode("PNG", Image.new("L", (50, 50)))
    assert decode_image(content).size == (50, 50)
    with pytest.raises(ImageError, match=r"has 2,500 pixels, more than the limit of 2,499 \(--max"):
        decode_image(content, max_pixels=2499)
    assert Image.MAX_IMAGE_PIXELS == 100

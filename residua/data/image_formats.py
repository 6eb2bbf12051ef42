"""The image formats that are read: their file name suffixes and the bytes that they begin with."""

import re
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from PIL import Image, features

from residua.extras import EXTRA_PACKAGES, list_missing_packages

# By Pillow's names of the formats; MPO is what some cameras call JPEG.
SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
IMAGE_SUFFIXES = frozenset(
    suffix for suffixes in SUFFIXES_BY_FORMAT.values() for suffix in suffixes
)
FORMAT_NAMES = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG 2000 or PPM"  # in messages
# The sizes of the headers that a BMP file may have after its first 14 bytes.
BMP_HEADER_SIZES = rb"[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"
# AVIF and HEIC are told apart by the brands in the first box of the file.
SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "GIF": rb"GIF8",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]|II\0[*+]|MM[*+]\0",
    "AVIF": rb"....ftyp(avi[fs]|(mif1|msf1|miaf)....(....)*?avi[fs])",
    "HEIF": rb"....ftyp(he[iv][cxmsf]|mif1|msf1|miaf)",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "BMP": rb"BM.{12}" + BMP_HEADER_SIZES,
    "PPM": rb"P[1-6](\s|#[^\n]*\n)+\d+[\s#]",
}
SIGNATURE_PATTERNS = {name: re.compile(start, re.DOTALL) for name, start in SIGNATURES.items()}
MAX_SIGNATURE_BYTES = 256
# Pillow is built with these formats or without them; by the names of its feature checks.
OPTIONAL_FEATURES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
PILLOW_FEATURES = {*features.modules, *features.codecs}
TIFF_SUBFILE_TYPE, TIFF_DNG_VERSION, REDUCED_RESOLUTION = 254, 50706, 1
HEIC_FEATURE = "a HEIC image"  # as in `EXTRA_PACKAGES`
HEIC_PACKAGE = EXTRA_PACKAGES[HEIC_FEATURE][0]


def identify_format(start: bytes) -> str:
    """Return Pillow's name for the format of an image file that begins with `start`; or ""."""
    start = start[:MAX_SIGNATURE_BYTES]
    for name, pattern in SIGNATURE_PATTERNS.items():
        if pattern.match(start):
            return name
    return ""


def identify_file_format(path: Path) -> str:
    """Return Pillow's name for the format of an image file; "" if it is no image or unreadable."""
    try:
        with open(path, "rb") as file:
            return identify_format(file.read(MAX_SIGNATURE_BYTES))
    except (OSError, ValueError):
        return ""


def explain_unreadable_format(name: str) -> str:
    """Say in a phrase to follow a file's name why a format cannot be read here; "" if it can.

    The first call for HEIF registers its decoder with Pillow.
    """
    if name == "HEIF":
        if missing := list_missing_packages(HEIC_FEATURE):
            return f"is a HEIC image, which needs {missing[0]}: pip install {missing[0]}"
        register_heif_decoder()
        return ""
    feature = OPTIONAL_FEATURES.get(name)
    # an older Pillow does not know a newer format, and warns if it is asked
    if feature is None or (feature in PILLOW_FEATURES and features.check(feature)):
        return ""
    return f"is a {name} image, which the installed Pillow does not read: pip install -U pillow"


def list_readable_optional_formats() -> list[str]:
    """List the optional formats that can be read here, with the version of the HEIC decoder."""
    formats = [name for name in OPTIONAL_FEATURES if not explain_unreadable_format(name)]
    if not list_missing_packages(HEIC_FEATURE):
        formats.append(f"HEIF {version(HEIC_PACKAGE)}")
    return formats


@cache
def register_heif_decoder() -> None:
    import_module(HEIC_PACKAGE).register_heif_opener()


def is_raw_preview(image: Image.Image, content: bytes) -> bool:
    """Return whether an opened image is the preview in a camera's raw file, a kind of TIFF file.

    Its full image follows the preview, in a format that Pillow does not read.
    """
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return False
    is_reduced = bool(tags.get(TIFF_SUBFILE_TYPE, 0) & REDUCED_RESOLUTION)
    return is_reduced or TIFF_DNG_VERSION in tags or content[8:10] == b"CR"

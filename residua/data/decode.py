"""Image files -> pixels, in one way for training, evaluation, prediction and calibration.

Files are decoded to upright RGB, then resized and center-cropped to a network's input.  Nothing
is guessed: a file that cannot be decoded completely raises an ImageError with the reason.
"""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from residua.config.model import Interpolation
from residua.data.sources.listing import SUFFIXES_BY_FORMAT, ImageEntry, escape_unprintable
from residua.errors import ImageError

IMAGE_FORMATS = tuple(name for name in SUFFIXES_BY_FORMAT if name != "MPO")  # opened as JPEG
MAX_IMAGE_PIXELS = 100_000_000  # of one image; our choice: 300 MB once decoded
MAX_ASPECT_RATIO = 50  # of an image that is resized without cutting its ends off; our choice
IMAGE_SIGNATURES = rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|GIF8"
PILLOW_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE_RGBA = (255, 255, 255, 255)


class HasPreprocessing(Protocol):
    """The attributes that say how an image becomes a network's input.

    An implementer provides the input shape, the side to resize to, and the interpolation, all as
    in `ImagePreprocessing`; `ImagePreprocessing` and `ModelConfig` do.
    """

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the network's input."""

    @property
    def resize(self) -> int:
        """The shorter side in pixels before the center crop; 0 resizes straight to the input."""

    @property
    def interpolation(self) -> Interpolation:
        """The interpolation of pixels when resizing."""


def decode_image(source: Path | bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The first frame of an image file, or of a file's bytes, upright and in RGB.

    Transparent pixels are blended with white, and 16-bit grey is scaled to 8 bits.  Raises
    ImageError; an image of more than `max_pixels` (a decompression bomb) is refused before it is
    decoded.
    """
    display_name = escape_unprintable(str(source)) if isinstance(source, Path) else "the image"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ImageError(
            display_name, "unreadable", f"cannot be read: {error.strerror or error}"
        ) from error
    if not content:
        raise ImageError(display_name, "empty", "is empty: it contains no bytes")
    with silence_pillow_warnings(), open_image_header(content, display_name, max_pixels) as image:
        try:
            image.load()
            return convert_to_rgb(apply_exif_orientation(image))
        except MemoryError as error:
            raise ImageError(
                display_name, "too large", "is too large for the free memory"
            ) from error
        except Exception as error:  # a damaged file may raise anything
            raise make_damaged_image_error(error, display_name) from error


def read_entry_bytes(entry: ImageEntry) -> bytes:
    """An entry's encoded image.  Raises ImageError if it cannot be read."""
    try:
        return entry.read_bytes()
    except OSError as error:
        raise ImageError(
            entry.name, "unreadable", f"cannot be read: {error.strerror or error}"
        ) from error


def open_image_header(content: bytes, display_name: str, max_pixels: int) -> Image.Image:
    """Open an image of one of `IMAGE_FORMATS` and check its size, without decoding its pixels."""
    try:
        image = Image.open(BytesIO(content), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        match = re.search(r"\((\d+) pixels\)", str(error))
        pixels = int(match[1]) if match else 0
        raise make_too_large_error(display_name, pixels, max_pixels) from error
    except UnidentifiedImageError as error:
        if re.match(IMAGE_SIGNATURES, content, re.DOTALL):
            raise ImageError(
                display_name, "damaged", "is damaged: its header cannot be read"
            ) from error
        raise ImageError(
            display_name, "not an image", "is not a JPEG, PNG, WebP, BMP, TIFF or GIF image"
        ) from error
    except Exception as error:  # a damaged file may raise anything
        raise make_damaged_image_error(error, display_name) from error
    if (pixels := image.width * image.height) > max_pixels:
        image.close()
        raise make_too_large_error(display_name, pixels, max_pixels)
    return image


def make_too_large_error(display_name: str, pixels: int, max_pixels: int) -> ImageError:
    return ImageError(
        display_name, "too large", f"has {pixels:,} pixels, more than the limit of {max_pixels:,}"
    )


def make_damaged_image_error(error: Exception, display_name: str) -> ImageError:
    """Turn Pillow's exception into an ImageError: "truncated" if data end early, else "damaged"."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or re.search(
        r"truncated|buffer is not large enough|not enough image data", reason, re.IGNORECASE
    ):
        return ImageError(display_name, "truncated", "is truncated: its data end too early")
    return ImageError(display_name, "damaged", f"is damaged: {reason}")


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image as its EXIF orientation says, if its EXIF data can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not affect the pixels
        return image


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: blend alpha with white, scale deep grey levels to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(scale_grey_to_uint8(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE_RGBA), rgba).convert("RGB")
    return image.convert("RGB")


def scale_grey_to_uint8(grey: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey levels (h, w) of 16 bits, 32 bits or floating point -> uint8.

    16-bit levels are divided by 257, so that white stays white.  Our choice for the others: they
    are scaled from the smallest range that contains all levels, among [0, 1] (floating point only),
    [0, 255] (floating point only) and [0, 65535].  If none of them does, the image's own range is
    used.
    """
    x = np.nan_to_num(grey.astype(np.float64))
    low, high = min(float(x.min()), 0.0), float(x.max())
    if mode.startswith("I"):
        white_level = 65535.0 if high <= 65535 else high
    else:
        white_level = next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
    return np.rint((x - low) * (255 / (white_level - low))).astype(np.uint8)


def preprocess_image(image: Image.Image, preprocessing: HasPreprocessing) -> Tensor:
    """Resize a decoded image and take the center crop: uint8 (c, h, w), grey if c is 1.

    Resizing is antialiased.  The pixels are bit-identical to torchvision's Resize(resize) and
    CenterCrop((h, w)) of a Pillow image, except for images of an aspect ratio over
    `MAX_ASPECT_RATIO`: their ends are cut off first, since the resized image could exceed all
    memory.
    """
    channels, height, width = preprocessing.input
    image = image.convert("L" if channels == 1 else "RGB")
    if preprocessing.resize:
        image = crop_extreme_aspect_ratio(image)
        resized_size = scale_shorter_side(image.size, preprocessing.resize)
        image = resize_image(image, resized_size, preprocessing.interpolation)
        left, top = center_offset(image.width, width), center_offset(image.height, height)
        image = image.crop((left, top, left + width, top + height))
    else:
        image = resize_image(image, (width, height), preprocessing.interpolation)
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(height, width, channels).permute(2, 0, 1).contiguous()


def center_offset(side: int, crop_side: int) -> int:
    """The index, along one axis, at which a center crop begins.

    The image has `side` pixels along the axis, and the crop `crop_side`.  Rounding is as in
    torchvision.
    """
    return round((side - crop_side) / 2)


def crop_extreme_aspect_ratio(image: Image.Image) -> Image.Image:
    """Cut the ends off an image whose aspect ratio exceeds `MAX_ASPECT_RATIO`."""
    max_side = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= max_side:
        return image
    left, top = [max(side - max_side, 0) // 2 for side in image.size]
    right, bottom = left + min(image.width, max_side), top + min(image.height, max_side)
    return image.crop((left, top, right, bottom))


def scale_shorter_side(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """The (width, height) of an image whose shorter side is scaled to `shorter_side` pixels."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def resize_image(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    return image if image.size == size else image.resize(size, PILLOW_RESAMPLING[interpolation])


silencing_threads, warning_filters, silencing_lock = 0, ExitStack(), threading.Lock()


@contextmanager
def silence_pillow_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings in all threads while any thread is inside this context.

    The first thread to enter sets the filter, and the last to leave restores it.  With
    `warnings.catch_warnings` in each thread, one thread would restore the filter while others still
    decode.
    """
    global silencing_threads
    with silencing_lock:
        if silencing_threads == 0:
            warning_filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\b")
        silencing_threads += 1
    try:
        yield
    finally:
        with silencing_lock:
            silencing_threads -= 1
            if silencing_threads == 0:
                warning_filters.close()

"""An image file -> pixels, by one way for training, evaluation, prediction and calibration alike.

Files are decoded to upright RGB, then resized and cut to a network's input.  Nothing is guessed: what cannot be decoded whole is
an ImageError that says why.
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
from residua.data.sources.listing import ImageEntry, escape_unprintable
from residua.errors import ImageError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_IMAGE_PIXELS = 100_000_000  # of one image; our choice: 300 MB once decoded
MAX_ASPECT_RATIO = 50  # times a side is as long as the other, at most; our choice
IMAGE_SIGNATURES = rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|GIF8"
PILLOW_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE_RGBA = (255, 255, 255, 255)


class HasPreprocessing(Protocol):
    """How an image is brought to a network's input; a `ModelConfig` says it, and so does a `View`."""

    @property
    def input(self) -> tuple[int, int, int]: ...
    @property
    def resize(self) -> int: ...
    @property
    def interpolation(self) -> Interpolation: ...


def decode_image(source: Path | bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The first frame of an image file, or of its bytes, upright and in RGB.

    Alpha stands over white, and 16-bit grey is scaled to 8.  A bomb is refused by its header, before it is decoded.  Raises
    ImageError.
    """
    display_name = escape_unprintable(str(source)) if isinstance(source, Path) else "the image"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ImageError(
            display_name, "unreadable", f"cannot be read: {error.strerror or error}"
        ) from error
    if not content:
        raise ImageError(display_name, "empty", "is empty: it holds no bytes")
    with silence_pillow_warnings(), open_image_header(content, display_name, max_pixels) as image:
        try:
            image.load()
            return convert_to_rgb(apply_exif_orientation(image))
        except MemoryError as error:
            raise ImageError(
                display_name, "too large", "is too large for the memory that is free"
            ) from error
        except Exception as error:  # a damaged file may raise anything
            raise make_damaged_image_error(error, display_name) from error


def read_entry_bytes(entry: ImageEntry) -> bytes:
    """An entry's bytes; ImageError where they cannot be read."""
    try:
        return entry.read_bytes()
    except OSError as error:
        raise ImageError(
            entry.name, "unreadable", f"cannot be read: {error.strerror or error}"
        ) from error


def open_image_header(content: bytes, display_name: str, max_pixels: int) -> Image.Image:
    """An image of one of FORMATS, its header read and its size accepted, not yet decoded."""
    try:
        image = Image.open(BytesIO(content), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        match = re.search(r"\((\d+) pixels\)", str(error))
        raise make_too_large_error(
            display_name, int(match[1]) if match else 0, max_pixels
        ) from error
    except UnidentifiedImageError as error:
        if re.match(IMAGE_SIGNATURES, content, re.DOTALL):
            raise ImageError(
                display_name, "damaged", "is damaged: its header cannot be read"
            ) from error
        raise ImageError(
            display_name, "not an image", "is no JPEG, PNG, WebP, BMP, TIFF or GIF image"
        ) from error
    except Exception as error:
        raise make_damaged_image_error(error, display_name) from error
    if (pixels := image.width * image.height) > max_pixels:
        image.close()
        raise make_too_large_error(display_name, pixels, max_pixels)
    return image


def make_too_large_error(display_name: str, pixels: int, max_pixels: int) -> ImageError:
    return ImageError(
        display_name,
        "too large",
        f"has {pixels:,} pixels, more than the {max_pixels:,} that are decoded",
    )


def make_damaged_image_error(error: Exception, display_name: str) -> ImageError:
    """What an error of Pillow's says of the file; where the data end too early it is truncated."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or re.search(
        r"truncated|buffer is not large enough|not enough image data", reason, re.IGNORECASE
    ):
        return ImageError(display_name, "truncated", "is truncated: its data end too early")
    return ImageError(display_name, "damaged", f"is damaged: {reason}")


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF harms no pixel
        return image


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: over white where it has alpha, scaled where a grey pixel has more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(scale_grey_to_uint8(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, WHITE_RGBA), over).convert("RGB")
    return image.convert("RGB")


def scale_grey_to_uint8(grey: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey levels (h, w) of 16 bits, of 32 or of floating point -> uint8.

    16 bits are divided by 257, so that white stays white.  Our choice for the others: [0, 1], [0, 255] or [0, 65535], the least
    of these that holds them, or else their own range.
    """
    x = np.nan_to_num(grey.astype(np.float64))
    low, high = min(float(x.min()), 0.0), float(x.max())
    if mode.startswith("I"):
        white_level = 65535.0 if high <= 65535 else high
    else:
        white_level = next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
    return np.rint((x - low) * (255 / (white_level - low))).astype(np.uint8)


def preprocess_image(image: Image.Image, preprocessing: HasPreprocessing) -> Tensor:
    """A decoded image -> uint8 (c, h, w): resized without aliasing, the middle cut out, grey for a net of one channel.

    The same pixels as torchvision's Resize(resize) and CenterCrop((h, w)) give of a Pillow image; but of one that is over LONGEST
    times as long as wide the rest is cut off before, for it would grow beyond all memory.
    """
    channels, height, width = preprocessing.input
    image = image.convert("L" if channels == 1 else "RGB")
    if preprocessing.resize:
        image = crop_extreme_aspect_ratio(image)
        resized_width, resized_height = scale_shorter_side(image.size, preprocessing.resize)
        image = resize_image(image, (resized_width, resized_height), preprocessing.interpolation)
        left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    else:
        image = resize_image(image, (width, height), preprocessing.interpolation)
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(height, width, channels).permute(2, 0, 1).contiguous()


def crop_extreme_aspect_ratio(image: Image.Image) -> Image.Image:
    """The middle of an image that is too long; the image itself otherwise."""
    max_side = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= max_side:
        return image
    left, top = [max(side - max_side, 0) // 2 for side in image.size]
    return image.crop(
        (left, top, left + min(image.width, max_side), top + min(image.height, max_side))
    )


def scale_shorter_side(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """(width, height) of the same proportions with the shorter side so long."""
    width, height = size
    return (
        (shorter_side, int(shorter_side * height / width))
        if width <= height
        else (int(shorter_side * width / height), shorter_side)
    )


def resize_image(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> Image.Image:
    return image if image.size == size else image.resize(size, PILLOW_RESAMPLING[interpolation])


silencing_threads, warning_filters, silencing_lock = 0, ExitStack(), threading.Lock()


@contextmanager
def silence_pillow_warnings() -> Iterator[None]:
    """No warnings of Pillow's, in any thread, while one is in here: the first to come mutes them, the last restores.

    `warnings.catch_warnings` in each thread would restore while others still decode.
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

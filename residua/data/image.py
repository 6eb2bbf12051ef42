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

from residua.data.listing import Entry, shown
from residua.errors import ImageError
from residua.spec.model import Interpolation

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MOST_PIXELS = 100_000_000  # of one image; our choice: 300 MB once decoded
LONGEST = 50  # times a side is as long as the other, at most; our choice
SIGNATURES = rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|GIF8"
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE = (255, 255, 255, 255)


class Preprocessing(Protocol):
    """How an image is brought to a network's input; a `ModelConfig` says it, and so does a `View`."""

    @property
    def input(self) -> tuple[int, int, int]: ...
    @property
    def resize(self) -> int: ...
    @property
    def interpolation(self) -> Interpolation: ...


def decode(source: Path | bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The first frame of an image file, or of its bytes, upright and in RGB.

    Alpha stands over white, and 16-bit grey is scaled to 8.  A bomb is refused by its header, before it is decoded.  Raises
    ImageError.
    """
    where = shown(str(source)) if isinstance(source, Path) else "the image"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise ImageError(where, "unreadable", f"cannot be read: {error.strerror or error}") from error
    if not content:
        raise ImageError(where, "empty", "is empty: it holds no bytes")
    with quiet_pillow(), opened(content, where, most_pixels) as image:
        try:
            image.load()
            return in_rgb(upright(image))
        except MemoryError as error:
            raise ImageError(where, "too large", "is too large for the memory that is free") from error
        except Exception as error:  # a damaged file may raise anything
            raise damage(error, where) from error


def content_of(entry: Entry) -> bytes:
    """An entry's bytes; ImageError where they cannot be read."""
    try:
        return entry.content()
    except OSError as error:
        raise ImageError(entry.name, "unreadable", f"cannot be read: {error.strerror or error}") from error


def opened(content: bytes, where: str, most_pixels: int) -> Image.Image:
    """An image of one of FORMATS, its header read and its size accepted, not yet decoded."""
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise too_large(where, int(found[1]) if found else 0, most_pixels) from error
    except UnidentifiedImageError as error:
        if re.match(SIGNATURES, content, re.DOTALL):
            raise ImageError(where, "damaged", "is damaged: its header cannot be read") from error
        raise ImageError(where, "not an image", "is no JPEG, PNG, WebP, BMP, TIFF or GIF image") from error
    except Exception as error:
        raise damage(error, where) from error
    if (pixels := image.width * image.height) > most_pixels:
        image.close()
        raise too_large(where, pixels, most_pixels)
    return image


def too_large(where: str, pixels: int, most_pixels: int) -> ImageError:
    return ImageError(where, "too large", f"has {pixels:,} pixels, more than the {most_pixels:,} that are decoded")


def damage(error: Exception, where: str) -> ImageError:
    """What an error of Pillow's says of the file; where the data end too early it is truncated."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or re.search(
        r"truncated|buffer is not large enough|not enough image data", reason, re.IGNORECASE
    ):
        return ImageError(where, "truncated", "is truncated: its data end too early")
    return ImageError(where, "damaged", f"is damaged: {reason}")


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF harms no pixel
        return image


def in_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: over white where it has alpha, scaled where a grey pixel has more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, WHITE), over).convert("RGB")
    return image.convert("RGB")


def eight_bits(grey: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey levels (h, w) of 16 bits, of 32 or of floating point -> uint8.

    16 bits are divided by 257, so that white stays white.  Our choice for the others: [0, 1], [0, 255] or [0, 65535], the least
    of these that holds them, or else their own range.
    """
    x = np.nan_to_num(grey.astype(np.float64))
    low, high = min(float(x.min()), 0.0), float(x.max())
    if mode.startswith("I"):
        white = 65535.0 if high <= 65535 else high
    else:
        white = next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
    return np.rint((x - low) * (255 / (white - low))).astype(np.uint8)


def prepared(image: Image.Image, like: Preprocessing) -> Tensor:
    """A decoded image -> uint8 (c, h, w): resized without aliasing, the middle cut out, grey for a net of one channel.

    The same pixels as torchvision's Resize(resize) and CenterCrop((h, w)) give of a Pillow image; but of one that is over LONGEST
    times as long as wide the rest is cut off before, for it would grow beyond all memory.
    """
    channels, height, width = like.input
    image = image.convert("L" if channels == 1 else "RGB")
    if like.resize:
        image = shortened(image)
        across, down = size_of(image.size, like.resize)
        image = resized(image, (across, down), like.interpolation)
        left, top = round((across - width) / 2), round((down - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    else:
        image = resized(image, (width, height), like.interpolation)
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(height, width, channels).permute(2, 0, 1).contiguous()


def shortened(image: Image.Image) -> Image.Image:
    """The middle of an image that is too long; the image itself otherwise."""
    most = LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = [max(side - most, 0) // 2 for side in image.size]
    return image.crop((left, top, left + min(image.width, most), top + min(image.height, most)))


def size_of(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) of the same proportions with the shorter side so long."""
    width, height = size
    return (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)


def resized(image: Image.Image, size: tuple[int, int], interpolation: Interpolation) -> Image.Image:
    return image if image.size == size else image.resize(size, RESAMPLING[interpolation])


inside, muted, door = 0, ExitStack(), threading.Lock()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow's, in any thread, while one is in here: the first to come mutes them, the last restores.

    `warnings.catch_warnings` in each thread would restore while others still decode.
    """
    global inside
    with door:
        if inside == 0:
            muted.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\b")
        inside += 1
    try:
        yield
    finally:
        with door:
            inside -= 1
            if inside == 0:
                muted.close()

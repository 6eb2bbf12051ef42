"""Image files -> pixels, the same for training, evaluation, prediction and calibration.

Files are decoded to upright RGB, then resized and center-cropped to a network's input.  A file
that cannot be decoded completely raises an ImageError with the reason.
"""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from residua.config.model import MAX_IMAGE_PIXELS, Interpolation
from residua.data.checksums import compute_sha256
from residua.data.image_formats import (
    FORMAT_NAMES,
    MAX_SIGNATURE_BYTES,
    explain_unreadable_format,
    identify_format,
    is_raw_preview,
)
from residua.data.resize import (
    convert_to_channels,
    crop_center,
    find_whole_size,
    image_to_tensor,
    resize_photo,
    resize_shorter_side,
)
from residua.data.rgb_conversion import DecodedPhoto, convert_to_rgb
from residua.data.scaled_decoding import FindNeededSize, Size, reduce_before_decoding
from residua.data.sources.listing import ImageEntry, escape_unprintable
from residua.errors import ImageError


class HasPreprocessing(Protocol):
    """The attributes that say how an image becomes a network's input.

    `ImagePreprocessing` and `ModelConfig` have these attributes.
    """

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width of the network's input."""

    @property
    def resize(self) -> int:
        """The shorter side in pixels before the center crop; 0 if there is no crop."""

    @property
    def interpolation(self) -> Interpolation:
        """The interpolation that resizing uses."""

    @property
    def white_level(self) -> int:
        """The level of white in grey images of more than 8 bits; 0 if it is the usual one."""

    @property
    def scaled_decoding(self) -> bool:
        """Whether large JPEG files are decoded at a reduced size."""


class PreprocessedPhoto(NamedTuple):
    """A preprocessed image (c, h, w) uint8, its highest level as in `DecodedPhoto`, and its size.

    The size is the width and height of the upright photograph.
    """

    pixels: Tensor
    brightest_level: int
    size: tuple[int, int]


def decode_image(
    source: Path | bytes, max_pixels: int = MAX_IMAGE_PIXELS, white_level: int = 0
) -> Image.Image:
    """Decode the first frame of an image, given as a path or as a file's bytes, to upright RGB.

    Transparent pixels are blended with white, and grey of more than 8 bits is scaled to 8 bits, in
    which `white_level` becomes 255; see `scale_grey_to_uint8`.  Raises ImageError if the image
    cannot be read or decoded.  An image of more than `max_pixels` pixels (a decompression bomb)
    raises ImageError before it is decoded.
    """
    return decode_photo(source, max_pixels, white_level).image


def decode_and_preprocess(
    source: Path | bytes, preprocessing: HasPreprocessing, max_pixels: int = MAX_IMAGE_PIXELS
) -> PreprocessedPhoto:
    """Decode and preprocess an image, given as a path or as a file's bytes.

    Raises ImageError as `decode_image` does.
    """
    find_needed_size = partial(find_preprocessed_size, preprocessing=preprocessing)
    photo = decode_photo(
        source,
        max_pixels,
        preprocessing.white_level,
        find_needed_size if preprocessing.scaled_decoding else None,
    )
    pixels = preprocess_photo(photo, preprocessing)
    return PreprocessedPhoto(pixels, photo.brightest_level, photo.size)


def decode_photo(
    source: Path | bytes,
    max_pixels: int = MAX_IMAGE_PIXELS,
    white_level: int = 0,
    find_needed_size: FindNeededSize | None = None,
) -> DecodedPhoto:
    """Decode an image as `decode_image` does, and find its highest level.

    A JPEG file is decoded at a reduced size if that is at least the size, width and height, that
    `find_needed_size` returns for the upright photograph.
    """
    display_name = escape_unprintable(str(source)) if isinstance(source, Path) else "the image"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(display_name, "unreadable", f"cannot be read: {reason}") from error
    if not content:
        raise ImageError(display_name, "empty", "is empty: it contains no bytes")
    with suspend_pillow_limits(), open_image_header(content, display_name, max_pixels) as image:
        try:
            reduction = None
            if find_needed_size is not None:
                reduction = reduce_before_decoding(image, find_needed_size)
            return convert_to_rgb(image, display_name, white_level)._replace(reduction=reduction)
        except MemoryError as error:
            raise ImageError(
                display_name, "too large", "is too large for the free memory"
            ) from error
        except ImageError:
            raise
        except Exception as error:  # a damaged file may raise anything
            raise make_damaged_image_error(error, display_name) from error


def read_entry_bytes(entry: ImageEntry) -> bytes:
    """Read the encoded image of an entry.

    Raises ImageError if the image cannot be read, or is not the one that an index describes.
    """
    try:
        content = entry.read_bytes()
    except OSError as error:
        raise ImageError(
            entry.name, "unreadable", f"cannot be read: {error.strerror or error}"
        ) from error
    if entry.known_digest and compute_sha256(content) != entry.known_digest:
        detail = "has other bytes than its index states: copy its shard again, which is damaged"
        raise ImageError(entry.name, "not as indexed", detail)
    return content


def has_image_signature(entry: ImageEntry) -> bool:
    """Return whether an entry begins like a file of an image format; False if it is unreadable."""
    stated = getattr(entry.embedded_file, "is_image", None)
    if stated is not None:  # by the index of a packed data set
        return bool(stated)
    try:
        if entry.embedded_file:
            start = entry.embedded_file.read_bytes()[:MAX_SIGNATURE_BYTES]
        else:
            with open(entry.path, "rb") as file:
                start = file.read(MAX_SIGNATURE_BYTES)
    except OSError:
        return False
    return identify_format(start) != ""


def open_image_header(content: bytes, display_name: str, max_pixels: int) -> Image.Image:
    """Open an image of a known format and check its size, without decoding its pixels.

    Must be called inside `suspend_pillow_limits`, because Pillow has a limit of its own.
    """
    format_name = identify_format(content)
    if not format_name:
        raise ImageError(display_name, "not an image", f"is not a {FORMAT_NAMES} image")
    if reason := explain_unreadable_format(format_name):
        raise ImageError(display_name, "unsupported", reason)
    try:
        image = Image.open(BytesIO(content), formats=[format_name])
    except UnidentifiedImageError as error:
        raise ImageError(
            display_name, "damaged", "is damaged: its header cannot be read"
        ) from error
    except Exception as error:  # a damaged file may raise anything
        raise make_damaged_image_error(error, display_name) from error
    if (pixels := image.width * image.height) > max_pixels:
        image.close()
        raise ImageError(
            display_name,
            "too large",
            f"has {pixels:,} pixels, more than the limit of {max_pixels:,} (--max-pixels)",
        )
    if pixels == 0:
        raise ImageError(display_name, "damaged", "is damaged: it has no pixels")
    if is_raw_preview(image, content):
        raise ImageError(
            display_name,
            "unsupported",
            "is a camera raw file, and only its small preview can be read: "
            "convert it to JPEG, PNG or TIFF",
        )
    return image


def make_damaged_image_error(error: Exception, display_name: str) -> ImageError:
    """Turn Pillow's exception into an ImageError, of the kind "truncated" or "damaged"."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or re.search(
        r"truncated|buffer is not large enough|not enough image data", reason, re.IGNORECASE
    ):
        return ImageError(display_name, "truncated", "is truncated: its data end too early")
    return ImageError(display_name, "damaged", f"is damaged: {reason}")


def preprocess_image(image: Image.Image, preprocessing: HasPreprocessing) -> Tensor:
    """Resize a decoded image and take the center crop: uint8 (c, h, w), grey if c is 1.

    Resizing is antialiased.  The pixels are bit-identical to those of torchvision's Resize(resize)
    and CenterCrop((h, w)) on a Pillow image, with one exception: if the aspect ratio exceeds
    `MAX_ASPECT_RATIO`, the ends of the image are cut off first, because the resized image could
    be too large for the memory.
    """
    return preprocess_photo(DecodedPhoto(image, 0), preprocessing)


def preprocess_photo(photo: DecodedPhoto, preprocessing: HasPreprocessing) -> Tensor:
    """Resize and crop a photograph, which may be decoded at a reduced size: uint8 (c, h, w)."""
    channels, height, width = preprocessing.input
    interpolation = preprocessing.interpolation
    if preprocessing.resize:
        with suspend_pillow_limits():
            image = resize_shorter_side(photo, preprocessing.resize, channels, interpolation)
        image = crop_center(image, (width, height))
    else:
        photo = photo._replace(image=convert_to_channels(photo.image, channels))
        image = resize_photo(photo, (width, height), interpolation)
    return image_to_tensor(image)


def find_preprocessed_size(size: Size, preprocessing: HasPreprocessing) -> Size:
    """Find the size to which a photograph of `size` is resized; sizes are width and height."""
    if preprocessing.resize:
        return find_whole_size(size, preprocessing.resize)
    return preprocessing.input[2], preprocessing.input[1]


silencing_threads, pillow_state, silencing_lock = 0, ExitStack(), threading.Lock()


@contextmanager
def suspend_pillow_limits() -> Iterator[None]:
    """Ignore Pillow's warnings, and its limit of pixels, while any thread is inside this context.

    `open_image_header` checks a limit of its own.  The first thread to enter changes the state for
    all threads, and the last to leave restores it.  With `warnings.catch_warnings` in each thread,
    one thread would restore the filter while others still decode.
    """
    global silencing_threads
    with silencing_lock:
        if silencing_threads == 0:
            pillow_state.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\b")
            pillow_state.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
        silencing_threads += 1
    try:
        yield
    finally:
        with silencing_lock:
            silencing_threads -= 1
            if silencing_threads == 0:
                pillow_state.close()

"""Decodes uploaded images within a bounded amount of memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from residua.config.serialize import Json
from residua.data.decode import (
    HasPreprocessing,
    decode_and_preprocess,
    open_image_header,
    suspend_pillow_limits,
)
from residua.data.resize import (
    center_offset,
    cut_extreme_size,
    find_cut_offset,
    scale_shorter_side,
)
from residua.errors import ImageError

# Bytes per pixel at the peak of decoding and preprocessing: Pillow's image, a rotated copy, the
# conversion to RGB.  Measured with images of 24 megapixels (Pillow 13.0), rounded up;
# tests/deploy/test_decoding.py measures them again.
RGB_BYTES_PER_PIXEL = 13
GREY_BYTES_PER_PIXEL = 9  # modes 1, L and P
ALPHA_BYTES_PER_PIXEL = 25
GREY_16_BYTES_PER_PIXEL = 12
GREY_32_BYTES_PER_PIXEL = 21  # integers and floats
# the copies of the pixels that the libraries of these formats make
EXTRA_BYTES_PER_PIXEL = {"WEBP": 8, "AVIF": 12, "HEIF": 12, "JPEG2000": 16}


def estimate_decoding_bytes(image: Image.Image) -> int:
    """Estimate the most memory that decoding and preprocessing an opened image take, in bytes."""
    if image.mode in ("I", "F"):
        per_pixel = GREY_32_BYTES_PER_PIXEL
    elif image.mode.startswith("I;16"):
        per_pixel = GREY_16_BYTES_PER_PIXEL
    elif image.has_transparency_data:
        per_pixel = ALPHA_BYTES_PER_PIXEL
    else:
        per_pixel = GREY_BYTES_PER_PIXEL if image.mode in "1LP" else RGB_BYTES_PER_PIXEL
    per_pixel += EXTRA_BYTES_PER_PIXEL.get(image.format or "", 0)
    return image.width * image.height * per_pixel


class DecodingMemory:
    """The memory that all threads together may use to decode images; thread-safe.

    It suffices for one RGB image of `max_pixels`, or for several smaller ones at the same time.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_bytes = max_pixels * RGB_BYTES_PER_PIXEL
        self.used_bytes = 0
        self.released = threading.Condition()

    @contextmanager
    def reserve_bytes(self, count: int) -> Iterator[None]:
        """Wait until `count` bytes are free, and hold them inside the context.

        Raises ImageError if `count` exceeds `max_bytes`.
        """
        if count > self.max_bytes:
            raise ImageError(
                "the image",
                "too large",
                f"needs {count / 1e6:,.0f} MB of memory to be decoded, more than the limit of "
                f"{self.max_bytes / 1e6:,.0f} MB: send a smaller image, or one with 8 bits per "
                "channel",
            )
        with self.released:
            self.released.wait_for(lambda: self.used_bytes + count <= self.max_bytes)
            self.used_bytes += count
        try:
            yield
        finally:
            with self.released:
                self.used_bytes -= count
                self.released.notify_all()


@dataclass(frozen=True, slots=True)
class DecodedUpload:
    """An uploaded image, preprocessed for a network."""

    pixels: Tensor  # (c, h, w) uint8
    size: tuple[int, int]  # width and height of the upright photograph
    crop: tuple[float, float, float, float]  # left, top, right, bottom of `pixels` in it

    def describe_crop(self) -> dict[str, Json]:
        """Describe the photograph and the network's part of it as JSON, in pixels."""
        width, height = self.size
        return {"width": width, "height": height, "crop": list(self.crop)}


def decode_upload(
    content: bytes, preprocessing: HasPreprocessing, max_pixels: int, memory: DecodingMemory
) -> DecodedUpload:
    """Decode the bytes of an image file after its memory is reserved.

    Raises ImageError if they are not an intact image, or if the image is too large.
    """
    if not content:
        raise ImageError("the image", "empty", "is empty: it contains no bytes")
    with (
        suspend_pillow_limits(),
        open_image_header(content, "the image", max_pixels) as header,
    ):
        needed_bytes = estimate_decoding_bytes(header)
    with memory.reserve_bytes(needed_bytes):
        photo = decode_and_preprocess(content, preprocessing, max_pixels)
    return DecodedUpload(photo.pixels, photo.size, locate_crop(photo.size, preprocessing))


def locate_crop(
    size: tuple[int, int], preprocessing: HasPreprocessing
) -> tuple[float, float, float, float]:
    """Locate the part of an upright image that a network receives.

    `size` is the image's width and height.  Returns left, top, right and bottom in pixels.  If the
    crop is larger than the resized image, it is padded, and the part extends beyond the image.
    """
    if not preprocessing.resize:
        return (0.0, 0.0, float(size[0]), float(size[1]))
    kept_size, origin = cut_extreme_size(size), find_cut_offset(size)
    resized_size = scale_shorter_side(kept_size, preprocessing.resize)
    _, height, width = preprocessing.input
    starts, ends = [], []
    for axis, crop_side in enumerate((width, height)):
        pixels_per_step = kept_size[axis] / resized_size[axis]
        start = center_offset(resized_size[axis], crop_side)
        starts.append(origin[axis] + start * pixels_per_step)
        ends.append(origin[axis] + (start + crop_side) * pixels_per_step)
    return (starts[0], starts[1], ends[0], ends[1])

"""The check of a single image: its size, hashes and histogram, and warnings about it."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residua.config.model import MAX_IMAGE_PIXELS
from residua.data.checksums import compute_sha256
from residua.data.decode import decode_photo, read_entry_bytes
from residua.data.grey_levels import describe_doubtful_white_level
from residua.data.image_formats import SUFFIXES_BY_FORMAT, identify_format
from residua.data.near_duplicates import compute_difference_hash, make_grey_thumbnail
from residua.data.sources.listing import DataProblem, ImageEntry
from residua.errors import ImageError

MIN_IMAGE_SIDE = 16  # pixels; a smaller side gives a warning


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """Size, hashes, histogram and warnings of one image that can be decoded."""

    entry: ImageEntry
    sha256: str  # of the file, in hexadecimal digits
    difference_hash: int  # perceptual, 64 bits
    grey_thumbnail: bytes  # 16 x 16 levels
    size: tuple[int, int]  # width, height
    histogram: NDArray[np.uint32]  # (3, 256), pixels of each level of red, green and blue
    warnings: tuple[DataProblem, ...]  # the image can be used all the same


def inspect_image(
    entry: ImageEntry, max_pixels: int = MAX_IMAGE_PIXELS, white_level: int = 0
) -> CheckedImage | DataProblem:
    """Check one image: returns a `CheckedImage`, or the reason why it cannot be decoded."""
    try:
        content = read_entry_bytes(entry)
        image, brightest_level, _ = decode_photo(content, max_pixels, white_level)
    except ImageError as error:
        return DataProblem(entry.name, error.kind, error.detail)
    return CheckedImage(
        entry=entry,
        sha256=compute_sha256(content),
        difference_hash=compute_difference_hash(image),
        grey_thumbnail=make_grey_thumbnail(image),
        size=image.size,
        histogram=np.array(image.histogram(), np.uint32).reshape(3, 256),
        warnings=tuple(find_image_warnings(entry, content, image, brightest_level)),
    )


def find_image_warnings(
    entry: ImageEntry, content: bytes, image: Image.Image, brightest_level: int
) -> Iterator[DataProblem]:
    """Warn about a wrong file extension, more than one frame, unused levels, or too few pixels.

    Also warn about a single colour.
    """
    actual_format, frames = identify_format(content), 1
    with Image.open(BytesIO(content)) as file, suppress(Exception):  # later frames may be damaged
        actual_format = file.format or ""
        frames = getattr(file, "n_frames", 1)
    suffix = entry.path.suffix.lower()
    if entry.path.name and suffix not in SUFFIXES_BY_FORMAT.get(actual_format, ()):
        detail = f"is a {actual_format} file, but its name ends in {suffix or 'no extension'}"
        yield DataProblem(entry.name, "wrong extension", detail)
    if frames > 1 and actual_format != "MPO":
        detail = f"has {frames} frames, of which only the first is used"
        yield DataProblem(entry.name, "film", detail)
    if detail := describe_doubtful_white_level(brightest_level):
        yield DataProblem(entry.name, "unused levels", detail)
    if min(image.size) < MIN_IMAGE_SIDE:
        detail = f"has only {image.width} x {image.height} pixels"
        yield DataProblem(entry.name, "small image", detail)
    elif all(low == high for low, high in image.getextrema()):  # type: ignore[misc]
        yield DataProblem(entry.name, "one colour", "has a single colour")


def compute_channel_mean_std(images: Iterable[CheckedImage]) -> tuple[list[float], list[float]]:
    """Compute means and standard deviations of red, green and blue over the pixels of all images.

    Both are in [0, 1], and rounded to 4 decimals.
    """
    histogram: NDArray[np.float64] = np.zeros((3, 256))
    for image in images:
        histogram += image.histogram
    levels, counts = np.arange(256) / 255, np.maximum(histogram.sum(1), 1)
    mean = histogram @ levels / counts
    std = np.sqrt(np.maximum(histogram @ levels**2 / counts - mean**2, 0))
    return [round(float(x), 4) for x in mean], [round(float(x), 4) for x in std]

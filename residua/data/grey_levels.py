"""Grey levels of more than 8 bits -> 8 bits, by a white level that is given or assumed.

Cameras and scanners of 10, 12 or 14 bits often write files of 16 bits without saying so.  Taken for
16 bits, such images are nearly black, and few of their levels are left in 8 bits.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_LEVEL_16_BITS = 65535
# The white levels of 8, 10, 12 and 14 bits, which files of 16 bits may really have.
COMMON_WHITE_LEVELS = (255, 1023, 4095, 16383)
FLOAT_WHITE_LEVELS = (1.0, 255.0, 65535.0)
PIXELS_PER_STRIP = 2**20  # converted together: float64 levels of all pixels may exceed the memory
TIFF_PHOTOMETRIC, TIFF_BITS_PER_SAMPLE, WHITE_IS_ZERO = 262, 258, 0


def has_deep_grey(image: Image.Image) -> bool:
    """Return whether an image is grey with integers of 16 or 32 bits, or with floats."""
    return image.mode.startswith("I") or image.mode == "F"


def has_16_bits_per_colour(image: Image.Image) -> bool:
    """Return whether an opened image, not decoded yet, is in colour with 16 bits per channel.

    Pillow reads only the upper 8 of the 16 bits.
    """
    if has_deep_grey(image):
        return False
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return any(";16" in raw_mode for raw_mode in raw_modes)


def read_white_level(image: Image.Image) -> int:
    """Return the white level that a TIFF file states by its bits per sample; 0 if it states none.

    A TIFF file of 12 bits per sample is read as levels up to 4095.
    """
    bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, ())
    return 2 ** bits[0] - 1 if has_deep_grey(image) and bits and 8 < bits[0] < 16 else 0


def has_white_at_zero(image: Image.Image) -> bool:
    """Return whether an opened TIFF image stores white as 0, and is not inverted by Pillow."""
    photometric = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC)
    return has_deep_grey(image) and photometric == WHITE_IS_ZERO


def find_highest_level(image: Image.Image) -> int:
    """Find the highest level of a decoded grey image of integers; 0 for all other images."""
    if not image.mode.startswith("I"):
        return 0
    return max(int(np.asarray(image).max()), 0)


def guess_white_level(brightest_level: int) -> int:
    """Guess the white level from the highest level of a 16-bit image; 0 if there is no guess.

    For example, 3,900 suggests 4095: a 16-bit image without higher levels probably has 12 bits.
    """
    if brightest_level > MAX_LEVEL_16_BITS:
        return brightest_level
    return next((white for white in COMMON_WHITE_LEVELS if 0 < brightest_level <= white), 0)


def describe_doubtful_white_level(brightest_level: int) -> str:
    """Say, in a phrase after an image's name, that its white level seems wrong; "" if not."""
    white = guess_white_level(brightest_level)
    if not white:
        return ""
    if brightest_level > MAX_LEVEL_16_BITS:
        return (
            f"has levels up to {brightest_level:,}, which are taken for white in this image alone: "
            "give the white level of all images by --white-level"
        )
    return (
        f"is nearly black, because it has 16 bits but no level above {brightest_level:,}: "
        f"if its white is {white:,}, give --white-level {white}"
    )


def summarize_doubtful_white_levels(highest_levels: Iterable[int]) -> str:
    """Say in one sentence that the white level of many images seems wrong; "" if it does not."""
    levels = [level for level in highest_levels if guess_white_level(level)]
    if not levels:
        return ""
    white = guess_white_level(max(levels))
    return (
        f"images of more than 8 bits ({len(levels):,}) have no level above {max(levels):,}, and "
        f"another white is assumed: if it is {white:,}, give --white-level {white}"
    )


def scale_grey_to_uint8(
    grey: NDArray[np.generic], white_level: int = 0, *, white_at_zero: bool = False
) -> NDArray[np.uint8]:
    """Scale grey levels (h, w) of 16 bits, 32 bits or floating point to uint8.

    `white_level` and all higher levels become 255.  Without it, white is our choice: 65535 for
    integers, and for floating point the smallest of 1, 255 and 65535 that no level exceeds.  If a
    level exceeds 65535, white is the highest level.  Black is 0, or the lowest level if that is
    negative.  With `white_at_zero` the result is inverted.  NaN becomes black.
    """
    is_integer = np.issubdtype(grey.dtype, np.integer)
    low, high = find_finite_range(grey)
    low = min(low, 0.0)
    white = float(white_level)
    if not white_level:
        choices = (float(MAX_LEVEL_16_BITS),) if is_integer else FLOAT_WHITE_LEVELS
        white = next((choice for choice in choices if high <= choice), high)
    rows = max(PIXELS_PER_STRIP // max(grey.shape[1], 1), 1)
    result = np.empty(grey.shape, np.uint8)
    for start in range(0, len(grey), rows):
        strip = grey[start : start + rows].astype(np.float64)
        strip = np.nan_to_num(strip, nan=low, posinf=white, neginf=low)
        scaled = np.rint((strip - low) * (255 / (white - low)))
        result[start : start + rows] = np.clip(scaled, 0, 255)
    return 255 - result if white_at_zero else result


def find_finite_range(grey: NDArray[np.generic]) -> tuple[float, float]:
    """Find the lowest and the highest finite level; (0, 0) if there is none."""
    if np.issubdtype(grey.dtype, np.integer):
        return float(grey.min()), float(grey.max())
    finite = grey[np.isfinite(grey)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

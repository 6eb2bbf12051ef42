"""Opened images of any mode -> upright RGB of 8 bits."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from residua.data.grey_levels import (
    find_highest_level,
    has_16_bits_per_colour,
    has_deep_grey,
    has_white_at_zero,
    read_white_level,
    scale_grey_to_uint8,
)
from residua.data.scaled_decoding import Reduction
from residua.errors import ImageError

WHITE_RGBA = (255, 255, 255, 255)


class DecodedPhoto(NamedTuple):
    """An image decoded to upright RGB, and the highest of its levels.

    The highest level is 0 if the image has 8 bits, or if it is known which level is white.  If the
    image was decoded at a reduced size, `reduction` says at which.
    """

    image: Image.Image
    brightest_level: int
    reduction: Reduction | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright photograph, before any reduction."""
        return self.reduction.full_size if self.reduction else self.image.size


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image as its EXIF orientation says, if its EXIF data can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not affect the pixels
        return image


def convert_to_rgb(image: Image.Image, display_name: str, white_level: int) -> DecodedPhoto:
    """Decode an opened image of any mode to upright RGB: blend alpha with white, scale deep grey.

    Raises ImageError if a white level is given, but the image has 16 bits per colour.
    """
    # known only before the pixels are decoded
    white_level_in_use = white_level or read_white_level(image)
    white_at_zero, has_16_bit_colours = has_white_at_zero(image), has_16_bits_per_colour(image)
    if has_16_bit_colours and white_level:
        raise ImageError(
            display_name,
            "unsupported",
            "has 16 bits per colour, but only the upper 8 can be read, so a white level "
            "cannot be used: convert it to grey, or to 8 bits",
        )
    image.load()
    upright = apply_exif_orientation(image)
    brightest_level = 0
    if has_deep_grey(upright):
        if not white_level_in_use:
            brightest_level = find_highest_level(upright)
        levels = scale_grey_to_uint8(
            np.asarray(upright), white_level_in_use, white_at_zero=white_at_zero
        )
        return DecodedPhoto(Image.fromarray(levels).convert("RGB"), brightest_level)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, WHITE_RGBA)
        rgb = Image.alpha_composite(white, rgba).convert("RGB")
    else:
        is_rgb_copy = upright.mode == "RGB" and upright is not image
        rgb = upright if is_rgb_copy else upright.convert("RGB")
    if has_16_bit_colours:
        brightest = max(high for _, high in rgb.getextrema())  # type: ignore[misc]
        brightest_level = 256 * int(brightest) + 255  # the lower 8 bits are unknown
    return DecodedPhoto(rgb, brightest_level)

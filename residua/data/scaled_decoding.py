"""JPEG's scaled decoding: a photograph is decoded at 1/2, 1/4 or 1/8 of its sides.

A JPEG file stores blocks of 8 x 8 pixels as frequencies.  Its decoder can make 4 x 4, 2 x 2 or 1
pixel of a block, from the low frequencies alone, in a fraction of the time.  The pixels differ
slightly from those of the photograph that is decoded as a whole and then made smaller.
"""

from collections.abc import Callable
from typing import NamedTuple

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from residua.data.photo_source import Box

Size = tuple[int, int]  # width and height in pixels
FindNeededSize = Callable[[Size], Size]
# EXIF orientations that exchange width and height, and those that move the file's left edge to the
# right, or its upper edge to the bottom.
SWAPPED, FROM_RIGHT, FROM_BOTTOM = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}


class Reduction(NamedTuple):
    """How a photograph lies in its upright image, which was decoded at a reduced size."""

    full_size: Size  # of the upright photograph
    area: Box  # of it in the image: left, top, right, bottom

    def map_box(self, box: Box) -> Box:
        """Convert a box in pixels of the photograph to pixels of the image."""
        left, top, right, bottom = self.area
        x_scale = (right - left) / self.full_size[0]
        y_scale = (bottom - top) / self.full_size[1]
        return (
            left + box[0] * x_scale,
            top + box[1] * y_scale,
            left + box[2] * x_scale,
            top + box[3] * y_scale,
        )


def reduce_before_decoding(
    image: Image.Image, find_needed_size: FindNeededSize
) -> Reduction | None:
    """Let an opened image be decoded at the smallest size that is at least the needed one.

    `find_needed_size` gets the upright size of the photograph.  Returns None if the image will be
    decoded as a whole, as those of all formats but JPEG are.
    """
    if not isinstance(image, JpegImageFile):  # whose EXIF data may lie behind the pixels
        return None
    file_size, orientation = image.size, read_orientation(image)
    is_swapped = orientation in SWAPPED
    full_size = file_size[::-1] if is_swapped else file_size
    needed_size = find_needed_size(full_size)
    drafted = image.draft(None, needed_size[::-1] if is_swapped else needed_size)
    if drafted is None or image.size == file_size:
        return None
    # A side that is no multiple of 8 ends within a pixel of the reduced image.
    width, height = drafted[1][2:]
    sides = (height, width) if is_swapped else (width, height)
    image_sides = image.size[::-1] if is_swapped else image.size
    left = image_sides[0] - sides[0] if orientation in FROM_RIGHT else 0
    top = image_sides[1] - sides[1] if orientation in FROM_BOTTOM else 0
    return Reduction(full_size, (left, top, left + sides[0], top + sides[1]))


def read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image; 1, which is upright, if it cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF may raise anything
        return 1
    return orientation if isinstance(orientation, int) else 1

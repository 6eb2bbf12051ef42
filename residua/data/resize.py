"""Resize and crop decoded photographs.

Functions of a size take and return width and height, as Pillow does.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from residua.config.model import Interpolation
from residua.data.rgb_conversion import DecodedPhoto
from residua.data.scaled_decoding import Size

MAX_ASPECT_RATIO = 50  # of an image that is resized without cutting its ends off; our choice
PILLOW_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def find_whole_size(size: Size, shorter_side: int) -> Size:
    """Find the size at which a photograph of `size` must be decoded for `resize_shorter_side`.

    An image whose ends are cut off is decoded as a whole.
    """
    return size if size != cut_extreme_size(size) else scale_shorter_side(size, shorter_side)


def resize_shorter_side(
    photo: DecodedPhoto, shorter_side: int, channels: int, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Resize a whole photograph so that its shorter side has `shorter_side` pixels.

    The ends of a photograph whose aspect ratio exceeds `MAX_ASPECT_RATIO` are cut off first.  Must
    be called inside `suspend_pillow_limits`, because what is left may exceed Pillow's limit.
    """
    image = convert_to_channels(photo.image, channels)
    if photo.reduction is None:
        photo = DecodedPhoto(crop_extreme_aspect_ratio(image), 0)
    else:
        photo = photo._replace(image=image)
    return resize_photo(photo, scale_shorter_side(photo.size, shorter_side), interpolation)


def convert_to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to grey if `channels` is 1, or else to RGB."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def crop_center(image: Image.Image, size: Size) -> Image.Image:
    """Take the center crop of `size`, width and height."""
    left, top = [
        center_offset(side, crop_side) for side, crop_side in zip(image.size, size, strict=True)
    ]
    return image.crop((left, top, left + size[0], top + size[1]))


def image_to_tensor(image: Image.Image) -> Tensor:
    """Copy an image of mode L or RGB to a tensor, uint8 (c, h, w)."""
    pixels = np.array(image).reshape(image.height, image.width, -1)
    # torch would copy with threads of its own, for each of the threads that decode.
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def center_offset(side: int, crop_side: int) -> int:
    """Return the first index, along one axis, of a center crop.

    Along this axis the image has `side` pixels and the crop has `crop_side`.  Rounding is as in
    torchvision.
    """
    return round((side - crop_side) / 2)


def cut_extreme_size(size: Size) -> Size:
    """Return the width and height that are left after `crop_extreme_aspect_ratio`."""
    max_side = MAX_ASPECT_RATIO * min(size)
    return min(size[0], max_side), min(size[1], max_side)


def crop_extreme_aspect_ratio(image: Image.Image) -> Image.Image:
    """Cut the ends off an image whose aspect ratio exceeds `MAX_ASPECT_RATIO`."""
    kept_size = cut_extreme_size(image.size)
    if image.size == kept_size:
        return image
    left, top = find_cut_offset(image.size)
    return image.crop((left, top, left + kept_size[0], top + kept_size[1]))


def find_cut_offset(size: Size) -> tuple[int, int]:
    """Return the left and upper edge of what `crop_extreme_aspect_ratio` keeps."""
    width, height = cut_extreme_size(size)
    return (size[0] - width) // 2, (size[1] - height) // 2


def scale_shorter_side(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Return the (width, height) of an image after its shorter side is scaled to `shorter_side`."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def resize_photo(photo: DecodedPhoto, size: Size, interpolation: Interpolation) -> Image.Image:
    """Resize the whole photograph to `size`, width and height, with antialiasing."""
    area = photo.reduction.area if photo.reduction else (0, 0, *photo.image.size)
    if photo.image.size == size and area == (0, 0, *size):
        return photo.image
    return photo.image.resize(size, PILLOW_RESAMPLING[interpolation], area)

"""Resize and crop decoded photographs.

Functions of a size take and return width and height, as Pillow does.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residua.config.model import Interpolation
from residua.data.photo_source import Box
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


def resize_box(photo: DecodedPhoto, box: Box, size: tuple[int, int], channels: int) -> Tensor:
    """Resize a box of a photograph, in its pixels, to `size` (h, w): uint8 (c, h, w).

    The box is rounded to whole pixels, unless the photograph was decoded at a reduced size, whose
    pixels are too coarse for that.
    """
    image = convert_to_channels(photo.image, channels)
    if photo.reduction is not None:
        left, top, right, bottom = photo.reduction.map_box(box)
        # rounding may have moved the box beyond the image
        box = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        return image_to_tensor(image.resize(size[::-1], Image.Resampling.BILINEAR, box))
    left, top, right, bottom = place = round_box(box, image.size)
    pixels = np.asarray(image.crop(place)).reshape(bottom - top, right - left, -1)
    return resize_box_of_pixels(pixels, (0, 0, right - left, bottom - top), size)


def resize_box_of_pixels(pixels: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> Tensor:
    """Resize a box, rounded to whole pixels, of pixels (H, W, c) to `size` (h, w): uint8 (c, h, w).

    Resizing is bilinear and antialiased.  PyTorch is faster at it than Pillow, and is within one
    level of the exact result.
    """
    left, top, right, bottom = round_box(box, (pixels.shape[1], pixels.shape[0]))
    # Of a copy that is not contiguous, torch would make one with threads of its own.
    part = np.array(pixels[top:bottom, left:right])
    resized = F.interpolate(
        torch.from_numpy(part).permute(2, 0, 1)[None], size, mode="bilinear", antialias=True
    )
    return torch.from_numpy(np.ascontiguousarray(resized[0].numpy()))


def round_box(box: Box, size: Size) -> tuple[int, int, int, int]:
    """Round a box to whole pixels of an image of `size`: at least one, and none outside."""
    left, top = [min(max(round(box[i]), 0), size[i] - 1) for i in (0, 1)]
    right = min(max(round(box[2]), left + 1), size[0])
    bottom = min(max(round(box[3]), top + 1), size[1])
    return left, top, right, bottom


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

"""The images that a classifier is given: paths, URLs, PIL images and arrays."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image
from torch import Tensor

from residua.data.convert_arrays import COUNTS_OF_CHANNELS, convert_image, convert_images
from residua.data.decode import HasPreprocessing, decode_and_preprocess, preprocess_image
from residua.data.rgb_conversion import convert_to_rgb
from residua.data.thumbnails import pixels_to_image
from residua.deploy.image_files import find_image_files
from residua.deploy.predict import Prediction, decode_or_error
from residua.errors import DataError, ImageError
from residua.version import __version__

GivenImage: TypeAlias = Any
"""A path, an http(s) address, a PIL image, or an array (h, w), (h, w, c) or (c, h, w)."""

MAX_DOWNLOAD_BYTES = 100 * 2**20
DOWNLOAD_SECONDS = 30.0  # without any byte


def list_given_images(images: GivenImage | Iterable[GivenImage], channels: int) -> list[GivenImage]:
    """List the images that a user gives, one or several, for a network of 1 or 3 `channels`.

    A folder stands for the image files in it, and an array (n, h, w, c) or (n, c, h, w) for its n
    images.  Raises DataError for an array that can be read in two ways, and for a folder without
    images.
    """
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(convert_images(images))
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Tensor):
        images = [images]
    listed: list[GivenImage] = []
    for image in images:
        if isinstance(image, str | os.PathLike):
            listed += list_path(os.fspath(image))
        elif isinstance(image, np.ndarray | Tensor):
            listed.append(convert_single_array(image, channels))
        else:
            listed.append(image)
    return listed


def list_path(path: str) -> list[GivenImage]:
    """List the image files of a folder; a single file or a URL is listed as it is."""
    if is_address(path) or not os.path.isdir(path):
        return [path]
    files: list[GivenImage] = list(find_image_files(Path(path)))
    if not files:
        raise DataError(f"no image was found in {path}: give image files, or folders of them")
    return files


def is_address(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def convert_single_array(array: Any, channels: int) -> Tensor:
    """Convert one image (h, w), (h, w, c) or (c, h, w) to uint8 (c, h, w).

    For a network of 1 channel, an array (3, h, w) may also be three grey images, and is refused.
    """
    if channels == 1 and array.ndim == 3 and array.shape[0] == 3 and array.shape[2] > 3:
        raise DataError(
            f"an array of shape {tuple(array.shape)} can be read as 3 grey images and as 1 RGB "
            "image: give list(images) or images[..., None] for grey images, and the shape (height, "
            "width, 3) for an RGB image"
        )
    if array.ndim == 3 and not {array.shape[0], array.shape[2]} & set(COUNTS_OF_CHANNELS):
        raise DataError(
            f"an array of shape {tuple(array.shape)} is not an image: give (height, width), "
            "(height, width, channels) or (channels, height, width), with 1 or 3 channels, or "
            "list(images) for several grey images"
        )
    return convert_image(array)


def decode_given_image(item: tuple[int, GivenImage], preprocessing: HasPreprocessing) -> Prediction:
    """Decode an image, given with its number; return a prediction with pixels or an error."""
    number, image = item
    if isinstance(image, str | os.PathLike) and not is_address(os.fspath(image)):
        return decode_or_error(Path(image), preprocessing)
    source = Path(image if isinstance(image, str) else f"image {number}")
    try:
        if isinstance(image, str):
            pixels = decode_and_preprocess(download_image(image), preprocessing).pixels
        else:
            pixels = preprocess_image(open_given_image(image, preprocessing), preprocessing)
        return Prediction(source, pixels, None)
    except ImageError as error:
        return Prediction(source, None, None, error.detail)
    except DataError as error:
        return Prediction(source, None, None, f"cannot be used: {error}")


def open_given_image(image: GivenImage, preprocessing: HasPreprocessing) -> Image.Image:
    """Open a PIL image or pixels (c, h, w) as an upright PIL image."""
    if isinstance(image, Image.Image):
        return convert_to_rgb(image, "the image", preprocessing.white_level).image
    if not isinstance(image, Tensor):
        raise DataError(
            f"{type(image).__name__} is not an image: give a path, a URL, a PIL image or an array"
        )
    return pixels_to_image(image)


def download_image(address: str) -> bytes:
    """Download an image of at most `MAX_DOWNLOAD_BYTES`; raises DataError if this fails."""
    request = Request(address, headers={"User-Agent": f"residua/{__version__}"})
    try:
        with urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
            content: bytes = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"the URL cannot be read ({reason})") from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise DataError(f"the file is larger than {MAX_DOWNLOAD_BYTES:,} bytes")
    return content

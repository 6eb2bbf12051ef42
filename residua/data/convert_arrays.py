"""Convert arrays and Python data sets of a user to images (n, c, h, w) uint8 and labels (n,)."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from residua.data.grey_levels import has_deep_grey
from residua.data.images import Images
from residua.data.rgb_conversion import convert_to_rgb
from residua.errors import DataError

COUNTS_OF_CHANNELS = (1, 3)
MAX_REREAD_ITEMS = 8  # of a data set, to see whether it gives the same images again
MAX_LABEL = 10**6


class MapStyleDataset(Protocol):
    """A data set as torch's DataLoader takes it: `data[i]` is an image and its label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def convert_images(images: object) -> Tensor:
    """Convert an array of images to uint8 (n, c, h, w), c = 1 (grey) or 3 (RGB).

    `images` is a NumPy array or a tensor: (n, h, w) or (n, h, w, c) or (n, c, h, w), of uint8, or
    of floating point in [0, 1], which is rounded to 255 levels.  Raises DataError for other types
    and values, and for a shape that can be read in two ways.
    """
    array = to_numpy(images)
    if array.ndim not in (3, 4) or not array.size:
        raise DataError(
            f"images have the shape {array.shape}: give (n, height, width), (n, height, width, "
            "channels) or (n, channels, height, width)"
        )
    return torch.from_numpy(scale_to_uint8(put_channels_first(array)))


def to_numpy(values: object, what: str = "images") -> NDArray[Any]:
    """Convert values to an array; raises DataError, which calls them `what`, if that fails."""
    if isinstance(values, Tensor):
        return np.asarray(values.detach().cpu().numpy())
    try:
        array = np.asarray(values)
    except ValueError as error:  # e.g. images of several sizes
        raise DataError(f"{what} cannot be converted to an array: {error}") from error
    if array.dtype == object:
        raise DataError(f"{what} are an array of objects, not of numbers or strings: convert them")
    return array


def put_channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """Convert images (n, h, w), (n, h, w, c) or (n, c, h, w) to (n, c, h, w)."""
    if array.ndim == 3:
        return array[:, None]
    is_first, is_last = [array.shape[i] in COUNTS_OF_CHANNELS for i in (1, 3)]
    if is_first and is_last:
        raise DataError(
            f"images of the shape {array.shape} can be read as (n, channels, height, width) and as "
            "(n, height, width, channels): give images that are neither 1 nor 3 pixels wide"
        )
    if not is_first and not is_last:
        channels = " and an alpha channel" if array.shape[3] == 4 else ""
        raise DataError(
            f"images of the shape {array.shape} have neither 1 channel nor 3{channels}: give grey "
            "or RGB images, e.g. images[..., :3]"
        )
    return array if is_first else np.moveaxis(array, 3, 1)


def scale_to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert levels to uint8; floating-point levels are multiplied by 255 and rounded."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"images have the dtype {array.dtype}: give uint8, or floating point in [0, 1]"
        )
    lowest, highest = float(array.min()), float(array.max())
    if not (isfinite(lowest) and isfinite(highest)):
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(
            f"these floating-point images have {count:,} values that are not finite (NaN or "
            "infinite): give levels in [0, 1]"
        )
    if not (lowest >= 0 and highest <= 1):
        raise DataError(
            f"these floating-point images have values from {lowest:g} to {highest:g}, outside of "
            "[0, 1]: give unnormalised images, in [0, 1] or as uint8"
        )
    return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))


def convert_labels(
    labels: object, count: int, classes: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Convert the labels of `count` images to int64 (n,); return them with the classes' names.

    Labels are whole numbers from 0, or the classes' names.  `classes` are the names by number; by
    default they are the numbers as text, or the sorted names.  Raises DataError for other labels.
    """
    array = to_numpy(labels, "labels")
    if array.shape != (count,):
        raise DataError(
            f"labels have the shape {array.shape}: give ({count},), one class for each image"
        )
    if array.dtype.kind in "US":
        names = tuple(classes) if classes is not None else tuple(sorted(set(map(str, array))))
        index = {name: i for i, name in enumerate(names)}
        if unknown := sorted({str(name) for name in array} - set(names)):
            raise DataError(f"label {unknown[0]} is not one of the classes: {', '.join(names)}")
        return torch.tensor([index[str(name)] for name in array]), names
    if array.dtype.kind not in "iu":
        raise DataError(
            f"labels have the dtype {array.dtype}: give whole numbers from 0, or the classes' names"
        )
    lowest, highest = int(array.min()), int(array.max())
    limit = len(classes) - 1 if classes is not None else MAX_LABEL
    if lowest < 0 or highest > limit:
        raise DataError(
            f"labels are from {lowest} to {highest}: give whole numbers from 0 to {limit}"
        )
    names = tuple(classes) if classes is not None else tuple(map(str, range(highest + 1)))
    return torch.from_numpy(array.astype(np.int64)), names


def read_map_style_dataset(dataset: MapStyleDataset) -> tuple[Tensor, list[Any]]:
    """Read all items of a data set: images uint8 (n, c, h, w), and labels as they are.

    Some items are read twice.  Raises DataError if an item cannot be read, differs in shape from
    the first one, or differs when it is read again.
    """
    count = len(dataset)
    if not count:
        raise DataError("the data set has no items: give images")
    first_image, first_label = read_item(dataset, 0)
    pixels = torch.empty((count, *first_image.shape), dtype=torch.uint8)
    labels = [first_label]
    pixels[0] = first_image
    for i in range(1, count):
        image, label = read_item(dataset, i)
        if image.shape != first_image.shape:
            raise DataError(
                f"item {i} of the data set has the shape {tuple(image.shape)}, but item 0 has "
                f"{tuple(first_image.shape)}: convert all images to one shape"
            )
        pixels[i] = image
        labels.append(label)
    for i in range(0, count, max(count // MAX_REREAD_ITEMS, 1)):
        image, label = read_item(dataset, i)
        if image.shape != first_image.shape or not torch.equal(image, pixels[i]):
            raise DataError(
                f"item {i} of the data set changes when it is read again: remove random transforms "
                "from the data set, and pass them as transform="
            )
        if label != labels[i]:
            raise DataError(
                f"item {i} of the data set has another label when it is read again: give each item "
                "a fixed label"
            )
    return pixels, labels


def read_item(dataset: MapStyleDataset, index: int) -> tuple[Tensor, Any]:
    """Read one item: an image uint8 (c, h, w), and its label, a number or a name."""
    try:
        item = dataset[index]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"item {index} of the data set cannot be read: {reason}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            f"item {index} of the data set is not a pair of an image and a label, but "
            f"{type(item).__name__}: give (image, label)"
        )
    image, label = item
    if isinstance(label, Tensor | np.generic | np.ndarray):
        label = label.item()
    try:
        return convert_image(image), label
    except DataError as error:
        raise DataError(f"item {index} of the data set: {error}") from error


def convert_image(image: object) -> Tensor:
    """Convert a PIL image, or an array (h, w), (h, w, c) or (c, h, w), to uint8 (c, h, w)."""
    if isinstance(image, Image.Image):
        is_grey = image.mode in ("1", "L") or has_deep_grey(image)
        rgb = convert_to_rgb(image, "the image", white_level=0).image
        image = np.array(rgb.convert("L") if is_grey else rgb)
    return convert_images(to_numpy(image)[None])[0]


def convert_pair(
    images: object, labels: object, classes: Sequence[str] | None = None
) -> tuple[Images, tuple[str, ...]]:
    """Convert arrays of images and labels; return them with the classes' names."""
    pixels = convert_images(images)
    converted, names = convert_labels(labels, len(pixels), classes)
    return Images(pixels, converted), names

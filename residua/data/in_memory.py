"""Data sets of images that are in memory: arrays, and Python data sets read in full."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.data.check import MIN_CLASS_IMAGES
from residua.data.images import ARRAYS_PREFIX, Images
from residua.data.sources.listing import ImageEntry, OptionalSplit, Split, SplitSource
from residua.data.splits import SPLIT_ORDER, assign_splits
from residua.errors import DataError

STATISTICS_CHUNK = 1024  # images whose levels are summed together


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemoryDataset(Dataset):
    """A data set whose images are in memory, by split; its `mean` and `std` are computed.

    `positions` are those of the test images in the data that were given; () if they are all.
    """

    images: Mapping[Split, Images] = field(compare=False, repr=False)
    split_source: SplitSource = "given"
    positions: tuple[int, ...] = field(default=(), compare=False, repr=False)


def make_in_memory_dataset(
    images_by_split: Mapping[OptionalSplit, Images], classes: tuple[str, ...]
) -> InMemoryDataset:
    """Make a data set of images (n, c, h, w) uint8 by split; those under "" are yet to be split.

    The images under "" are split by their content, as photographs are.  Without dev images, some
    training images are held out as dev images; without test images, some images as test images.
    Raises DataError if images of two splits differ in shape, or if a class has no training images.
    """
    require_equal_shapes(images_by_split)
    if not {"", "train"} & set(images_by_split):
        raise DataError("the data set has no training images: give the split train")
    given: dict[OptionalSplit, Images] = (
        {split or "train": images for split, images in images_by_split.items()}
        if {"dev", "test"} <= set(images_by_split)
        else assign_missing_splits(images_by_split)
    )
    images: dict[Split, Images] = {split: given[split] for split in SPLIT_ORDER}
    train = images["train"]
    require_images_of_all_classes(train.labels, classes)
    mean, std = measure_channels(train.pixels)
    source: SplitSource = "given" if "test" in images_by_split else "content"
    return assemble_dataset(images, classes, mean, std, source)


def make_evaluation_dataset(
    images_by_split: Mapping[OptionalSplit, Images], config: ModelConfig
) -> InMemoryDataset:
    """Make a data set of images by split, to evaluate a model on; those under "" are in test.

    Raises DataError if images of two splits differ in shape.
    """
    require_equal_shapes(images_by_split)
    source: SplitSource = "content" if "" in images_by_split else "given"
    images: dict[Split, Images] = {split or "test": i for split, i in images_by_split.items()}
    return assemble_dataset(images, config.classes, config.mean, config.std, source)


def choose_test_images(dataset: InMemoryDataset, is_chosen: list[bool]) -> InMemoryDataset:
    """Return the data set with only the chosen ones of its test images."""
    positions = tuple(i for i, chosen in enumerate(is_chosen) if chosen)
    images = dataset.images["test"][torch.tensor(positions).long()]
    return replace(dataset, images={"test": images}, positions=positions)


def make_one_split_dataset(
    images: Images,
    split: Split,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> InMemoryDataset:
    """Make a data set whose images are all in one split; a class may have no images."""
    return assemble_dataset({split: images}, classes, mean, std, "given")


def assemble_dataset(
    images: Mapping[Split, Images],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    split_source: SplitSource,
) -> InMemoryDataset:
    """Make a data set of images given by split; its name is a hash of the images."""
    channels, height, width = next(iter(images.values())).pixels.shape[1:]
    counts = {split: len(part) for split, part in images.items()}
    dev_count = counts.get("dev", 0)
    return InMemoryDataset(
        name=f"{ARRAYS_PREFIX}{fingerprint_splits(images)}",
        input=(channels, height, width),
        classes=classes,
        mean=mean,
        std=std,
        num_images=counts.get("train", 0) + dev_count,
        num_dev_images=dev_count,
        kind="arrays",
        flip_keeps_class=channels == 3,
        images=images,
        split_source=split_source,
    )


def require_equal_shapes(images_by_split: Mapping[OptionalSplit, Images]) -> None:
    """Raise DataError if the images of two splits differ in channels, height or width."""
    shapes = {split: tuple(images.pixels.shape[1:]) for split, images in images_by_split.items()}
    first_split, first_shape = next(iter(shapes.items()))
    for split, shape in shapes.items():
        if shape != first_shape:
            raise DataError(
                f"images of the split {split or 'train'} have the shape {shape}, but those of "
                f"{first_split or 'train'} have {first_shape}: convert all images to one shape"
            )


def require_images_of_all_classes(labels: Tensor, classes: tuple[str, ...]) -> None:
    """Raise DataError if a class has no training images, or if there are fewer than two classes."""
    if len(classes) < 2:
        raise DataError(f"there is only one class, {classes[0]}: give images of at least two")
    counts = labels.bincount(minlength=len(classes)).tolist()
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(
            f"class {missing[0]} has no training images: add some, or number the labels from 0 "
            "without a gap"
        )


def assign_missing_splits(
    images_by_split: Mapping[OptionalSplit, Images],
) -> dict[OptionalSplit, Images]:
    """Split the images under "" by content, and choose dev images if there are none."""
    pixels = torch.cat([images.pixels for images in images_by_split.values()])
    labels = torch.cat([images.labels for images in images_by_split.values()])
    unnamed: OptionalSplit = "train" if "test" in images_by_split else ""
    entries = [
        ImageEntry(Path(), "", label, unnamed if split in ("", "train") else split)
        for split, images in images_by_split.items()
        for label in images.labels.tolist()
    ]
    splits = assign_splits(entries, list(iterate_digests(pixels)))
    if missing := [split for split in SPLIT_ORDER if split not in splits]:
        measure_channels(pixels)  # raises a better error if all images are alike
        class_count = len(set(labels.tolist()))
        raise DataError(
            f"{len(labels)} images of {class_count} classes are too few to split by their content, "
            f"since none is left for {missing[0]}: give {MIN_CLASS_IMAGES} or more different "
            "images of each class, or both test= and dev="
        )
    all_images = Images(pixels, labels)
    return {
        split: all_images[torch.tensor([i for i, s in enumerate(splits) if s == split]).long()]
        for split in SPLIT_ORDER
    }


def iterate_digests(pixels: Tensor) -> Iterator[str]:
    """Yield the SHA-256 sum, in hexadecimal digits, of each image (n, c, h, w) uint8."""
    for image in pixels:
        yield hashlib.sha256(image.contiguous().numpy().data).hexdigest()


def measure_channels(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of each channel of images (n, c, h, w) uint8, in [0, 1].

    Raises DataError if all values of a channel are equal.
    """
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    total_of_squares = torch.zeros_like(total)
    for chunk in torch.split(pixels, STATISTICS_CHUNK):
        levels = chunk.double() / 255
        total += levels.sum((0, 2, 3))
        total_of_squares += levels.square().sum((0, 2, 3))
    count = pixels.numel() // pixels.shape[1]
    mean = total / count
    variance = total_of_squares / count - mean.square()
    if not bool((variance > 1e-12).all()):
        raise DataError(
            "a channel has the same value in all training images: give images that differ"
        )
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def fingerprint_splits(images: Mapping[Split, Images]) -> str:
    """Return a hash of the images and labels of all splits, in 16 hexadecimal digits."""
    parts = {split: images[split].fingerprint for split in SPLIT_ORDER if split in images}
    text = " ".join(f"{split}={fingerprint}" for split, fingerprint in parts.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]

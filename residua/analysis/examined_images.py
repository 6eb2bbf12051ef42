"""Read the images on which a network is examined, as it sees them when it predicts."""

from collections.abc import Callable
from pathlib import Path

import torch

from residua.config.dataset import Dataset
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.data.images import Images
from residua.data.preprocessed_images import NamedImages, read_preprocessed_split
from residua.data.read import read_split
from residua.data.sources.resolve import PhotoDataset
from residua.data.streamed_images import ImageSet
from residua.data.summarize import summarize_evaluated_data
from residua.data.summary import DataSummary
from residua.data.unseen_images import EvaluatedSplit, ImageChoice, choose_images
from residua.errors import UsageError

SummaryListener = Callable[[DataSummary], None]


def read_lesion_images(
    data: Dataset,
    split: EvaluatedSplit | None,
    config: ModelConfig,
    image_count: int | None,
    data_dir: Path | None,
    on_data: SummaryListener,
) -> tuple[Images, EvaluatedSplit]:
    """Read the images to count errors on, and say which split they are.

    By default they are the test split or, of photographs, those that `choose_images` chooses.
    `image_count` takes as many: of photographs, which are stored by class, spread over the split;
    of other data the first ones.  `on_data` is called with a summary of photographs.
    """
    if not isinstance(data, PhotoDataset):
        split = split or "test"
        images = read_preprocessed_split(data, split, config, data_dir).images
        return images[slice(0, image_count)], split
    choice = choose_images(data, split, config)
    named_images = read_preprocessed_split(choice.dataset, choice.split, config)
    images = spread_over_images(named_images.images, image_count)
    on_data(summarize_photos(choice, named_images, images))
    return images, choice.label


def read_signals_images(
    data: Dataset,
    preprocessing: ImagePreprocessing | ModelConfig | None,
    image_count: int,
    data_dir: Path | None,
    on_data: SummaryListener,
) -> Images:
    """Read training images, so that the gradients are those of training.

    They are the first `image_count` or, of photographs, as many spread over the training split, or
    over all photographs if none are for training.  Photographs are prepared for the network as
    `preprocessing` says.  Raises UsageError if there are fewer images.
    """
    if not isinstance(data, PhotoDataset):
        images = read_split(data, "train", data_dir)
        require_enough_images(image_count, len(images), data.name)
        return images[slice(0, image_count)]
    is_split = data.listing.split_source != "content"
    has_train = any(entry.split == "train" for entry in data.listing.entries)
    split: EvaluatedSplit = "all" if is_split and not has_train else "train"
    view = preprocessing or ImagePreprocessing(data.input, data.resize)
    named_images = read_preprocessed_split(data, split, view)
    require_enough_images(image_count, len(named_images.images), data.listing.location)
    images = spread_over_images(named_images.images, image_count)
    on_data(summarize_photos(ImageChoice(data, split, split), named_images, images))
    return images


def spread_over_images(images: ImageSet, count: int | None) -> Images:
    """Take `count` images at equal distances, or all of them if there are no more."""
    if count is None or count >= len(images):
        return images[:]
    return images[torch.arange(count) * len(images) // count]


def require_enough_images(wanted: int, available: int, name: str) -> None:
    """Raise UsageError if more images are wanted than there are for training."""
    if wanted > available:
        raise UsageError(
            f"{wanted:,} images are too many: give at most {available:,}, "
            f"the number of training images of {name}"
        )


def summarize_photos(choice: ImageChoice, read: NamedImages, images: Images) -> DataSummary:
    """Summarize the photographs that a network is examined on."""
    return summarize_evaluated_data(
        choice.dataset, choice.label, images.labels.tolist(), read.problems, choice.reason
    )

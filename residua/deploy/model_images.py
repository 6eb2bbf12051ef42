"""Images of a data set or a photo folder in the shape that a trained model takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.data.read import read_training_splits
from residua.data.sources.image_folder import list_unlabelled_folder
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing, resolve_dataset
from residua.data.streamed_images import ImageSet
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary
from residua.errors import UsageError


def resolve_dataset_of_model_shape(source: str, config: ModelConfig) -> Dataset:
    """Return the data set or the photos that `source` names, prepared at the model's input size.

    Raises UsageError if the shape of the images is not the model's input shape, and DataError if
    the path holds no images.
    """
    data = resolve_dataset(source, config.input)
    if data.input != config.input:
        raise UsageError(
            f"{config.network.name} takes images of shape {config.input}, but those of {data.name} "
            f"have shape {data.input}: use data with the model's image shape"
        )
    return data


def resolve_labelled_or_not(source: str, config: ModelConfig) -> tuple[Dataset, bool]:
    """Return the data set or photos at `source`, and whether their labels are the model's classes.

    Photos need no labels, so a folder need not have class folders.  Raises UsageError and DataError
    as `resolve_dataset_of_model_shape` does.
    """
    listing = list_unlabelled_folder(Path(source).expanduser())
    if listing is not None:
        return dataset_from_listing(listing, config.input), False
    try:
        data = resolve_dataset(source, config.input, config.classes)
    except UsageError:  # it has other classes
        data = resolve_dataset_of_model_shape(source, config)
    if data.input != config.input:
        return resolve_dataset_of_model_shape(source, config), False
    return data, data.classes == config.classes


def read_training_crops(
    data: Dataset,
    config: ModelConfig,
    data_dir: Path | None,
    on_data: Callable[[DataSummary], None],
) -> ImageSet:
    """Read the training images of `data`, center-cropped to the model's input size.

    Photographs are decoded with the model's white level.  `on_data` gets a summary of the data.
    """
    if isinstance(data, PhotoDataset):
        listing = replace(data.listing, white_level=config.white_level)
        data = replace(data, listing=listing)
    train, dev = read_training_splits(data, data_dir)
    on_data(summarize_training_data(data, train, dev))
    return train.center_crop(config.input[1:])

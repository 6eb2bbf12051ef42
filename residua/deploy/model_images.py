"""Images of a data set or a photo folder in the shape that a trained model takes."""

from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.data.read import Images, read_split
from residua.data.sources.resolve import resolve_dataset
from residua.errors import UsageError


def resolve_dataset_of_model_shape(source: str, config: ModelConfig) -> Dataset:
    """The data set named `source`, or the photos at that path, prepared at the model's input size.

    Raises UsageError if the shape of the images is not the model's input shape, and DataError if
    the path holds no images.
    """
    data = resolve_dataset(source, config.input)
    if data.input != config.input:
        raise UsageError(
            f"{config.network.name} takes images of {config.input}, "
            f"but those of {data.name} are {data.input}"
        )
    return data


def read_training_crops(data: Dataset, config: ModelConfig, data_dir: Path | None) -> Images:
    """The training images of `data`, center-cropped to the model's input size."""
    return read_split(data, "train", data_dir).center_crop(config.input[1:])

"""Checks of an evaluation's options against its images and its model, before images are read."""

from residua.config.dataset import Dataset
from residua.config.image_views import ImageViews, name_views_option, require_usable_views
from residua.config.model import ModelConfig
from residua.data.sources.resolve import PhotoDataset
from residua.data.unseen_images import EvaluatedSplit, ImageChoice, was_trained_on_dev
from residua.errors import DataError, UsageError
from residua.training.initial_weights import was_trained_on_imagenet


def require_allowed_views_of_data(
    data: Dataset, config: ModelConfig, views: ImageViews, option: str
) -> None:
    """Raise UsageError if the images do not allow the views; `option` is how the user names them.

    Without an `option`, they are named as by the option `--views`.
    """
    margin = config.resize - max(config.input[1:]) if isinstance(data, PhotoDataset) else 0
    require_usable_views(
        views,
        option or name_views_option(views, mirror=False),
        data.name,
        flip_keeps_class=data.flip_keeps_class,
        margin=margin,
    )


def require_calibration_images(
    data: Dataset, choice: ImageChoice, config: ModelConfig, *, calibrate: bool
) -> None:
    """Raise UsageError if the evaluated images are those on which `calibrate` fits a temperature.

    Raises DataError if the model was trained on them.
    """
    if calibrate and choice.label in ("dev", "all"):
        raise UsageError(
            "--calibrate fits the temperature on the dev split, so an evaluation on that split "
            "would be too optimistic: choose another --split"
        )
    if calibrate and was_trained_on_dev(config, data):
        raise DataError(
            f"{config.network.name} was trained on the dev images of {data.name}, so no "
            "temperature can be fitted on them: leave --calibrate out"
        )


def require_unseen_dev_images(
    data: Dataset, config: ModelConfig, split: EvaluatedSplit | None, *, calibrate: bool
) -> None:
    """Raise DataError if ImageNet's dev images are asked for, and the model has learned them."""
    is_asked = calibrate or split == "dev"
    if (
        is_asked
        and isinstance(data, PhotoDataset)
        and (was_trained_on_imagenet(config, data.listing.location))
    ):
        option = "--calibrate" if calibrate else "--split=dev"
        weights = config.published_as or config.weights_from
        raise DataError(
            f"the weights {weights} were trained on all training images of ImageNet, of which the "
            f"dev images are a part, so they tell nothing about new images: leave {option} out"
        )

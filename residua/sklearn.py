"""A classifier of images for scikit-learn: pipelines, cross-validation, searches of parameters."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn

from residua.api.classifier import Classifier
from residua.api.own_errors import name_keywords_in_errors
from residua.api.train import train
from residua.config.memory import RecomputeMode
from residua.config.network import Network
from residua.config.recipe import Recipe
from residua.data.convert_arrays import COUNTS_OF_CHANNELS, convert_images
from residua.data.images import Images
from residua.data.user_transform import UserTransform
from residua.errors import DataError, UsageError
from residua.training.assess import predict_log_probabilities
from residua.training.machine import DeviceChoice, Precision, set_up_machine

__all__ = ["ResiduaClassifier"]

LARGEST_SEED = 2**32 - 1


class ResiduaClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """Train a residual network on arrays of images, as a classifier of scikit-learn.

    X is (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or floating point in [0, 1]; with
    image_shape=(c, h, w), also (n, c * h * w).  y (n,) holds any labels.  All images are used for
    training: none are held out, and no model is selected by its error.  Parameters are those of
    `residua.train`, and are checked by `fit`.

    model            name of a network, a `Network`, a module (a copy is trained), or None
    initial_weights  the parameter `from_` of `residua.train`
    train_transform  the parameter `transform` of `residua.train`
    random_state     the seed, a whole number; with None or a RandomState, a seed is drawn
    quiet            whether nothing is printed

    After `fit`, `classes_` are the sorted labels, `net_` is the network, in evaluation mode,
    `config_` its ModelConfig, and `n_features_in_` the number of values of an image.
    """

    def __init__(
        self,
        model: str | Network | nn.Module | None = None,
        *,
        recipe: str | Recipe | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        initial_weights: str | Path | None = None,
        freeze: bool = False,
        balance: bool = False,
        train_transform: UserTransform | None = None,
        precision: Precision = "auto",
        device: DeviceChoice = "auto",
        recompute: RecomputeMode = "none",
        random_state: int | np.random.RandomState | None = 0,
        quiet: bool = True,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        self.steps = steps
        self.image_shape = image_shape
        # not `from_`: an attribute that ends in _ makes an estimator count as fitted
        self.initial_weights = initial_weights
        self.freeze = freeze
        self.balance = balance
        # scikit-learn takes an estimator that has an attribute `transform` for a transformer
        self.train_transform = train_transform
        self.precision = precision
        self.device = device
        self.recompute = recompute
        self.random_state = random_state
        self.quiet = quiet

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    @name_keywords_in_errors
    def fit(self, X: Any, y: Any) -> Self:
        """Train a network on images X with labels y.

        Raises UsageError, which is a ValueError, for parameters, images or labels that cannot be
        used, and TrainingError if training fails.
        """
        with raise_as_value_error():
            pixels = self.convert_to_pixels(X)
            labels = column_or_1d(y, warn=True)
            check_classification_targets(labels)
            classes, indices = np.unique(labels, return_inverse=True)
            if len(labels) != len(pixels):
                raise UsageError(
                    f"X has {len(pixels)} images and y has {len(labels)} labels: give one label "
                    "for each image"
                )
            result = train(
                deepcopy(self.model),
                make_splits_with_placeholder_eval(pixels, indices),
                classes=[str(name) for name in classes],
                recipe=self.recipe,
                epochs=self.epochs,
                steps=self.steps,
                seed=seed_from_random_state(self.random_state),
                from_=self.initial_weights,
                freeze=self.freeze,
                balance=self.balance,
                transform=self.train_transform,
                precision=self.precision,
                device=self.device,
                recompute=self.recompute,
                quiet=self.quiet,
            )
        self.net_: nn.Module = result.net
        # the test error of the run is that of training images
        self.config_ = replace(result.config, test_error=None, test_images=0, test_views="none")
        self.classes_ = classes
        self.n_features_in_ = pixels[0].numel()
        return self

    @property
    def classifier_(self) -> Classifier:
        """The trained network as `residua.load` returns it, with its own methods."""
        check_is_fitted(self, "net_")
        return Classifier(self.net_, self.config_)

    @name_keywords_in_errors
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict the probabilities (n, classes) of images X, in the order of `classes_`."""
        check_is_fitted(self, "net_")
        with raise_as_value_error():
            pixels = self.convert_to_pixels(X)
            if (shape := tuple(pixels.shape[1:])) != self.config_.input:
                raise UsageError(
                    f"X has images of shape {shape}, but {type(self).__name__} was fitted to "
                    f"images of shape {self.config_.input}: convert X to that shape"
                )
        machine = set_up_machine("fp32", device_choice=self.device)
        net = machine.prepare_model_in_place(deepcopy(self.net_))
        images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
        scores = predict_log_probabilities(net, images, self.config_, machine)
        # in float64, so that the probabilities of an image sum to 1 as scikit-learn expects
        probabilities: NDArray[np.float64] = scores.double().softmax(1).numpy()
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the most probable label (n,) of each image of X."""
        probabilities = self.predict_proba(X)
        predicted: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return predicted

    def convert_to_pixels(self, X: Any) -> Tensor:
        """Convert X to pixels (n, c, h, w) uint8; raises UsageError or DataError if impossible."""
        shape = np.shape(X)
        if len(shape) != 2:
            return convert_images(X)
        if self.image_shape is None:
            raise UsageError(
                f"X has the shape {shape}, which does not determine the image shape: give "
                "image_shape=(channels, height, width), or X as (n, height, width)"
            )
        image_shape = np.ravel(self.image_shape).tolist()
        is_image = len(image_shape) == 3 and image_shape[0] in COUNTS_OF_CHANNELS
        if not is_image or prod(image_shape) != shape[1]:
            raise UsageError(
                f"image_shape={self.image_shape} does not fit X, which has {shape[1]} values for "
                "each image: give (channels, height, width) with this product, and 1 or 3 channels"
            )
        images = np.asarray(X).reshape(-1, *image_shape)
        return convert_images(images[:, 0] if image_shape[0] == 1 else images)


def make_splits_with_placeholder_eval(
    pixels: Tensor, indices: NDArray[np.int64]
) -> dict[str, tuple[Tensor, NDArray[np.int64]]]:
    """Return the data of a run that trains on all images, as `residua.train` takes them.

    Training measures errors on dev and test images, but chooses nothing by them.  Here both splits
    hold one training image of each class, so that measuring takes no time; the errors mean nothing.
    """
    _, first_of_class = np.unique(indices, return_index=True)
    measured = pixels[torch.from_numpy(first_of_class)], indices[first_of_class]
    return {"train": (pixels, indices), "dev": measured, "test": measured}


def seed_from_random_state(random_state: int | np.random.RandomState | None) -> int:
    """Make a seed from the parameter `random_state`; if it is None, draw one.

    Raises UsageError if the parameter is neither a seed nor a random state.
    """
    if isinstance(random_state, int | np.integer):
        if not 0 <= random_state <= LARGEST_SEED:
            raise UsageError(
                f"random_state={random_state} is invalid: give a whole number from 0 to "
                f"{LARGEST_SEED}"
            )
        return int(random_state)
    return int(check_random_state(random_state).randint(LARGEST_SEED, dtype=np.uint32))


@contextmanager
def raise_as_value_error() -> Iterator[None]:
    """Turn DataError into UsageError, which is a ValueError, inside the context.

    Data are arguments here, not files, and scikit-learn raises ValueError for them.  Errors name
    the parameter `initial_weights`, not `from_`.
    """
    try:
        yield
    except DataError as error:
        raise UsageError(str(error)) from error
    except UsageError as error:
        error.args = (re.sub(r"\bfrom_(?!\w)", "initial_weights", str(error)),)
        raise

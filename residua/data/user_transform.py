"""A random change of the training images by a function of the user's."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.errors import DataError


class UserTransform(Protocol):
    """A function that changes an image (h, w, c) uint8, and draws what is random from `rng`.

    It returns an image of the same shape and type.  `rng` depends only on the seed of the run, the
    epoch and the number of the sample, so that a resumed run draws the same.
    """

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator, /) -> object: ...


def apply_user_transform(
    pixels: Tensor, transform: UserTransform, seed: int, epochs: Tensor, samples: Tensor
) -> Tensor:
    """Apply `transform` to each of the images (n, c, h, w) uint8.

    `epochs` and `samples`, the numbers of the samples, are (n,).

    Raises DataError if `transform` fails, or does not return a uint8 image of the same shape.
    """
    images = pixels.cpu().permute(0, 2, 3, 1).numpy()
    changed = np.empty_like(images)
    for i, (epoch, sample) in enumerate(zip(epochs.tolist(), samples.tolist(), strict=True)):
        rng = np.random.default_rng([seed, epoch, sample])
        try:
            image = np.asarray(transform(images[i].copy(), rng))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"the transform failed on a training image: {reason}") from error
        if image.shape != images[i].shape or image.dtype != np.uint8:
            raise DataError(
                f"the transform returned an image of shape {image.shape} and dtype {image.dtype}: "
                f"it must return shape {images[i].shape} and dtype uint8"
            )
        changed[i] = image
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(pixels.device)

"""The views of test images, and the average of their predictions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import log

import torch
from torch import Tensor

from residua.config.dataset import DATASETS
from residua.config.image_views import TEN_CROPS, ImageViews, require_usable_views
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.data.augment import pad_by_reflection
from residua.data.decode import HasPreprocessing
from residua.data.images import ARRAYS_PREFIX
from residua.data.resize import center_offset
from residua.errors import UsageError


def keep_margin_for_views(preprocessing: HasPreprocessing, views: ImageViews) -> ImagePreprocessing:
    """Return how photographs are prepared for these views: for ten crops, as the whole square.

    Raises UsageError if there are ten crops, but the preprocessing leaves no margin for them.
    """
    channels, height, width = preprocessing.input
    side = preprocessing.resize
    kept = ImagePreprocessing(
        preprocessing.input,
        side,
        preprocessing.interpolation,
        preprocessing.white_level,
        preprocessing.scaled_decoding,
    )
    if views != "10":
        return kept
    if side <= max(height, width):
        raise UsageError(
            f"{TEN_CROPS}, but the model resizes them to {side or height} pixels, of which it "
            "uses all: use the views mirror or six"
        )
    return replace(kept, input=(channels, side, side))


def require_views_for_model(config: ModelConfig, views: ImageViews, option: str) -> None:
    """Raise UsageError if mirroring may change the class of images like those of the training.

    `option` is how the user names the views.
    """
    known = DATASETS.get(config.dataset)
    is_grey_array = config.dataset.startswith(ARRAYS_PREFIX) and config.input[0] != 3
    require_usable_views(
        views,
        option,
        f"a model of {config.dataset}",
        flip_keeps_class=not is_grey_array if known is None else known.flip_keeps_class,
        margin=1,  # `keep_margin_for_views` looks at it
    )


def iterate_views(
    pixels: Tensor, views: ImageViews, crop_size: tuple[int, int]
) -> Iterator[Tensor]:
    """Yield the views of images (n, c, h, w), in a fixed order, each followed by its mirror image.

    `crop_size` (height, width) is the size of ten crops, which are in torchvision's order of the
    crops: top left, top right, bottom left, bottom right, center.
    """
    if views in ("none", "plain"):
        yield pixels
        return
    shown = [pixels]
    if views == "10":
        shown = list(iterate_five_crops(pixels, crop_size))
    elif views == "six":
        height, width = pixels.shape[2:]
        padded = pad_by_reflection(pixels, 1)
        shown += [padded[:, :, i : i + height, i : i + width] for i in (0, 2)]
    for view in shown:
        yield view
        yield view.flip(3)


def iterate_five_crops(pixels: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the corners and the center of images (n, c, h, w), each (n, c, *size)."""
    (height, width), (crop_height, crop_width) = pixels.shape[2:], size
    bottom, right = height - crop_height, width - crop_width
    center = center_offset(height, crop_height), center_offset(width, crop_width)
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), center):
        yield pixels[:, :, top : top + crop_height, left : left + crop_width]


def average_view_scores(scores: Sequence[Tensor], views: ImageViews) -> Tensor:
    """Average class scores (n, classes) of the views of `iterate_views`: log probabilities.

    See `ImageViews` for what is averaged.
    """
    if views == "six":
        pairs = [0.5 * (scores[i] + scores[i + 1]) for i in (0, 2, 4)]
        return (0.5 * pairs[0] + 0.25 * (pairs[1] + pairs[2])).log_softmax(1)
    log_probs = torch.stack([view.log_softmax(1) for view in scores])
    return log_probs.logsumexp(0) - log(len(scores))


def compute_probabilities(scores: Tensor, temperature: float) -> Tensor:
    """Compute probabilities (n, classes) in fp32: softmax(scores / temperature).

    `scores` (n, classes) are a network's, or log probabilities, such as an average over views.
    """
    return torch.softmax(scores.float() / temperature, 1)


def average_over_views(
    compute_scores: Callable[[Tensor], Tensor],
    views: ImageViews,
    crop_size: tuple[int, int],
    temperature: float,
) -> Callable[[Tensor], Tensor]:
    """Return a function that maps images uint8 to probabilities, averaged over their views.

    `compute_scores` maps images (n, c, *crop_size) uint8 to class scores (n, classes).  As in an
    evaluation, predictions are averaged at the temperature 1, and the average is then scaled by
    the `temperature`.
    """

    def classify_views(pixels: Tensor) -> Tensor:
        scores = [
            compute_scores(view.contiguous()) for view in iterate_views(pixels, views, crop_size)
        ]
        # The scores of a single view are not rounded once more by an average.
        averaged = scores[0] if len(scores) == 1 else average_view_scores(scores, views)
        return compute_probabilities(averaged, temperature)

    return classify_views

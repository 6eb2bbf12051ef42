"""Choose the images that the page of an evaluation shows, as thumbnails of limited total size."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from residua.config.evaluation_results import ClassifiedImage
from residua.data.preprocessed_images import NamedImages
from residua.data.thumbnails import make_thumbnail_uri
from residua.training.calibration import FloatArray, LabelArray

MAX_MISTAKES = 24  # confident mistakes that an evaluation shows; our choice
MISTAKE_SIDE, EXAMPLE_SIDE = 256, 128  # the longer side of a thumbnail in pixels, at most
MAX_WRONG_PER_CELL, MAX_RIGHT_PER_CELL = 24, 8  # images of a cell of the confusion matrix
MAX_EXAMPLE_CHARACTERS = 3_000_000  # of the data URIs of all examples, and so about 3 MB a page


def find_confident_mistakes(
    named_images: NamedImages, log_probs: FloatArray, predicted_classes: LabelArray
) -> tuple[ClassifiedImage, ...]:
    """Find at most `MAX_MISTAKES` mistakes, those with the highest probability, in that order."""
    labels = named_images.images.labels.numpy()
    predicted_log_probs = log_probs[np.arange(len(labels)), predicted_classes]
    wrong = np.flatnonzero(predicted_classes != labels)
    most_confident = wrong[np.argsort(-predicted_log_probs[wrong], kind="stable")[:MAX_MISTAKES]]
    return tuple(
        picture_image(named_images, log_probs, predicted_classes, i, MISTAKE_SIDE)
        for i in most_confident
    )


def picture_image(
    named_images: NamedImages,
    log_probs: FloatArray,
    predicted_classes: LabelArray,
    position: int,
    max_side: int,
) -> ClassifiedImage:
    """Return the image at `position` as a thumbnail, with its label and its predicted class."""
    images = named_images.images
    return ClassifiedImage(
        where=named_images.names[position],
        thumbnail=make_thumbnail_uri(images[slice(position, position + 1)].pixels[0], max_side),
        truth=int(images.labels[position]),
        guess=int(predicted_classes[position]),
        probability=float(np.exp(log_probs[position, predicted_classes[position]])),
    )


def choose_examples(
    named_images: NamedImages,
    log_probs: FloatArray,
    predicted_classes: LabelArray,
    shown: Collection[str],
    wanted: Sequence[int],
) -> tuple[ClassifiedImage, ...]:
    """Choose images of the cells of the confusion matrix, until `MAX_EXAMPLE_CHARACTERS` are used.

    The positions `wanted` come first, then those of `order_by_cell`.  Images whose names are in
    `shown` are left out, because the page has them already.
    """
    confidence = log_probs[np.arange(len(predicted_classes)), predicted_classes]
    labels = named_images.images.labels.numpy()
    positions = [*wanted, *order_by_cell(labels, predicted_classes, confidence).tolist()]
    examples: list[ClassifiedImage] = []
    characters = 0
    for position in dict.fromkeys(positions):
        if named_images.names[position] in shown:
            continue
        example = picture_image(named_images, log_probs, predicted_classes, position, EXAMPLE_SIDE)
        characters += len(example.thumbnail)
        if characters > MAX_EXAMPLE_CHARACTERS:
            break
        examples.append(example)
    return tuple(examples)


def order_by_cell(
    labels: LabelArray, predicted_classes: LabelArray, confidence: FloatArray
) -> NDArray[np.int64]:
    """Order positions of images: the first image of each cell, then the second of each, and so on.

    A cell is a pair of label and predicted class.  In each round, frequent confusions come first,
    and right predictions last.  A cell's mistakes begin with the most confident one, and its right
    predictions with the least confident one; at most `MAX_WRONG_PER_CELL` or `MAX_RIGHT_PER_CELL`
    are in the result.
    """
    right = labels == predicted_classes
    cells = labels * (int(predicted_classes.max(initial=0)) + 1) + predicted_classes
    by_cell = np.lexsort((np.where(right, confidence, -confidence), cells))
    _, firsts, counts = np.unique(cells[by_cell], return_index=True, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(firsts, counts)
    sizes, right = np.repeat(counts, counts), right[by_cell]
    order = np.lexsort((-sizes, right, ranks))
    kept = ranks < np.where(right, MAX_RIGHT_PER_CELL, MAX_WRONG_PER_CELL)
    ordered: NDArray[np.int64] = by_cell[order[kept[order]]]
    return ordered

"""Classifies image files in batches while threads decode the next ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.serialize import Json
from residua.data.decode import HasPreprocessing, decode_and_preprocess
from residua.data.threads import count_available_cores
from residua.errors import ImageError

PREDICTION_BATCH_SIZE = 32
NOT_FINITE = "has probabilities that are not finite: the weights are damaged, or overflow"
BATCHES_DECODED_AHEAD = 4  # batches decoded or being decoded while one is classified

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image file with its class probabilities, or with an error if the file is unreadable."""

    path: Path
    pixels: Tensor | None  # (c, h, w) uint8, preprocessed for the network
    probabilities: Tensor | None  # (classes,)
    error: str = ""  # why the file is unreadable, as a phrase after its name, e.g. "is truncated"
    brightest_level: int = 0  # of an image of more than 8 bits, if its white level is assumed

    def top_classes(self, k: int) -> list[tuple[int, float]]:
        """List the k most probable classes as (index, probability); [] for an unreadable file."""
        return [] if self.probabilities is None else rank_top_classes(self.probabilities, k)


def rank_top_classes(probabilities: Tensor, k: int) -> list[tuple[int, float]]:
    """Return the k largest of the probabilities (classes,) as (index, probability), largest first.

    Returns all classes if there are fewer than k.
    """
    best = probabilities.topk(min(k, len(probabilities)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def make_prediction_json(top: Sequence[tuple[str, float]]) -> dict[str, Json]:
    """Make the JSON object of a prediction from the most probable classes of an image.

    `top` holds at least one (name, probability), the most probable first.  The server's answers and
    `residua predict --json` contain this object.
    """
    name, probability = top[0]
    return {
        "class": name,
        "probability": probability,
        "top": [{"class": name, "probability": probability} for name, probability in top],
    }


def predict_files(
    paths: Iterable[Path],
    classify: Callable[[Tensor], Tensor],
    preprocessing: HasPreprocessing,
    batch_size: int = PREDICTION_BATCH_SIZE,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Iterator[Prediction]:
    """Yield one prediction per file, in the order of `paths`, as `predict_images` does.

    An unreadable file, or an image of more than `max_pixels` pixels, yields a prediction with an
    error.
    """
    decode = partial(decode_or_error, preprocessing=preprocessing, max_pixels=max_pixels)
    return predict_images(paths, decode, classify, batch_size)


def predict_images(
    items: Iterable[ItemT],
    decode: Callable[[ItemT], Prediction],
    classify: Callable[[Tensor], Tensor],
    batch_size: int = PREDICTION_BATCH_SIZE,
) -> Iterator[Prediction]:
    """Yield one prediction per item, in order.

    `decode` turns an item into a prediction that has pixels or an error, and `classify` maps images
    (n, c, h, w) uint8 to probabilities (n, classes); if those of an image are not finite, its
    prediction has an error.  While a batch is classified, threads decode the next ones.
    """
    images = decode_ahead(items, decode, BATCHES_DECODED_AHEAD * batch_size)
    while batch := list(islice(images, batch_size)):
        pixels = [image.pixels for image in batch if image.pixels is not None]
        probabilities = iter(classify(torch.stack(pixels)) if pixels else ())
        for image in batch:
            if image.pixels is None:
                yield image
                continue
            of_image = next(probabilities)
            if of_image.isfinite().all():
                yield replace(image, probabilities=of_image)
            else:  # a NaN is no JSON, and would win or lose silently
                yield replace(image, pixels=None, error=NOT_FINITE)


def decode_ahead(
    items: Iterable[ItemT], decode: Callable[[ItemT], Prediction], max_waiting: int
) -> Iterator[Prediction]:
    """Decode items on threads; yield a prediction without probabilities for each, in order.

    There is one thread per available CPU core.  To bound the memory, at most `max_waiting` images
    are decoded ahead of the consumer.
    """
    pool = ThreadPoolExecutor(count_available_cores())
    pending: deque[Future[Prediction]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(decode, item))
            if len(pending) == max_waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_or_error(
    path: Path, preprocessing: HasPreprocessing, max_pixels: int = MAX_IMAGE_PIXELS
) -> Prediction:
    """Decode one file into a prediction that has pixels or an error, and no probabilities yet."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        return Prediction(path, None, None, "is not a regular file")
    try:
        photo = decode_and_preprocess(path, preprocessing, max_pixels)
        return Prediction(path, photo.pixels, None, brightest_level=photo.brightest_level)
    except ImageError as error:
        return Prediction(path, None, None, error.detail)

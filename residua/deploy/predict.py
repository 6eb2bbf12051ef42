"""Classifies image files in batches while threads decode the next ones."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from residua.config.serialize import Json
from residua.data.decode import HasPreprocessing, decode_image, preprocess_image
from residua.data.threads import count_available_cores
from residua.errors import ImageError

PREDICTABLE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
)
PREDICTION_BATCH_SIZE = 32
BATCHES_DECODED_AHEAD = 4  # batches that are decoded, or in decoding, while one is classified


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image file with the probabilities of its classes, or with an error if it is unreadable."""

    path: Path
    pixels: Tensor | None  # (c, h, w) uint8, preprocessed for the network
    probabilities: Tensor | None  # (classes,)
    error: str = ""  # why the file cannot be read, without a subject, e.g. "is truncated"

    def top_classes(self, k: int) -> list[tuple[int, float]]:
        """The k most probable classes as (index, probability); empty if the file is unreadable."""
        return [] if self.probabilities is None else rank_top_classes(self.probabilities, k)


def rank_top_classes(probabilities: Tensor, k: int) -> list[tuple[int, float]]:
    """Return the k largest of the probabilities (classes,) as (index, probability), largest first.

    Returns all classes if there are fewer than k.
    """
    best = probabilities.topk(min(k, len(probabilities)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def make_prediction_json(top: Sequence[tuple[str, float]]) -> dict[str, Json]:
    """JSON of the most probable classes (name, probability); `top` is sorted and not empty.

    The server's answers and `residua predict --json` share this form.
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
) -> Iterator[Prediction]:
    """Yield one prediction per file, in the order of `paths`.

    `classify` maps images (n, c, h, w) uint8 to probabilities (n, classes).  While it computes one
    batch, threads decode the next ones.  An unreadable file yields a prediction with an error.
    """
    images = decode_files(paths, preprocessing, BATCHES_DECODED_AHEAD * batch_size)
    while batch := list(islice(images, batch_size)):
        pixels = [image.pixels for image in batch if image.pixels is not None]
        probabilities = iter(classify(torch.stack(pixels)) if pixels else ())
        for image in batch:
            if image.pixels is None:
                yield image
            else:
                yield replace(image, probabilities=next(probabilities))


def decode_files(
    paths: Iterable[Path],
    preprocessing: HasPreprocessing,
    max_waiting: int = BATCHES_DECODED_AHEAD * PREDICTION_BATCH_SIZE,
) -> Iterator[Prediction]:
    """Yield one prediction per file, still without probabilities, in the order of `paths`.

    One thread per available CPU core decodes; at most `max_waiting` images are decoded ahead of the
    consumer, which bounds the memory.
    """
    pool = ThreadPoolExecutor(count_available_cores())
    pending: deque[Future[Prediction]] = deque()
    try:
        for path in paths:
            pending.append(pool.submit(decode_or_error, path, preprocessing))
            if len(pending) == max_waiting:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_or_error(path: Path, preprocessing: HasPreprocessing) -> Prediction:
    """Decode one file into a prediction that has pixels or an error, and no probabilities yet."""
    if path.exists() and not path.is_file():  # reading a pipe or a device might never end
        return Prediction(path, None, None, "is not a regular file")
    try:
        return Prediction(path, preprocess_image(decode_image(path), preprocessing), None)
    except ImageError as error:
        return Prediction(path, None, None, error.detail)


def find_image_files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` that have an image suffix, sorted by name in each folder.

    Hidden files and folders are skipped, and so are symbolic links that lead out of `folder`.
    """
    root = folder.resolve()
    for directory, subfolders, file_names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(file_names):
            path = Path(directory, name)
            if name.startswith(".") or path.suffix.lower() not in PREDICTABLE_SUFFIXES:
                continue
            if not path.is_symlink() or path.resolve().is_relative_to(root):
                yield path

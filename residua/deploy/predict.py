"""Image files -> classes: files are found, decoded by threads, and classified in batches meanwhile."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

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
BATCHES_DECODED_AHEAD = 4  # batches that are decoded, or being decoded, before they are asked for


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image file as a network sees it, uint8 (c, h, w), with the probability of each class (classes,); or an `error`."""

    path: Path
    pixels: Tensor | None
    probabilities: Tensor | None
    error: str = ""  # what the file is that cannot be read

    def top_classes(self, k: int) -> list[tuple[int, float]]:
        """The k likeliest classes with their probabilities, the likeliest first; none where there are no probabilities."""
        if self.probabilities is None:
            return []
        best = self.probabilities.topk(min(k, len(self.probabilities)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def predict_files(
    paths: Iterable[Path],
    classify: Callable[[Tensor], Tensor],
    preprocessing: HasPreprocessing,
    batch_size: int = PREDICTION_BATCH_SIZE,
) -> Iterator[Prediction]:
    """What `classify`, uint8 (n, c, h, w) -> probabilities (n, classes), says of each file, in the order of `paths`.

    While it works on a batch, threads decode the next ones.  A file that cannot be read stands in its place with the reason.
    """
    images = decode_files(paths, preprocessing, BATCHES_DECODED_AHEAD * batch_size)
    while batch := list(islice(images, batch_size)):
        pixels = [image.pixels for image in batch if image.pixels is not None]
        probabilities = iter(classify(torch.stack(pixels)) if pixels else ())
        for image in batch:
            yield (
                image if image.pixels is None else replace(image, probabilities=next(probabilities))
            )


def decode_files(
    paths: Iterable[Path],
    preprocessing: HasPreprocessing,
    max_waiting: int = BATCHES_DECODED_AHEAD * PREDICTION_BATCH_SIZE,
) -> Iterator[Prediction]:
    """The images in the order of their paths, decoded by a thread for each CPU; at most `ahead` of them wait to be asked for."""
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
    """The image, or its error, still without probabilities."""
    if path.exists() and not path.is_file():  # a device would be read for ever
        return Prediction(path, None, None, "is no file")
    try:
        return Prediction(path, preprocess_image(decode_image(path), preprocessing), None)
    except ImageError as error:
        return Prediction(path, None, None, error.detail)


def find_image_files(folder: Path) -> Iterator[Path]:
    """The files in `folder` and below that are called as images are, in order of their names; no link out of it is followed."""
    root = folder.resolve()
    for directory, subfolders, file_names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(file_names):
            path = Path(directory, name)
            if name.startswith(".") or path.suffix.lower() not in PREDICTABLE_SUFFIXES:
                continue
            if not path.is_symlink() or path.resolve().is_relative_to(root):
                yield path

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

from residua.data.image import Preprocessing, decode, prepared
from residua.data.threads import cores
from residua.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
BATCH = 32
AHEAD = 4  # batches that are decoded, or being decoded, before they are asked for


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image file as a network sees it, uint8 (c, h, w), with the probability of each class (classes,); or an `error`."""

    path: Path
    pixels: Tensor | None
    probabilities: Tensor | None
    error: str = ""  # what the file is that cannot be read

    def top(self, k: int) -> list[tuple[int, float]]:
        """The k likeliest classes with their probabilities, the likeliest first; none where there are no probabilities."""
        if self.probabilities is None:
            return []
        best = self.probabilities.topk(min(k, len(self.probabilities)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def predictions(
    paths: Iterable[Path], classify: Callable[[Tensor], Tensor], like: Preprocessing, batch_size: int = BATCH
) -> Iterator[Prediction]:
    """What `classify`, uint8 (n, c, h, w) -> probabilities (n, classes), says of each file, in the order of `paths`.

    While it works on a batch, threads decode the next ones.  A file that cannot be read stands in its place with the reason.
    """
    images = read(paths, like, AHEAD * batch_size)
    while batch := list(islice(images, batch_size)):
        pixels = [image.pixels for image in batch if image.pixels is not None]
        found = iter(classify(torch.stack(pixels)) if pixels else ())
        for image in batch:
            yield image if image.pixels is None else replace(image, probabilities=next(found))


def read(paths: Iterable[Path], like: Preprocessing, ahead: int = AHEAD * BATCH) -> Iterator[Prediction]:
    """The images in the order of their paths, decoded by a thread for each CPU; at most `ahead` of them wait to be asked for."""
    pool = ThreadPoolExecutor(cores())
    waiting: deque[Future[Prediction]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(image_of, path, like))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def image_of(path: Path, like: Preprocessing) -> Prediction:
    """The image, or its error, still without probabilities."""
    if path.exists() and not path.is_file():  # a device would be read for ever
        return Prediction(path, None, None, "is no file")
    try:
        return Prediction(path, prepared(decode(path), like), None)
    except ImageError as error:
        return Prediction(path, None, None, error.detail)


def images_in(folder: Path) -> Iterator[Path]:
    """The files in `folder` and below that are called as images are, in order of their names; no link out of it is followed."""
    root = folder.resolve()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if not path.is_symlink() or path.resolve().is_relative_to(root):
                yield path

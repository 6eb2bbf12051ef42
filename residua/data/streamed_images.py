"""Photographs that are decoded when they are needed, with the interface of images in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residua.config.memory import DECODED_BATCHES
from residua.data.images import Images
from residua.data.photo_source import PhotoSource
from residua.data.threads import StopEvent, count_decoding_threads, stop_waiting_at

MAX_IMAGES_PER_TASK = 8  # decoded by a thread before it takes the next task


@dataclass(frozen=True, slots=True)
class StreamedImages:
    """Photographs with their labels (n,), whose center crops of `size` (h, w) are its images.

    A slice or a tensor of indices decodes its images, in threads.
    """

    source: PhotoSource
    size: tuple[int, int]
    labels: Tensor  # on the device that the images are decoded for

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Images:
        return next(self.iterate([index]))

    def select(self, indices: Tensor) -> "StreamedImages":
        """Return the photographs at `indices`, in that order; none is decoded."""
        return replace(self, source=self.source.select(indices.cpu()), labels=self.labels[indices])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the center crops."""
        return self.size

    def center_crop(self, size: tuple[int, int]) -> "StreamedImages":
        """Return the same photographs with smaller center crops, of (height, width)."""
        return replace(self, size=size)

    def to(self, device: torch.device) -> "StreamedImages":
        """Return the same photographs, whose images and labels are on `device` once decoded."""
        return replace(self, labels=self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash that identifies the photographs and their labels, in 16 hexadecimal digits."""
        return self.source.fingerprint

    def iterate(self, indices: Iterable[Tensor | slice]) -> Generator[Images]:
        """Yield `self[index]` for each of `indices`; the next ones are decoded meanwhile.

        When the iterator is closed, no thread goes on.
        """
        pending: deque[tuple[Tensor | slice, FilledTensor]] = deque()
        pool = ThreadPoolExecutor(count_decoding_threads(), "decoding")
        try:
            for index in indices:
                pending.append((index, self.start_decoding(index, pool)))
                if len(pending) == DECODED_BATCHES:
                    yield self.finish_decoding(*pending.popleft())
            while pending:
                yield self.finish_decoding(*pending.popleft())
        finally:
            for _, started in pending:
                started.cancel()
            pool.shutdown(cancel_futures=True)

    def start_decoding(self, index: Tensor | slice, pool: ThreadPoolExecutor) -> "FilledTensor":
        positions = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        numbers = positions.tolist()
        return FilledTensor(
            (len(numbers), self.source.channels, *self.size),
            lambda i: self.source.read_center(numbers[i], self.size),
            pool,
            is_pinned=self.labels.is_cuda,
        )

    def finish_decoding(self, index: Tensor | slice, started: "FilledTensor") -> Images:
        labels = self.labels[index]
        return Images(started.wait().to(labels.device, non_blocking=True), labels)


ImageSet = Images | StreamedImages
"""Labelled images of one shape, in memory or decoded when they are needed."""


class FilledTensor:
    """A uint8 tensor on the CPU whose rows are computed by threads, `read(i)` for row i.

    `is_pinned` is for rows that are copied to a GPU later.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        read: Callable[[int], Tensor],
        pool: ThreadPoolExecutor,
        *,
        is_pinned: bool = False,
    ) -> None:
        self.rows = torch.empty(shape, dtype=torch.uint8, pin_memory=is_pinned)
        self.read, self.is_cancelled = read, StopEvent()
        # numpy copies in the calling thread; torch would start more threads for each of the pool's
        self.array = self.rows.numpy()
        per_thread = -(-len(self.rows) // count_decoding_threads())
        step = max(min(per_thread, MAX_IMAGES_PER_TASK), 1)
        self.tasks: list[Future[None]] = [
            pool.submit(self.fill, range(start, min(start + step, len(self.rows))))
            for start in range(0, len(self.rows), step)
        ]

    def fill(self, numbers: range) -> None:
        """Compute the rows with these numbers, unless they are not needed any more."""
        with stop_waiting_at(self.is_cancelled):
            for i in numbers:
                if self.is_cancelled.is_set():
                    return
                self.array[i] = self.read(i).numpy()

    def wait(self) -> Tensor:
        """Wait for all rows, and return the tensor; raise the error of the first row that failed.

        After an error, the other rows are cancelled.
        """
        try:
            for task in self.tasks:
                task.result()
        except BaseException:  # Ctrl-C, too
            self.cancel()
            raise
        return self.rows

    @property
    def is_done(self) -> bool:
        """Whether `wait` would not wait."""
        return all(task.done() for task in self.tasks)

    def cancel(self) -> None:
        """Compute no more rows, and give up those that wait for a server."""
        self.is_cancelled.set()
        for task in self.tasks:
            task.cancel()

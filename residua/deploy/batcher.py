"""Groups concurrent requests into batches, and classifies the batches on one thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_BATCHED_IMAGES = 32
BATCH_WAIT_SECONDS = 0.002  # how long a batch waits for more images; our choice


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image in the queue, and the future that receives its probabilities."""

    pixels: Tensor  # (c, h, w) uint8
    result: asyncio.Future[Tensor]  # (classes,)


class RequestBatcher:
    """Collects images from concurrent requests and classifies them in batches.

    Images that arrive while a batch is classified wait for the next batch.
    """

    def __init__(
        self,
        classify: Callable[[Tensor], Tensor],
        on_batch: Callable[[int], None],
        max_batch_size: int = MAX_BATCHED_IMAGES,
    ) -> None:
        """`classify` maps images (n, c, h, w) uint8 to probabilities (n, classes).

        `on_batch` is called before each batch with the number of its images.
        """
        self.classify, self.on_batch, self.max_batch_size = classify, on_batch, max_batch_size
        self.queue: asyncio.Queue[PendingImage] = asyncio.Queue()
        # One thread, because an engine is not thread-safe and uses all cores itself.
        self.executor = ThreadPoolExecutor(1, "classify")

    async def __call__(self, pixels: Tensor) -> Tensor:
        """Return the probabilities (classes,) of an image (c, h, w) uint8.

        An exception that `classify` raises for the image's batch is also raised here.
        """
        pending = PendingImage(pixels, asyncio.get_running_loop().create_future())
        await self.queue.put(pending)
        return await pending.result

    async def run_forever(self) -> None:
        """Classify batch after batch until this task is cancelled."""
        while True:
            batch = await self.next_batch()
            self.on_batch(len(batch))
            try:
                stacked = torch.stack([pending.pixels for pending in batch])
                batch_probabilities = await asyncio.get_running_loop().run_in_executor(
                    self.executor, self.classify, stacked
                )
            except Exception as error:
                self.fail_batch(batch, error)
                continue
            for pending, probabilities in zip(batch, batch_probabilities, strict=True):
                if not pending.result.done():  # the request may have timed out or disconnected
                    pending.result.set_result(probabilities)

    async def next_batch(self) -> list[PendingImage]:
        """Wait for an image, then collect more for `BATCH_WAIT_SECONDS`.

        Returns 1 to `max_batch_size` images, without further waiting once the batch is full.
        """
        batch = [await self.queue.get()]
        try:
            async with asyncio.timeout(BATCH_WAIT_SECONDS):
                while len(batch) < self.max_batch_size:
                    batch.append(await self.queue.get())
        except TimeoutError:
            pass
        return batch

    def fail_batch(self, batch: list[PendingImage], error: Exception) -> None:
        """Raise `error` in those requests of the batch that still wait for their result."""
        for pending in batch:
            if not pending.result.done():
                pending.result.set_exception(error)

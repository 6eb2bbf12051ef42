"""Requests that come at the same time are classified in one batch, by one thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_BATCHED_IMAGES = 32  # images of a batch
BATCH_WAIT_SECONDS = 0.002  # seconds that a batch waits for more images; our choice


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image (c, h, w) uint8, and where its probabilities (classes,) are awaited."""

    pixels: Tensor
    result: asyncio.Future[Tensor]


class RequestBatcher:
    """Classifies single images together: whoever asks while a batch is computed is in the next one."""

    def __init__(
        self,
        classify: Callable[[Tensor], Tensor],
        on_batch: Callable[[int], None],
        max_batch_size: int = MAX_BATCHED_IMAGES,
    ) -> None:
        self.classify, self.on_batch, self.max_batch_size = classify, on_batch, max_batch_size
        self.queue: asyncio.Queue[PendingImage] = asyncio.Queue()
        self.executor = ThreadPoolExecutor(1, "classify")

    async def __call__(self, pixels: Tensor) -> Tensor:
        """Probabilities (classes,) of an image (c, h, w) uint8; raises what `classify` raises."""
        pending = PendingImage(pixels, asyncio.get_running_loop().create_future())
        await self.queue.put(pending)
        return await pending.result

    async def run_forever(self) -> None:
        """For ever, batch after batch."""
        while True:
            batch = await self.next_batch()
            self.on_batch(len(batch))
            try:
                stacked = torch.stack([waiting.pixels for waiting in batch])
                batch_probabilities = await asyncio.get_running_loop().run_in_executor(
                    self.executor, self.classify, stacked
                )
            except Exception as error:
                self.fail_batch(batch, error)
                continue
            for pending, probabilities in zip(batch, batch_probabilities, strict=True):
                if not pending.result.done():  # whoever asked may have gone
                    pending.result.set_result(probabilities)

    async def next_batch(self) -> list[PendingImage]:
        """The images that wait, at least one: all that come within PATIENCE of the first, up to `most`."""
        batch = [await self.queue.get()]
        try:
            async with asyncio.timeout(BATCH_WAIT_SECONDS):
                while len(batch) < self.max_batch_size:
                    batch.append(await self.queue.get())
        except TimeoutError:
            pass
        return batch

    def fail_batch(self, batch: list[PendingImage], error: Exception) -> None:
        for pending in batch:
            if not pending.result.done():
                pending.result.set_exception(error)

"""Requests that come at the same time are classified in one batch, by one thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 32  # images of a batch
PATIENCE = 0.002  # seconds that a batch waits for more images; our choice


@dataclass(frozen=True, slots=True)
class Waiting:
    """An image (c, h, w) uint8, and where its probabilities (classes,) are awaited."""

    pixels: Tensor
    answer: asyncio.Future[Tensor]


class Batcher:
    """Classifies single images together: whoever asks while a batch is computed is in the next one."""

    def __init__(self, classify: Callable[[Tensor], Tensor], tell: Callable[[int], None], most: int = MOST) -> None:
        self.classify, self.tell, self.most = classify, tell, most
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, "classify")

    async def __call__(self, pixels: Tensor) -> Tensor:
        """Probabilities (classes,) of an image (c, h, w) uint8; raises what `classify` raises."""
        waiting = Waiting(pixels, asyncio.get_running_loop().create_future())
        await self.queue.put(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """For ever, batch after batch."""
        while True:
            batch = await self.next()
            self.tell(len(batch))
            try:
                stacked = torch.stack([waiting.pixels for waiting in batch])
                found = await asyncio.get_running_loop().run_in_executor(self.thread, self.classify, stacked)
            except Exception as error:
                self.fail(batch, error)
                continue
            for waiting, probabilities in zip(batch, found, strict=True):
                if not waiting.answer.done():  # whoever asked may have gone
                    waiting.answer.set_result(probabilities)

    async def next(self) -> list[Waiting]:
        """The images that wait, at least one: all that come within PATIENCE of the first, up to `most`."""
        batch = [await self.queue.get()]
        try:
            async with asyncio.timeout(PATIENCE):
                while len(batch) < self.most:
                    batch.append(await self.queue.get())
        except TimeoutError:
            pass
        return batch

    def fail(self, batch: list[Waiting], error: Exception) -> None:
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)

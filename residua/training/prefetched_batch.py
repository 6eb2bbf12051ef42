"""Assemble the batch of the next step on a GPU while it computes the current step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from residua.data.batches import TrainingBatches
from residua.training.gpu_streams import get_own_stream


@contextmanager
def hold_batch(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a batch that is complete already."""
    yield images, labels


class PrefetchedBatch:
    """The images and labels of batch `step`, in memory that the batches after it will use too.

    A batch is assembled by a hundred kernels that are much too small to fill a GPU, so they run
    beside the kernels of the step before it, on a stream of their own.  `batches.can_be_captured`
    must be true.
    """

    def __init__(self, batches: TrainingBatches, step: int) -> None:
        self.batches, self.step = batches, step
        self.size_share = batches.size_share(step)
        self.stream = get_own_stream("prefetch")
        batches.load_orders(step)
        self.images, self.labels = batches.assemble(step, self.size_share)

    def load(self, step: int) -> None:
        """Assemble batch `step`, of the same size, in the same memory."""
        self.batches.load_orders(step)
        images, labels = self.batches.assemble(step, self.size_share)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.step = step

    def holds(self, batches: TrainingBatches, step: int) -> bool:
        """Return whether this is batch `step` of `batches`, in the size that it should have."""
        is_same_batch = self.batches is batches and self.step == step
        return is_same_batch and self.size_share == batches.size_share(step)

    @contextmanager
    def assemble_next(self, step: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this batch, assemble batch `step` beside the context, and store it at the end.

        `step` is a scalar int64 tensor on the GPU, and `batches.load_orders` must have been called
        for it.  A CUDA graph can hold the context.
        """
        main_stream = torch.cuda.current_stream()
        self.stream.wait_stream(main_stream)
        with torch.cuda.stream(self.stream):
            images, labels = self.batches.assemble(step, self.size_share)
        try:
            yield self.images, self.labels
        finally:  # else a capture that fails could not end
            main_stream.wait_stream(self.stream)
        self.images.copy_(images)
        self.labels.copy_(labels)

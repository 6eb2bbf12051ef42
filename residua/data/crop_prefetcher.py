"""Decode the crops of the training batches to come, in threads, while the current one is used."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod
from threading import Lock

import torch
from torch import Tensor

from residua.data.augment import draw_crop_box, draw_scaled_box, pad_images
from residua.data.counter_rng import RandomStream
from residua.data.photo_source import Box
from residua.data.resize import resize_box_of_pixels
from residua.data.sample_changes import SampleChanges
from residua.data.streamed_images import FilledTensor, StreamedImages
from residua.data.threads import count_decoding_threads
from residua.data.user_transform import UserTransform, apply_user_transform

MAX_BYTES_AHEAD = 2**28  # of decoded crops that wait, unless a single batch has more; our choice
MIN_BATCHES_AHEAD, MAX_BATCHES_AHEAD = 2, 16
ROWS_AHEAD_PER_THREAD = 4  # so that a slow photograph does not stop the other threads; our choice


@dataclass(frozen=True, slots=True)
class CropRequest:
    """The samples of a batch whose crops are to be decoded.

    `epochs` (n,) are those of the samples.  Each of `parts` holds n sample numbers: those of the
    batch and, if images are mixed, those of their partners.
    """

    epochs: Tensor
    parts: tuple[Tensor, ...]


class CropReader:
    """Reads what training takes from photographs, as `changes` says, each sample by its own bits.

    If `augment.takes_boxes`, this is a random box of the whole photograph, resized to `crop_size`.
    Else it is the center of the photograph: of `crop_size` or, if a random crop is taken from it
    later, of `images.image_size`.  `transform` is applied first, by one thread at a time, to the
    whole photograph or to its center.
    """

    def __init__(
        self,
        images: StreamedImages,
        changes: SampleChanges,
        crop_size: tuple[int, int],
        transform: UserTransform | None,
    ) -> None:
        self.images, self.changes, self.transform = images, changes, transform
        augment = changes.augment
        takes_crop_later = not augment.takes_boxes and (augment.pad or transform)
        self.size = images.image_size if takes_crop_later else crop_size
        # of the user's function, which need not be made for several threads
        self.transform_lock = Lock()

    def start(self, request: CropRequest, pool: ThreadPoolExecutor) -> FilledTensor:
        """Start to read the crops of all parts, one after the other: uint8 (k * n, c, h, w)."""
        source, augment = self.images.source, self.changes.augment
        samples, epochs = torch.cat(request.parts), request.epochs.repeat(len(request.parts))
        indices = samples % len(self.images)
        bits: list[list[int]] = []  # of the boxes
        if augment.takes_boxes:
            bits = self.changes.draw_several_bits(4, RandomStream.CROP, epochs, samples).tolist()
        index_list, sizes = indices.tolist(), source.sizes[indices].tolist()

        def read(i: int) -> Tensor:
            index, (height, width) = index_list[i], sizes[i]
            if not augment.takes_boxes:
                center = source.read_center(index, self.size)
                return self.change(center, epochs[i : i + 1], samples[i : i + 1])
            margin = augment.pad
            box = self.draw_box((height + 2 * margin, width + 2 * margin), bits[i])
            if self.transform is None and not margin:
                return source.read_crop(index, box, self.size)
            whole = source.read_crop(index, (0, 0, width, height), (height, width))
            changed = self.change(whole, epochs[i : i + 1], samples[i : i + 1])
            if margin:
                mode, mean = augment.pad_mode, self.changes.mean
                changed = pad_images(changed[None], margin, mode, mean)[0]
            return resize_box_of_pixels(changed.permute(1, 2, 0).numpy(), box, self.size)

        return FilledTensor(
            (len(samples), source.channels, *self.size),
            read,
            pool,
            is_pinned=self.images.labels.is_cuda,
        )

    def draw_box(self, size: tuple[int, int], random_bits: Sequence[int]) -> Box:
        """Draw the box of a sample in a photograph of `size` (h, w), from its random numbers."""
        augment = self.changes.augment
        if augment.area < 1:
            return draw_crop_box(size, augment.area, augment.stretch, random_bits)
        left, top, right, bottom = draw_scaled_box(
            size, self.size, augment.shorter_side, random_bits
        )
        return float(left), float(top), float(right), float(bottom)

    def change(self, image: Tensor, epoch: Tensor, sample: Tensor) -> Tensor:
        """Apply the user's transform to an image (c, h, w), if there is one."""
        if self.transform is None:
            return image
        with self.transform_lock:
            return apply_user_transform(
                image[None], self.transform, self.changes.seed, epoch, sample
            )[0]


class CropPrefetcher:
    """Decodes the crops of training batches ahead of the steps that use them.

    `request_crops(step)` says what batch `step` needs, and `reader` reads it.  Batches are decoded
    in the order of the steps, and after a batch that is not the next one, those that follow it.  A
    few batches are decoded ahead, of `MAX_BYTES_AHEAD` bytes at most, and none from `end_step` on
    unless it is asked for.  Crops are copied to the GPU, if the labels are there, while it computes
    earlier steps.
    """

    def __init__(
        self,
        request_crops: Callable[[int], CropRequest],
        reader: CropReader,
        end_step: int | None = None,
    ) -> None:
        self.request_crops, self.reader, self.end_step = request_crops, reader, end_step
        self.device = reader.images.labels.device
        self.pool: ThreadPoolExecutor | None = None
        self.pending: dict[int, tuple[CropRequest, FilledTensor]] = {}
        self.waited_seconds = 0.0  # by the device, for crops
        self.busy_until: torch.cuda.Event | None = None  # the GPU's, at the last call
        self.copied: torch.cuda.Event | None = None  # when its crops had arrived

    def take(self, step: int) -> tuple[CropRequest, Tensor]:
        """Return the request and the crops of batch `step`, both on the device.

        Raises the error of a photograph that cannot be decoded, at the step that needs it.
        """
        if step in self.pending:
            request, crops = self.pending.pop(step)
        else:
            self.cancel()
            request, crops = self.start(step)
        end = self.end_step if self.end_step is not None else step + MAX_BATCHES_AHEAD
        for later in range(step + 1, min(step + 1 + self.count_ahead(crops), end)):
            if later not in self.pending:
                self.pending[later] = self.start(later)
        started = time.perf_counter()
        if self.device.type != "cuda":
            result = request, crops.wait()
            self.waited_seconds += time.perf_counter() - started
            return result
        return self.copy_to_gpu(request, crops)

    def start(self, step: int) -> tuple[CropRequest, FilledTensor]:
        """Start to decode the crops of batch `step`."""
        if self.pool is None:
            self.pool = ThreadPoolExecutor(count_decoding_threads(), "decoding")
        request = self.request_crops(step)
        return request, self.reader.start(request, self.pool)

    def count_ahead(self, crops: FilledTensor) -> int:
        """Return how many batches like this one are decoded ahead."""
        rows, batch_bytes = len(crops.rows), prod(crops.rows.shape)
        wanted = -(-ROWS_AHEAD_PER_THREAD * count_decoding_threads() // rows)
        allowed = max(MAX_BYTES_AHEAD // batch_bytes, 1)
        return min(max(wanted, MIN_BATCHES_AHEAD), MAX_BATCHES_AHEAD, allowed)

    def copy_to_gpu(self, request: CropRequest, crops: FilledTensor) -> tuple[CropRequest, Tensor]:
        """Copy crops to the GPU on a stream of their own, which earlier steps do not delay.

        The call waits until the GPU has begun the last step, so that few batches are there.
        """
        main_stream = torch.cuda.current_stream(self.device)
        if self.busy_until is not None and self.copied is not None:
            self.busy_until.synchronize()
            self.copied.synchronize()
            self.waited_seconds += max(self.busy_until.elapsed_time(self.copied), 0) / 1000
        self.busy_until = record_event(main_stream)
        rows, stream = crops.wait(), get_copy_stream(self.device)
        numbers = torch.stack([request.epochs, *request.parts]).pin_memory()
        with torch.cuda.stream(stream):
            numbers_on_gpu, rows_on_gpu = [
                tensor.to(self.device, non_blocking=True) for tensor in (numbers, rows)
            ]
        self.copied = record_event(stream)
        main_stream.wait_event(self.copied)
        for tensor in (numbers_on_gpu, rows_on_gpu):
            tensor.record_stream(main_stream)
        epochs, *parts = numbers_on_gpu.unbind()
        return CropRequest(epochs, tuple(parts)), rows_on_gpu

    def pop_waited_seconds(self) -> float:
        """Return the seconds that the device has waited for crops since the last such call.

        Those of the last batch on a GPU are not known yet, and count in the next call.
        """
        waited, self.waited_seconds = self.waited_seconds, 0.0
        return waited

    def cancel(self) -> None:
        """Forget the batches that were to come."""
        for _, crops in self.pending.values():
            crops.cancel()
        self.pending.clear()

    def close(self) -> None:
        """Stop all threads; a later call of `take` starts them again."""
        self.cancel()
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def record_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Record an event with its time on a stream."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


@cache
def get_copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which crops are copied to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

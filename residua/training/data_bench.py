"""Measure how fast photographs become training batches, and which part of it binds."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch

from residua.config.photo_storage import AUTO_STORAGE
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.batches import TrainingBatches, make_training_batches
from residua.data.image_cache import hash_entry_content
from residua.data.photo_cache import make_store
from residua.data.photo_records import RecordSettings, write_records
from residua.data.photo_storage import choose_storage_by_space
from residua.data.photo_store import RecordFile, StoredPhotos
from residua.data.sources.listing import ImageListing
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing
from residua.data.streamed_images import StreamedImages
from residua.data.threads import count_decoding_threads, map_in_threads
from residua.errors import DataError, UsageError
from residua.net.model_folder import build_untrained
from residua.training.chosen_start import NO_WEIGHTS
from residua.training.machine import Machine
from residua.training.prepared_network import prepare_network_for_recipe
from residua.training.run_request import RunRequest, resolve_run
from residua.training.step import make_training_step
from residua.training.storage_choice import parse_storage

MAX_MEASURED_PHOTOS, MAX_MEASURED_BYTES = 512, 2**28  # kept in memory; our choice
MEASURED_SECONDS, MIN_MEASURED_BATCHES = 2.0, 3  # of each rate; our choice
WARMUP_BATCHES = {"cpu": 1, "cuda": 6}  # of a CUDA graph, the fourth step is the capture
AUGMENTATION_SHARE = 0.8  # batches slower than this share of decoding are bound by augmentation


def measure_data_pipeline(
    listing: ImageListing,
    machine: Machine,
    *,
    model: str | None = None,
    size: int | None = None,
    storage: str = AUTO_STORAGE,
) -> dict[str, Json]:
    """Measure the rates at which photographs are decoded, become batches and, for `model`, steps.

    The values are those that `residua data bench --json` prints.  A sample of the photographs is
    measured, as `storage` keeps them, in memory and with the recipe that `residua train` chooses.
    Raises UsageError for a storage or a size that cannot be measured, and DataError if no
    photograph can be decoded.
    """
    if storage == "squares":
        raise UsageError("squares are in memory, and not decoded: give raw, jpeg or files")
    request = RunRequest(model=model, weights=NO_WEIGHTS, size=size, storage="squares")
    resolved = resolve_run(request, dataset_from_listing(listing, (3, 224, 224)), machine)
    data, recipe = resolved.dataset, resolved.run.recipe
    if recipe is None or not isinstance(data, PhotoDataset):
        raise UsageError(f"{model} is not trained by steps: choose another --model")
    if storage == AUTO_STORAGE:  # a full disk does not matter
        kept_as = choose_storage_by_space(listing, data, is_stored=False).storage
    else:
        kept_as = parse_storage(storage)
    data = replace(data, storage=kept_as)
    photos = store_sample(data)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(photos)))
    images = StreamedImages(photos, (data.resize, data.resize), photos.labels)
    with closing(make_endless_batches(images, recipe, data)) as batches:
        decode_rate = measure_decode_rate(batches)
    with closing(make_endless_batches(images.to(machine.device), recipe, data)) as batches:
        batch_rate = measure_batch_rate(batches, machine)
        step_rate = measure_step_rate(resolved.run, recipe, batches, machine) if model else None
    return {
        "photographs": len(listing.entries),
        "measured": len(photos),
        "storage": data.storage,
        "threads": count_decoding_threads(),
        "size": data.input[1],
        "batch_size": recipe.batch_size,
        "device": str(machine.describe_environment()["device"]),
        "model": resolved.run.network.name if model else None,
        "decode_images_per_second": decode_rate,
        "batch_images_per_second": batch_rate,
        "step_images_per_second": step_rate,
        "bound": find_bound(decode_rate, batch_rate, step_rate),
    }


def store_sample(data: PhotoDataset) -> StoredPhotos:
    """Store some photographs of `data`, spread evenly, in memory.

    Raises DataError if none can be decoded.
    """
    settings, entries = RecordSettings.of_dataset(data), data.listing.entries
    usual_bytes = settings.side * settings.side * 4 // 3 * settings.channels
    most = max(min(MAX_MEASURED_PHOTOS, MAX_MEASURED_BYTES // usual_bytes), 1)
    # All are stored as training photographs.
    sample = [replace(entry, split="train") for entry in entries[:: -(-len(entries) // most)]]
    if settings.storage == "files":
        sample = [
            entry if entry.embedded_file else replace(entry, embedded_file=UncachedFile(entry.path))
            for entry in sample
        ]
    listing = replace(data.listing, entries=tuple(sample))
    digests = map_in_threads(hash_entry_content, sample, "reading")
    memory = BytesIO()
    index, problems = write_records(listing, digests, settings, memory)
    store = make_store(RecordFile(index, memory), problems, listing, settings)
    if not len(store.labels):
        raise DataError(
            f"none of {len(sample):,} photographs of {listing.location} can be decoded: "
            "residua data check names the reasons"
        )
    return store.photos


@dataclass(frozen=True, slots=True)
class UncachedFile:
    """A file that is read from the disk each time, where the system can be told to forget it.

    The few files of a sample would else be read from memory, unlike those of a large data set.
    """

    path: Path

    def read_bytes(self) -> bytes:
        """Read the file, and let the system forget its pages."""
        with open(self.path, "rb") as file:
            content = file.read()
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return content


def make_endless_batches(
    images: StreamedImages, recipe: Recipe, data: PhotoDataset
) -> TrainingBatches:
    """Make the training batches of a recipe, decoded ahead for as long as they are asked for."""
    batches = make_training_batches(images, recipe, data, data.mean, data.std, 0, None)
    assert batches.prefetcher is not None
    batches.prefetcher.end_step = None
    return batches


def measure_decode_rate(batches: TrainingBatches) -> float:
    """Measure how many images of batches a second all threads decode, when nothing else is done.

    For an image that is mixed with another one, both are decoded.
    """
    prefetcher = batches.prefetcher
    assert prefetcher is not None
    seconds, count = time_calls(lambda step: prefetcher.take(step), WARMUP_BATCHES["cpu"])
    return count * batches.batch_size / seconds


def measure_batch_rate(batches: TrainingBatches, machine: Machine) -> float:
    """Measure how many samples a second become batches on the device, while nothing is trained."""

    def make_batch(step: int) -> None:
        batches.make_batch(step)
        wait_for_device(machine)

    seconds, count = time_calls(make_batch, WARMUP_BATCHES[machine.device.type])
    return count * batches.batch_size / seconds


def measure_step_rate(
    run: Run, recipe: Recipe, batches: TrainingBatches, machine: Machine
) -> float:
    """Measure how many images a second an untrained network trains on, given its batches."""
    net = prepare_network_for_recipe(build_untrained(run.network, 0), run, recipe, machine)
    training_step = make_training_step(net.train(), recipe, machine)
    batch = batches.make_batch(0)
    batches.close()  # so that nothing is decoded meanwhile

    def train(step: int) -> None:
        training_step(*batch, 0.0)
        wait_for_device(machine)

    seconds, count = time_calls(train, WARMUP_BATCHES[machine.device.type])
    return count * recipe.batch_size / seconds


def time_calls(call: Callable[[int], object], warmup_calls: int) -> tuple[float, int]:
    """Call with 0, 1, ...; return the seconds of the calls after the first ones, and their number.

    There are at least `MIN_MEASURED_BATCHES` calls, and as many as `MEASURED_SECONDS` allow.
    """
    for i in range(warmup_calls):
        call(i)
    count, started = 0, time.perf_counter()
    while count < MIN_MEASURED_BATCHES or time.perf_counter() - started < MEASURED_SECONDS:
        call(warmup_calls + count)
        count += 1
    return time.perf_counter() - started, count


def wait_for_device(machine: Machine) -> None:
    """Wait until a GPU has done what it was given."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize()


def find_bound(decode_rate: float, batch_rate: float, step_rate: float | None) -> str:
    """Find what binds: `decoding`, `augmentation` or, if it is measured, the `step`."""
    if step_rate is not None and step_rate <= batch_rate:
        return "step"
    return "augmentation" if batch_rate < AUGMENTATION_SHARE * decode_rate else "decoding"

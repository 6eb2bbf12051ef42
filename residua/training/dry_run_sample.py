"""A sample of many photographs, by which a run on all of them is previewed; nothing is stored."""

from collections import Counter
from dataclasses import replace

import torch

from residua.config.dataset import Dataset
from residua.data.class_match import match_classes
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import TEST_SHARE, choose_dev_share
from residua.data.streamed_images import StreamedImages
from residua.data.summarize import count_labels
from residua.data.summary import DataSummary
from residua.training.data_bench import MAX_MEASURED_PHOTOS, store_sample


def is_sampled(data: Dataset) -> bool:
    """Return whether a run on this data is previewed by a sample: of many photographs."""
    if not isinstance(data, PhotoDataset) or data.fold is not None:
        return False
    return len(data.listing.entries) > MAX_MEASURED_PHOTOS


def sample_training_images(data: PhotoDataset) -> tuple[StreamedImages, DataSummary]:
    """Return a sample of photographs, repeated to the estimated number of training images.

    The labels are those of the listing.  The summary says what is estimated.  Raises DataError if
    no photograph of the sample can be decoded.
    """
    photos = store_sample(replace(data, storage="raw") if data.storage == "squares" else data)
    listing = data.listing
    splits = estimate_splits(data)
    candidates = [entry.label for entry in listing.entries if entry.split in ("", "train")]
    positions = torch.arange(splits["train"]) * len(candidates) // max(splits["train"], 1)
    labels = torch.tensor(candidates)[positions]
    source = photos.select(torch.arange(len(labels)) % len(photos))
    summary = DataSummary(
        listing.location,
        count_labels(labels.tolist(), data.classes),
        splits,
        listing.split_source,
        {},
        notes=(
            *listing.notes,
            f"{len(photos):,} photographs were read for this preview: numbers of images, and the "
            "time, are estimates",
        ),
    )
    if data.model_classes:
        match = match_classes(data, labels.tolist())
        summary = replace(summary, notes=(*summary.notes, *match.describe()))
    return StreamedImages(source, (data.resize, data.resize), labels), summary


def estimate_splits(data: PhotoDataset) -> dict[str, int]:
    """Estimate the numbers of images of train, dev and test, without a look at the photographs.

    Where the listing does not say the split of a photograph, its content does; only shares are
    known of that.
    """
    listing = data.listing
    counts = Counter(entry.split for entry in listing.entries)
    test = counts["test"] + round(counts[""] * TEST_SHARE)
    train, dev = counts["train"] + counts["test"] + counts[""] - test, counts["dev"]
    if not dev:
        dev = max(round(train * (listing.dev_share or choose_dev_share(len(listing.entries)))), 1)
        train -= dev
    return {"train": train, "dev": dev, "test": test}

"""Summaries of a data set, as training, evaluation and `residua data check` use it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from residua.config.dataset import Dataset
from residua.data.check import DatasetCheck
from residua.data.class_match import match_classes
from residua.data.in_memory import InMemoryDataset
from residua.data.read import load_photos
from residua.data.sources.groups import count_groups
from residua.data.sources.listing import (
    DataProblem,
    ImageListing,
    SplitSource,
    join_first_names,
)
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import SPLIT_ORDER, assign_splits, choose_dev_share
from residua.data.streamed_images import ImageSet
from residua.data.summary import DataSummary, list_white_level_notes, summarize_problems

PUBLISHED: SplitSource = "published"
MAX_ABSENT_NAMES = 20  # that are listed; a network for ImageNet has 1,000 classes


def summarize_training_data(
    dataset: Dataset, train_images: ImageSet, dev_images: ImageSet | None
) -> DataSummary:
    """Summarize the data of a run; `classes` holds the number of training images of each class."""
    summary = summarize_splits(dataset, train_images, dev_images)
    if not dataset.model_classes:
        return summary
    match = match_classes(dataset, train_images.labels.tolist())
    return replace(summary, notes=(*summary.notes, *match.describe()))


def summarize_splits(
    dataset: Dataset, train_images: ImageSet, dev_images: ImageSet | None
) -> DataSummary:
    """Summarize the data of a run without a model that it goes on from."""
    counts = count_labels(train_images.labels.tolist(), dataset.classes)
    dev_count = len(dev_images) if dev_images is not None else 0
    if isinstance(dataset, InMemoryDataset):
        sizes: dict[str, int] = {split: len(dataset.images[split]) for split in SPLIT_ORDER}
        return DataSummary(dataset.name, counts, sizes, dataset.split_source, {})
    if not isinstance(dataset, PhotoDataset):
        splits = {"train": len(train_images), "dev": dev_count}
        return DataSummary(dataset.name, counts, splits, "published", {})
    images = load_photos(dataset)
    skipped, details = summarize_problems(images.problems)
    return DataSummary(
        dataset.listing.location,
        counts,
        {"train": len(train_images), "dev": dev_count, "test": images.count_split("test")},
        dataset.listing.split_source,
        skipped,
        details,
        (*dataset.listing.notes, *list_white_level_notes(images.problems)),
        groups=count_groups(dataset.listing.entries),
    )


def summarize_evaluated_data(
    dataset: Dataset,
    split: str,
    labels: Iterable[int],
    problems: Iterable[DataProblem],
    choice: str,
) -> DataSummary:
    """Summarize the images of an evaluation; `choice` says why they were chosen, or is ""."""
    all_counts = count_labels(labels, dataset.classes)
    counts = {name: count for name, count in all_counts.items() if count}
    absent = [name for name, count in all_counts.items() if not count]
    notes = [choice] if choice else []
    if absent:
        names = join_first_names(absent, MAX_ABSENT_NAMES)
        notes.append(f"no images of {len(absent):,} of the model's classes: {names}")
    location, source, groups = dataset.name, PUBLISHED, 0
    if isinstance(dataset, PhotoDataset):
        groups = count_groups(dataset.listing.entries)
        location, source = dataset.listing.location, dataset.listing.split_source
        notes.extend(dataset.listing.notes)
    problems = list(problems)
    notes.extend(list_white_level_notes(problems))
    skipped, details = summarize_problems(problems)
    splits = {split: sum(counts.values())}
    return DataSummary(
        *(location, counts, splits, source, skipped, details, tuple(notes)),
        counted="images",
        groups=groups,
    )


def summarize_checked_data(checked: DatasetCheck) -> DataSummary:
    """Summarize a data set that was checked, with the splits that a training run would use."""
    listing = checked.listing
    entries = [image.entry for image in checked.images]
    dev_share = listing.dev_share or choose_dev_share(len(listing.entries))
    splits = assign_splits(entries, [image.sha256 for image in checked.images], dev_share)
    split_counts = Counter(splits)
    usable_names = {entry.name for entry in entries}
    unusable_names = {entry.name for entry in listing.entries} - usable_names
    problems = [problem for problem in checked.problems if problem.path in unusable_names]
    skipped, details = summarize_problems([*listing.problems, *problems])
    train_labels = [
        entry.label for entry, split in zip(entries, splits, strict=True) if split == "train"
    ]
    return DataSummary(
        listing.location,
        count_labels(train_labels, listing.classes),
        {split: split_counts[split] for split in SPLIT_ORDER},
        listing.split_source,
        skipped,
        details,
        listing.notes,
        groups=count_groups(entries),
    )


def summarize_listing(listing: ImageListing) -> DataSummary:
    """Summarize photographs before any is decoded, and before their content divides them."""
    splits = Counter(entry.split for entry in listing.entries)
    is_divided = listing.split_source != "content" and "" not in splits
    skipped, details = summarize_problems(listing.problems)
    return DataSummary(
        listing.location,
        count_labels((entry.label for entry in listing.entries), listing.classes),
        {split: splits[split] for split in SPLIT_ORDER if splits[split]}
        if is_divided
        else {"all": len(listing.entries)},
        listing.split_source,
        skipped,
        details,
        listing.notes,
        counted="files",
        groups=count_groups(listing.entries),
    )


def count_labels(labels: Iterable[int], classes: tuple[str, ...]) -> dict[str, int]:
    """Count the images of each class, in the order of the classes."""
    counts = Counter(labels)
    return {name: counts[label] for label, name in enumerate(classes)}

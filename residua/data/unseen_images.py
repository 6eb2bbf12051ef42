"""Choose the images to evaluate a model on: those that it was not trained on.

A folder of photos without splits is split by content, which says nothing about a folder that the
model was never trained on.  The digests in the model folder tell, wherever the folder of photos
lies and whatever was added to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from residua.config.dataset import Dataset
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.data.image_cache import hash_listing, load_or_decode_images
from residua.data.images import Images
from residua.data.in_memory import InMemoryDataset, choose_test_images, iterate_digests
from residua.data.photo_cache import load_photo_store
from residua.data.photo_index import PackedDigests
from residua.data.photo_store import fingerprint_photos
from residua.data.read import FOLDED_SPLITS
from residua.data.seen_images import DIGEST_BYTES, SeenImages
from residua.data.sources.listing import ImageListing, Split
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import FIRST_DEV_SHARE, assign_splits, choose_dev_share
from residua.errors import DataError

EvaluatedSplit = Literal[Split, "all"]
NO_TEST_SPLIT = "all images are evaluated: none is in test"


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """The images that were chosen: the split `split` of `dataset`, and a sentence on why.

    `label` names them in results.  The sentence is "" if the images are what was asked for.
    """

    dataset: Dataset
    split: EvaluatedSplit
    label: EvaluatedSplit
    reason: str = ""


def choose_images(
    dataset: Dataset, requested: EvaluatedSplit | None, config: ModelConfig
) -> ImageChoice:
    """Choose the images to evaluate a model on; None chooses those that it was not trained on.

    These are the images of the test split.  If no folder, column or shard splits the photos, they
    are all images that the model has not seen.  A run that split its photos by content keeps its
    split.  Raises DataError if the model has seen all images.
    """
    if isinstance(dataset, InMemoryDataset):
        return choose_images_in_memory(dataset, requested, config)
    had_fold = config.fold is not None and requested in FOLDED_SPLITS
    if not isinstance(dataset, PhotoDataset):
        split = requested or "test"
        if split == "dev" and was_trained_on_dev(config, dataset):
            raise DataError(
                f"{config.network.name} was trained on the dev images of {dataset.name}, so that "
                "they tell nothing about new images: choose another split"
            )
        if config.fold is not None and had_fold and dataset.name == config.dataset:
            dataset = dataset.hold_out_fold(config.fold)
        return ImageChoice(dataset, split, split)
    listing = dataset.listing
    if requested == "all":
        return ImageChoice(dataset, "all", "all")
    if listing.split_source != "content" and not had_fold:
        if requested is None and not any(entry.split == "test" for entry in listing.entries):
            return ImageChoice(dataset, "all", "all", NO_TEST_SPLIT)
        if requested != "dev" or any(entry.split == "dev" for entry in listing.entries):
            split = requested or "test"
            return ImageChoice(dataset, split, split)
    seen = SeenImages.from_config(config)
    if not seen.train:
        return choose_by_fingerprint(dataset, requested, config)
    groups = [entry.group for entry in listing.entries]
    return choose_by_digests(dataset, hash_listing(listing), requested, seen, groups)


def was_trained_on_dev(config: ModelConfig, dataset: Dataset) -> bool:
    """Return whether a model was trained on the dev images of a published data set."""
    return config.trained_on_dev and dataset.name == config.dataset


def choose_images_in_memory(
    dataset: InMemoryDataset, requested: EvaluatedSplit | None, config: ModelConfig
) -> ImageChoice:
    """Choose images that are in memory as `choose_images` does; splits that are given are kept."""
    if dataset.split_source != "content":
        if requested is None and "test" not in dataset.images:
            return ImageChoice(dataset, "all", "all", NO_TEST_SPLIT)
        split = requested or "test"
        return ImageChoice(dataset, split, split)
    if requested == "all":
        return ImageChoice(dataset, "all", "all")
    seen = SeenImages.from_config(config, in_memory=True)
    if seen.train:
        digests = iterate_digests(dataset.images["test"].pixels)
        return choose_by_digests(dataset, digests, requested, seen)
    if requested is not None:
        return ImageChoice(dataset, requested, requested)
    count = len(dataset.images["test"])
    reason = (
        f"all {count:,} images are evaluated: it is not known whether the model was trained on any "
        "of them"
    )
    return ImageChoice(dataset, "test", "all", reason)


def choose_by_digests(
    dataset: PhotoDataset | InMemoryDataset,
    digests: Iterable[str],
    requested: Split | None,
    seen: SeenImages,
    groups: Sequence[str] = (),
) -> ImageChoice:
    """Choose images by what the model has seen of them, as `choose_images` does.

    `digests` are the SHA-256 sums of the images, in hexadecimal digits.  Of the images' `groups`,
    those count as unseen of which the model has seen no image.
    """
    starts = [bytes.fromhex(digest[: 2 * DIGEST_BYTES]) for digest in digests]
    in_train = [start in seen.train for start in starts]
    in_dev = [
        start in seen.dev and not trained for start, trained in zip(starts, in_train, strict=True)
    ]
    unseen = [not (train or dev) for train, dev in zip(in_train, in_dev, strict=True)]
    seen_count = len(unseen) - sum(unseen)
    seen_groups = {group for group, new in zip(groups, unseen, strict=False) if group and not new}
    akin = [new and group in seen_groups for group, new in zip(groups, unseen, strict=False)]
    if any(akin):
        unseen = [new and not known for new, known in zip(unseen, akin, strict=True)]
    if not seen_count:
        if requested is not None:
            return ImageChoice(dataset, requested, requested)
        reason = f"all {len(unseen):,} images are evaluated: the model was trained on none of them"
        return ImageChoice(put_into_test_split(dataset, unseen), "test", "all", reason)
    chosen = {"train": in_train, "dev": in_dev, "test": unseen, None: unseen}[requested]
    split = requested or "test"
    if not any(chosen):
        place = dataset.listing.location if isinstance(dataset, PhotoDataset) else "the data"
        raise DataError(
            f"{place} has no images for the {split} split: the model was trained on "
            f"{sum(in_train):,} of these {len(starts):,} images, and {sum(in_dev):,} were its dev "
            f"images; give other images, or add --split=all"
        )
    why = describe_seen_images(requested, sum(in_train), sum(in_dev))
    reason = f"{sum(chosen):,} of {len(starts):,} images are evaluated: {why}"
    if any(akin) and requested in (None, "test"):
        reason += f"; {sum(akin):,} others are of the same groups as these"
    return ImageChoice(put_into_test_split(dataset, chosen), "test", split, reason)


def describe_seen_images(requested: Split | None, train_count: int, dev_count: int) -> str:
    """Say what the images of a split are to a model, and what its error on them is worth."""
    if requested == "train":
        return (
            "those that the model was trained on, so that its error on them is lower than on new "
            "images"
        )
    if requested == "dev":
        return (
            "the model's dev images, which serve to choose a network and its temperature, so that "
            "its error on them may look too low"
        )
    return (
        f"the model was trained on {train_count:,}, and {dev_count:,} were its dev images, which "
        "serve to choose a network, so that its error on them would look too low"
    )


def choose_by_fingerprint(
    dataset: PhotoDataset, requested: Split | None, config: ModelConfig
) -> ImageChoice:
    """Choose images, as `choose_images` does, for a model that stores no digests of its images.

    It was trained on these photos if their training split has the fingerprint that it stores.
    """
    listing = dataset.listing
    # the share of models that were trained on squares before digests were stored
    share = FIRST_DEV_SHARE
    if config.scaled_decoding:
        share = listing.dev_share or choose_dev_share(len(listing.entries))
    listing = replace(
        listing, dev_share=share, white_level=listing.white_level or config.white_level
    )
    split = requested or "test"
    if config.fingerprint in iterate_training_fingerprints(
        replace(dataset, listing=listing), config
    ):
        return ImageChoice(
            replace(dataset, listing=replace(dataset.listing, dev_share=share)),
            split,
            split,
            "the model was trained on these photographs, and their splits are those of its run",
        )
    if requested is not None:
        return ImageChoice(dataset, requested, requested)
    count = len(dataset.listing.entries)
    reason = f"all {count:,} images are evaluated: they are not those that the model learned from"
    return ImageChoice(put_into_test_split(dataset, [True] * count), "test", "all", reason)


def iterate_training_fingerprints(dataset: PhotoDataset, config: ModelConfig) -> Iterator[str]:
    """Yield the fingerprints that the training photos can have in a model.

    Those of squares are of their pixels, which are decoded for it.  Those of whole photos are of
    digests and labels: only if a photo may be damaged, and so left out, all photos are decoded.
    """
    side, listing = config.resize or config.input[1], dataset.listing
    if not config.scaled_decoding:
        view = ImagePreprocessing(
            (config.input[0], side, side), side, white_level=listing.white_level
        )
        yield Images(*load_or_decode_images(listing, view).split_tensors("train")).fingerprint
        return
    yield fingerprint_training_entries(listing, hash_listing(listing))
    kept = replace(dataset, input=config.input, resize=side, storage="files", stored_side=0)
    yield load_photo_store(kept).split_photos("train").fingerprint


def fingerprint_training_entries(listing: ImageListing, digests: Sequence[str]) -> str:
    """Return the fingerprint of the training photos of a listing, if none of them is damaged."""
    readable = [i for i, digest in enumerate(digests) if digest]
    entries = [listing.entries[i] for i in readable]
    splits = assign_splits(entries, [digests[i] for i in readable], listing.dev_share)
    chosen = [i for i, split in zip(readable, splits, strict=True) if split == "train"]
    labels = np.array([listing.entries[i].label for i in chosen], np.int64)
    return fingerprint_photos(PackedDigests.pack(digests[i] for i in chosen).digests, labels)


def put_into_test_split(
    dataset: PhotoDataset | InMemoryDataset, is_chosen: list[bool]
) -> PhotoDataset | InMemoryDataset:
    """Return the data set with only the chosen entries, all in the test split.

    The test split is used because nothing is held out from it for another split.
    """
    if isinstance(dataset, InMemoryDataset):
        return choose_test_images(dataset, is_chosen)
    entries = tuple(
        replace(entry, split="test")
        for entry, chosen in zip(dataset.listing.entries, is_chosen, strict=True)
        if chosen
    )
    return replace(dataset, listing=replace(dataset.listing, entries=entries))

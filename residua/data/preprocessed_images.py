"""Read the images of splits as prediction prepares them, each with its name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

import torch

from residua.config.dataset import Dataset
from residua.config.model import ImagePreprocessing
from residua.data.decode import HasPreprocessing
from residua.data.decode_listing import DecodedImages
from residua.data.image_cache import load_or_decode_images, require_images_of_split
from residua.data.images import Images
from residua.data.in_memory import InMemoryDataset
from residua.data.photo_cache import load_photo_store
from residua.data.photo_store import PhotoStore
from residua.data.read import read_split
from residua.data.sources.listing import DataProblem, ImageListing, Split
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import SPLIT_ORDER, choose_dev_share
from residua.data.streamed_images import ImageSet, StreamedImages

MAX_DECODED_TOGETHER = 100_000  # photos of all splits, for an evaluation of one; our choice
MAX_DECODED_BYTES = 2**31  # of preprocessed photos in one array; our choice


@dataclass(frozen=True, slots=True)
class NamedImages:
    """Images with their names, and the problems of the images that were skipped."""

    images: ImageSet
    names: list[str]
    problems: tuple[DataProblem, ...] = ()


def read_preprocessed_split(
    dataset: Dataset,
    split: Split | Literal["all"],
    preprocessing: HasPreprocessing,
    data_dir: Path | None = None,
) -> NamedImages:
    """Read the images of one split, or of all splits, and name each image.

    Photos are preprocessed as `preprocessing` says, exactly as prediction does it, unless their
    listing states another white level.  If they need more than `MAX_DECODED_BYTES`, they are
    decoded when they are needed.  Images of published data sets are returned as they are.
    """
    splits: tuple[Split, ...] = SPLIT_ORDER if split == "all" else (split,)
    if isinstance(dataset, PhotoDataset):
        view = ImagePreprocessing(
            preprocessing.input,
            preprocessing.resize,
            preprocessing.interpolation,
            dataset.listing.white_level or preprocessing.white_level,
            preprocessing.scaled_decoding,
        )
        return read_preprocessed_photos(dataset, splits, view)
    positions: Sequence[int] = ()
    if isinstance(dataset, InMemoryDataset):
        positions = dataset.positions
        if split == "all":
            splits = tuple(name for name in SPLIT_ORDER if name in dataset.images)
    images_by_split = [read_split(dataset, name, data_dir)[:] for name in splits]
    names = [
        f"{name} image {i}"
        for name, images in zip(splits, images_by_split, strict=True)
        for i in (positions or range(len(images)))
    ]
    pixels = torch.cat([images.pixels for images in images_by_split])
    labels = torch.cat([images.labels for images in images_by_split])
    return NamedImages(Images(pixels, labels), names)


def read_preprocessed_photos(
    dataset: PhotoDataset, splits: tuple[Split, ...], view: ImagePreprocessing
) -> NamedImages:
    """Read the photos of splits that follow each other in `SPLIT_ORDER`, prepared as `view` says.

    Raises DataError if there is none.
    """
    listing = keep_needed_entries(dataset.listing, splits)
    photos: DecodedImages | PhotoStore
    if len(listing.entries) * prod(view.input) > MAX_DECODED_BYTES:
        photos = load_photo_store(
            replace(
                dataset,
                input=view.input,
                storage="files",
                listing=replace(listing, white_level=view.white_level),
            )
        )
    else:
        photos = load_or_decode_images(listing, view)
    if len(splits) == 1:
        require_images_of_split(photos, dataset.listing, splits[0])
    start, stop = photos.split_slice(splits[0]).start, photos.split_slice(splits[-1]).stop
    names = list(photos.names[start:stop])
    if isinstance(photos, DecodedImages):
        images: ImageSet = Images(photos.pixels[start:stop], photos.labels[start:stop])
    else:
        source = photos.photos.select(torch.arange(start, stop)).preprocess_as(view)
        images = StreamedImages(source, view.input[1:], source.labels)
    return NamedImages(images, names, photos.problems)


def keep_needed_entries(listing: ImageListing, splits: tuple[Split, ...]) -> ImageListing:
    """Return the listing of splits that are given, if the data set is too large to decode it all.

    The dev images may be taken from the training images, and so the training split is known only
    with them.  Of photos that are split by their content, all are needed.
    """
    entries = listing.entries
    if len(entries) <= MAX_DECODED_TOGETHER or not all(entry.split for entry in entries):
        return listing
    needed = set(splits)
    if "train" in needed or not needed <= {entry.split for entry in entries}:
        needed |= {"train", "dev"}
    kept = tuple(entry for entry in entries if entry.split in needed)
    share = listing.dev_share or choose_dev_share(len(entries))
    return replace(listing, entries=kept, dev_share=share) if kept else listing

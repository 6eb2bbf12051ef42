"""Read the uint8 images and the labels of data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residua.config.dataset import Dataset
from residua.config.model import ImagePreprocessing
from residua.data.counter_rng import random_permutation
from residua.data.decode_listing import DecodedImages
from residua.data.folds import assign_folds, require_trainable_folds
from residua.data.image_cache import (
    load_or_decode_images,
    require_images_of_split,
    require_trainable_images,
)
from residua.data.images import Images
from residua.data.in_memory import InMemoryDataset, iterate_digests
from residua.data.photo_cache import load_photo_store
from residua.data.photo_store import PhotoStore
from residua.data.sources.array_files import read_cifar_batches, read_idx_files
from residua.data.sources.download import find_or_download
from residua.data.sources.listing import DataProblem, Split
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import make_unit_keys
from residua.data.streamed_images import ImageSet, StreamedImages
from residua.data.summary import NOTED_KINDS
from residua.errors import DataError, UsageError

FOLDED_SPLITS: tuple[Split, ...] = ("train", "dev")
SPLIT_SEED = 2015  # fixed, so that the held-out images are the same for every seed of a run


def read_split(
    dataset: Dataset, split: Split, data_dir: Path | None = None, *, keeps_margin: bool = False
) -> ImageSet:
    """Read the images of one split of a data set.

    `data_dir` is the folder to search first.  For a published data set, the files of the test split
    are opened only if `split` is "test".  For a folder of photos, all splits are decoded together,
    and the training images are larger than the network's input, so that random crops can be taken
    from them; with `keeps_margin`, so are the other images.  Unless the photos are kept as squares,
    they are decoded anew when they are needed.  Raises DataError for files that are missing,
    truncated or altered.

    If the data set holds out a fold, "dev" are the images of this fold, and "train" are the other
    images of both splits; "test" stays as it is.
    """
    if isinstance(dataset, PhotoDataset):
        return read_photo_split(dataset, split, keeps_margin=keeps_margin)
    if dataset.fold is not None and split != "test":
        return read_fold_split(dataset, split, data_dir)
    if isinstance(dataset, InMemoryDataset):
        if split not in dataset.images:
            if dataset.split_source == "content":
                raise DataError(
                    f"images in memory are all in the split test: leave split={split} out"
                )
            given = ", ".join(dataset.images)
            raise DataError(f"the data has no split {split}, only {given}: choose one of its own")
        return dataset.images[split]
    is_test = split == "test"
    images = (
        read_digits(test=is_test)
        if dataset.kind == "sklearn"
        else read_published_files(dataset, data_dir, test=is_test)
    )
    if is_test:
        return images
    order = random_permutation(len(images), SPLIT_SEED)
    dev_indices, train_indices = order[: dataset.num_dev_images], order[dataset.num_dev_images :]
    return images[(dev_indices if split == "dev" else train_indices).sort().values]


def read_photo_split(dataset: PhotoDataset, split: Split, *, keeps_margin: bool) -> ImageSet:
    """Read the photos of one split, or of the folds that are its images."""
    photos = load_photos(dataset)
    if dataset.fold is not None and split != "test":
        chosen: Tensor | slice = find_fold_positions(dataset, split)
    else:
        require_images_of_split(photos, dataset.listing, split)
        chosen = photos.split_slice(split)
    if isinstance(photos, PhotoStore):
        source = photos.photos.select(torch.arange(len(photos.labels))[chosen])
        images: ImageSet = StreamedImages(source, (dataset.resize,) * 2, source.labels)
    else:
        images = Images(photos.pixels[chosen], photos.labels[chosen])
    return images if split == "train" or keeps_margin else images.center_crop(dataset.input[1:])


def read_training_splits(
    dataset: Dataset, data_dir: Path | None = None, *, holds_out_dev: bool = True
) -> tuple[ImageSet, ImageSet | None]:
    """Read the images to train on and the dev images of a data set.

    Without `holds_out_dev`, the dev images are trained on too, and there are none of their own.
    Raises UsageError if the data set does not allow this.
    """
    if not holds_out_dev:
        require_dev_can_be_trained_on(dataset)
    train, dev = (read_split(dataset, split, data_dir) for split in FOLDED_SPLITS)
    if holds_out_dev:
        return train, dev
    assert isinstance(train, Images)
    assert isinstance(dev, Images)
    parts = zip((train.pixels, train.labels), (dev.pixels, dev.labels), strict=True)
    return Images(*(torch.cat(pair) for pair in parts)), None


def require_dev_can_be_trained_on(dataset: Dataset) -> None:
    """Raise UsageError unless `dataset` is a published one, without folds.

    The dev images of photographs are stored at another size than their training images, and model
    folders name the images that a run held out.
    """
    if dataset.fold is not None:
        raise UsageError(
            "dev=false and --folds cannot be combined, because each fold is held out as the dev "
            "split: leave one of them out"
        )
    if isinstance(dataset, PhotoDataset | InMemoryDataset):
        raise UsageError(
            f"dev=false applies only to published data sets, such as cifar10, not to "
            f"{dataset.name}: add --set dev=true"
        )


def read_fold_split(dataset: Dataset, split: Split, data_dir: Path | None) -> Images:
    """Read the images of the fold that is held out or, for "train", of all other folds."""
    undivided = replace(dataset, fold=None)
    parts = [read_split(undivided, part, data_dir)[:] for part in FOLDED_SPLITS]
    images = Images(
        torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
    )
    keys = list(iterate_digests(images.pixels))
    return images[choose_fold_images(dataset, split, images.labels.tolist(), keys)]


def find_fold_positions(dataset: PhotoDataset, split: Split) -> Tensor:
    """Find the positions of a split's photos among all decoded ones, if a fold is held out."""
    photos = load_photos(dataset)
    group_by_name = {entry.name: entry.group for entry in dataset.listing.entries}
    count = sum(map(photos.count_split, FOLDED_SPLITS))  # they are stored one after the other
    groups = [group_by_name[name] for name in photos.names[:count]]
    keys = make_unit_keys(groups, photos.digests[:count])
    return choose_fold_images(dataset, split, photos.labels[:count].tolist(), keys)


def choose_fold_images(
    dataset: Dataset, split: Split, labels: Sequence[int], keys: Sequence[str]
) -> Tensor:
    """Return the indices of the images in the fold that is held out or, for "train", elsewhere."""
    assert dataset.fold is not None
    numbers = assign_folds(labels, keys, dataset.fold.count)
    require_trainable_folds(numbers, labels, dataset.classes, dataset.fold.count)
    is_held_out = torch.tensor(numbers) == dataset.fold.number
    return (~is_held_out if split == "train" else is_held_out).nonzero().flatten()


def ensure_dataset_ready(dataset: Dataset, data_dir: Path | None = None) -> None:
    """Download a published data set, or decode a data set of photos, unless that is already done.

    The function is called before training begins, so that errors appear early.
    """
    if dataset.archives:
        find_or_download(dataset, data_dir)
    if isinstance(dataset, PhotoDataset):
        require_trainable_images(load_photos(dataset), dataset.listing)


def list_skipped_images(dataset: Dataset) -> tuple[DataProblem, ...]:
    """List the problems of a data set of photos, e.g. skipped images; () for a published data set.

    Problems of the kinds in `NOTED_KINDS` are left out, because their images are used nevertheless.
    """
    if not isinstance(dataset, PhotoDataset):
        return ()
    problems = load_photos(dataset).problems
    return tuple(problem for problem in problems if problem.kind not in NOTED_KINDS)


def load_photos(dataset: PhotoDataset) -> DecodedImages | PhotoStore:
    """Load the usable photos of a data set, as its `storage` says: squares or whole photos."""
    return (
        load_square_photos(dataset) if dataset.storage == "squares" else load_photo_store(dataset)
    )


def load_square_photos(dataset: PhotoDataset) -> DecodedImages:
    """Load the photos of a data set as squares, from which training takes random crops."""
    channels, stored_side = dataset.input[0], dataset.resize
    return load_or_decode_images(
        dataset.listing,
        ImagePreprocessing(
            (channels, stored_side, stored_side),
            stored_side,
            white_level=dataset.listing.white_level,
        ),
    )


def read_published_files(dataset: Dataset, data_dir: Path | None, *, test: bool) -> Images:
    """Read the test images, or all other images, of CIFAR or MNIST, downloading them if needed."""
    split_files = dataset.test if test else dataset.train
    dataset_folder = find_or_download(dataset, data_dir, split_files)
    files = [(dataset_folder / file.name, file) for file in split_files]
    read_files = read_cifar_batches if dataset.kind == "batches" else read_idx_files
    pixels, labels = read_files(dataset, files)
    if not bool(((labels >= 0) & (labels < len(dataset.classes))).all()):
        raise DataError(
            f"{dataset_folder} is damaged: it holds labels outside the {len(dataset.classes)} "
            f"classes of {dataset.name}"
        )
    return Images(pixels, labels)


def read_digits(test: bool) -> Images:
    """Read scikit-learn's digits; every fifth of the 1,797 images is a test image, our choice.

    The published split cannot be used, because scikit-learn has only the published test images.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    is_test = torch.arange(len(labels)) % 5 == 4
    return Images(pixels, labels)[is_test if test else ~is_test]

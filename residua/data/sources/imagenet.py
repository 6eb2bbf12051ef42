"""ImageNet (ILSVRC2012) in the layouts in which it is found: folders, Kaggle's, or its archives.

The training photographs are in train/SYNSET/*.JPEG, in archives train/SYNSET.tar, or in the archive
of these archives, ILSVRC2012_img_train.tar.  The validation photographs are in val/SYNSET/*.JPEG;
or all in val/ or in ILSVRC2012_img_val.tar, beside the labels of Kaggle or of the development kit.
In Kaggle's layout, train and val are in ILSVRC/Data/CLS-LOC.  Archives are read in place.

Classes are in the order of their sorted synset ids, as in all published weights.  The validation
photographs, on which results are reported, are the test split; the dev split is held out from the
training photographs.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from residua.cache_folder import get_cache_dir
from residua.config.imagenet_classes import IMAGENET, read_imagenet_classes
from residua.data.sources.download import list_user_data_folders
from residua.data.sources.folder_scan import ScannedFile, scan_folder, scan_trees
from residua.data.sources.folder_walk import list_children_or_none
from residua.data.sources.imagenet_archives import (
    LocatedImage,
    iterate_archive,
    iterate_members,
)
from residua.data.sources.imagenet_labels import ValidationLabels, find_validation_labels
from residua.data.sources.listing import (
    DataProblem,
    ImageEntry,
    ImageListing,
    Split,
    escape_unprintable,
    join_first_names,
)
from residua.errors import DataError

TRAIN_ARCHIVE, VAL_ARCHIVE = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
COUNTS: dict[Split, int] = {"train": 1_281_167, "test": 50_000}
IMAGENET_DEV_SHARE = 0.01  # of the training photographs; our choice, 12,812 of them
SYNSET = re.compile(r"n\d{8}")
VAL_NAME = re.compile(r"ILSVRC2012_val_\d{8}")
PLACES = ("", IMAGENET, "ILSVRC2012", "ILSVRC")  # in a folder of data sets
ROOTS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # of train and val
LAYOUTS = (
    f"train/SYNSET/*.JPEG and val/SYNSET/*.JPEG, Kaggle's ILSVRC/Data/CLS-LOC, or {TRAIN_ARCHIVE} "
    f"and {VAL_ARCHIVE}"
)


def is_imagenet_name(location: str, data_dir: Path | None) -> bool:
    """Return whether `location` means ImageNet, and not a folder of photographs of this name."""
    is_other_folder = Path(location).is_dir() and find_root(Path(location)) is None
    return location == IMAGENET and (data_dir is not None or not is_other_folder)


def list_imagenet(data_dir: Path | None = None) -> ImageListing:
    """List ImageNet's photographs in `data_dir`, ./imagenet, $RESIDUA_DATA or the cache.

    Raises DataError if none of them holds ImageNet, if classes have no training photographs, or if
    the labels of the validation photographs are missing or do not fit.
    """
    root = find_imagenet(data_dir)
    labels = {synset: label for label, synset in enumerate(sorted(read_imagenet_classes()))}
    problems: list[DataProblem] = []
    train = [
        image.make_entry(labels[synset], "train")
        for image, synset in iterate_labelled_images(root, "train", labels, problems)
    ]
    test = [
        image.make_entry(labels[synset], "test")
        for image, synset in iterate_labelled_images(root, "val", labels, problems)
    ]
    if train:
        require_all_classes(root, train, labels)
    entries = sorted([*train, *test], key=lambda entry: entry.name)
    names = read_imagenet_classes()
    return ImageListing(
        IMAGENET,
        tuple(names[synset] for synset in labels),
        tuple(entries),
        tuple(problems),
        "published",
        dev_share=IMAGENET_DEV_SHARE,
        notes=tuple(describe_imagenet(root, entries)),
    )


def find_imagenet(data_dir: Path | None) -> Path:
    """Find the folder that holds ImageNet's train and val; raises DataError if there is none."""
    given = list_user_data_folders(data_dir)
    option_count = int(data_dir is not None)
    here = Path(IMAGENET)
    places = [folder for _, folder in given[:option_count]] + [here]
    places += [folder for _, folder in given[option_count:]] + [get_cache_dir()]
    for place in places:
        for name in PLACES:
            if (root := find_root(place / name)) is not None:
                return root.resolve()
        if data_dir is not None:
            raise DataError(
                f"--data-dir is {data_dir}, which does not hold ImageNet: give the folder of "
                f"{LAYOUTS}"
            )
    raise DataError(
        "imagenet is not on this machine, and is given only to those who accept its terms: get it "
        f"from image-net.org or Kaggle, and give its folder, of {LAYOUTS}, with --data-dir"
    )


def find_root(place: Path) -> Path | None:
    """Find the folder in `place` that holds ImageNet's train or val, or its archives, if any."""
    for name in ROOTS:
        root = place / name
        if any((root / archive).is_file() for archive in (TRAIN_ARCHIVE, VAL_ARCHIVE)):
            return root
        for split in ("train", "val"):
            if any(map(is_imagenet_part, list_children_or_none(root / split))):
                return root
    return None


def is_imagenet_part(path: Path) -> bool:
    """Return whether a file or folder is named after a synset or a validation photograph."""
    return bool(SYNSET.fullmatch(path.stem) or VAL_NAME.fullmatch(path.stem))


def iterate_labelled_images(
    root: Path, split: str, labels: dict[str, int], problems: list[DataProblem]
) -> Iterator[tuple[LocatedImage, str]]:
    """Yield each photograph of train or val with the synset id of its class.

    What is neither a photograph nor a class is appended to `problems`.
    """
    archive = root / (TRAIN_ARCHIVE if split == "train" else VAL_ARCHIVE)
    unlabelled: list[LocatedImage] = []
    if (root / split).is_dir():
        scanned = scan_folder(root, split)
        problems += scanned.problems
        yield from iterate_class_folders(root, scanned.folders, labels, problems)
        for file in scanned.files:
            path = PurePosixPath(file.relative_path)
            if path.suffix == ".tar" and path.stem in labels:
                for image in iterate_archive(root / path, f"{split}/{path.stem}", problems):
                    yield image, path.stem
            elif split == "val" and VAL_NAME.fullmatch(path.stem):
                unlabelled.append(locate_file(root, file))
            else:
                problems.append(describe_no_class(file.relative_path))
    elif archive.is_file() and split == "val":
        unlabelled = list(iterate_archive(archive, split, problems))
    elif archive.is_file():
        yield from iterate_train_archive(archive, labels, problems)
    if unlabelled:
        yield from label_images(unlabelled, find_validation_labels(root), root, labels)


def iterate_class_folders(
    root: Path, folders: list[str], labels: dict[str, int], problems: list[DataProblem]
) -> Iterator[tuple[LocatedImage, str]]:
    """Yield the photographs in those of the folders that are named after classes."""
    synsets = {folder: os.path.basename(folder) for folder in folders}
    problems += [describe_no_class(path) for path, name in synsets.items() if name not in labels]
    of_classes = [path for path, name in synsets.items() if name in labels]
    for folder, tree in zip(of_classes, scan_trees(root, of_classes), strict=True):
        problems += tree.problems
        for file in tree.files:
            yield locate_file(root, file), synsets[folder]


def locate_file(root: Path, file: ScannedFile) -> LocatedImage:
    location = os.path.join(root, file.relative_path)
    return LocatedImage(file.relative_path, location, file.size_and_mtime)


def describe_no_class(name: str) -> DataProblem:
    detail = "is no class of ImageNet, and is left out"
    return DataProblem(escape_unprintable(name), "left out", detail)


def label_images(
    images: list[LocatedImage], known: ValidationLabels, root: Path, labels: dict[str, int]
) -> Iterator[tuple[LocatedImage, str]]:
    """Yield validation photographs with their synset ids.

    Raises DataError if some have no label, or one that is not a class of ImageNet.
    """
    synsets = [known.synset_by_image.get(image.stem, "") for image in images]
    missing = [image.stem for image, synset in zip(images, synsets, strict=True) if not synset]
    if missing:
        raise DataError(
            f"{known.path} has no label for {len(missing):,} of {len(images):,} validation "
            f"photographs in {root} ({join_first_names(missing)}): give the labels of ILSVRC2012"
        )
    if unknown := sorted(set(synsets) - set(labels)):
        raise DataError(
            f"{known.path} labels photographs as {join_first_names(unknown)}, which is no class of "
            "ILSVRC2012: give the development kit of 2012"
        )
    yield from zip(images, synsets, strict=True)


def iterate_train_archive(
    archive: Path, labels: dict[str, int], problems: list[DataProblem]
) -> Iterator[tuple[LocatedImage, str]]:
    """Yield the photographs in the archives of an archive, each with its synset id."""
    with open(archive, "rb") as file:
        for part in iterate_members(file, archive.name, problems):
            synset = PurePosixPath(part.name).stem
            if synset not in labels:
                problems.append(describe_no_class(f"{archive.name}/{part.name}"))
                continue
            for image in iterate_archive(archive, f"train/{synset}", problems, part):
                yield image, synset


def require_all_classes(root: Path, train: list[ImageEntry], labels: dict[str, int]) -> None:
    """Raise DataError unless each class has training photographs."""
    present = {entry.label for entry in train}
    if missing := [synset for synset, label in labels.items() if label not in present]:
        raise DataError(
            f"the training photographs in {root} lack {len(missing):,} of ImageNet's "
            f"{len(labels):,} classes ({join_first_names(missing)}): complete them, or give the "
            "folder itself as the data, to train on the classes that it has"
        )


def describe_imagenet(root: Path, entries: list[ImageEntry]) -> Iterator[str]:
    """Describe where ImageNet was found, its splits, and numbers of photographs that differ."""
    counts = Counter(entry.split for entry in entries)
    yield f"ImageNet is read from {root}"
    if counts["train"]:
        yield (
            "the validation photographs of ILSVRC2012 are the test split; the dev split is "
            f"{IMAGENET_DEV_SHARE:.0%} of its training photographs"
        )
    for split, expected in COUNTS.items():
        if counts[split] and counts[split] != expected:
            published = "training" if split == "train" else "validation"
            yield (
                f"{counts[split]:,} {published} photographs were found, and ILSVRC2012 has "
                f"{expected:,}"
            )
    if not counts["test"]:
        yield "there are no validation photographs, and so no test split"

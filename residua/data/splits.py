"""The assignment of images to the train, dev and test splits, by their content.

An image's split is a function of its bytes, so that it does not change when files are renamed,
added or removed, and copies of an image are always in the same split.
"""

from collections import Counter

from residua.data.sources.listing import (
    DEV_SHARE,
    TEST_SHARE,
    DataProblem,
    ImageEntry,
    OptionalSplit,
    Split,
)

SPLIT_ORDER: tuple[Split, ...] = ("train", "dev", "test")  # of stored images


def assign_splits(entries: list[ImageEntry], digests: list[str]) -> list[OptionalSplit]:
    """Choose the split of each image: as its folder or table specifies, or by its digest.

    `digests` are SHA-256 sums in hexadecimal digits.  If the source specifies no split for any
    image of a class, and the class has at least two images, at least one image goes to training and
    one to testing.  If the source specifies no dev split, one is held out of the training images.
    """
    has_dev_split = any(entry.split == "dev" for entry in entries)
    splits = [
        entry.split or choose_train_or_test(digest)
        for entry, digest in zip(entries, digests, strict=True)
    ]
    chosen_by_digest = [i for i, entry in enumerate(entries) if entry.split == ""]
    indices_by_class: dict[int, list[int]] = {}
    for i in sorted(chosen_by_digest, key=lambda i: digests[i]):
        indices_by_class.setdefault(entries[i].label, []).append(i)
    for indices in indices_by_class.values():
        if all(splits[i] == "test" for i in indices):
            splits[indices[-1]] = "train"
        elif len(indices) > 1 and all(splits[i] == "train" for i in indices):
            splits[indices[0]] = "test"
    if not has_dev_split:
        hold_out_dev_split(splits, entries, digests)
    return splits


def choose_train_or_test(digest: str) -> OptionalSplit:
    """The split for a SHA-256 digest: test for a share `TEST_SHARE` of all digests, else train."""
    return "test" if hex_fraction(digest[:13]) < TEST_SHARE else "train"


def hold_out_dev_split(
    splits: list[OptionalSplit], entries: list[ImageEntry], digests: list[str]
) -> None:
    """Move a share `DEV_SHARE` of the training images to the dev split, modifying `splits`.

    An image is chosen by its content: by digits of its SHA-256 sum that the choice of the test
    split does not use.  If no image is chosen, one image of the largest class is moved.  Every
    class keeps an image for training.
    """
    train_indices = sorted(
        (i for i, split in enumerate(splits) if split == "train"), key=lambda i: digests[i][13:]
    )
    remaining_by_class = Counter(entries[i].label for i in train_indices)
    candidates = [i for i in train_indices if hex_fraction(digests[i][13:26]) < DEV_SHARE]
    if not candidates:  # too few images: one of the largest class
        candidates = sorted(train_indices, key=lambda i: -remaining_by_class[entries[i].label])[:1]
    for i in candidates:
        if remaining_by_class[entries[i].label] > 1:
            splits[i] = "dev"
            remaining_by_class[entries[i].label] -= 1


def hex_fraction(digits: str) -> float:
    """13 hexadecimal digits (52 bits, exact in float64) as a fraction in [0, 1)."""
    return int(digits, 16) / 16**13


def find_underfilled_classes(
    classes: tuple[str, ...], labels: list[int], splits: list[OptionalSplit]
) -> list[DataProblem]:
    """A problem for each class with fewer than two images outside the test split."""
    counts = Counter(label for label, split in zip(labels, splits, strict=True) if split != "test")
    detail_by_count = {
        0: "has no usable image to train on",
        1: "has only one image to train on: add more, or remove the class",
    }
    return [
        DataProblem(name, "tiny class", detail_by_count[counts[label]])
        for label, name in enumerate(classes)
        if counts[label] in detail_by_count
    ]

"""The assignment of images to the train, dev and test splits by their content.

The split of an image is a function of its bytes.  So it does not change when files are renamed,
added or removed, and copies of an image are always in the same split.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from residua.data.sources.listing import DataProblem, ImageEntry, OptionalSplit, Split

SPLIT_ORDER: tuple[Split, ...] = ("train", "dev", "test")  # of stored images
# Shares that are held out where the data do not say what to hold out; our choice.  The dev images
# choose the best epoch and the temperature, and are a tenth of all images, or a fifth of a small
# data set.
TEST_SHARE = 0.2  # of all images
DEV_SHARE, SMALL_DEV_SHARE = 0.125, 0.25  # of the images that are not for testing
FIRST_DEV_SHARE = 0.05  # of runs begun before the shares above were introduced
SMALL_DATASET = 2000  # images


def choose_dev_share(image_count: int) -> float:
    """Choose the share of the training images that is held out as the dev split."""
    return SMALL_DEV_SHARE if image_count < SMALL_DATASET else DEV_SHARE


def assign_splits(
    entries: list[ImageEntry], digests: list[str], dev_share: float = 0.0
) -> list[OptionalSplit]:
    """Choose the split of each image: the split in its entry or, without one, by its digest.

    `digests` are SHA-256 sums in hexadecimal digits.  If no entry of a class has a split, and the
    class has at least two images, at least one of them goes to training and one to testing.  If no
    entry is in the dev split, some training images are moved to it.
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
        copies = group_copies(indices, digests)
        if all(splits[i] == "test" for i in indices):
            for i in copies[-1]:
                splits[i] = "train"
        elif len(copies) > 1 and all(splits[i] == "train" for i in indices):
            for i in copies[0]:
                splits[i] = "test"
    if not has_dev_split:
        share = dev_share or choose_dev_share(len(entries))
        hold_out_dev_split(splits, entries, digests, share)
    return splits


def group_copies(indices: Iterable[int], digests: list[str]) -> list[list[int]]:
    """Group the indices of images with equal digests, in the order of their first occurrences."""
    groups: dict[str, list[int]] = {}
    for i in indices:
        groups.setdefault(digests[i], []).append(i)
    return list(groups.values())


def choose_train_or_test(digest: str) -> OptionalSplit:
    """Choose "test" for a share `TEST_SHARE` of all SHA-256 digests, and "train" for the others."""
    return "test" if hex_fraction(digest[:13]) < TEST_SHARE else "train"


def hold_out_dev_split(
    splits: list[OptionalSplit], entries: list[ImageEntry], digests: list[str], dev_share: float
) -> None:
    """Move a share `dev_share` of the training images to the dev split, modifying `splits`.

    Digits of an image's SHA-256 sum decide whether it is moved; the choice of the test split uses
    other digits.  If this moves no image, one image of the largest class is moved.  Every class
    keeps at least one training image, and copies of an image move together.
    """
    train_indices = sorted(
        (i for i, split in enumerate(splits) if split == "train"), key=lambda i: digests[i][13:]
    )
    remaining_by_class = Counter(entries[i].label for i in train_indices)
    copies = group_copies(train_indices, digests)
    chosen = [group for group in copies if hex_fraction(digests[group[0]][13:26]) < dev_share]
    moved = [group for group in chosen if take_from_classes(group, entries, remaining_by_class)]
    if not moved:  # too few images
        groups = sorted(copies, key=lambda group: -remaining_by_class[entries[group[0]].label])
        usable = (g for g in groups if take_from_classes(g, entries, remaining_by_class))
        moved = [next(usable, [])]
    for i in chain.from_iterable(moved):
        splits[i] = "dev"


def take_from_classes(
    group: list[int], entries: list[ImageEntry], remaining_by_class: Counter[int]
) -> bool:
    """Subtract the images of a group from their classes, unless a class would keep no image."""
    counts = Counter(entries[i].label for i in group)
    if any(remaining_by_class[label] <= count for label, count in counts.items()):
        return False
    remaining_by_class.subtract(counts)
    return True


def hex_fraction(digits: str) -> float:
    """Convert 13 hexadecimal digits (52 bits, exact in float64) to a fraction in [0, 1)."""
    return int(digits, 16) / 16**13


def find_underfilled_classes(
    classes: tuple[str, ...], labels: list[int], splits: list[OptionalSplit]
) -> list[DataProblem]:
    """Report each class that has fewer than two images outside the test split."""
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

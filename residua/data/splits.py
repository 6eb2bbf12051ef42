"""The assignment of images to the train, dev and test splits by their content.

The split of an image is a function of its bytes.  So it does not change when files are renamed,
added or removed, and copies of an image are always in the same split.  Images of one group, e.g.
of one patient, are in the same split, too: theirs is a function of the group's name.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from residua.data.checksums import compute_sha256
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
    entry is in the dev split, some training images are moved to it.  Images of one group are chosen
    together; a class whose images are all of one group may then have none to test.
    """
    has_dev_split = any(entry.split == "dev" for entry in entries)
    keys = make_unit_keys([entry.group for entry in entries], digests)
    splits = [
        entry.split or choose_train_or_test(key) for entry, key in zip(entries, keys, strict=True)
    ]
    chosen_by_key = [i for i, entry in enumerate(entries) if entry.split == ""]
    indices_by_class: dict[int, list[int]] = {}
    for i in sorted(chosen_by_key, key=lambda i: keys[i]):
        indices_by_class.setdefault(entries[i].label, []).append(i)
    if any(entry.group for entry in entries):
        spread_groups_over_splits(splits, entries, keys, indices_by_class)
    else:
        for indices in indices_by_class.values():
            copies = group_equal_keys(indices, keys)
            if all(splits[i] == "test" for i in indices):
                for i in copies[-1]:
                    splits[i] = "train"
            elif len(copies) > 1 and all(splits[i] == "train" for i in indices):
                for i in copies[0]:
                    splits[i] = "test"
    if not has_dev_split:
        share = dev_share or choose_dev_share(len(entries))
        hold_out_dev_split(splits, entries, keys, share)
    return splits


def make_unit_keys(groups: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Make a key of 64 hexadecimal digits for each image; equal keys must be in one split.

    The key of an image without a group, "", is its SHA-256 sum in `digests`.  Images of a group
    have the sum of the group's name.  Two groups that share a copy of an image have one key.
    """
    if not any(groups):
        return list(digests)
    parents: dict[str, str] = {}

    def find_root(node: str) -> str:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents[parent]
            node = parent
        return node

    keys_of_groups = {group: compute_sha256(group.encode("utf-8", "replace")) for group in groups}
    own_keys = [
        keys_of_groups[group] if group else digest
        for group, digest in zip(groups, digests, strict=True)
    ]
    for own_key, digest in zip(own_keys, digests, strict=True):
        parents[find_root(f"copies of {digest}")] = find_root(own_key)
    smallest: dict[str, str] = {}
    for group, own_key in zip(groups, own_keys, strict=True):
        root = find_root(own_key)
        if group:
            smallest[root] = min(smallest.get(root, own_key), own_key)
    return [smallest.get(find_root(own_key), own_key) for own_key in own_keys]


def group_equal_keys(indices: Iterable[int], keys: Sequence[str]) -> list[list[int]]:
    """Group the indices of images with equal keys, in the order of their first occurrences."""
    groups: dict[str, list[int]] = {}
    for i in indices:
        groups.setdefault(keys[i], []).append(i)
    return list(groups.values())


def spread_groups_over_splits(
    splits: list[OptionalSplit],
    entries: list[ImageEntry],
    keys: list[str],
    indices_by_class: dict[int, list[int]],
) -> None:
    """Move whole groups so that every class is in training and, if it can be, in the test split.

    A group may hold images of several classes: it moves to the test split only if each of them
    keeps training images.
    """
    indices_by_key: dict[str, list[int]] = {}
    for i in chain.from_iterable(indices_by_class.values()):
        indices_by_key.setdefault(keys[i], []).append(i)
    for indices in indices_by_class.values():
        if all(splits[i] == "test" for i in indices):
            for i in indices_by_key[keys[indices[-1]]]:
                splits[i] = "train"
    for indices in indices_by_class.values():
        if not all(splits[i] == "train" for i in indices):
            continue
        remaining = Counter(
            entry.label for entry, split in zip(entries, splits, strict=True) if split == "train"
        )
        for key in dict.fromkeys(keys[i] for i in indices):
            if take_from_classes(indices_by_key[key], entries, remaining):
                for i in indices_by_key[key]:
                    splits[i] = "test"
                break


def choose_train_or_test(digest: str) -> OptionalSplit:
    """Choose "test" for a share `TEST_SHARE` of all SHA-256 digests, and "train" for the others."""
    return "test" if hex_fraction(digest[:13]) < TEST_SHARE else "train"


def hold_out_dev_split(
    splits: list[OptionalSplit], entries: list[ImageEntry], keys: list[str], dev_share: float
) -> None:
    """Move a share `dev_share` of the training images to the dev split, modifying `splits`.

    Digits of an image's key decide whether it is moved; the choice of the test split uses other
    digits.  If this moves no image, one image of the largest class is moved.  Every class keeps at
    least one training image, and images with equal keys move together.
    """
    train_indices = sorted(
        (i for i, split in enumerate(splits) if split == "train"), key=lambda i: keys[i][13:]
    )
    remaining_by_class = Counter(entries[i].label for i in train_indices)
    units = group_equal_keys(train_indices, keys)
    chosen = [group for group in units if hex_fraction(keys[group[0]][13:26]) < dev_share]
    moved = [group for group in chosen if take_from_classes(group, entries, remaining_by_class)]
    if not moved:  # too few images
        groups = sorted(units, key=lambda group: -remaining_by_class[entries[group[0]].label])
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

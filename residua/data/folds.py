"""The division of training images into folds, each of which is held out once."""

from collections import Counter
from collections.abc import Iterable, Sequence

from residua.errors import DataError


def assign_folds(labels: Sequence[int], keys: Sequence[str], count: int) -> list[int]:
    """Assign each image to one of `count` folds, numbered from 1; images with equal keys together.

    `keys` are those of `make_unit_keys`.  Images are taken in the order of their keys, those with
    many equal ones first, and each goes where its class has the fewest images so far, or else where
    there are the fewest images.  So the folds depend on the images' content and groups alone, not
    on their names or their order, and without groups the images of a class in any two folds differ
    by one at most.  `StratifiedGroupKFold` of scikit-learn balances classes in the same way, in an
    order that is drawn.
    """
    indices_by_key: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        indices_by_key.setdefault(key, []).append(i)
    class_sizes = Counter(labels)
    counts_by_fold = [Counter[int]() for _ in range(count)]
    sizes = [0] * count
    numbers = [0] * len(labels)
    for _, indices in sorted(indices_by_key.items(), key=lambda unit: (-len(unit[1]), unit[0])):
        unit = Counter(labels[i] for i in indices)
        weights = {label: n / class_sizes[label] ** 2 for label, n in unit.items()}

        # the growth of the sum of squared shares of classes, which is least if they are equal
        def growth(fold: int, weights: dict[int, float] = weights) -> float:
            return sum(weight * counts_by_fold[fold][n] for n, weight in weights.items())

        chosen = min(range(count), key=lambda fold: (growth(fold), sizes[fold], fold))
        counts_by_fold[chosen].update(unit)
        sizes[chosen] += len(indices)
        for i in indices:
            numbers[i] = chosen + 1
    return numbers


def require_trainable_folds(
    numbers: Sequence[int], labels: Iterable[int], classes: Sequence[str], count: int
) -> None:
    """Raise DataError if a fold is empty, or if holding it out leaves a class without images."""
    if empty := set(range(1, count + 1)) - set(numbers):
        raise DataError(
            f"{len(numbers):,} training images in {len(set(numbers))} folds leave {len(empty)} of "
            f"{count} folds empty: choose fewer folds, since copies and groups stay together"
        )
    folds_by_label: dict[int, set[int]] = {}
    for label, number in zip(labels, numbers, strict=True):
        folds_by_label.setdefault(label, set()).add(number)
    for label, folds in folds_by_label.items():
        if len(folds) == 1:
            raise DataError(
                f"all training images of {classes[label]} are in one fold, so that none is left to "
                "train on when it is held out: add images of the class, in another group if there "
                "are groups, or leave folds out"
            )

"""A fold of the training images, which a run of cross-validation holds out."""

from dataclasses import dataclass

from residua.errors import UsageError

MAX_FOLDS = 1000  # our choice


@dataclass(frozen=True, slots=True)
class Fold:
    """One of `count` folds of the training images, by its number from 1: the one that is held out.

    Raises UsageError for fewer than two folds, or for an impossible number.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        check_fold_count(self.count)
        if not 1 <= self.number <= self.count:
            raise UsageError(f"fold {self.number} is impossible: give 1 to {self.count}")


def check_fold_count(count: int) -> None:
    """Raise UsageError if the training images cannot be divided into `count` folds."""
    if not 2 <= count <= MAX_FOLDS:
        raise UsageError(f"folds must be 2 to {MAX_FOLDS:,}, but {count} were given")

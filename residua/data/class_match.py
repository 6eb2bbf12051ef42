"""The classes of a model that training goes on from, and those of the data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from residua.config.dataset import Dataset
from residua.config.serialize import Json
from residua.data.sources.listing import join_first_names

MAX_NAMED_CLASSES = 10


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """The classes of a model and of new data: those of both, those of one, matched by name."""

    matched: tuple[str, ...]
    added: tuple[str, ...]
    absent: tuple[str, ...]  # of the model, without images to train on

    @property
    def json(self) -> dict[str, Json]:
        """The match as run.json records it."""
        return {
            "matched": list(self.matched),
            "added": list(self.added),
            "absent": list(self.absent),
        }

    def describe(self) -> Iterator[str]:
        """Yield the sentences that are printed before training."""
        yield f"classes of the model that are trained on: {count_and_name(self.matched)}"
        yield f"new classes, with new rows in the last layer: {count_and_name(self.added)}"
        if self.absent:
            yield (
                f"classes of the model without images to train on: {count_and_name(self.absent)}; "
                "they are kept, but training on others makes a network forget them: add images of "
                "them"
            )


def count_and_name(names: Sequence[str]) -> str:
    """Write a number of classes and the first names: `3 (cat, dog, owl)`."""
    return f"{len(names):,} ({join_first_names(names, MAX_NAMED_CLASSES)})" if names else "none"


def match_classes(dataset: Dataset, labels: Iterable[int]) -> ClassMatch:
    """Match the classes of a model with those of a data set that begins with them.

    `labels` are those of the training images.
    """
    seen = set(labels)
    model_classes = dataset.model_classes
    return ClassMatch(
        tuple(name for label, name in enumerate(model_classes) if label in seen),
        dataset.classes[len(model_classes) :],
        tuple(name for label, name in enumerate(model_classes) if label not in seen),
    )

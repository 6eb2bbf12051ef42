"""Training on from a model when classes or photographs are added.

The classes of the model keep their order and their rows of the last layer; new ones come after.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.serialize import Json
from residua.data.images import Images
from residua.data.in_memory import InMemoryDataset, assemble_dataset
from residua.data.sources.listing import index_class_names, join_first_names
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing
from residua.errors import UsageError
from residua.net.convert.state_dict import StateDict
from residua.net.model_folder import from_pretrained, read_model_config
from residua.training.initial_weights import resolve_weight_source

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


def match_classes(
    model_classes: Sequence[str], classes: Sequence[str], labels: Iterable[int]
) -> ClassMatch:
    """Match a model's classes with those of a run that goes on from it, which begin with them.

    `labels` are those of the training images.
    """
    seen = set(labels)
    kept = dict.fromkeys(range(len(model_classes)))
    return ClassMatch(
        tuple(classes[label] for label in kept if label in seen),
        tuple(classes[len(model_classes) :]),
        tuple(classes[label] for label in kept if label not in seen),
    )


def match_stored_classes(model_folder: Path, data: Dataset, train_images: Images) -> ClassMatch:
    """Match the classes of a model folder with those of a run's data."""
    model_classes = read_model_config(model_folder).classes
    return match_classes(model_classes, data.classes, train_images.labels.tolist())


def add_classes_to_model(weights: str | Path | None, dataset: Dataset) -> Dataset:
    """Return the data set with the classes of a model first, in its order, and then its own.

    Classes are matched by name.  Raises UsageError if the model's classes have no names, if two
    names differ only in upper and lower case, or if the data set's classes cannot be renumbered.
    """
    if weights is None:
        raise UsageError("--add-class needs the model to go on from: add --from")
    path = resolve_weight_source(weights).path
    if not path.is_dir():
        raise UsageError(
            f"--add-class needs the names of the model's classes, but {weights} is a weight file "
            "without them: give the folder of a run or a model"
        )
    model_classes = read_model_config(path).classes
    spellings = {name.casefold(): name for name in model_classes}
    for name in dataset.classes:
        if (spelling := spellings.get(name.casefold(), name)) != name and (
            name not in model_classes
        ):
            raise UsageError(
                f"the class {name} of {dataset.name} is called {spelling} by the model: rename it, "
                "so that it is clear whether they are the same"
            )
    new_names = [name for name in dataset.classes if name not in set(model_classes)]
    return renumber_classes(dataset, (*model_classes, *new_names))


def renumber_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return the data set with these classes, among which all of its own must be.

    Raises UsageError for a data set known by name whose classes differ.
    """
    if classes == dataset.classes:
        return dataset
    label_by_name = index_class_names(classes)
    new_labels = [label_by_name[name] for name in dataset.classes]
    if isinstance(dataset, PhotoDataset):
        entries = tuple(
            replace(entry, label=new_labels[entry.label]) for entry in dataset.listing.entries
        )
        absent = tuple(name for name in classes if name not in dataset.classes)
        listing = replace(dataset.listing, classes=classes, entries=entries, absent_classes=absent)
        return dataset_from_listing(listing, dataset.input)
    if isinstance(dataset, InMemoryDataset):
        table = torch.tensor(new_labels)
        images = {
            split: Images(part.pixels, table[part.labels]) for split, part in dataset.images.items()
        }
        return assemble_dataset(images, classes, dataset.mean, dataset.std, dataset.split_source)
    raise UsageError(
        f"--add-class cannot renumber the classes of {dataset.name}: give photographs, or images "
        "in memory"
    )


def extend_head(net: nn.Module, network: Network, model_folder: Path) -> StateDict:
    """Return the last layer of `net` with the rows of a model's classes in place of its first ones.

    The rows of new classes stay as `net` has them: drawn like those of any new network.  Their
    biases are the mean of the model's, since zero could favour or hinder them.
    """
    prefix = f"head.{len(plan(network).head) - 1}."
    old = from_pretrained(model_folder).state_dict()
    extended = {}
    for name, tensor in net.state_dict().items():
        if name.startswith(prefix):
            rows = tensor.clone()
            rows[: len(old[name])] = old[name]
            if rows.ndim == 1:
                rows[len(old[name]) :] = old[name].mean()
            extended[name] = rows
    return extended

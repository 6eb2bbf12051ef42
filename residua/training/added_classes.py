"""Training on from a model when classes or photographs are added.

The classes of the model keep their order and their rows of the last layer; new ones come after.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.data.images import Images
from residua.data.in_memory import InMemoryDataset, assemble_dataset
from residua.data.sources.listing import index_class_names
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing
from residua.errors import UsageError
from residua.net.convert.state_dict import StateDict
from residua.net.model_folder import from_pretrained, read_model_config
from residua.training.initial_weights import resolve_weight_source


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
    return renumber_classes(dataset, model_classes)


def renumber_classes(dataset: Dataset, model_classes: tuple[str, ...]) -> Dataset:
    """Return the data set with a model's classes first, and then those of its own that are new.

    Raises UsageError if this renumbers the classes of a data set that is known by name.
    """
    known = set(model_classes)
    classes = (*model_classes, *(name for name in dataset.classes if name not in known))
    label_by_name = index_class_names(classes)
    new_labels = [label_by_name[name] for name in dataset.classes]
    if isinstance(dataset, PhotoDataset):
        entries = tuple(
            replace(entry, label=new_labels[entry.label]) for entry in dataset.listing.entries
        )
        listing = replace(
            dataset.listing, classes=classes, entries=entries, model_classes=model_classes
        )
        return dataset_from_listing(listing, dataset.input)
    if isinstance(dataset, InMemoryDataset):
        table = torch.tensor(new_labels)
        images = {
            split: Images(part.pixels, table[part.labels]) for split, part in dataset.images.items()
        }
        renumbered = assemble_dataset(
            images, classes, dataset.mean, dataset.std, dataset.split_source
        )
        return replace(renumbered, model_classes=model_classes)
    if classes == dataset.classes:
        return replace(dataset, model_classes=model_classes)
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

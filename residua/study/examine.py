"""`residua signals`: a network's signals on real images, beside the null model's, as one record."""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from residua.data.augment import normalise
from residua.data.fetch import cache, given_places, missing, within
from residua.data.read import Split, read
from residua.errors import RecordError, UsageError
from residua.net.build import ResidualNetwork, build
from residua.net.folder import network_from, read_config
from residua.spec.dataset import Dataset, dataset
from residua.spec.papers import network
from residua.spec.text import FORMAT, Json
from residua.study.null import null
from residua.study.signals import Tell, signals, silent, too_few
from residua.train.evaluate import checked_for, model_folder
from residua.train.machine import Machine

SPLIT: Split = "train"  # gradients are those of learning


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to examine, and the images it is made for."""

    net: ResidualNetwork
    data: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained: bool


def examine(
    model: str,
    machine: Machine,
    *,
    data: str = "",
    images: int = 16,
    seed: int = 0,
    data_dir: Path | None = None,
    tell: Tell = silent,
) -> dict[str, Json]:
    """The record of a network's name, initialised from `seed`, or of the network in a run's or a model folder.

    `data` is by default what the network was trained on, or `usual` for a name.  The batch is the first `images` of the training
    part.  Raises UsageError, RecordError and DataError for what does not exist or does not fit.
    """
    if images < 2:
        raise UsageError(too_few(images))
    chosen = subject(model, data, seed, data_dir)
    given = read(chosen.data, SPLIT, data_dir)
    if images > len(given):
        raise UsageError(f"{images} images are too many: the training part of {chosen.data.name} has {len(given):,}")
    batch = given[slice(0, images)].to(machine.device)
    net: nn.Module = machine.place(chosen.net)
    measured = signals(net, normalise(batch.pixels, chosen.mean, chosen.std), batch.labels, tell=tell)
    planned = chosen.net.plan
    foreseen = null(planned)
    return {
        "format": FORMAT,
        "model": planned.network.name,
        "depth": planned.depth,
        "plain": planned.network.unit.shortcut == "none",
        "trained": chosen.trained,
        "seed": None if chosen.trained else seed,
        "data": chosen.data.name,
        "images": images,
        "environment": machine.describe(),
        "units": [asdict(unit) for unit in measured],
        "null": [None if unit is None else asdict(unit) for unit in foreseen] if any(foreseen) else None,
    }


def subject(model: str, data: str, seed: int, data_dir: Path | None) -> Subject:
    folder = Path(model)
    if model.split(",")[0] == "vlad":
        raise UsageError(f"{model} has no units: give a network, e.g. cifar-resnet110")
    if folder.is_dir() or "/" in model:
        return from_folder(folder, data)
    chosen = dataset(data) if data else usual(model, data_dir)
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed} is impossible: give a whole number from 0 to {2**32 - 1}")
    named = network(model, input=chosen.input, classes=len(chosen.classes))
    return Subject(build(named, seed), chosen, chosen.mean, chosen.std, trained=False)


def from_folder(folder: Path, data: str) -> Subject:
    if not folder.is_dir():
        raise RecordError(f"there is no folder {folder}: give a run's, a model folder, or a network's name")
    if not any((folder / name).exists() for name in ("run.json", "config.json")):
        raise RecordError(f"{folder} holds no run and no model: it has neither run.json nor config.json")
    folder = model_folder(folder)
    net, config = network_from(folder), read_config(folder)
    if not (data or config.dataset):
        raise UsageError(f"{folder} does not say what it was trained on: give --data")
    chosen = dataset(data or config.dataset)
    checked_for(chosen, folder)
    return Subject(net, chosen, config.mean, config.std, trained=True)


def usual(model: str, data_dir: Path | None) -> Dataset:
    """CIFAR-10 for a network of the CIFAR houses where it lies at hand, and the built-in digits for all others."""
    cifar = dataset("cifar10")
    places = [place for _, place in given_places(data_dir) if place.is_dir()]
    found = [within(place, cifar, cifar.train) for place in places] + [cache() / cifar.folder]
    at_hand = any(place is not None and not missing(place, cifar.train) for place in found)
    return cifar if model.startswith("cifar-") and at_hand else dataset("digits")

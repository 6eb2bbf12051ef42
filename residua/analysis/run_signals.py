"""`residua signals`: a network's signals on real images, beside the null model's, as one record."""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from residua.analysis.random_walk import predict_initial_signals
from residua.analysis.signals import (
    SignalsProgressCallback,
    describe_too_few_images,
    ignore_unit_progress,
    measure_signals,
)
from residua.config.dataset import Dataset, get_dataset
from residua.config.papers import network
from residua.config.serialize import FORMAT_VERSION, Json
from residua.data.augment import normalise_pixels
from residua.data.read import Split, read_split
from residua.data.sources.download import (
    find_dataset_folder,
    get_cache_dir,
    list_missing_files,
    list_user_data_folders,
)
from residua.errors import RecordError, UsageError
from residua.net.build import ResidualNetwork, build
from residua.net.model_folder import load_residual_network, read_model_config
from residua.training.evaluate import find_model_folder, read_compatible_config
from residua.training.machine import Machine

SIGNALS_SPLIT: Split = "train"  # gradients are those of learning


@dataclass(frozen=True, slots=True)
class NetworkWithData:
    """A network to examine, and the images it is made for."""

    net: ResidualNetwork
    data: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_trained: bool


def measure_signals_record(
    model: str,
    machine: Machine,
    *,
    data: str = "",
    image_count: int = 16,
    seed: int = 0,
    data_dir: Path | None = None,
    on_progress: SignalsProgressCallback = ignore_unit_progress,
) -> dict[str, Json]:
    """The record of a network's name, initialised from `seed`, or of the network in a run's or a model folder.

    `data` is by default what the network was trained on, or `usual` for a name.  The batch is the first `images` of the training
    part.  Raises UsageError, RecordError and DataError for what does not exist or does not fit.
    """
    if image_count < 2:
        raise UsageError(describe_too_few_images(image_count))
    examined = resolve_network_with_data(model, data, seed, data_dir)
    split_images = read_split(examined.data, SIGNALS_SPLIT, data_dir)
    if image_count > len(split_images):
        raise UsageError(
            f"{image_count} images are too many: the training part of {examined.data.name} has {len(split_images):,}"
        )
    batch = split_images[slice(0, image_count)].to(machine.device)
    net: nn.Module = machine.prepare_model(examined.net)
    unit_signals = measure_signals(
        net,
        normalise_pixels(batch.pixels, examined.mean, examined.std),
        batch.labels,
        on_progress=on_progress,
    )
    plan = examined.net.plan
    expected_signals = predict_initial_signals(plan)
    return {
        "format": FORMAT_VERSION,
        "model": plan.network.name,
        "depth": plan.depth,
        "plain": plan.network.unit.shortcut == "none",
        "trained": examined.is_trained,
        "seed": None if examined.is_trained else seed,
        "data": examined.data.name,
        "images": image_count,
        "environment": machine.describe_environment(),
        "units": [asdict(unit) for unit in unit_signals],
        "null": [None if unit is None else asdict(unit) for unit in expected_signals]
        if any(expected_signals)
        else None,
    }


def resolve_network_with_data(
    model: str, data: str, seed: int, data_dir: Path | None
) -> NetworkWithData:
    folder = Path(model)
    if model.split(",")[0] == "vlad":
        raise UsageError(f"{model} has no units: give a network, e.g. cifar-resnet110")
    if folder.is_dir() or "/" in model:
        return load_network_with_data(folder, data)
    chosen_data = get_dataset(data) if data else choose_default_dataset(model, data_dir)
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed} is impossible: give a whole number from 0 to {2**32 - 1}")
    network_config = network(model, input=chosen_data.input, classes=len(chosen_data.classes))
    return NetworkWithData(
        build(network_config, seed),
        chosen_data,
        chosen_data.mean,
        chosen_data.std,
        is_trained=False,
    )


def load_network_with_data(folder: Path, data: str) -> NetworkWithData:
    if not folder.is_dir():
        raise RecordError(
            f"there is no folder {folder}: give a run's, a model folder, or a network's name"
        )
    if not any((folder / name).exists() for name in ("run.json", "config.json")):
        raise RecordError(
            f"{folder} holds no run and no model: it has neither run.json nor config.json"
        )
    folder = find_model_folder(folder)
    net, config = load_residual_network(folder), read_model_config(folder)
    if not (data or config.dataset):
        raise UsageError(f"{folder} does not say what it was trained on: give --data")
    chosen_data = get_dataset(data or config.dataset)
    read_compatible_config(chosen_data, folder)
    return NetworkWithData(net, chosen_data, config.mean, config.std, is_trained=True)


def choose_default_dataset(model: str, data_dir: Path | None) -> Dataset:
    """CIFAR-10 for a network of the CIFAR houses where it lies at hand, and the built-in digits for all others."""
    cifar = get_dataset("cifar10")
    data_folders = [place for _, place in list_user_data_folders(data_dir) if place.is_dir()]
    cifar_folders = [find_dataset_folder(place, cifar, cifar.train) for place in data_folders] + [
        get_cache_dir() / cifar.folder
    ]
    has_cifar = any(
        place is not None and not list_missing_files(place, cifar.train) for place in cifar_folders
    )
    return cifar if model.startswith("cifar-") and has_cifar else get_dataset("digits")

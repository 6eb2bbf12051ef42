"""Measure the signals of a network on real images, and predict them with the random-walk model.

`residua signals` stores the result as a JSON record and reports it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from residua.analysis.examined_images import SummaryListener, read_signals_images
from residua.analysis.random_walk import predict_initial_signals
from residua.analysis.signals import ignore_unit_progress, measure_signals, require_two_images
from residua.config.checks import check_seed_range
from residua.config.dataset import DATASETS, Dataset, get_dataset
from residua.config.hub_name import is_hub_name
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.serialize import FORMAT_VERSION, Json
from residua.config.weight_registry import find_weights, suggest_weight_name
from residua.data.augment import normalise_pixels
from residua.data.sources.download import (
    find_dataset_folder,
    get_cache_dir,
    list_missing_files,
    list_user_data_folders,
)
from residua.data.sources.resolve import resolve_dataset
from residua.data.summary import ignore_summary
from residua.errors import RecordError, UsageError
from residua.net.build import ResidualNetwork, build
from residua.net.hub import find_or_download_model_folder, suggest_hub_name
from residua.net.model_folder import (
    check_compatibility,
    find_model_folder,
    load_residual_network,
    read_model_config,
)
from residua.training.machine import Machine
from residua.training.progress import CountListener


@dataclass(frozen=True, slots=True)
class NetworkWithData:
    """A network to examine, the data set to use, and the normalisation that the network expects.

    name, depth  those of the network
    mean, std    of each channel, for pixels in [0, 1]
    is_trained   False if the network was initialised for this measurement
    config       how photographs are prepared for it; None if nothing states it
    """

    net: nn.Module
    name: str
    depth: int
    data: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_trained: bool
    config: ModelConfig | None = None


def make_model_signals_record(
    model: str,
    machine: Machine,
    *,
    data: str = "",
    image_count: int = 16,
    seed: int = 0,
    data_dir: Path | None = None,
    on_progress: CountListener = ignore_unit_progress,
    on_data: SummaryListener = ignore_summary,
) -> dict[str, Json]:
    """Measure and predict the signals of a network, and return them as a JSON record.

    `model` is a run folder, a model folder, the name of published weights or a network's name.  A
    network given by name is built and initialised from `seed`.  `data` is the name of a data set or
    the place of photographs.  It defaults to the data that the network was trained on or, for a
    network given by name, to `choose_dataset_without_download`.  The batch is `image_count` images
    that `read_signals_images` chooses.

    Raises UsageError for an unknown name, for fewer than 2 or too many images, or if the data set
    does not fit the network.  Raises RecordError if the folder is missing or damaged, and DataError
    if the data set is.
    """
    examined = resolve_network_with_data(model, data, seed, data_dir)
    return make_network_signals_record(
        examined,
        machine,
        image_count=image_count,
        seed=seed,
        data_dir=data_dir,
        on_progress=on_progress,
        on_data=on_data,
    )


def make_network_signals_record(
    examined: NetworkWithData,
    machine: Machine,
    *,
    image_count: int = 16,
    seed: int = 0,
    data_dir: Path | None = None,
    on_progress: CountListener = ignore_unit_progress,
    on_data: SummaryListener = ignore_summary,
) -> dict[str, Json]:
    """Measure and predict the signals of a network that is in memory, as a JSON record.

    The network is moved to the machine's device, and stays there.  There are predictions only for a
    network that residua has built.  Raises UsageError for fewer than 2 or too many images.
    """
    require_two_images(image_count)
    batch = read_signals_images(examined.data, examined.config, image_count, data_dir, on_data).to(
        machine.device
    )
    unit_signals = measure_signals(
        machine.prepare_model_in_place(examined.net),
        normalise_pixels(batch.pixels, examined.mean, examined.std),
        batch.labels,
        on_progress=on_progress,
    )
    net = examined.net
    expected_signals = predict_initial_signals(net.plan) if isinstance(net, ResidualNetwork) else []
    expected_json: list[Json] = [
        None if unit is None else asdict(unit) for unit in expected_signals
    ]
    return {
        "format": FORMAT_VERSION,
        "model": examined.name,
        "depth": examined.depth,
        "plain": isinstance(net, ResidualNetwork) and net.plan.network.unit.shortcut == "none",
        "trained": examined.is_trained,
        "seed": None if examined.is_trained else seed,
        "data": examined.data.name,
        "images": image_count,
        "environment": machine.describe_environment(),
        "units": [asdict(unit) for unit in unit_signals],
        "null": expected_json if any(expected_signals) else None,
    }


def names_untrained_network(model: str) -> bool:
    """Return whether a text names a network to initialise, not a folder or published weights.

    The name of a network wins over that of weights, such as `resnet50`, which `residua models`
    lists with their tags, too, such as `resnet50.a1_in1k`.
    """
    if is_hub_name(model) or Path(model).is_dir() or "/" in model:
        return False
    return find_weights(model) is None or is_network_name(model)


def is_network_name(name: str) -> bool:
    """Return whether a text names a network."""
    try:
        network(name)
    except UsageError:
        return False
    return True


def refuse_unknown_weights(model: str) -> None:
    """Raise UsageError if a text is like the whole name of published weights, with their tag."""
    base, _, tag = model.partition(",")[0].partition(".")
    if tag and is_network_name(base) and (near := suggest_weight_name(model)):
        raise UsageError(f"no published weights are named {model!r}: did you mean {near!r}?")


def point_to_published_weights(model: str) -> str:
    """Say how to examine published weights if `model` names them and a network; "" if not."""
    weights = find_weights(model) if names_untrained_network(model) else None
    if weights is None:
        return ""
    return f"{model} is measured at initialisation; its published weights are {weights.name}"


def resolve_network_with_data(
    model: str, data: str, seed: int, data_dir: Path | None
) -> NetworkWithData:
    """Load the network of a folder, or build a new one by name, and choose its data set.

    Published weights, and `hf:OWNER/NAME` on the Hugging Face hub, are downloaded.  Raises
    UsageError for VLAD, which has no units.
    """
    if model.split(",")[0] == "vlad":
        raise UsageError(f"{model} has no units: give a network, e.g. cifar-resnet110")
    if not names_untrained_network(model):
        return load_network_with_data(find_or_download_model_folder(model), data, data_dir)
    chosen_data = (
        resolve_dataset(data, data_dir=data_dir)
        if data
        else choose_dataset_without_download(model, data_dir)
    )
    check_seed_range(seed)
    refuse_unknown_weights(model)
    network_config = network(model, input=chosen_data.input, classes=len(chosen_data.classes))
    return pair_built_network_with_data(
        build(network_config, seed),
        chosen_data,
        chosen_data.mean,
        chosen_data.std,
        is_trained=False,
    )


def pair_built_network_with_data(
    net: ResidualNetwork,
    data: Dataset,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    is_trained: bool,
    config: ModelConfig | None = None,
) -> NetworkWithData:
    """Take the name and the depth of a network from its plan."""
    name, depth = net.plan.network.name, net.plan.depth
    return NetworkWithData(net, name, depth, data, mean, std, is_trained, config)


def load_network_with_data(
    folder: Path, data: str, data_dir: Path | None = None
) -> NetworkWithData:
    """Load the network of a run or model folder, and look up the data set to examine it on.

    The data set is `data` or, if that is "", the one that the network was trained on.  Raises
    RecordError if `folder` is neither a run nor a model folder.  Raises UsageError if `data` is ""
    and the folder names no data set, or if the data set does not fit the network.
    """
    if not folder.is_dir():
        raise RecordError(
            f"there is no folder {folder}: give a run folder, a model folder or a network name"
            + suggest_hub_name(folder)
        )
    if not any((folder / name).exists() for name in ("run.json", "config.json")):
        raise RecordError(
            f"{folder} is neither a run folder nor a model folder: "
            "it has no run.json and no config.json"
        )
    folder = find_model_folder(folder)
    net, config = load_residual_network(folder), read_model_config(folder)
    if not data and config.dataset not in DATASETS:
        raise UsageError(
            f"{folder} does not record which named data set its network was trained on: "
            "add --data with a name, or with the place of photographs"
        )
    chosen_data = resolve_dataset(
        data or config.dataset,
        config.network.input,
        config.classes,
        skip_unknown=True,
        data_dir=data_dir,
    )
    check_compatibility(config, chosen_data, str(folder))
    return pair_built_network_with_data(
        net, chosen_data, config.mean, config.std, is_trained=True, config=config
    )


def choose_dataset_without_download(model: str, data_dir: Path | None) -> Dataset:
    """Choose CIFAR-10 for a CIFAR network if its files are on this machine, otherwise digits.

    Neither needs a download: the digits are part of scikit-learn.
    """
    cifar = get_dataset("cifar10")
    user_folders = [folder for _, folder in list_user_data_folders(data_dir) if folder.is_dir()]
    cifar_folders = [find_dataset_folder(folder, cifar, cifar.train) for folder in user_folders]
    cifar_folders.append(get_cache_dir() / cifar.folder)
    has_cifar = any(
        folder is not None and not list_missing_files(folder, cifar.train)
        for folder in cifar_folders
    )
    return cifar if model.startswith("cifar-") and has_cifar else get_dataset("digits")

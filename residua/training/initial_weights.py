"""What a run starts from: our model folder, another project's file, or either on the hub; with a new head for other classes."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.papers import network
from residua.config.plan import plan
from residua.errors import RecordError, UsageError
from residua.net import model_folder as model
from residua.net.convert.names import identify_network
from residua.net.convert.state_dict import StateDict, read_state_dict
from residua.net.hub import resolve_weights_path
from residua.net.pretrained import load_pretrained_weights
from residua.training.evaluate import find_model_folder


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A model folder or a file of weights that is here, and a hash of its content."""

    path: Path
    fingerprint: str


def resolve_weight_source(name: str | Path) -> WeightSource:
    """What `--from` names: a run's last network, a model folder, a file, or OWNER/NAME on the Hugging Face hub."""
    path = resolve_weights_path(find_model_folder(Path(name)) if Path(name).is_dir() else name)
    if path.is_dir():
        return WeightSource(path, model.fingerprint_model_folder(path))
    with open(path, "rb") as file:
        return WeightSource(path, hashlib.file_digest(file, "sha256").hexdigest()[:16])


def read_image_size(weight_source: WeightSource) -> int:
    """Pixels a side of the images that a model folder takes; 0 where a file does not say."""
    return (
        model.read_model_config(weight_source.path).input[1] if weight_source.path.is_dir() else 0
    )


def adapt_network_to_data(
    weight_source: WeightSource, data: Dataset, model_name: str | None
) -> Network:
    """The network of a source, for the images and classes of `data`; `name` says which where a file fits several.

    Raises UsageError for images of other channels, or of another size where that is not ours to choose.
    """
    if not weight_source.path.is_dir():
        model_name = model_name or identify_network(read_state_dict(weight_source.path))
        requested_network = network(model_name, input=data.input, classes=len(data.classes))
        return load_pretrained_weights(
            weight_source.path, model_name, requested_network, requested_network.classes
        )[0]
    source_network = model.read_model_config(weight_source.path).network
    if not isinstance(source_network, Network):
        raise UsageError(
            f"--from wants a network's weights, but {weight_source.path} holds {source_network.name}: give another folder"
        )
    adapted_network = (
        replace(source_network, input=data.input)
        if data.kind == "folder" and source_network.input[0] == data.input[0]
        else source_network
    )
    if adapted_network.input != data.input and adapted_network.input != (
        data.input[0] * data.input[1] * data.input[2],
    ):
        raise UsageError(
            f"{weight_source.path} takes images of {source_network.input}, but those of {data.name} are {data.input}"
        )
    return replace(adapted_network, classes=len(data.classes))


def load_initial_weights(
    path: Path, target_network: Network, data: Dataset
) -> tuple[StateDict, tuple[float, ...], tuple[float, ...]]:
    """Weights that `net` starts from, with mean and std; its head's only where they tell the classes of `data` apart."""
    loaded_network, weights = load_pretrained_weights(
        path, target_network.name, target_network, target_network.classes
    )
    if loaded_network.unit != target_network.unit:
        raise RecordError(
            f"{path} holds another network than {target_network.name}: it strides elsewhere"
        )
    if not path.is_dir():
        return weights, data.mean, data.std
    config = model.read_model_config(path)
    head_prefix = f"head.{len(plan(target_network).head) - 1}."
    transferable = {
        name: x
        for name, x in weights.items()
        if config.classes == data.classes or not name.startswith(head_prefix)
    }
    return transferable, config.mean, config.std

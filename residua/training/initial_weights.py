"""Load a run's initial weights, from a model folder, another project's weight file or the hub.

If the classes of the data differ from those of the weights, the network gets a new last layer.
"""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from residua.config.dataset import DATASETS, Dataset
from residua.config.hub_name import HUB_PREFIX
from residua.config.imagenet_classes import IMAGENET, read_imagenet_classes
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.papers import network
from residua.config.serialize import Json
from residua.config.weight_registry import find_weights
from residua.errors import RecordError, UsageError
from residua.net import model_folder as model
from residua.net.convert.state_dict import StateDict, read_state_dict
from residua.net.convert.weights import identify_network
from residua.net.hub import resolve_weights_path
from residua.net.model_folder import find_model_folder
from residua.net.pretrained import drop_head_tensors, load_pretrained_weights
from residua.net.published_model import is_packaged_model, is_published_model


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A local model folder or weight file, and hashes of its content.

    name    the name of published weights, or the path or name that was given
    sha256  of the published file, of model.safetensors or of the weight file
    """

    path: Path
    fingerprint: str
    name: str
    sha256: str

    @property
    def json(self) -> dict[str, Json]:
        """Name and sum, as a run records where its weights come from."""
        return {"name": self.name, "sha256": self.sha256}


def resolve_weight_source(name: str | Path) -> WeightSource:
    """Find the weights that `--from` names, and fetch them if they are published ones.

    `name` is the folder of a run (its last network is used), a model folder, a weight file, the
    name of published weights, or hf:OWNER/NAME on the Hugging Face hub.
    """
    path = resolve_weights_path(find_model_folder(Path(name)) if Path(name).is_dir() else name)
    if not path.is_dir():
        sha256 = model.compute_file_sha256(path)
        return WeightSource(path, sha256[:16], str(name), sha256)
    if is_published_model(path):
        # by what was published: the folder in the cache also depends on who converted it
        config = model.read_model_config(path)
        sha256 = config.published_sum
        return WeightSource(path, sha256[:16], config.published_as, sha256)
    fingerprint = model.fingerprint_model_folder(path)
    sha256 = model.compute_file_sha256(path / "model.safetensors")
    if is_packaged_model(path):
        return WeightSource(path, sha256[:16], path.resolve().name, sha256)
    return WeightSource(path, fingerprint, str(name), sha256)


def record_weights_origin(config: ModelConfig, source: WeightSource) -> ModelConfig:
    """Return `config` with the name, the sum and the licence of the weights it starts from.

    Of weights that were trained from others, the origin is that of these others.  Of a path only
    the name of the run, the folder or the file is kept, because configs are published.  What the
    weights were trained on counts, too: if dev images are among it, `trained_on_dev` is True.
    """
    start = model.read_model_config(source.path) if source.path.is_dir() else None
    name, sha256 = name_without_path(source), source.sha256
    if start is not None and start.published_as:
        name, sha256 = start.published_as, start.published_sum
    elif start is not None and start.weights_from:
        name, sha256 = start.weights_from, start.weights_from_sum
    licence = start.license if start is not None else ""
    knows_dev_images = (
        start is not None and start.trained_on_dev and may_share_images(start, config)
    )
    return replace(
        config,
        weights_from=name,
        weights_from_sum=sha256,
        license=licence,
        trained_on_dev=config.trained_on_dev or knows_dev_images,
    )


def was_trained_on_imagenet(config: ModelConfig, dataset_name: str) -> bool:
    """Return whether a model of published weights has seen ImageNet's train and dev images.

    They have ImageNet's classes, or the training began from such weights.  ImageNet's dev images
    are held out from its training images here, on all of which its publisher trained.
    """
    if dataset_name != IMAGENET:
        return False
    start = find_weights(config.weights_from) if config.weights_from else None
    if start is not None and not start.class_names:
        return True
    is_published = bool(config.published_as)
    return is_published and set(config.classes) == set(read_imagenet_classes().values())


def may_share_images(start: ModelConfig, config: ModelConfig) -> bool:
    """Return whether two models may have been trained on images of the same published files.

    A model that was edited does not say what it was trained on.
    """
    names = start.dataset or config.dataset, config.dataset
    archives = [DATASETS[name].archives for name in names if name in DATASETS]
    return len(archives) == 2 and archives[0] == archives[1]


def name_without_path(source: WeightSource) -> str:
    """Name weights without the folders that lead to them: `hf:OWNER/NAME`, or a run's name."""
    path = source.path
    if Path(source.name) != path:
        return Path(source.name).name if Path(source.name).exists() else source.name
    for part in path.parts:  # of the hub's cache
        if part.startswith("models--"):
            return f"{HUB_PREFIX}{'/'.join(part.split('--')[1:])}"
    return path.absolute().parent.name if path.name in ("last", "best") else path.name


def read_image_size(weight_source: WeightSource) -> int:
    """Read the image height in pixels that a model folder was trained with.

    Returns 0 for a weight file, and for published weights, which suit images of any size.
    """
    if not weight_source.path.is_dir() or is_published_model(weight_source.path):
        return 0
    return model.read_model_config(weight_source.path).input[1]


def adapt_network_to_data(
    weight_source: WeightSource, data: Dataset, model_name: str | None
) -> Network:
    """Return the network of the source, adapted to the image shape and the classes of `data`.

    `model_name` names the network of a weight file; if it is None, the network is identified from
    the tensors.  The network of a model folder can be adapted to another image size only if `data`
    is a folder of photos.  Raises UsageError if the image shapes still differ, or if the model
    folder holds a VLAD classifier.
    """
    path = weight_source.path
    if not path.is_dir():
        source = network(model_name) if model_name else identify_network(read_state_dict(path))
        input = (prod(data.input),) if len(source.input) == 1 else data.input
        requested = replace(source, input=input, classes=len(data.classes))
        model_name = model_name or source.name
        return load_pretrained_weights(path, model_name, requested, requested.classes)[0]
    source_network = model.read_model_config(path).network
    if not isinstance(source_network, Network):
        raise UsageError(
            f"--from needs a folder with a network's weights, but {path} holds a "
            f"{source_network.name} model, which has none: give another folder"
        )
    adapted_network = source_network
    if data.kind == "folder" and source_network.input[0] == data.input[0]:
        adapted_network = replace(source_network, input=data.input)
    if adapted_network.input not in (data.input, (prod(data.input),)):
        raise UsageError(
            f"{path} takes images of shape {source_network.input}, but those of {data.name} have "
            f"shape {data.input}: choose another --from"
        )
    return replace(adapted_network, classes=len(data.classes))


def load_initial_weights(
    path: Path, target_network: Network, data: Dataset
) -> tuple[StateDict, tuple[float, ...], tuple[float, ...]]:
    """Load the weights that `target_network` starts from, and the mean and std of its inputs.

    The mean and std come from the model folder or, for a weight file, from `data`.  The last
    layer's weights are dropped if the classes of a model folder are not those of `data`.  Raises
    RecordError if the stored network differs from `target_network`.
    """
    loaded_network, weights = load_pretrained_weights(
        path, target_network.name, target_network, target_network.classes
    )
    if loaded_network.unit != target_network.unit:
        raise RecordError(
            f"{path} does not hold {target_network.name}: its units differ, e.g. in their strides"
        )
    if not path.is_dir():
        return weights, data.mean, data.std
    config = model.read_model_config(path)
    if config.classes != data.classes:
        weights = drop_head_tensors(weights, target_network)
    return weights, config.mean, config.std

"""What a run starts from: our model folder, another project's file, or either on the hub; with a new head for other classes."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from residua.errors import RecordError, UsageError
from residua.net import folder as model
from residua.net.hub import located
from residua.net.port import recognised
from residua.net.pretrained import start
from residua.net.weights import State, read_state
from residua.spec.dataset import Dataset
from residua.spec.network import Network
from residua.spec.papers import network
from residua.spec.plan import plan
from residua.train.evaluate import model_folder


@dataclass(frozen=True, slots=True)
class Source:
    """A model folder or a file of weights that is here, and a hash of its content."""

    path: Path
    fingerprint: str


def source(name: str | Path) -> Source:
    """What `--from` names: a run's last network, a model folder, a file, or OWNER/NAME on the Hugging Face hub."""
    path = located(model_folder(Path(name)) if Path(name).is_dir() else name)
    if path.is_dir():
        return Source(path, model.fingerprint(path))
    with open(path, "rb") as file:
        return Source(path, hashlib.file_digest(file, "sha256").hexdigest()[:16])


def own_side(found: Source) -> int:
    """Pixels a side of the images that a model folder takes; 0 where a file does not say."""
    return model.read_config(found.path).input[1] if found.path.is_dir() else 0


def network_for(found: Source, data: Dataset, name: str | None) -> Network:
    """The network of a source, for the images and classes of `data`; `name` says which where a file fits several.

    Raises UsageError for images of other channels, or of another size where that is not ours to choose.
    """
    if not found.path.is_dir():
        name = name or recognised(read_state(found.path))
        asked = network(name, input=data.input, classes=len(data.classes))
        return start(found.path, name, asked, asked.classes)[0]
    held = model.read_config(found.path).network
    if not isinstance(held, Network):
        raise UsageError(f"--from wants a network's weights, but {found.path} holds {held.name}: give another folder")
    shaped = replace(held, input=data.input) if data.kind == "folder" and held.input[0] == data.input[0] else held
    if shaped.input != data.input and shaped.input != (data.input[0] * data.input[1] * data.input[2],):
        raise UsageError(f"{found.path} takes images of {held.input}, but those of {data.name} are {data.input}")
    return replace(shaped, classes=len(data.classes))


def learned(path: Path, net: Network, data: Dataset) -> tuple[State, tuple[float, ...], tuple[float, ...]]:
    """Weights that `net` starts from, with mean and std; its head's only where they tell the classes of `data` apart."""
    found, weights = start(path, net.name, net, net.classes)
    if found.unit != net.unit:
        raise RecordError(f"{path} holds another network than {net.name}: it strides elsewhere")
    if not path.is_dir():
        return weights, data.mean, data.std
    config = model.read_config(path)
    head = f"head.{len(plan(net).head) - 1}."
    kept = {name: x for name, x in weights.items() if config.classes == data.classes or not name.startswith(head)}
    return kept, config.mean, config.std

"""The network of a run, and the weights that it starts from."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.papers import network
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError
from residua.net.own_module import make_module_classifier
from residua.training.initial_weights import WeightSource, adapt_network_to_data


@dataclass(frozen=True, slots=True)
class RunStart:
    """A network and the weights that it starts from.

    For random weights, and for a module of the user's own, `weights_path` is None and `fingerprint`
    is "".
    """

    network: ClassifierConfig
    weights_path: Path | None = None
    fingerprint: str = ""


def resolve_start(
    model: str | Network | nn.Module | None,
    weights: str | Path | None,
    source: WeightSource | None,
    dataset: Dataset,
    default_model: str,
) -> RunStart:
    """Find the network to train and the weights that it starts from.

    The weights, `source`, also decide the network.  Without them, it is `model` or, if that is not
    given, `default_model`, with random weights.  Raises UsageError if both a model folder and a
    network are given, or if a network does not fit the data;
    the message names `weights`, as the user did.
    """
    shape, classes = dataset.input, len(dataset.classes)
    if source is None:
        if isinstance(model, nn.Module):
            return RunStart(make_module_classifier(model, shape, classes))
        if isinstance(model, Network):
            return RunStart(adapt_given_network(model, dataset))
        return RunStart(network(model or default_model, input=shape, classes=classes))
    if model is not None and (source.path.is_dir() or not isinstance(model, str)):
        raise UsageError(f"--from {weights} already decides the network: leave --model out")
    return RunStart(adapt_network_to_data(source, dataset, model), source.path, source.fingerprint)


def adapt_given_network(given: Network, dataset: Dataset) -> Network:
    """Adapt a network to the number of classes of the data.

    Raises UsageError if the network does not take images of the data's shape.
    """
    if given.input != dataset.input:
        raise UsageError(
            f"{given.name} takes images of shape {given.input}, but those of {dataset.name} have "
            f"shape {dataset.input}: make the network with input={dataset.input}"
        )
    return replace(given, classes=len(dataset.classes))

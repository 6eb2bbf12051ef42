"""The networks that a function is given: paths, classifiers, results of training and modules."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import nn

from residua.api.classifier import Classifier, load
from residua.api.training_session import TrainingResult
from residua.config.dataset import DATASETS, Dataset, get_dataset
from residua.config.model import ModelConfig
from residua.errors import UsageError
from residua.net.build import ResidualNetwork

TrainedNetwork: TypeAlias = str | Path | Classifier | TrainingResult
"""A run's folder, a model folder, the name of published weights or hf:OWNER/NAME, or what `load`
and `train` return."""
GivenNetwork: TypeAlias = TrainedNetwork | nn.Module
"""A trained network, or a module, whose classes and normalisation nobody says."""
GIVE_DATA = "give data=NAME or data=(images, labels)"


@dataclass(frozen=True, slots=True, eq=False)
class NetworkAndConfig:
    """A network; `config` is None for a plain module, and `folder` is None without a folder."""

    net: nn.Module
    config: ModelConfig | None
    folder: Path | None = None


def read_given_network(given: GivenNetwork) -> NetworkAndConfig:
    """Load a network from a path, or take it from an object that holds one.

    Raises UsageError for an object without a network, and the errors of `load`.
    """
    if isinstance(given, nn.Module):
        return NetworkAndConfig(given, None)
    if isinstance(given, str | Path):
        classifier = load(given)
        return NetworkAndConfig(classifier.net, classifier.config, Path(given))
    if isinstance(given, Classifier | TrainingResult):
        return NetworkAndConfig(given.net, given.config, given.folder)
    raise UsageError(
        f"{type(given).__name__} is not a network: give a run's folder, a model folder, "
        "hf:OWNER/NAME, a module, or the result of residua.load or residua.train"
    )


def require_own_network(net: nn.Module) -> ResidualNetwork:
    """Return the network if residua has built it; raises UsageError if not, e.g. for VLAD."""
    if isinstance(net, ResidualNetwork):
        return net
    raise UsageError(
        f"{type(net).__name__} has no units that residua knows: give a network built by residua, "
        "e.g. with residua.create_model"
    )


def get_recorded_training_dataset(config: ModelConfig) -> Dataset:
    """Return the published data set that a network was trained on, or raise UsageError."""
    if config.dataset in DATASETS:
        return get_dataset(config.dataset)
    reason = (
        f"was trained on {config.dataset}, which is not a data set that residua knows by name"
        if config.dataset
        else "does not record the data that it was trained on"
    )
    raise UsageError(f"{config.network.name} {reason}: {GIVE_DATA}")

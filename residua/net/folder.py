"""A model folder: config.json, model.safetensors and a model card."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from residua.errors import RecordError, UsageError
from residua.files import write_json, write_text, written_aside
from residua.net.build import ResidualNetwork, build
from residua.net.vlad import VladNetwork
from residua.spec.model import ModelConfig
from residua.spec.text import FORMAT, from_json, to_json
from residua.spec.vlad import Classifier, VladClassifier

CARD = """---
library_name: residua
tags: [image-classification, {tag}]
---
# {name}

{classes} classes, input {input}, {parameters:,} parameters; {origin}.
Load it with `residua.from_pretrained(folder)`; `config.json` holds the classes and the preprocessing.
"""


def save_pretrained(net: nn.Module, config: ModelConfig, folder: Path) -> None:
    """Write a model folder, whole or not at all; RecordError where its weights cannot be written."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in net.state_dict().items()}
    with written_aside(folder) as aside:
        aside.mkdir()
        try:
            save_file(tensors, aside / "model.safetensors")
        except SafetensorError as error:  # a full disk, too
            raise RecordError(f"no model was written to {folder}: {error}") from error
        write_json(aside / "config.json", to_json(config))
        write_text(aside / "README.md", card(net, config))


def card(net: nn.Module, config: ModelConfig) -> str:
    """A model card, in Markdown."""
    dataset, shape = config.dataset or "unnamed data", "x".join(map(str, config.network.input))
    if isinstance(config.network, VladClassifier):
        tag, origin, parameters = "vlad", f"fitted to {dataset}", config.network.parameters
    else:
        tag, origin = "residual-network", f"trained on {dataset} by the recipe {config.recipe}"
        origin = origin if config.recipe else "where its weights come from is not known here"
        parameters = sum(p.numel() for p in net.parameters())
    return CARD.format(
        tag=tag, name=config.network.name, classes=len(config.classes), input=shape, parameters=parameters, origin=origin,
    )  # fmt: skip


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder; RecordError where there is none, one of a newer format, or one that contradicts itself."""
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{folder} is no model folder: it has no config.json") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise RecordError(
            f"{folder} has format {data['format']}, newer than {FORMAT}, the newest this version reads: update residua"
        )
    try:
        return from_json(ModelConfig, data)
    except UsageError as error:
        raise RecordError(f"{path} is no model's: {error}") from error


def fingerprint(folder: Path) -> str:
    """A hash of a model folder's weights and config; RecordError where one is missing."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RecordError(f"{folder} is no model folder: it has no {name}")
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def untrained(value: Classifier, seed: int = 0) -> ResidualNetwork | VladNetwork:
    """The module of a value: a network with initial weights, or VLAD, empty."""
    return VladNetwork(value) if isinstance(value, VladClassifier) else build(value, seed)


def from_pretrained(folder: str | Path) -> ResidualNetwork | VladNetwork:
    """The network of a model folder, or its VLAD, with its weights, in evaluation mode; RecordError where it is damaged."""
    folder = Path(folder)
    net = untrained(read_config(folder).network)
    try:
        weights = load_file(folder / "model.safetensors")
        net.load_state_dict(weights)
    except FileNotFoundError:
        raise RecordError(f"{folder} is no model folder: it has no model.safetensors") from None
    except (SafetensorError, RuntimeError) as error:
        raise RecordError(f"{folder / 'model.safetensors'} does not fit its config.json: {str(error).splitlines()[0]}") from error
    return net.eval()


def network_from(folder: str | Path) -> ResidualNetwork:
    """The same for what only a network of units can do; UsageError where the folder holds VLAD."""
    net = from_pretrained(folder)
    if isinstance(net, VladNetwork):
        raise UsageError(f"{folder} holds VLAD, which has no units: give the folder of a network")
    return net

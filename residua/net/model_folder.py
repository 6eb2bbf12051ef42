"""A model folder: config.json, model.safetensors and a model card."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from residua.config.model import ModelConfig
from residua.config.serialize import FORMAT_VERSION, from_json, to_json
from residua.config.vlad_config import ClassifierConfig, VladClassifier
from residua.errors import RecordError, UsageError
from residua.files import atomic_write, write_json, write_text
from residua.net.build import ResidualNetwork, build
from residua.net.hub import find_or_download_model_folder
from residua.net.model_card import render_model_card
from residua.net.vlad import VladNetwork


def save_pretrained(net: nn.Module, config: ModelConfig, folder: Path) -> None:
    """Write a model folder, whole or not at all; RecordError where its weights cannot be written."""
    tensors = {
        name: tensor.detach().contiguous().cpu() for name, tensor in net.state_dict().items()
    }
    with atomic_write(folder) as aside:
        aside.mkdir()
        try:
            save_file(tensors, aside / "model.safetensors")
        except SafetensorError as error:  # a full disk, too
            raise RecordError(f"no model was written to {folder}: {error}") from error
        config = replace(config, weights=compute_file_sha256(aside / "model.safetensors"))
        write_json(aside / "config.json", to_json(config))
        write_text(
            aside / "README.md", render_model_card(config, sum(p.numel() for p in net.parameters()))
        )


def read_model_config(folder: Path) -> ModelConfig:
    """The config of a model folder; RecordError where there is none, one of a newer format, or one that contradicts itself."""
    path = folder / "config.json"
    if folder.is_file():
        raise RecordError(f"{folder} {explain_not_model_folder(folder)}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not folder.exists():
            raise RecordError(
                f"{folder} does not exist: give the folder of a run or of a model"
            ) from None
        if (folder / "study.json").exists():
            raise RecordError(
                f"{folder} holds a study: give one of its runs, {folder / 'runs'}/..."
            ) from None
        raise RecordError(f"{folder} is no model folder: it has no config.json") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if (
        isinstance(data, dict)
        and isinstance(data.get("format"), int)
        and data["format"] > FORMAT_VERSION
    ):
        raise RecordError(
            f"{folder} has format {data['format']}, newer than {FORMAT_VERSION}, the newest this version reads: update residua"
        )
    try:
        return from_json(ModelConfig, data)
    except UsageError as error:
        raise RecordError(f"{path} is no model's: {error}") from error


def explain_not_model_folder(file: Path) -> str:
    """What a file is that was given in place of a model folder, and what to give."""
    match file.suffix.lower():
        case ".onnx":
            return "is an ONNX file, which holds neither weights by our names nor classes: give the model folder it was exported from"
        case ".safetensors" | ".pth" | ".pt" | ".bin" | ".th":
            return "is a file of weights, and a model folder is needed: residua convert makes one of it"
    return "is a file, and a model folder is needed: one with config.json and model.safetensors"


def compute_file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_model_folder(folder: Path) -> str:
    """A hash of a model folder's weights and config; RecordError where one is missing."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RecordError(f"{folder} is no model folder: it has no {name}")
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def build_untrained(classifier: ClassifierConfig, seed: int = 0) -> ResidualNetwork | VladNetwork:
    """The module of a value: a network with initial weights, or VLAD, empty."""
    return (
        VladNetwork(classifier)
        if isinstance(classifier, VladClassifier)
        else build(classifier, seed)
    )


def from_pretrained(source: str | Path) -> ResidualNetwork | VladNetwork:
    """The network of a model folder, here or OWNER/NAME on the Hugging Face hub, or its VLAD, in evaluation mode.

    RecordError where the folder is damaged, or its weights are not those that it was written with.
    """
    folder = find_or_download_model_folder(source)
    config = read_model_config(folder)
    path, net = folder / "model.safetensors", build_untrained(config.network)
    try:
        if config.weights and (actual_sha256 := compute_file_sha256(path)) != config.weights:
            raise RecordError(
                f"{path} does not fit its config.json: its SHA-256 sum is {actual_sha256[:12]}..., not {config.weights[:12]}..."
            )
        net.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise RecordError(f"{folder} is no model folder: it has no model.safetensors") from None
    except (SafetensorError, RuntimeError) as error:
        raise RecordError(
            f"{path} does not fit its config.json: {str(error).splitlines()[0]}"
        ) from error
    return net.eval()


def load_residual_network(folder: str | Path) -> ResidualNetwork:
    """The same for what only a network of units can do; UsageError where the folder holds VLAD."""
    net = from_pretrained(folder)
    if isinstance(net, VladNetwork):
        raise UsageError(f"{folder} holds VLAD, which has no units: give the folder of a network")
    return net

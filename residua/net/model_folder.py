"""Save, find, check and load model folders: config.json, model.safetensors and a model card."""

import hashlib
import json
from dataclasses import replace
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.serialize import FORMAT_VERSION, from_json, to_json
from residua.config.vlad_config import ClassifierConfig, VladClassifier
from residua.errors import RecordError, UsageError
from residua.files import atomic_write, write_json, write_text
from residua.net.build import ResidualNetwork, build
from residua.net.convert.state_dict import WEIGHT_SUFFIXES
from residua.net.hub import find_or_download_model_folder
from residua.net.model_card import render_model_card
from residua.net.vlad import VladNetwork
from residua.record import RunRecord


def save_pretrained(net: nn.Module, config: ModelConfig, folder: Path) -> None:
    """Write a model folder atomically; RecordError if its weights cannot be written."""
    tensors = {
        name: tensor.detach().contiguous().cpu() for name, tensor in net.state_dict().items()
    }
    # VLAD has no parameters: its numbers are fitted, so they are buffers
    fitted_tensors: list[Tensor] = [*net.parameters()] or [*net.buffers()]
    parameter_count = sum(tensor.numel() for tensor in fitted_tensors)
    with atomic_write(folder) as unfinished_folder:
        unfinished_folder.mkdir()
        weights_path = unfinished_folder / "model.safetensors"
        try:
            save_file(tensors, weights_path)
        except SafetensorError as error:  # e.g. a full disk
            raise RecordError(f"no model was written to {folder}: {error}") from error
        config = replace(config, weights=compute_file_sha256(weights_path))
        write_json(unfinished_folder / "config.json", to_json(config))
        write_text(unfinished_folder / "README.md", render_model_card(config, parameter_count))


def find_model_folder(run_or_model: Path) -> Path:
    """Find the model folder at a path: the path itself, a run's last network, or a hub download.

    A path that does not exist and reads OWNER/NAME is a repository on the Hugging Face hub.  Raises
    UsageError if the path holds an unfinished run.
    """
    run_or_model = find_or_download_model_folder(run_or_model)
    record = RunRecord(run_or_model)
    if not record.run_json_path.exists():
        return run_or_model
    if record.read_run_json()["result"] is None:
        raise UsageError(
            f"the run in {run_or_model} is not finished: continue it with --resume, "
            f"or give {run_or_model / 'best'}"
        )
    return run_or_model / "last"


def read_model_config(folder: Path) -> ModelConfig:
    """The config of a model folder; RecordError if it is missing, inconsistent or too new."""
    path = folder / "config.json"
    if folder.is_file():
        raise RecordError(f"{folder} {explain_not_model_folder(folder)}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(explain_missing_config(folder)) from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    stored_format = data.get("format") if isinstance(data, dict) else None
    if isinstance(stored_format, int) and stored_format > FORMAT_VERSION:
        raise RecordError(
            f"{folder} has format {stored_format}, newer than {FORMAT_VERSION}, "
            "the newest this version reads: update residua"
        )
    try:
        return from_json(ModelConfig, data)
    except UsageError as error:
        raise RecordError(f"{path} is not a valid model config: {error}") from error


def read_compatible_config(data: Dataset, folder: Path) -> ModelConfig:
    """The config of a model folder; UsageError if its classes or images are not those of `data`."""
    config = read_model_config(folder)
    if config.classes != data.classes:
        only_model, only_data = [
            ", ".join(name for name in names if name not in other_names) or "none"
            for names, other_names in (
                (config.classes, data.classes),
                (data.classes, config.classes),
            )
        ]
        raise UsageError(
            f"the classes of {folder} and {data.name} differ in name or order (only in the model: "
            f"{only_model}; only in the data: {only_data}): use data with the model's classes"
        )
    if config.network.input not in (data.input, (prod(data.input),)):
        raise UsageError(
            f"{folder} takes images of {config.network.input}, "
            f"but those of {data.name} are {data.input}"
        )
    return config


def explain_not_model_folder(file: Path) -> str:
    """Explain why a file is not a model folder, and what to give instead.

    The text continues a message that begins with the file's path.
    """
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        return (
            "is an ONNX file, which stores neither residua's weight names nor the classes: "
            "give the model folder it was exported from"
        )
    if suffix in WEIGHT_SUFFIXES:
        return (
            "is a weight file, not a model folder: make a model folder of it with residua convert"
        )
    return "is a file, not a model folder with config.json and model.safetensors"


def explain_missing_config(folder: Path) -> str:
    """Explain why a folder without config.json is not a model folder, and what to give instead."""
    if not folder.exists():
        return f"{folder} does not exist: give the folder of a run or of a model"
    if (folder / "study.json").exists():
        return f"{folder} holds a study: give one of its runs, {folder / 'runs'}/..."
    return f"{folder} is not a model folder: it has no config.json"


def compute_file_sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_model_folder(folder: Path) -> str:
    """A hash of a model folder's config and weights, 16 digits; RecordError if one is missing."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RecordError(f"{folder} is not a model folder: it has no {name}")
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def build_untrained(classifier: ClassifierConfig, seed: int = 0) -> ResidualNetwork | VladNetwork:
    """The module of a classifier: a network with initial weights, or a VLAD not fitted yet."""
    if isinstance(classifier, VladClassifier):
        return VladNetwork(classifier)
    return build(classifier, seed)


def from_pretrained(source: str | Path) -> ResidualNetwork | VladNetwork:
    """The network or VLAD of a model folder, in evaluation mode.

    `source` is a folder on this machine or OWNER/NAME on the Hugging Face hub.  Raises RecordError
    if the folder is damaged or its weights do not match the checksum in its config.
    """
    return load_model_folder(find_or_download_model_folder(source))[0]


def load_model_folder(folder: Path) -> tuple[ResidualNetwork | VladNetwork, ModelConfig]:
    """The network of a model folder in evaluation mode, with its config; reads config.json once.

    RecordError if the folder is damaged or its weights do not match the checksum in the config.
    """
    config = read_model_config(folder)
    path, net = folder / "model.safetensors", build_untrained(config.network)
    try:
        if config.weights and (actual_sha256 := compute_file_sha256(path)) != config.weights:
            raise RecordError(
                f"{path} does not match its config.json: "
                f"its SHA-256 sum is {actual_sha256[:12]}..., not {config.weights[:12]}..."
            )
        net.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise RecordError(f"{folder} is not a model folder: it has no model.safetensors") from None
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RecordError(f"{path} does not match its config.json: {reason}") from error
    return net.eval(), config


def load_residual_network(folder: str | Path) -> ResidualNetwork:
    """The network of a folder, as by `from_pretrained`; UsageError if the folder holds VLAD."""
    net = from_pretrained(folder)
    if isinstance(net, VladNetwork):
        raise UsageError(f"{folder} holds VLAD, which has no units: give the folder of a network")
    return net

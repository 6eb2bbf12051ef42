"""Find, check and load model folders: config.json, model.safetensors and a model card."""

import hashlib
from functools import partial
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from residua.bounded_json import read_json
from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.module_classifier import ModuleClassifier
from residua.config.serialize import FORMAT_VERSION, from_json, to_json
from residua.config.vlad_config import ClassifierConfig, VladClassifier
from residua.errors import MissingRecordError, RecordError, UsageError
from residua.files import hold_output_lock, read_undisturbed, write_json
from residua.net.build import ResidualNetwork, build
from residua.net.convert.state_dict import EXCHANGE_SUFFIXES, WEIGHT_SUFFIXES
from residua.net.hub import find_or_download_model_folder, suggest_hub_name
from residua.net.model_weights import (
    explain_unusable_values,
    find_weight_shortage,
    find_weights_mismatch,
)
from residua.net.safetensors_file import load_safetensors
from residua.net.save_model import compute_file_sha256 as compute_file_sha256
from residua.net.save_model import save_pretrained as save_pretrained
from residua.net.vlad import VladNetwork
from residua.record import RunRecord


def find_model_folder(run_or_model: str | Path) -> Path:
    """Find the model folder at a path; in a finished run, this is the folder `last`.

    `hf:OWNER/NAME` is downloaded from the Hugging Face hub.  Raises UsageError if the path is an
    unfinished run.
    """
    folder = find_or_download_model_folder(run_or_model)
    record = RunRecord(folder)
    if not record.run_json_path.exists():
        return folder
    if record.read_run_json()["result"] is None:
        best = folder / "best"
        way_on = f", or give {best}" if best.is_dir() else ""
        raise UsageError(f"the run in {folder} is not finished: continue it with --resume{way_on}")
    return folder / "last"


def replace_model_config(folder: Path, config: ModelConfig) -> None:
    """Replace the config of a model folder by `config`, which describes the same weights.

    Raises RecordError if the folder has other weights by now.
    """
    with hold_output_lock(folder):
        if read_model_config(folder).weights != config.weights:
            raise RecordError(
                f"another process has replaced the network in {folder}, so its config was not "
                "changed: repeat the command"
            )
        write_json(folder / "config.json", to_json(config))


def read_model_config(folder: Path) -> ModelConfig:
    """Read the config of a model folder.

    Raises RecordError if the config is missing or invalid, or of a format newer than this version.
    """
    path = folder / "config.json"
    if folder.is_file():
        raise RecordError(f"{folder} {explain_not_model_folder(folder)}")
    try:
        data = read_undisturbed(folder, partial(read_json, path))
    except MissingRecordError:
        raise RecordError(explain_missing_config(folder)) from None
    stored_format = data.get("format") if isinstance(data, dict) else None
    if isinstance(stored_format, int) and stored_format > FORMAT_VERSION:
        raise RecordError(
            f"{folder} has format {stored_format}, but the newest that this version reads is "
            f"{FORMAT_VERSION}: update residua"
        )
    try:
        return from_json(ModelConfig, data)
    except UsageError as error:
        raise RecordError(f"{path} is not a valid model config: {error}") from error
    except RecordError as error:
        raise RecordError(f"{path} is {error}") from error


def read_compatible_config(data: Dataset, folder: Path) -> ModelConfig:
    """Read the config of a model folder that is to be used on the data set `data`.

    Raises UsageError if the two differ in classes or in image shape.
    """
    config = read_model_config(folder)
    check_compatibility(config, data, str(folder))
    return config


def check_compatibility(config: ModelConfig, data: Dataset, model: str) -> None:
    """Raise UsageError if a model and a data set differ in classes or in image shape.

    `model` is what the error calls the model.
    """
    if config.classes != data.classes:
        only_model, only_data = [
            ", ".join(name for name in names if name not in other_names) or "none"
            for names, other_names in (
                (config.classes, data.classes),
                (data.classes, config.classes),
            )
        ]
        raise UsageError(
            f"the classes of {model} and {data.name} differ in name or order (only in the model: "
            f"{only_model}; only in the data: {only_data}): use data with the model's classes"
        )
    if config.network.input not in (data.input, (prod(data.input),)):
        raise UsageError(
            f"{model} takes images of shape {config.network.input}, but those of {data.name} have "
            f"shape {data.input}: use data with the model's image shape"
        )


def explain_not_model_folder(file: Path) -> str:
    """Explain why a file is not a model folder, and what to give instead.

    The text is to follow the path of the file: `PATH is a weight file, ...`.
    """
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        return (
            "is an ONNX file, which stores neither residua's weight names nor the classes: "
            "give the model folder it was exported from, or make one with residua convert"
        )
    if suffix in (*WEIGHT_SUFFIXES, *EXCHANGE_SUFFIXES):
        return (
            "is a weight file, not a model folder: make a model folder of it with residua convert"
        )
    return "is a file, not a model folder with config.json and model.safetensors"


def explain_missing_config(folder: Path) -> str:
    """Explain why a folder without config.json is not a model folder, and what to give instead."""
    if not folder.exists():
        suggestion = suggest_hub_name(folder)
        return f"{folder} does not exist: give the folder of a run or of a model{suggestion}"
    if (folder / "study.json").exists():
        return f"{folder} holds a study: give one of its runs, {folder / 'runs'}/..."
    return f"{folder} is not a model folder: it has no config.json"


def fingerprint_model_folder(folder: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a model folder's config and weights.

    Raises RecordError if one of the two files is missing.
    """

    def hash_files() -> str:
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise RecordError(f"{folder} is not a model folder: it has no {name}")
            digest.update((folder / name).read_bytes())
        return digest.hexdigest()[:16]

    return read_undisturbed(folder, hash_files)


def build_untrained(classifier: ClassifierConfig, seed: int = 0) -> ResidualNetwork | VladNetwork:
    """Build the module of a classifier: a network with initial weights, or VLAD before fitting.

    Raises UsageError for a module of the user's own.
    """
    if isinstance(classifier, VladClassifier):
        return VladNetwork(classifier)
    if isinstance(classifier, ModuleClassifier):
        raise UsageError(
            f"{classifier.name} is a module of your own, whose code is not stored with its "
            "weights: load it in Python, with residua.load(FOLDER, module=net)"
        )
    return build(classifier, seed)


def from_pretrained(source: str | Path) -> ResidualNetwork | VladNetwork:
    """Load the network or VLAD of a model folder, in evaluation mode.

    `source` is a folder on this machine, or hf:OWNER/NAME on the Hugging Face hub.  Raises
    RecordError if the folder is damaged, or if its weights do not match its config or are not
    finite.
    """
    return load_model_folder(find_or_download_model_folder(source))[0]


def load_model_folder(folder: Path) -> tuple[ResidualNetwork | VladNetwork, ModelConfig]:
    """Load the network or VLAD of a model folder, in evaluation mode, together with the config.

    Raises RecordError if the folder is damaged, or if its weights do not match its config or are
    not finite.
    """
    return read_undisturbed(folder, partial(load_model_folder_once, folder))


def load_model_folder_once(folder: Path) -> tuple[ResidualNetwork | VladNetwork, ModelConfig]:
    """Read a model folder as `load_model_folder` does, but not again if it changes meanwhile."""
    config, tensors = read_verified_config_and_tensors(folder)
    net = build_untrained(config.network)
    load_checked_tensors(net, tensors, config, folder)
    return net, config


def read_verified_config_and_tensors(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read the config and the weights of a model folder.

    Raises RecordError if the weights are missing or damaged, or do not match the config.
    """
    config, path = read_model_config(folder), folder / "model.safetensors"
    try:
        if config.weights and (actual_sha256 := compute_file_sha256(path)) != config.weights:
            raise RecordError(
                f"{path} does not match its config.json: "
                f"its SHA-256 sum is {actual_sha256[:12]}..., not {config.weights[:12]}..."
            )
        tensors = load_safetensors(path)
    except FileNotFoundError:
        raise RecordError(f"{folder} is not a model folder: it has no model.safetensors") from None
    except SafetensorError as error:
        raise RecordError(f"{path} is damaged or not a safetensors file: {error}") from error
    if mismatch := find_weight_shortage(tensors, config.network):
        raise RecordError(f"{path} does not match its config.json: {mismatch}")
    return config, tensors


def load_checked_tensors(
    net: nn.Module, tensors: dict[str, Tensor], config: ModelConfig, folder: Path
) -> None:
    """Load tensors into `net`, in evaluation mode; raises RecordError if they do not fit."""
    path = folder / "model.safetensors"
    if mismatch := find_weights_mismatch(tensors, net, config.network.name):
        raise RecordError(f"{path} does not match its config.json: {mismatch}")
    if problem := explain_unusable_values(tensors, net):
        raise RecordError(
            f"{path} cannot be used, because {problem}: use another copy of it, or train again"
        )
    net.load_state_dict(tensors)
    net.eval()


def load_residual_network(folder: str | Path) -> ResidualNetwork:
    """Load a residual network as `from_pretrained` does; raises UsageError for VLAD."""
    net = from_pretrained(folder)
    if isinstance(net, VladNetwork):
        raise UsageError(f"{folder} holds VLAD, which has no units: give the folder of a network")
    return net

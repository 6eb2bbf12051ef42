"""Save model folders: config.json, model.safetensors and a model card."""

import hashlib
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.config.serialize import to_json
from residua.errors import RecordError
from residua.file_names import encode_utf8
from residua.files import atomic_write, render_json
from residua.net.build import ResidualNetwork
from residua.net.model_card import render_model_card
from residua.net.model_weights import check_classes_of_config
from residua.net.safetensors_file import save_safetensors


def save_pretrained(net: nn.Module, config: ModelConfig, folder: Path) -> None:
    """Write a model folder atomically, with a checksum of the weights in its config.

    Raises UsageError if the network returns features, or if its number of class scores is not the
    config's number of classes.  Raises RecordError if the weights cannot be written.
    """
    if isinstance(net, ResidualNetwork):
        check_classes_of_config(net, config)
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
            save_safetensors(tensors, weights_path)
        except SafetensorError as error:  # e.g. a full disk
            raise RecordError(f"the model could not be written to {folder}: {error}") from error
        config = replace(config, weights=compute_file_sha256(weights_path))
        texts = {
            "config.json": render_json(to_json(config)),
            "README.md": render_model_card(config, parameter_count),
        }
        for name, text in texts.items():
            (unfinished_folder / name).write_bytes(encode_utf8(text))


def compute_file_sha256(path: Path) -> str:
    """Compute the SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Turn published weights into a model folder in the cache, which all commands read."""

import os
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from residua.bounded_json import read_json
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.published_weights import (
    PACKAGED_MODELS,
    SUM_DIGITS,
    PublishedWeights,
    make_published_config,
)
from residua.config.serialize import from_json
from residua.downloads import tell_user
from residua.errors import RecordError, ResiduaError
from residua.files import (
    FULL_DISK_ERRORS,
    clean_up_interrupted_writes,
    delete_path,
    hold_output_lock,
)
from residua.net.build import build
from residua.net.convert.state_dict import read_state_dict
from residua.net.convert.weights import convert_foreign_weights
from residua.net.fetch_weights import (
    VerifiedFile,
    fetch_weights,
    find_weights_file,
    get_weights_folder,
    hold_file_lock,
    read_expected_sum,
)
from residua.net.save_model import compute_file_sha256, save_pretrained
from residua.version import __version__

SUM_DIGITS_IN_NAME = 16


def fetch_model_folder(weights: PublishedWeights) -> Path:
    """Return the model folder of published weights; fetch and convert them at the first use.

    Those that come with residua are used where they are.  Raises RecordError if the weights cannot
    be fetched, or do not fit their network.
    """
    if weights.is_packaged:
        return PACKAGED_MODELS / weights.name
    with suppress(OSError):  # the cache may be read only
        clean_up_interrupted_writes(get_weights_folder())
    if folder := find_fetched_model(weights):
        return folder
    with hold_file_lock(weights):
        if folder := find_fetched_model(weights):  # by another process meanwhile
            return folder
        file = fetch_weights(weights)
        folder = name_model_folder(weights, file.sha256)
        with hold_output_lock(folder):
            if not is_converted(folder, weights):
                convert_published_file(weights, file, folder)
            if file.was_downloaded:  # the model folder has all that is in it
                delete_path(file.path)
        return folder


def find_fetched_model(weights: PublishedWeights) -> Path | None:
    """Find the model folder of published weights in the cache; None if it is not there.

    A damaged folder, and one that was converted for another network or preprocessing, do not count.
    """
    expected = read_expected_sum(weights)
    if len(expected) < SUM_DIGITS:
        return None
    folder = name_model_folder(weights, expected)
    return folder if is_converted(folder, weights) else None


def is_on_this_machine(weights: PublishedWeights) -> bool:
    """Return whether the weights can be used without the network."""
    if weights.is_packaged or find_fetched_model(weights):
        return True
    return find_weights_file(weights, tell=lambda message: None) is not None


def name_model_folder(weights: PublishedWeights, sha256: str) -> Path:
    return get_weights_folder() / f"{weights.name}-{sha256[:SUM_DIGITS_IN_NAME]}"


def is_published_model(folder: Path) -> bool:
    """Return whether a model folder is one of those in the cache, which nobody should change."""
    return folder.resolve().parent == get_weights_folder().resolve()


def is_packaged_model(folder: Path) -> bool:
    """Return whether a model folder came with residua, so that nobody should change it."""
    return folder.resolve().parent == PACKAGED_MODELS


def is_converted(folder: Path, weights: PublishedWeights) -> bool:
    """Return whether `folder` is the undamaged model folder of these weights."""
    with suppress(ResiduaError, OSError):
        config = from_json(ModelConfig, read_json(folder / "config.json"))
        wanted = make_published_config(weights, config.published_sum)
        same = replace(wanted, residua=config.residua, torch=config.torch, weights=config.weights)
        is_same = same == config and name_model_folder(weights, config.published_sum) == folder
        return is_same and compute_file_sha256(folder / "model.safetensors") == config.weights
    return False


def convert_published_file(weights: PublishedWeights, file: VerifiedFile, folder: Path) -> None:
    """Convert the publisher's file to a model folder; raise RecordError if it does not fit."""
    config = replace(
        make_published_config(weights, file.sha256), residua=__version__, torch=version("torch")
    )
    assert isinstance(config.network, Network)
    net = build(config.network)
    try:
        converted = convert_foreign_weights(read_state_dict(file.path), net.plan.network)
    except ResiduaError as error:
        raise RecordError(
            f"{file.path} cannot be used as {weights.name}: {error} (the file is kept: correct the "
            f"registry, or residua cache clear 'weights/{weights.name}*')"
        ) from error
    if converted.missing:
        raise RecordError(
            f"{file.path} cannot be used as {weights.name}: it has no classification head (the "
            f"file is kept: residua cache clear 'weights/{weights.name}*')"
        )
    if converted.caveats:
        tell_user(f"{weights.name}: {converted.caveats}")
    net.load_state_dict({**net.state_dict(), **converted.tensors})
    try:
        save_pretrained(net, config, folder)
    except (OSError, RecordError) as error:
        if not is_full_disk(error):
            raise
        if file.was_downloaded:  # it may be what fills the disk
            delete_path(file.path)
        raise RecordError(
            f"{weights.name} cannot be kept: {error}; set XDG_CACHE_HOME to a folder with more "
            "space"
        ) from error


def is_full_disk(error: Exception) -> bool:
    """Return whether a disk without space caused an error, also one of the library safetensors."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK_ERRORS
    return any(os.strerror(code) in str(error) for code in FULL_DISK_ERRORS)

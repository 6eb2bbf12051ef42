"""Find published weights by name; the user's file adds others or changes these.

A name without a tag (`resnet50`) stands for one of the weights of that net: see `choose_best`.  The
file that $RESIDUA_WEIGHTS names holds `{"weights": [{"name": "resnet50.a1_in1k", "sha256": ...}]}`:
fields of `PublishedWeights`, of which those that an entry leaves out are those of the weights of
the same name.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from residua.bounded_json import Json, read_json
from residua.config.hub_name import is_hub_name
from residua.config.network import Network
from residua.config.papers import network
from residua.config.published_weights import (
    WEIGHT_NAME,
    PublishedWeights,
    make_published_config,
)
from residua.config.serialize import from_json, to_json
from residua.config.vlad_config import ClassifierConfig
from residua.config.weight_table import list_table_entries
from residua.errors import MIN_LIKENESS, RecordError, ResiduaError, UsageError

USER_FILE_VARIABLE = "RESIDUA_WEIGHTS"
COMPARED_SIDE = 224  # in pixels, at which the accuracies of a net's weights are compared


@cache
def read_weight_table() -> dict[str, PublishedWeights]:
    """Return the known weights by name: those whose network can be built."""
    entries = {}
    for entry in list_table_entries():
        with suppress(UsageError):
            network(entry.network)
            entries[entry.name] = entry
    return entries


def list_weights() -> dict[str, PublishedWeights]:
    """List all published weights by name, with those of the user's file.

    Raises RecordError if that file is missing or damaged.
    """
    entries = read_weight_table()
    path = os.environ.get(USER_FILE_VARIABLE)
    return entries | read_user_file(Path(os.path.expanduser(path)), entries) if path else entries


def read_user_file(path: Path, known: dict[str, PublishedWeights]) -> dict[str, PublishedWeights]:
    """Read the user's file of weights; entries complete themselves from `known` ones.

    Raises RecordError, which names the file, if it does not describe weights.
    """
    try:
        content = read_json(path)
    except RecordError as error:
        raise RecordError(
            f"{USER_FILE_VARIABLE} names a file of weights that cannot be read: {error}"
        ) from error
    entries = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise RecordError(
            f'{path} ({USER_FILE_VARIABLE}) describes no weights: write {{"weights": [...]}}'
        )
    added = {}
    for data in entries:
        try:
            entry = from_json(PublishedWeights, complete_entry(data, known))
            require_own_address(entry, known)
            config = make_published_config(entry, entry.sha256)
            require_stride(entry, config.network)
        except ResiduaError as error:
            raise RecordError(f"{path} ({USER_FILE_VARIABLE}) is wrong: {error}") from error
        added[entry.name] = entry
    return added


def complete_entry(data: Json, known: dict[str, PublishedWeights]) -> Json:
    """Add the fields that an entry leaves out from the known weights of that name, if any.

    A sum in capitals, as some programs print it, becomes one in lower case.
    """
    if not isinstance(data, dict):
        return data
    if isinstance(sha256 := data.get("sha256"), str):
        data = data | {"sha256": sha256.lower()}
    name = data.get("name")
    if not isinstance(name, str) or name not in known:
        return data
    base = to_json(known[name])
    assert isinstance(base, dict)
    return base | data


def require_own_address(entry: PublishedWeights, known: dict[str, PublishedWeights]) -> None:
    """Raise UsageError if an entry changes weights that come with residua, but not their address.

    Their files stay what they are.
    """
    if entry.is_packaged and entry != known.get(entry.name):
        raise UsageError(
            f"{entry.address} is the address of weights that come with residua and cannot be "
            f"changed: give {entry.name} the address of a file"
        )


def require_stride(weights: PublishedWeights, built: ClassifierConfig) -> None:
    """Raise UsageError if it is left open which convolution of a bottleneck strides.

    The file does not show it, and outputs with the wrong one would differ without a word.
    """
    is_open = isinstance(built, Network) and (
        built.unit.kernels == (1, 3, 1) and built.unit.stride_at == 0
    )
    if is_open and "stride=" not in weights.network:
        raise UsageError(
            f"the network {weights.network} of {weights.name} leaves open which convolution of a "
            f"bottleneck strides: write {weights.network},stride=3x3 for weights of torchvision, "
            f"timm or Hugging Face, or {weights.network},stride=1x1 for those of the papers"
        )


def list_short_names(weights: Iterable[PublishedWeights]) -> dict[str, PublishedWeights]:
    """Map each name without a tag to the weights that it stands for."""
    by_short_name: dict[str, list[PublishedWeights]] = {}
    for entry in weights:
        by_short_name.setdefault(entry.short_name, []).append(entry)
    return {name: choose_best(entries) for name, entries in by_short_name.items()}


def choose_best(entries: list[PublishedWeights]) -> PublishedWeights:
    """Choose the weights that a net's name without a tag stands for.

    They are those with the lowest published top-1 error on images of 224 pixels, among those with a
    whole SHA-256 sum, or else with its first digits, or else without, which a mirror cannot serve.
    Weights with classes of their own stand for a name only if there are none for ImageNet, unless
    they replace known ones.  So do weights that must not be used commercially.  Those that come
    with residua give way to all others.
    """
    known = read_weight_table()
    entries = [entry for entry in entries if not entry.is_packaged] or entries
    usual = [e for e in entries if not e.class_names or e.name in known] or entries
    free = [entry for entry in usual if not entry.is_non_commercial] or usual
    measured = [e for e in free if e.top1_error is not None and e.side == COMPARED_SIDE]
    with_whole_sum = [e for e in measured if e.has_full_sha256]
    candidates = with_whole_sum or [e for e in measured if e.sha256] or measured or free
    return min(candidates, key=lambda e: 1.0 if e.top1_error is None else e.top1_error)


def find_weights(name: str) -> PublishedWeights | None:
    """Find published weights by their name, or by a name without a tag; None if there are none."""
    weights = list_weights()
    return weights.get(name) or list_short_names(weights.values()).get(name)


def is_model_name(source: str | Path) -> bool:
    """Return whether a text names published weights, or a repository on the Hugging Face hub."""
    name = str(source)
    is_possible = WEIGHT_NAME.fullmatch(name) is not None
    return is_hub_name(name) or (is_possible and find_weights(name) is not None)


def suggest_weight_name(name: str) -> str:
    """Suggest the name of published weights that is nearest to `name`; "" if none is near.

    The name of a network of which there are no weights is not a misspelt one.
    """
    with suppress(UsageError):
        network(name)
        return ""
    weights = list_weights()
    names = [*list_short_names(weights.values()), *weights]
    return next(iter(get_close_matches(name, names, n=1, cutoff=MIN_LIKENESS)), "")


def find_weights_of_network(name: str) -> PublishedWeights:
    """Find the weights that a network's name stands for, e.g. `resnet50` or `resnet50,stride=3x3`.

    Raises UsageError if no weights of the network are known.
    """
    short_names = list_short_names(list_weights().values())
    fitting = [entry for entry in short_names.values() if entry.network == name]
    entry = find_weights(name) or (choose_best(fitting) if fitting else None)
    if entry is None:
        raise UsageError(
            f"no published weights of {name} are known: give a weight file, a model folder, "
            "hf:OWNER/NAME, or a name that residua models --weights lists"
        )
    return entry

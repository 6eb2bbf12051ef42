"""A run's whole state at a step, in one safetensors file."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from residua.errors import RecordError
from residua.files import written_aside

Groups = dict[str, dict[str, Tensor]]


def save(path: Path, groups: Groups, facts: dict[str, float | None]) -> None:
    """Write named groups of named tensors and a few numbers, whole or not at all."""
    tensors = {f"{group}/{name}": t.detach().contiguous().cpu() for group, named in groups.items() for name, t in named.items()}
    try:
        with written_aside(path) as aside:
            save_file(tensors, aside, {"facts": json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        raise RecordError(f"no checkpoint was written to {path}: {error}; the one before is kept") from error


def load(path: Path) -> tuple[Groups, dict[str, float | None]]:
    """What `save` wrote; RecordError where the file is damaged."""
    groups: Groups = {}
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            for key in file.keys():  # noqa: SIM118 -- not a dictionary
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    return groups, facts

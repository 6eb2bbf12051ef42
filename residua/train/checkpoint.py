"""A run's whole state at a step, in one safetensors file; a few of them are kept."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from residua.errors import RecordError, UsageError
from residua.files import written_aside

Groups = dict[str, dict[str, Tensor]]
Facts = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Saving:
    """When a checkpoint is due, by whichever comes first, and how many are kept."""

    seconds: float = 60.0
    steps: int = 0  # 0: by time alone
    last: int = 2

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.steps < 0:
            raise UsageError("checkpoints are written every so many seconds or steps: give more than 0")
        if self.last < 1:
            raise UsageError(f"{self.last} checkpoints cannot be kept: give at least 1")

    def due(self, seconds: float, step: int) -> bool:
        """Whether one is, `seconds` after the one before, behind step `step`."""
        return seconds > self.seconds or (self.steps > 0 and step % self.steps == 0)


SAVING = Saving()


def every(text: str) -> Saving:
    """`500` is every 500 steps, `30s` every 30 seconds, `5m` every 5 minutes; UsageError for anything else."""
    found = re.fullmatch(r"(\d+)([sm]?)", text)
    if found is None:
        raise UsageError(
            f"checkpoints every {text!r} make no sense: give a number of steps such as 500, or a time such as 30s or 5m"
        )
    number = int(found[1])
    if not found[2]:
        return Saving(steps=number) if number else Saving(seconds=0)
    return Saving(seconds=number * {"s": 1, "m": 60}[found[2]])


def save(folder: Path, step: int, groups: Groups, facts: Facts, last: int) -> None:
    """Write the checkpoint of `step`: named groups of named tensors and a few numbers, whole or not at all; keep the `last`."""
    tensors = {f"{group}/{name}": t.detach().contiguous().cpu() for group, named in groups.items() for name, t in named.items()}
    text = json.dumps(facts)
    path = folder / f"step-{step:09}.safetensors"
    try:
        with written_aside(path) as aside:
            save_file(tensors, aside, {"facts": text, "sha256": digest(tensors, text)})
    except (OSError, SafetensorError) as error:
        raise RecordError(f"no checkpoint was written to {path}: {error}; the one before is kept") from error
    for old in saved(folder)[last:]:
        old.unlink(missing_ok=True)


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def newest(folder: Path) -> tuple[Groups, Facts, list[str]] | None:
    """What the newest whole checkpoint holds, and a sentence for each damaged one before it, which is removed.

    None where there is none; RecordError where all are damaged.
    """
    damaged = []
    for path in saved(folder):
        try:
            groups, facts = load(path)
        except RecordError as error:
            damaged.append((path, str(error)))
            continue
        for bad, _ in damaged:
            bad.unlink()
        return groups, facts, [f"{sentence}; going on from the one before, {path.name}" for _, sentence in damaged]
    if damaged:
        raise RecordError(f"{damaged[0][1]}, and there is no other: remove the folder to begin anew")
    return None


def load(path: Path) -> tuple[Groups, Facts]:
    """What `save` wrote; RecordError where the file is damaged."""
    tensors, groups = {}, Groups()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            facts = json.loads(metadata["facts"])
            for key in file.keys():  # noqa: SIM118 -- not a dictionary
                group, _, name = key.partition("/")
                tensors[key] = groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if metadata.get("sha256") != digest(tensors, metadata["facts"]):
        raise RecordError(f"{path} is damaged: its checksum is not that of its content")
    return groups, facts


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """A hash of all names, types, shapes and bits."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()

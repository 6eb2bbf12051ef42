"""Checkpoint files: the whole state of a run at one step, in one safetensors file with a checksum.

Checkpoints are written atomically, and only the newest few are kept.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from residua.bounded_json import parse_strict_json
from residua.errors import RecordError, UsageError
from residua.files import atomic_write, clean_up_interrupted_writes, delete_path
from residua.net.safetensors_file import save_safetensors
from residua.net.tensor_checksum import checksum_tensors
from residua.record_checks import is_number

TensorGroups = dict[str, dict[str, Tensor]]
CheckpointScalars = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """How often a checkpoint is written, by time or by steps, and how many are kept.

    With `every_steps`, the time does not matter.
    """

    every_seconds: float = 60.0
    every_steps: int = 0  # 0 means by time
    keep_last: int = 2

    def __post_init__(self) -> None:
        if not self.every_seconds > 0 or self.every_steps < 0:
            raise UsageError("the interval between checkpoints must be more than 0")
        if self.keep_last < 1:
            raise UsageError(f"at least 1 checkpoint must be kept, got {self.keep_last}")

    def is_due(self, elapsed_seconds: float, step: int) -> bool:
        """Return whether to write a checkpoint after `step`, `elapsed_seconds` after the last."""
        if self.every_steps:
            return step % self.every_steps == 0
        return elapsed_seconds > self.every_seconds


DEFAULT_CHECKPOINT_POLICY = CheckpointPolicy()


def parse_save_interval(text: str) -> CheckpointPolicy:
    """Parse `500` (steps), `30s` (seconds) or `5m` (minutes); UsageError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})([sm]?)", text)
    if match is None:
        raise UsageError(
            f"{text!r} is not an interval between checkpoints: "
            "give a number of steps such as 500, or a time such as 30s or 5m"
        )
    number = int(match[1])
    if not match[2]:
        return CheckpointPolicy(every_steps=number) if number else CheckpointPolicy(every_seconds=0)
    return CheckpointPolicy(every_seconds=number * {"s": 1, "m": 60}[match[2]])


def write_checkpoint(
    folder: Path, step: int, groups: TensorGroups, scalars: CheckpointScalars, keep_last: int
) -> None:
    """Write the checkpoint of `step`, and delete all but the newest `keep_last` checkpoints.

    A checkpoint holds named groups of named tensors (`groups`) and a few named numbers (`scalars`).
    Raises RecordError if the file cannot be written; the earlier checkpoints are then kept.
    """
    tensors = {
        f"{group}/{name}": t.detach().contiguous().cpu()
        for group, group_tensors in groups.items()
        for name, t in group_tensors.items()
    }
    scalars_json = json.dumps(scalars)
    checksum = checksum_tensors(tensors, scalars_json)
    path = folder / f"step-{step:09}.safetensors"
    clean_up_interrupted_writes(folder)  # before they fill the disk
    try:
        with atomic_write(path) as temporary_path:
            save_safetensors(tensors, temporary_path, {"facts": scalars_json, "sha256": checksum})
    except (OSError, SafetensorError) as error:
        raise RecordError(
            f"no checkpoint was written to {path}: {error}; the earlier checkpoint is kept"
        ) from error
    for old in list_checkpoints(folder)[keep_last:]:
        delete_path(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint files in a folder, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def load_newest_and_delete_damaged(
    folder: Path,
) -> tuple[TensorGroups, CheckpointScalars, list[str]] | None:
    """Load the newest intact checkpoint, and delete any newer, damaged ones.

    Returns the tensors and numbers of the checkpoint, and one warning for each damaged file.
    Returns None if the folder holds no checkpoint.  Raises RecordError if all are damaged.
    """
    damaged = []
    for path in list_checkpoints(folder):
        try:
            groups, scalars = load_checkpoint(path)
        except RecordError as error:
            damaged.append((path, str(error)))
            continue
        for damaged_path, _ in damaged:
            delete_path(damaged_path)
        warnings = [f"{error}; resuming from the earlier {path.name}" for _, error in damaged]
        return groups, scalars, warnings
    if damaged:
        raise RecordError(
            f"{damaged[0][1]}, and there is no other checkpoint to resume from: "
            f"delete {folder} to start over"
        )
    return None


def load_checkpoint(path: Path) -> tuple[TensorGroups, CheckpointScalars]:
    """Load the tensors and numbers of a `write_checkpoint` file; RecordError if it is damaged."""
    tensors, groups = {}, TensorGroups()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            scalars = parse_scalars(metadata["facts"])
            for key in file.keys():  # noqa: SIM118 -- not a dictionary
                group, _, name = key.partition("/")
                tensors[key] = groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if metadata.get("sha256") != checksum_tensors(tensors, metadata["facts"]):
        raise RecordError(f"{path} is damaged: its checksum does not match its content")
    return groups, scalars


def parse_scalars(text: str) -> CheckpointScalars:
    """Parse the JSON of a checkpoint's numbers; raises ValueError if it is anything else."""
    scalars = parse_strict_json(text)
    if not isinstance(scalars, dict):
        raise ValueError("its metadata entry 'facts' is not an object")
    if not all(value is None or is_number(value) for value in scalars.values()):
        raise ValueError("a value in its metadata entry 'facts' is not a number")
    return scalars  # type: ignore[return-value]

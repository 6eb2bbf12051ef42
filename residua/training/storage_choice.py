"""Choose how a run's photographs are kept, or take the choice of the run's record."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from residua.config.photo_storage import AUTO_STORAGE, PHOTO_STORAGES, PhotoStorage
from residua.data.photo_storage import choose_storage, choose_storage_by_space
from residua.data.sources.resolve import PhotoDataset
from residua.errors import UsageError, unknown_name_error
from residua.record import RunRecord
from residua.training.machine import Machine


def choose_storage_of_run(
    requested: str,
    data: PhotoDataset,
    machine: Machine,
    resumed: Path | None,
    *,
    reads_all: bool = True,
) -> tuple[PhotoDataset, str]:
    """Return photographs with the storage that is requested, and the reason if it is chosen.

    `resumed` is the folder of a run to go on with, which has chosen already.  Rank 0 chooses for
    all ranks, whose machines may have different memory.  Without `reads_all`, few photographs are
    read, and what the cache holds is not looked up.  Raises UsageError for an unknown storage.
    """
    if requested != AUTO_STORAGE:
        return replace(data, storage=parse_storage(requested)), ""
    if resumed is not None and (recorded := read_recorded_storage(RunRecord(resumed))):
        return replace(data, storage=recorded), ""
    choose = choose_storage if reads_all else choose_storage_by_space
    storage, reason = machine.group.prepare_on_rank0(partial(choose, data.listing, data))
    return replace(data, storage=storage), f"storage {storage}: {reason}"


def parse_storage(name: str) -> PhotoStorage:
    """Return the storage of this name.  Raises UsageError if there is none."""
    for storage in PHOTO_STORAGES:
        if storage == name:
            return storage
    raise unknown_name_error("storage", name, [AUTO_STORAGE, *PHOTO_STORAGES])


def refuse_storage(requested: str, name: str) -> None:
    """Raise UsageError if a storage is requested for `name`, which does not allow a choice."""
    if requested != AUTO_STORAGE:
        raise UsageError(f"--storage {requested} does not apply to {name}: leave it out")


def read_recorded_storage(record: RunRecord) -> PhotoStorage | None:
    """Read the storage of the run in `record`; None if it holds no run.

    A run that records none has squares.
    """
    if not record.run_json_path.exists():
        return None
    environment = record.read_run_json()["environment"]
    stored = environment.get("storage") if isinstance(environment, dict) else None
    return parse_storage(stored) if isinstance(stored, str) else "squares"


def require_storage_of_record(requested: str, record: RunRecord) -> None:
    """Raise UsageError if the run in `record`, if there is one, was started with another storage.

    Without a request, or with `auto`, a run goes on with its own.
    """
    recorded = read_recorded_storage(record)
    if recorded is not None and requested not in (AUTO_STORAGE, recorded):
        raise UsageError(
            f"{record.folder} holds a run that was started with --storage {recorded}, not "
            f"{requested}: leave --storage out, or choose another --out"
        )

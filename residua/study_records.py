"""The records of a study's runs, in folders or packed into one file.

A study's folder has `study.json`, and `runs/` with one folder per run, or `runs.jsonl`, into which
finished runs are packed: one row per run, with its name, the content of run.json and its metrics.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from residua.config.study import Study, parse_study
from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.files import delete_path, write_text
from residua.record import (
    RUN_KEYS,
    JsonObject,
    MetricsRow,
    RunRecord,
    check_json_record,
    check_metrics_row,
    read_json_record,
)

PACKED_RUNS = "runs.jsonl"


@dataclass(frozen=True, slots=True)
class PackedRunRecord(RunRecord):
    """The record of a run in one row of `runs.jsonl`; it is read like a run's folder.

    `folder` is the folder of the study.
    """

    row: JsonObject = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.row.get("name", ""))

    @property
    def run_json_path(self) -> Path:
        return self.folder / PACKED_RUNS

    def read_run_json(self) -> JsonObject:
        content = self.row.get("run")
        return check_json_record(content, self.run_json_path, "a run", RUN_KEYS)

    def read_metrics(self) -> list[MetricsRow]:
        rows = self.row.get("metrics")
        if not isinstance(rows, list):
            raise DamagedRecordError(f"{self.run_json_path} is damaged: {self.name} has no metrics")
        return [check_metrics_row(row, self.run_json_path) for row in rows]


def folder_for_name(parent: Path, name: str) -> Path:
    """The folder below `parent` for a run or a network; its name has no "," and no "=".

    Version 0.1 used `name` itself as the folder's name; if such a folder exists, it is used.
    """
    return parent / name if (parent / name).exists() else parent / to_folder_name(name)


def to_folder_name(name: str) -> str:
    """Make a folder's name from the name of a run or a network.

    `cifar-resnet20,start=identity-seed0` -> `cifar-resnet20_start-identity-seed0`.
    """
    return name.replace(",", "_").replace("=", "-")


def list_run_records(study_folder: Path) -> list[RunRecord]:
    """The records of a study's runs, both those in folders and packed ones, sorted by name.

    A run's folder takes precedence over a packed record of the same name.
    """
    records: dict[str, RunRecord] = {
        to_folder_name(record.name): record
        for record in read_packed_runs(study_folder / PACKED_RUNS)
    }
    for run_json in study_folder.glob("runs/*/run.json"):
        records[to_folder_name(run_json.parent.name)] = RunRecord(run_json.parent)
    return [records[name] for name in sorted(records)]


def read_packed_runs(path: Path) -> list[PackedRunRecord]:
    """The rows of a `runs.jsonl`; [] if there is no such file."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path} is damaged in line {number}: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise RecordError(f"{path} is damaged in line {number}: it does not describe a run")
        records.append(PackedRunRecord(path.parent, row))
    return records


def pack_runs(study_folder: Path) -> int:
    """Move the records of a study's runs from their folders into `runs.jsonl`; return their number.

    Model folders stay where they are.  Raises UsageError if a run is not finished.
    """
    records = list_run_records(study_folder)
    folders = [record for record in records if not isinstance(record, PackedRunRecord)]
    for record in folders:
        if record.read_result() is None:
            raise UsageError(f"{record.folder} holds an unfinished run: finish the study first")
    lines = [
        json.dumps({"name": r.name, "run": r.read_run_json(), "metrics": r.read_metrics()}) + "\n"
        for r in records
    ]
    write_text(study_folder / PACKED_RUNS, "".join(lines))
    for record in folders:
        delete_path(record.run_json_path)
        delete_path(record.metrics_path)
    for folder in (*(record.folder for record in folders), study_folder / "runs"):
        with suppress(OSError):  # it holds model folders, or is gone
            folder.rmdir()
    return len(folders)


def read_study_json(path: Path) -> Study:
    """Read a study.json; RecordError if it is damaged or of another format."""
    try:
        return parse_study(read_json_record(path, "a study"))
    except DamagedRecordError:
        raise
    except RecordError as error:
        if str(error).startswith(str(path)):
            raise
        raise RecordError(f"{path} is damaged: {error}") from error

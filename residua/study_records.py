"""The records of a study's runs, in folders or packed into one file.

A study's folder contains `study.json` and `runs/`, with one folder per run.  Finished runs can be
packed into `runs.jsonl`: one row per run, with its name, the content of run.json and its metrics.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from residua.bounded_json import read_json_lines
from residua.config.study import Study, parse_study
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.files import delete_path, hold_output_lock, write_text
from residua.record import RunRecord
from residua.record_checks import (
    JsonObject,
    MetricsRow,
    check_metrics_row,
    check_run_json,
    read_json_record,
)

PACKED_RUNS = "runs.jsonl"
MAX_PACKED_BYTES = 2**28  # 256 MiB; 700 finished runs have 5 MiB


@dataclass(frozen=True, slots=True)
class PackedRunRecord(RunRecord):
    """The record of a run that is packed into one row of `runs.jsonl`.

    It is read by the same methods as a run's folder, but `folder` is the study's folder.
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
        return check_run_json(content, self.run_json_path)

    def read_metrics(self) -> list[MetricsRow]:
        rows = self.row.get("metrics")
        if not isinstance(rows, list):
            raise DamagedRecordError(f"{self.run_json_path} is damaged: {self.name} has no metrics")
        return [check_metrics_row(row, self.run_json_path) for row in rows]


def folder_for_name(parent: Path, name: str) -> Path:
    """Return the folder in `parent` for the run or network `name`.

    This is the folder `name` if it exists, as in version 0.1, and else `to_folder_name(name)`.
    """
    return parent / name if (parent / name).exists() else parent / to_folder_name(name)


def to_folder_name(name: str) -> str:
    """Make a folder's name, without "," and "=", from the name of a run or a network.

    E.g. `cifar-resnet20,start=identity-seed0` -> `cifar-resnet20_start-identity-seed0`.
    """
    return name.replace(",", "_").replace("=", "-")


def list_run_records(study_folder: Path) -> list[RunRecord]:
    """List the records of a study's runs, in folders and packed, sorted by name.

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
    """Read the records in a `runs.jsonl`; [] if it does not exist, RecordError if it is damaged."""
    if not path.exists():
        return []
    records = []
    for number, row in enumerate(read_json_lines(path, MAX_PACKED_BYTES), 1):
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise RecordError(f"{path} is damaged in line {number}: the line describes no run")
        records.append(PackedRunRecord(path.parent, row))
    for name, count in Counter(record.name for record in records).items():
        if count > 1:
            raise RecordError(f"{path} is damaged: it lists the run {name!r} {count} times")
    return records


def pack_runs(study_folder: Path) -> int:
    """Move the records of a study's runs from their folders into `runs.jsonl`.

    Returns the number of runs moved.  Model folders stay where they are.  Raises UsageError if a
    run is not finished.
    """
    with hold_output_lock(study_folder / PACKED_RUNS):
        records = list_run_records(study_folder)
        folders = [record for record in records if not isinstance(record, PackedRunRecord)]
        for record in folders:
            if record.read_result() is None:
                raise UsageError(f"{record.folder} holds an unfinished run: finish the study first")
        rows = [
            {"name": r.name, "run": r.read_run_json(), "metrics": r.read_metrics()} for r in records
        ]
        lines = [json.dumps(row) + "\n" for row in rows]
        write_text(study_folder / PACKED_RUNS, "".join(lines))
        for record in records:
            delete_packed_files(RunRecord(folder_for_name(study_folder / "runs", record.name)))
        with suppress(OSError):  # it holds model folders, or is gone
            (study_folder / "runs").rmdir()
        return len(folders)


def delete_packed_files(record: RunRecord) -> None:
    """Delete the files of a packed run, and its folder if that is then empty.

    Files of a run that an earlier process packed exist only if that process was killed.
    """
    delete_path(record.run_json_path)  # first: without it, the packed record counts
    delete_path(record.metrics_path)
    with suppress(OSError):  # it holds model folders, or is gone
        record.folder.rmdir()


def read_study_json(path: Path) -> Study:
    """Read a study.json; RecordError if it is missing, damaged or has another format version."""
    content = read_json_record(path, "a study")
    try:
        study = parse_study(content)
        study.points_by_run_name()  # fails if an arm has no network of one of its depths
        return study
    except ResiduaError as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error

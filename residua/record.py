"""The record of a run, and the runs of a study.

run.json        the run, where it ran, and its result once finished; replaced as a whole
metrics.jsonl   one row per evaluation: step, epoch, lr, loss, train_error, dev_error, dev_loss,
                seconds; only appended to
checkpoints/    the newest few, until the run is finished
last/  best/    model folders: after the last step, and at the lowest error on the dev split

A study's folder has `runs/`, with one such folder per run, or `runs.jsonl`, into which finished
runs are packed: one row per run, with its name, the content of run.json and its metrics."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from residua.config.run import Run, parse_run
from residua.config.serialize import FORMAT_VERSION, Json
from residua.config.study import Study, parse_study
from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.files import delete_path, write_json, write_text

PACKED_RUNS = "runs.jsonl"

JsonObject: TypeAlias = dict[str, Json]
MetricsRow: TypeAlias = dict[str, float | None]


def read_json_record(path: Path, content: str, keys: Iterable[str] = ()) -> JsonObject:
    """Read a JSON object of this version's format that has `keys`.

    `content` names what the file should hold, for messages, e.g. "a run".  Raises RecordError for a
    missing file or another format, DamagedRecordError for anything that is not such an object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = content.split(" ", 1)[1]
        raise RecordError(f"{path.parent} holds no {what}: it has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error
    return check_json_record(record, path, content, keys)


def check_json_record(
    record: Json, path: Path, content: str, keys: Iterable[str] = ()
) -> JsonObject:
    """Check an object that was read from `path` as `read_json_record` does."""
    if not isinstance(record, dict) or not set(keys) <= set(record):
        raise DamagedRecordError(f"{path} is damaged: it does not describe {content}")
    if (found := record.get("format", FORMAT_VERSION)) != FORMAT_VERSION:
        raise RecordError(f"{path} has format {found}; this version reads format {FORMAT_VERSION}")
    return record


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A folder that holds, or will hold, one run."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name in its study: that of its folder."""
        return self.folder.name

    @property
    def run_json_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints_folder(self) -> Path:
        return self.folder / "checkpoints"

    def claim_folder(self, run: Run, environment: JsonObject, resume: bool) -> None:
        """Write run.json for a new `run`, or check that the folder holds this run.

        UsageError if it holds another run or other files; if it holds this run unfinished and
        `resume` is False; or if the run was begun in another precision or on other images.
        """
        if self.run_json_path.exists():
            self.check_same_run(run, environment, resume)
        elif self.folder.exists() and any(
            not path.name.startswith(".") for path in self.folder.iterdir()
        ):
            raise UsageError(f"{self.folder} is not empty and holds no run: choose another --out")
        else:
            content = {"format": FORMAT_VERSION, "id": run.id, "run": run.json}
            write_json(self.run_json_path, content | {"environment": environment, "result": None})

    def check_same_run(self, run: Run, environment: JsonObject, resume: bool) -> None:
        """UsageError if the record is not of `run`, or cannot be resumed as asked."""
        stored = self.read_run_json()
        if (stored_run := parse_run(stored["run"])) != run:
            difference = describe_first_difference(stored_run.json, run.json)
            raise UsageError(f"{self.folder} holds another run: {difference}; choose another --out")
        if stored["result"] is not None:
            return
        if not resume:
            raise UsageError(
                f"{self.folder} holds this run already: "
                "add --resume to go on with it, or choose another --out"
            )
        stored_environment = stored["environment"]
        assert isinstance(stored_environment, dict)
        stored_precision = stored_environment["precision"]
        if stored_precision != environment["precision"]:
            raise UsageError(
                f"{self.folder} holds this run begun in {stored_precision}, "
                f"not {environment['precision']}: add --precision {stored_precision}"
            )
        if stored_environment.get("images", environment["images"]) != environment["images"]:
            raise UsageError(
                f"{self.folder} holds this run begun on other images: the data have changed, "
                "so choose another --out"
            )

    def read_run_json(self) -> JsonObject:
        """The content of run.json: format, id, run, environment and result."""
        return read_json_record(self.run_json_path, "a run", RUN_KEYS)

    def read_result(self) -> JsonObject | None:
        """The result of a finished run; None if the run is not finished."""
        result = self.read_run_json()["result"]
        return result if isinstance(result, dict) else None

    def read_skipped_images(self) -> list[dict[str, str]]:
        """The photographs that could not be read: path, kind and detail of each problem."""
        environment = self.read_run_json()["environment"]
        skipped = environment.get("left_out") if isinstance(environment, dict) else None
        problems = skipped if isinstance(skipped, list) else []
        return [
            {name: str(text) for name, text in problem.items()}
            for problem in problems
            if isinstance(problem, dict)
        ]

    def read_metrics(self) -> list[MetricsRow]:
        """The rows of metrics.jsonl in the order of steps; [] before the first evaluation."""
        if not self.metrics_path.exists():
            return []
        return parse_metrics(self.metrics_path.read_text(encoding="utf-8"), self.metrics_path)

    def append_metrics(self, row: MetricsRow) -> None:
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_metrics_after(self, step: int) -> None:
        """Delete the rows after `step`, and a last row that was cut off."""
        if self.metrics_path.exists():
            complete_rows, _, _ = self.metrics_path.read_text(encoding="utf-8").rpartition("\n")
            rows = parse_metrics(complete_rows, self.metrics_path)
            kept_rows = [row for row in rows if (row["step"] or 0) <= step]
            write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in kept_rows))

    def write_result(self, result: JsonObject) -> None:
        """Finish the run: write its result and delete its checkpoints."""
        write_json(self.run_json_path, self.read_run_json() | {"result": result})
        delete_path(self.checkpoints_folder)


RUN_KEYS = ("format", "run", "environment", "result")


@dataclass(frozen=True, slots=True)
class PackedRunRecord(RunRecord):
    """One row of `runs.jsonl`, read like a run's folder; `folder` is the study's."""

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
    """The folder below `parent` for a run or a network of that name, without "," and "=" in it.

    Version 0.1 used the name itself; such a folder is used if it exists.
    """
    return parent / name if (parent / name).exists() else parent / to_folder_name(name)


def to_folder_name(name: str) -> str:
    """`cifar-resnet20,start=identity-seed0` -> `cifar-resnet20_start-identity-seed0`."""
    return name.replace(",", "_").replace("=", "-")


def list_run_records(study_folder: Path) -> list[RunRecord]:
    """The records of a study's runs, folders and packed ones, sorted by name.

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
    """Move the records of a study's runs from their folders into `runs.jsonl`; returns how many.

    Model folders stay where they are.  UsageError if a run is not finished.
    """
    records = list_run_records(study_folder)
    folders = [record for record in records if not isinstance(record, PackedRunRecord)]
    for record in folders:
        if record.read_result() is None:
            raise UsageError(f"{record.folder} holds an unfinished run: finish the study first")
    rows = [
        {"name": record.name, "run": record.read_run_json(), "metrics": record.read_metrics()}
        for record in records
    ]
    write_text(study_folder / PACKED_RUNS, "".join(json.dumps(row) + "\n" for row in rows))
    for record in folders:
        delete_path(record.run_json_path)
        delete_path(record.metrics_path)
    for folder in (*(record.folder for record in folders), study_folder / "runs"):
        with suppress(OSError):  # it holds model folders, or is gone
            folder.rmdir()
    return len(folders)


def parse_metrics(text: str, path: Path) -> list[MetricsRow]:
    """Parse the rows of a metrics.jsonl; DamagedRecordError names `path` if one is damaged."""
    try:
        rows = [json.loads(line) for line in text.splitlines() if line]
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error
    return [check_metrics_row(row, path) for row in rows]


def check_metrics_row(row: Json, path: Path) -> MetricsRow:
    if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
        text = json.dumps(row)[:60]
        raise DamagedRecordError(
            f"{path} is damaged: {text} is no row of metrics, which has a step"
        )
    return row  # type: ignore[return-value]


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


def describe_first_difference(stored: Json, requested: Json, path: str = "") -> str:
    """Say where two JSON values first differ: `seed is 0 there, 1 here`."""
    if isinstance(stored, dict) and isinstance(requested, dict):
        for key in [*stored, *requested]:
            if stored.get(key) != requested.get(key):
                key_path = f"{path}.{key}" if path else key
                return describe_first_difference(stored.get(key), requested.get(key), key_path)
    return f"{path} is {json.dumps(stored)} there, {json.dumps(requested)} here"

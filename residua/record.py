"""The record of a run: a folder with these files.

run.json        the run, where it ran, and its result once finished; replaced as a whole
metrics.jsonl   one row per evaluation: step, epoch, lr, loss, train_error, dev_error, dev_loss,
                seconds; only appended to
checkpoints/    the newest few, until the run is finished
last/  best/    model folders: after the last step, and at the lowest error on the dev split
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from residua.config.run import Run, parse_run
from residua.config.serialize import FORMAT_VERSION, Json
from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.files import delete_path, write_json, write_text

JsonObject: TypeAlias = dict[str, Json]
MetricsRow: TypeAlias = dict[str, float | None]


def read_json_record(path: Path, content: str, keys: Iterable[str] = ()) -> JsonObject:
    """Read a JSON object from `path`; check that it has this version's format and all of `keys`.

    `content` says in error messages what the file should hold, e.g. "a run".  Raises RecordError if
    the file is missing or has another format, DamagedRecordError if it is not such an object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = content.split(" ", 1)[1]
        raise RecordError(f"{path.parent} contains no {what}: it has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error
    return check_json_record(record, path, content, keys)


def check_json_record(
    record: Json, path: Path, content: str, keys: Iterable[str] = ()
) -> JsonObject:
    """Make the same checks as `read_json_record` on an object that was already read from `path`."""
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
        """The run's name in its study, which is its folder's name."""
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
        """Write run.json for a new `run`, or check that the folder already holds this run.

        Raises UsageError if the folder holds another run or other files; if it holds this run
        unfinished and `resume` is False; or if the run was begun in another precision or on other
        images.
        """
        if self.run_json_path.exists():
            self.check_same_run(run, environment, resume)
        elif self.folder.exists() and any(
            not path.name.startswith(".") for path in self.folder.iterdir()
        ):
            raise UsageError(
                f"{self.folder} is not empty and contains no run: choose another --out"
            )
        else:
            content = {"format": FORMAT_VERSION, "id": run.id, "run": run.json}
            write_json(self.run_json_path, content | {"environment": environment, "result": None})

    def check_same_run(self, run: Run, environment: JsonObject, resume: bool) -> None:
        """Raise UsageError if this record is not of `run`, or cannot be resumed as requested."""
        stored = self.read_run_json()
        if (stored_run := parse_run(stored["run"])) != run:
            difference = describe_first_difference(stored_run.json, run.json)
            raise UsageError(f"{self.folder} holds another run: {difference}; choose another --out")
        if stored["result"] is not None:
            return
        if not resume:
            raise UsageError(
                f"{self.folder} already holds this run: "
                "add --resume to go on with it, or choose another --out"
            )
        stored_environment = stored["environment"]
        assert isinstance(stored_environment, dict)
        stored_precision = stored_environment["precision"]
        if stored_precision != environment["precision"]:
            raise UsageError(
                f"{self.folder} holds this run, but it was started in {stored_precision}, not "
                f"{environment['precision']}: add --precision {stored_precision}"
            )
        if stored_environment.get("images", environment["images"]) != environment["images"]:
            raise UsageError(
                f"the images have changed since the run in {self.folder} was started: "
                "choose another --out"
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
        """Delete the rows of metrics.jsonl after `step`, and a last row that was cut off."""
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


def parse_metrics(text: str, path: Path) -> list[MetricsRow]:
    """Parse the text of a metrics.jsonl; `path` is its file.

    Raises DamagedRecordError, whose message names `path`, if a row is damaged.
    """
    try:
        rows = [json.loads(line) for line in text.splitlines() if line]
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error
    return [check_metrics_row(row, path) for row in rows]


def check_metrics_row(row: Json, path: Path) -> MetricsRow:
    if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
        text = json.dumps(row)[:60]
        raise DamagedRecordError(
            f"{path} is damaged: {text} is not a row of metrics, because it has no step"
        )
    return row  # type: ignore[return-value]


def describe_first_difference(stored: Json, requested: Json, path: str = "") -> str:
    """Say where two JSON values first differ: `seed is 0 there, 1 here`.

    "there" is the value in `stored`, "here" the one in `requested`; `path` is put before the key.
    """
    if isinstance(stored, dict) and isinstance(requested, dict):
        for key in [*stored, *requested]:
            if stored.get(key) != requested.get(key):
                key_path = f"{path}.{key}" if path else key
                return describe_first_difference(stored.get(key), requested.get(key), key_path)
    return f"{path} is {json.dumps(stored)} there, {json.dumps(requested)} here"

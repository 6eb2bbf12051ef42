"""A run's record: a folder with `run.json`, which is replaced whole, and `metrics.jsonl`, which is only added to.

run.json        the run, where it ran, and its result once finished
metrics.jsonl   a line per evaluation: step, epoch, lr, loss, train_error, dev_error, dev_loss, seconds
checkpoints/    the newest few, while the run is not finished
last/  best/    model folders: after the last step, and at the lowest error on the dev split
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from residua.config.run import Run, parse_run
from residua.config.serialize import FORMAT_VERSION, Json
from residua.config.study import Study, parse_study
from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.files import delete_path, write_json, write_text

MetricsRow: TypeAlias = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A folder that holds, or will hold, one run."""

    folder: Path

    @property
    def run_json_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints_folder(self) -> Path:
        return self.folder / "checkpoints"

    def claim_folder(self, run: Run, environment: dict[str, Json], resume: bool) -> None:
        """Claim the folder for `run`.

        UsageError where it holds another run, or this one and `resume` is not asked for, or one begun in another precision.
        """
        if self.run_json_path.exists():
            stored = self.read_run_json()
            if (stored_run := parse_run(stored["run"])) != run:
                raise UsageError(
                    f"{self.folder} holds another run: {describe_first_difference(stored_run.json, run.json)}; choose another --out"
                )
            if stored["result"] is not None:
                return
            if not resume:
                raise UsageError(
                    f"{self.folder} holds this run already: add --resume to go on with it, or choose another --out"
                )
            stored_environment = stored["environment"]
            assert isinstance(stored_environment, dict)
            stored_precision = stored_environment["precision"]
            requested_precision = environment["precision"]
            if stored_precision != requested_precision:
                raise UsageError(
                    f"{self.folder} holds this run begun in {stored_precision}, not {requested_precision}: add --precision {stored_precision}"
                )
            if stored["environment"].get("images", environment["images"]) != environment["images"]:  # type: ignore[union-attr]
                raise UsageError(
                    f"{self.folder} holds this run begun on other images, the data have changed: choose another --out"
                )
        elif self.folder.exists() and any(
            not path.name.startswith(".") for path in self.folder.iterdir()
        ):
            raise UsageError(f"{self.folder} is not empty and holds no run: choose another --out")
        else:
            write_json(
                self.run_json_path,
                {
                    "format": FORMAT_VERSION,
                    "id": run.id,
                    "run": run.json,
                    "environment": environment,
                    "result": None,
                },
            )

    def read_run_json(self) -> dict[str, Json]:
        """What `run.json` holds."""
        try:
            content = json.loads(self.run_json_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordError(f"{self.folder} holds no run: it has no run.json") from None
        except ValueError as error:
            raise DamagedRecordError(f"{self.run_json_path} is damaged: {error}") from error
        if not isinstance(content, dict) or not {"format", "run", "environment", "result"} <= set(
            content
        ):
            raise DamagedRecordError(f"{self.run_json_path} is damaged: it describes no run")
        if content["format"] != FORMAT_VERSION:
            raise RecordError(
                f"{self.run_json_path} has format {content['format']}; this version reads format {FORMAT_VERSION}"
            )
        return content

    def read_result(self) -> dict[str, Json] | None:
        """The result of a finished run; None while it is not finished."""
        result = self.read_run_json()["result"]
        return result if isinstance(result, dict) else None

    def read_skipped_images(self) -> list[dict[str, str]]:
        """What of a folder of photographs could not be used: path, kind and detail of each problem."""
        environment = self.read_run_json()["environment"]
        skipped = environment.get("left_out") if isinstance(environment, dict) else None
        problems = skipped if isinstance(skipped, list) else []
        return [
            {name: str(text) for name, text in problem.items()}
            for problem in problems
            if isinstance(problem, dict)
        ]

    def read_metrics(self) -> list[MetricsRow]:
        """The measurements so far, in order of steps."""
        if not self.metrics_path.exists():
            return []
        return self.parse_metrics(self.metrics_path.read_text(encoding="utf-8"))

    def parse_metrics(self, text: str) -> list[MetricsRow]:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line]
        except ValueError as error:
            raise DamagedRecordError(f"{self.metrics_path} is damaged: {error}") from error
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
                raise DamagedRecordError(
                    f"{self.metrics_path} is damaged: {json.dumps(row)[:60]} is no measurement, which has a step"
                )
        return rows

    def append_metrics(self, row: MetricsRow) -> None:
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate_metrics_after(self, step: int) -> None:
        """Forget what was measured after `step`, and a line that was cut off in the middle."""
        if self.metrics_path.exists():
            complete_lines, _, _ = self.metrics_path.read_text(encoding="utf-8").rpartition("\n")
            kept_rows = [
                line for line in self.parse_metrics(complete_lines) if (line["step"] or 0) <= step
            ]
            write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept_rows))

    def write_result(self, result: dict[str, Json]) -> None:
        write_json(self.run_json_path, self.read_run_json() | {"result": result})
        delete_path(self.checkpoints_folder)


def read_study_json(path: Path) -> Study:
    """The study that a `study.json` tells; RecordError where it is damaged or of another format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format", FORMAT_VERSION) == FORMAT_VERSION:
            return parse_study(content)
    except (ValueError, RecordError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    raise RecordError(
        f"{path} has format {content['format']}; this version reads format {FORMAT_VERSION}"
    )


def describe_first_difference(stored: Json, requested: Json, path: str = "") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(stored, dict) and isinstance(requested, dict):
        for name in [*stored, *requested]:
            if stored.get(name) != requested.get(name):
                return describe_first_difference(
                    stored.get(name), requested.get(name), f"{path}.{name}" if path else name
                )
    return f"{path} is {json.dumps(stored)} there, {json.dumps(requested)} here"

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

from residua.errors import DamagedError, RecordError, UsageError
from residua.files import remove, write_json, write_text
from residua.spec.run import Run, run_of
from residua.spec.study import Study, study_of
from residua.spec.text import FORMAT, Json

Line: TypeAlias = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Record:
    """A folder that holds, or will hold, one run."""

    folder: Path

    @property
    def head(self) -> Path:
        return self.folder / "run.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def begin(self, run: Run, environment: dict[str, Json], resume: bool) -> None:
        """Claim the folder for `run`.

        UsageError where it holds another run, or this one and `resume` is not asked for, or one begun in another precision.
        """
        if self.head.exists():
            held = self.read()
            if (other := run_of(held["run"])) != run:
                raise UsageError(f"{self.folder} holds another run: {difference(other.json, run.json)}; choose another --out")
            if held["result"] is not None:
                return
            if not resume:
                raise UsageError(f"{self.folder} holds this run already: add --resume to go on with it, or choose another --out")
            before, now = [place["precision"] for place in (held["environment"], environment)]  # type: ignore[index,call-overload]
            if before != now:
                raise UsageError(f"{self.folder} holds this run begun in {before}, not {now}: add --precision {before}")
            if held["environment"].get("images", environment["images"]) != environment["images"]:  # type: ignore[union-attr]
                raise UsageError(f"{self.folder} holds this run begun on other images, the data have changed: choose another --out")
        elif self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise UsageError(f"{self.folder} is not empty and holds no run: choose another --out")
        else:
            write_json(self.head, {"format": FORMAT, "id": run.id, "run": run.json, "environment": environment, "result": None})

    def read(self) -> dict[str, Json]:
        """What `run.json` holds."""
        try:
            content = json.loads(self.head.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecordError(f"{self.folder} holds no run: it has no run.json") from None
        except ValueError as error:
            raise DamagedError(f"{self.head} is damaged: {error}") from error
        if not isinstance(content, dict) or not {"format", "run", "environment", "result"} <= set(content):
            raise DamagedError(f"{self.head} is damaged: it describes no run")
        if content["format"] != FORMAT:
            raise RecordError(f"{self.head} has format {content['format']}; this version reads format {FORMAT}")
        return content

    def result(self) -> dict[str, Json] | None:
        """The result of a finished run; None while it is not finished."""
        result = self.read()["result"]
        return result if isinstance(result, dict) else None

    def left_out(self) -> list[dict[str, str]]:
        """What of a folder of photographs could not be used: path, kind and detail of each problem."""
        environment = self.read()["environment"]
        lost = environment.get("left_out") if isinstance(environment, dict) else None
        return [{name: str(text) for name, text in problem.items()} for problem in lost or [] if isinstance(problem, dict)]  # type: ignore[union-attr]

    def lines(self) -> list[Line]:
        """The measurements so far, in order of steps."""
        if not self.metrics.exists():
            return []
        return self.parsed(self.metrics.read_text(encoding="utf-8"))

    def parsed(self, text: str) -> list[Line]:
        try:
            lines = [json.loads(line) for line in text.splitlines() if line]
        except ValueError as error:
            raise DamagedError(f"{self.metrics} is damaged: {error}") from error
        for line in lines:
            if not isinstance(line, dict) or not isinstance(line.get("step"), int | float):
                raise DamagedError(f"{self.metrics} is damaged: {json.dumps(line)[:60]} is no measurement, which has a step")
        return lines

    def log(self, line: Line) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Forget what was measured after `step`, and a line that was cut off in the middle."""
        if self.metrics.exists():
            whole, _, _ = self.metrics.read_text(encoding="utf-8").rpartition("\n")
            kept = [line for line in self.parsed(whole) if (line["step"] or 0) <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def finish(self, result: dict[str, Json]) -> None:
        write_json(self.head, self.read() | {"result": result})
        remove(self.checkpoints)


def read_study(path: Path) -> Study:
    """The study that a `study.json` tells; RecordError where it is damaged or of another format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format", FORMAT) == FORMAT:
            return study_of(content)
    except (ValueError, RecordError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    raise RecordError(f"{path} has format {content['format']}; this version reads format {FORMAT}")


def difference(held: Json, asked: Json, place: str = "") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(held, dict) and isinstance(asked, dict):
        for name in [*held, *asked]:
            if held.get(name) != asked.get(name):
                return difference(held.get(name), asked.get(name), f"{place}.{name}" if place else name)
    return f"{place} is {json.dumps(held)} there, {json.dumps(asked)} here"

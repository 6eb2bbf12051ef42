"""The record of a run: a folder with these files.

run.json        the run, its environment, and its result (null until the run is finished)
metrics.jsonl   one row per evaluation: step, epoch, lr, loss, train_error, dev_error, dev_loss,
                seconds
checkpoints/    the newest few checkpoints; deleted when the run is finished
last/           model folder with the weights after the last step
best/           model folder with the weights of the lowest error on the dev split

`residua train` adds the report of a finished run, and its evaluation in `evaluation/`.
"""

import json
import re
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from residua.bounded_json import MAX_JSON_BYTES, Json, parse_json_lines, read_regular_file
from residua.config.dataset import DATASETS
from residua.config.run import Run, parse_run
from residua.config.serialize import FORMAT_VERSION
from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.files import append_line, delete_path, fsync_file, write_json, write_text
from residua.record_checks import JsonObject as JsonObject
from residua.record_checks import MetricsRow as MetricsRow
from residua.record_checks import check_metrics_row, check_run_json, read_json_record


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A folder that holds, or will hold, one run."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name in its study: the name of its folder."""
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

        The run may go on with the same photographs in another place: run.json then gets their new
        path.  Raises UsageError if the folder holds another run, or other files and no run.  For an
        unfinished run, also raises UsageError if `resume` is False, or if the run was started in
        another precision or on other images.
        """
        if self.run_json_path.exists():
            self.check_can_continue(run, environment, resume)
            if self.find_moved_images(run, environment) and self.read_result() is None:
                content = {"id": run.id, "run": run.json}
                write_json(self.run_json_path, self.read_run_json() | content)
        elif self.folder.exists() and any(
            not path.name.startswith(".") for path in self.folder.iterdir()
        ):
            raise UsageError(
                f"{self.folder} is not empty and contains no run: choose another --out"
            )
        else:
            content = {"format": FORMAT_VERSION, "id": run.id, "run": run.json}
            write_json(self.run_json_path, content | {"environment": environment, "result": None})

    def check_can_continue(self, run: Run, environment: JsonObject, resume: bool) -> None:
        """Raise UsageError if the folder holds another run, or `run` cannot go on as requested."""
        stored = self.read_run_json()
        stored_run = self.read_run()
        stored_environment = stored["environment"]
        assert isinstance(stored_environment, dict)  # as read_run_json checks
        images_before, images = stored_environment.get("images"), environment.get("images")
        images_changed = None not in (images_before, images) and images_before != images
        if stored_run != run and not self.find_moved_images(run, environment):
            difference = describe_first_difference(stored_run.json, run.json)
            # what was left to choose may have been chosen for other images
            more = ", and the images have changed since it was started" * images_changed
            differs_in_recipe = difference.startswith("recipe.")
            way_on = self.suggest_training_from_this_run() if differs_in_recipe else ""
            raise UsageError(
                f"{self.folder} holds another run: {difference}{more}; choose another --out{way_on}"
            )
        if stored["result"] is not None:
            return
        if not resume:
            raise UsageError(
                f"{self.folder} already holds this run: "
                "add --resume to go on with it, or choose another --out"
            )
        stored_precision = stored_environment.get("precision")
        if stored_precision != environment["precision"]:
            raise UsageError(
                f"{self.folder} holds this run, but it was started in {stored_precision}, not "
                f"{environment['precision']}: add --precision {stored_precision}"
            )
        if images_changed:
            raise UsageError(
                f"the images have changed since the run in {self.folder} was started: "
                "choose another --out"
            )
        stored_transform, transform = (
            f"the transform {name}" if (name := facts.get("transform")) else "no transform"
            for facts in (stored_environment, environment)
        )
        if stored_transform != transform:
            raise UsageError(
                f"{self.folder} holds this run, but it was started with {stored_transform}, not "
                f"{transform}: use {stored_transform}, or choose another --out"
            )

    def find_moved_images(self, run: Run, environment: JsonObject) -> str:
        """Return the path of the photographs in run.json if they have moved since, else "".

        The folder must hold `run`, with training images of the same content.
        """
        if not self.run_json_path.exists():
            return ""
        stored = self.read_run_json()
        stored_run, stored_environment = self.read_run(), stored["environment"]
        is_moved = (
            stored_run != run
            and replace(stored_run, dataset=run.dataset) == run
            and not {run.dataset, stored_run.dataset} & set(DATASETS)
            and isinstance(stored_environment, dict)
            and stored_environment.get("images") == environment["images"]
        )
        return stored_run.dataset if is_moved else ""

    def suggest_training_from_this_run(self) -> str:
        """Return the end of an error: how to train on from this run's network, if it has one."""
        models = {self.folder / "last": self.folder, self.folder / "best": self.folder / "best"}
        for model, name in models.items():
            if model.exists():
                return f", with --from {name} to go on from its network"
        return ""

    def read_run_json(self) -> JsonObject:
        """Read run.json: a dict with the keys format, id, run, environment and result."""
        return check_run_json(read_json_record(self.run_json_path, "a run"), self.run_json_path)

    def read_run(self) -> Run:
        """Read the run in run.json; raises DamagedRecordError if it does not describe a run."""
        try:
            return parse_run(self.read_run_json()["run"])
        except (RecordError, UsageError) as error:
            if str(self.run_json_path) in str(error):
                raise
            raise DamagedRecordError(f"{self.run_json_path} is damaged: {error}") from error

    def read_result(self) -> JsonObject | None:
        """Read the result of the run; None if the run is not finished."""
        result = self.read_run_json()["result"]
        return result if isinstance(result, dict) else None

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a run that has a result."""
        return self.run_json_path.exists() and self.read_result() is not None

    def read_skipped_images(self) -> list[dict[str, str]]:
        """List the image files that were skipped as unreadable: path, kind and detail of each."""
        environment = self.read_run_json()["environment"]
        skipped = environment.get("left_out") if isinstance(environment, dict) else None
        problems = skipped if isinstance(skipped, list) else []
        return [
            {name: str(text) for name, text in problem.items()}
            for problem in problems
            if isinstance(problem, dict)
        ]

    def read_weights_origin(self) -> dict[str, Json] | None:
        """Read which weights the run started from: `name`, which may be a path, and `sha256`.

        Returns None for random weights, and for runs of versions that did not record them.
        """
        environment = self.read_run_json()["environment"]
        origin = environment.get("weights_from") if isinstance(environment, dict) else None
        is_known = isinstance(origin, dict) and {"name", "sha256"} <= set(origin)
        return origin if isinstance(origin, dict) and is_known else None

    def read_engine(self) -> dict[str, Json]:
        """Read by what means each part of a step was computed; {} for runs without such a record.

        The keys are `step`, `kernels` (of BN) and `convolutions`; with several processes also
        `gradients` and `batchnorm`.
        """
        environment = self.read_run_json()["environment"]
        engine = environment.get("engine") if isinstance(environment, dict) else None
        return engine if isinstance(engine, dict) else {}

    def add_resumption(self, step: int, processes: int) -> None:
        """Record in run.json that the run goes on after `step` with another number of processes."""
        content = self.read_run_json()
        environment = content["environment"]
        assert isinstance(environment, dict)  # as read_run_json checks
        earlier = environment.get("resumed")
        resumed = earlier if isinstance(earlier, list) else []
        entry: JsonObject = {"step": step, "processes": processes}
        if entry not in resumed[-1:]:
            changed = environment | {"resumed": [*resumed, entry]}
            write_json(self.run_json_path, content | {"environment": changed})

    def read_metrics(self) -> list[MetricsRow]:
        """Read the rows of metrics.jsonl, in order of step; [] before the first evaluation."""
        return self.parse_metrics(self.read_metrics_file())

    def read_metrics_so_far(self) -> list[MetricsRow]:
        """Read the metrics of an unfinished run, except a last row that is incomplete.

        The writer of such a row is still writing it, or was killed.
        """
        content = self.read_metrics_file()
        return self.parse_metrics(content[: content.rfind(b"\n") + 1])

    def read_metrics_file(self) -> bytes:
        if not self.metrics_path.exists():
            return b""
        return read_regular_file(self.metrics_path, MAX_JSON_BYTES)

    def parse_metrics(self, content: bytes) -> list[MetricsRow]:
        # Version 0.1 wrote losses that are not finite as words that are not JSON.
        content = re.sub(rb": (NaN|-?Infinity)(?=[,}])", b": null", content)
        rows = parse_json_lines(content, self.metrics_path)
        return [check_metrics_row(row, self.metrics_path) for row in rows]

    def append_metrics(self, row: MetricsRow) -> None:
        finite_row = {
            name: value if value is None or isfinite(value) else None for name, value in row.items()
        }
        append_line(self.metrics_path, json.dumps(finite_row))

    def flush_metrics(self) -> None:
        """Flush metrics.jsonl to disk, so that a power failure leaves no checkpoint ahead of it."""
        if self.metrics_path.exists():
            fsync_file(self.metrics_path)

    def truncate_metrics_after(self, step: int) -> None:
        """Delete the rows of metrics.jsonl after `step`, and a last row that is incomplete."""
        if self.metrics_path.exists():
            kept_rows = [row for row in self.read_metrics_so_far() if (row["step"] or 0) <= step]
            write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in kept_rows))

    def write_result(self, result: JsonObject) -> None:
        """Mark the run as finished: write its result to run.json and delete its checkpoints."""
        write_json(self.run_json_path, self.read_run_json() | {"result": result})
        delete_path(self.checkpoints_folder)


def describe_first_difference(
    stored: Json, requested: Json, path: str = "", places: tuple[str, str] = ("there", "here")
) -> str:
    """Say where two JSON values first differ, e.g. `seed is 0 there, 1 here`.

    `places` are the words for where `stored` and `requested` are, e.g. `there` and `here`.  `path`
    is the values' dotted key in the object that contains them, if any.
    """
    if isinstance(stored, dict) and isinstance(requested, dict):
        for key in [*stored, *requested]:
            if stored.get(key) != requested.get(key):
                key_path = f"{path}.{key}" if path else key
                values = stored.get(key), requested.get(key)
                return describe_first_difference(*values, key_path, places)
    return f"{path} is {json.dumps(stored)} {places[0]}, {json.dumps(requested)} {places[1]}"

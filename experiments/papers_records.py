"""The records of the runs, finished or not, and what a step takes (for papers.py)."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from papers_jobs import Job

from residua.errors import ResiduaError
from residua.files import write_json, write_text
from residua.record import RunRecord
from residua.study_records import PACKED_RUNS, list_run_records

FAILURE = "failure.txt"  # in the folder of a run
FAILURES = "failures.json"
EXPERIMENTS = Path(__file__).parent
EARLIER_RECORDS = ("fast", "cifar-resnet20-he2015", "vlad-cifar10")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the queue works: the folders of its runs and of its records, and the data."""

    runs: Path
    records: Path
    data_dir: Path | None = None

    def folder_of(self, job: Job) -> Path:
        return self.runs / "runs" / job.name


def list_finished(place: Place) -> dict[str, RunRecord]:
    """Return the records of all finished runs by the id of their run, earlier experiments' too."""
    earlier = [record for name in EARLIER_RECORDS for record in read_folder(EXPERIMENTS / name)]
    return index_finished(earlier) | list_own_finished(place)


def list_own_finished(place: Place) -> dict[str, RunRecord]:
    """Return the records of the finished runs of this experiment, in folders and packed."""
    records = index_finished(list_run_records(place.records))
    return records | index_finished(list_run_records(place.runs))


def read_folder(folder: Path) -> list[RunRecord]:
    """Return the records in a folder, which holds one run, or several in runs.jsonl."""
    record = RunRecord(folder)
    return [record] if record.run_json_path.exists() else list_run_records(folder)


def index_finished(records: Iterable[RunRecord]) -> dict[str, RunRecord]:
    return {record.read_run().id: record for record in records if record.read_result()}


def store_records(place: Place) -> None:
    """Write the records of all finished runs to runs.jsonl, and the failures to failures.json."""
    records = sorted(list_own_finished(place).values(), key=lambda record: record.name)
    rows = [
        {"name": r.name, "run": r.read_run_json(), "metrics": r.read_metrics()} for r in records
    ]
    place.records.mkdir(parents=True, exist_ok=True)
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_text(place.records / PACKED_RUNS, text)
    if failures := read_failures(place):
        write_json(place.records / FAILURES, dict(sorted(failures.items())))


def read_failures(place: Place) -> dict[str, str]:
    """Read why runs failed, by the name of the run."""
    stored = place.records / FAILURES
    failures = dict(json.loads(stored.read_text())) if stored.exists() else {}
    in_folders = place.runs.glob(f"runs/*/{FAILURE}")
    return failures | {path.parent.name: path.read_text() for path in in_folders}


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The measured seconds of a step, by net and recipe, with the nets' numbers of layers."""

    seconds: dict[tuple[str, str], float]
    layers: dict[str, int]

    def has_measured(self, job: Job) -> bool:
        return (job.net, name_recipe(job)) in self.seconds

    def estimate_seconds(self, job: Job) -> float | None:
        """Estimate the seconds of training of a run; None if no net was measured.

        A net that was not measured is estimated from the one of the nearest depth, of the same
        recipe if there is one, in proportion to the number of layers.
        """
        recipes = {recipe for _, recipe in self.seconds}
        name = name_recipe(job)
        nets = [net for net, recipe in self.seconds if recipe == name or name not in recipes]
        if not nets:
            return None
        nearest = min(nets, key=lambda net: (net != job.net, abs(self.layers[net] - job.layers)))
        measured = min(
            seconds
            for (net, recipe), seconds in self.seconds.items()
            if net == nearest and (recipe == name or name not in recipes)
        )
        return job.total_steps * measured * job.layers / self.layers[nearest]


def name_recipe(job: Job) -> str:
    """Name the recipe by what determines how long a step takes, which its duration does not."""
    assert job.run.recipe is not None
    return f"{job.run.recipe.name}, batches of {job.run.recipe.batch_size}"


def read_step_times(place: Place, jobs: Iterable[Job]) -> StepTimes:
    """Read the seconds of a step of each net that was trained, finished or not.

    The fastest run counts, because a machine may have had other work.  Earlier experiments, on
    other machines, count only if no run of this one was measured.
    """
    own, earlier = list_own_finished(place), list_finished(place)
    seconds: dict[tuple[str, str], float] = {}
    layers = {job.net: job.layers for job in jobs}
    for records in (own, earlier):
        for job in jobs:
            record = records.get(job.run.id) or RunRecord(place.folder_of(job))
            rows = []
            with suppress(OSError, ResiduaError):
                has_rows = job.run.id in records or record.metrics_path.exists()
                rows = record.read_metrics() if has_rows else []
            if rows and rows[-1]["step"]:
                measured = (rows[-1]["seconds"] or 0.0) / rows[-1]["step"]
                key = job.net, name_recipe(job)
                seconds[key] = min(measured, seconds.get(key, measured))
        if seconds:
            break
    return StepTimes(seconds, layers)

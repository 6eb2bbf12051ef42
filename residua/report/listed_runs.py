"""Find the runs below a folder, in folders and packed, and read what a list shows of each."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from residua.config.evaluation_results import wilson_interval
from residua.config.serialize import Json
from residua.errors import DamagedRecordError, RecordError, describe_os_error
from residua.files import is_locked_elsewhere
from residua.record import MetricsRow, RunRecord
from residua.record_checks import JsonObject
from residua.report.damaged_metrics import describe_damaged_metrics
from residua.report.evaluation_page import EVALUATION_RECORD
from residua.report.lesion import holds_lesion_study
from residua.report.recorded_run import check_error_rates
from residua.report.run_settings import collect_run_settings
from residua.report.signals_record import SIGNALS_RECORD
from residua.study_records import PACKED_RUNS, PackedRunRecord, list_run_records

RunState = Literal["finished", "unfinished", "being trained"]
MAX_FOLDER_DEPTH = 5  # of runs below the listed folder; our choice
OTHER_RECORDS = ("check.json", EVALUATION_RECORD, SIGNALS_RECORD, "config.json")
"""Files that residua writes into folders of other kinds: checks, evaluations, signals, models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run as a list shows it; errors are in [0, 1], and None if they were not measured."""

    record: RunRecord
    name: str  # the path of its folder below the listed one; a packed run's follows its study's
    data: str
    model: str
    recipe: str  # "" for VLAD, which has none
    seed: int
    state: RunState
    damage: str  # what is wrong with a finished run's measurements, "" if nothing is
    step: int | None  # the last step with a measurement
    total_steps: int | None  # None if it cannot be known yet
    seconds: float | None  # of training, up to `step`
    dev_error: float | None
    dev_images: int | None
    test_error: float | None
    test_images: int | None
    test_views: str  # whose predictions the test error averages; "" for the images alone
    modified: float  # when its record was last written, in seconds since 1970
    settings: dict[str, str]  # of the run and its environment, by name

    @property
    def json(self) -> dict[str, Json]:
        """The run's values for `residua runs --json`."""
        modified = datetime.fromtimestamp(self.modified, UTC).isoformat(timespec="seconds")
        return {
            "run": self.name,
            "folder": str(self.record.folder),
            "data": self.data,
            "model": self.model,
            "recipe": self.recipe or None,
            "seed": self.seed,
            "state": self.state,
            "damaged": self.damage or None,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "dev_error": self.dev_error,
            "dev_images": self.dev_images,
            "dev_error_interval": make_interval_json(self.dev_error, self.dev_images),
            "test_error": self.test_error,
            "test_images": self.test_images,
            "test_views": self.test_views or None,
            "test_error_interval": make_interval_json(self.test_error, self.test_images),
            "modified": modified,
        }


@dataclass(frozen=True, slots=True)
class SkippedFolder:
    """A folder or a file below the listed folder that is not listed; `why` is the reason."""

    name: str
    why: str


def list_runs(folder: Path) -> tuple[list[ListedRun], list[SkippedFolder]]:
    """List the runs below `folder` or in it, the newest last, and the folders that are skipped.

    Raises RecordError if `folder` cannot be read.
    """
    if not folder.is_dir():
        raise RecordError(f"there is no folder {folder}: give the folder that contains your runs")
    runs: list[ListedRun] = []
    skipped: list[SkippedFolder] = []
    for found in walk_run_records(folder, folder, set()):
        if isinstance(found, SkippedFolder):
            skipped.append(found)
            continue
        try:
            runs.append(read_listed_run(found, folder))
        except RecordError as error:
            skipped.append(SkippedFolder(name_run(found, folder), str(error)))
        except OSError as error:
            skipped.append(SkippedFolder(name_run(found, folder), describe_os_error(error)))
    return sorted(runs, key=lambda run: (run.modified, run.name)), skipped


def walk_run_records(
    place: Path, root: Path, visited: set[str]
) -> Iterator[RunRecord | SkippedFolder]:
    """Yield the records in `place` and below it, and each folder without runs directly in `root`.

    Folders of residua's other outputs, such as a check of photographs, are passed over.  `visited`
    holds the real paths of the folders that were entered, so that links cannot lead into a circle.
    """
    real_path = os.path.realpath(place)
    if real_path in visited:
        return
    visited.add(real_path)
    if (place / "run.json").exists():
        yield RunRecord(place)
        return
    try:
        with os.scandir(place) as entries:
            children = sorted(
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir()
            )
    except OSError as error:
        yield SkippedFolder(name_path(place, root), describe_os_error(error))
        return
    if (place / PACKED_RUNS).exists() or (place / "study.json").exists():
        yield from find_study_records(place, root)
        return
    is_deepest = len(place.relative_to(root).parts) >= MAX_FOLDER_DEPTH
    for child in [] if is_deepest else children:
        number = 0
        for number, found in enumerate(walk_run_records(child, root, visited), 1):  # noqa: B007
            yield found
        if not number and place == root and not holds_other_record(child):
            is_study = (child / "study.json").is_file()
            why = "no run of this study has started" if is_study else "it contains no run"
            yield SkippedFolder(name_path(child, root), why)


def holds_other_record(folder: Path) -> bool:
    """Return whether residua wrote a folder that is no run's: such a folder is not missed."""
    has_record = any((folder / name).is_file() for name in OTHER_RECORDS)
    return has_record or holds_lesion_study(folder)


def find_study_records(study_folder: Path, root: Path) -> Iterator[RunRecord | SkippedFolder]:
    """Yield the records of a study; if its packed runs are damaged, only those in folders."""
    try:
        yield from list_run_records(study_folder)
    except RecordError as error:
        yield SkippedFolder(name_path(study_folder / PACKED_RUNS, root), str(error))
        for path in sorted(study_folder.glob("runs/*/run.json")):
            yield RunRecord(path.parent)


def read_listed_run(record: RunRecord, root: Path) -> ListedRun:
    """Read a run; raise RecordError if it cannot be read, DamagedRecordError if it lacks a part."""
    run_json = record.read_run_json()
    try:
        return parse_listed_run(run_json, record, root)
    except KeyError as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: it lacks {error}") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: {error}") from error


def parse_listed_run(run_json: JsonObject, record: RunRecord, root: Path) -> ListedRun:
    run, result = run_json["run"], run_json["result"]
    assert isinstance(run, dict)  # as `read_run_json` checks
    network, recipe = run["network"], run["recipe"]
    if not isinstance(network, dict) or not (recipe is None or isinstance(recipe, dict)):
        raise TypeError("the run does not record a network and a recipe")
    measured: MetricsRow = {}
    total_steps, state = None, "finished"
    if isinstance(result, dict):
        check_error_rates(result)
        measured = {name: as_number(value) for name, value in result.items()}
        measured["step"] = total_steps = truncate_to_integer(result.get("steps"))
    else:
        state = "being trained" if is_locked_elsewhere(record.folder) else "unfinished"
        rows = record.read_metrics_so_far()
        measured = rows[-1] if rows else {}
        check_error_rates(measured)
        total_steps = estimate_total_steps(recipe, measured)
    return ListedRun(
        record=record,
        name=name_run(record, root),
        data=make_printable(str(run["dataset"])),
        model=make_printable(str(network["name"])),
        recipe=make_printable(str(recipe["name"])) if recipe else "",
        seed=int(str(run["seed"])),
        state=state,  # type: ignore[arg-type]
        damage=describe_damaged_metrics(record) if state == "finished" else "",
        step=truncate_to_integer(measured.get("step")),
        total_steps=total_steps,
        seconds=measured.get("seconds"),
        dev_error=measured.get("dev_error"),
        dev_images=truncate_to_integer(measured.get("dev_images")),
        test_error=measured.get("test_error"),
        test_images=truncate_to_integer(measured.get("test_images")),
        test_views=make_printable(str(result.get("test_views", "")))
        if isinstance(result, dict)
        else "",
        modified=find_modification_time(record),
        settings=collect_run_settings(run, run_json["environment"]),
    )


def estimate_total_steps(recipe: Json, measured: MetricsRow) -> int | None:
    """Return the steps of a complete run: its recipe's, or estimated from the steps of an epoch."""
    if not isinstance(recipe, dict):
        return None
    steps, epochs = truncate_to_integer(recipe.get("steps")), as_number(recipe.get("epochs"))
    step, epoch = measured.get("step"), measured.get("epoch")
    if steps or not (epochs and step and epoch):
        return steps or None
    return max(1, round(epochs * step / epoch))


def as_number(value: Json) -> float | None:
    """Return a JSON number; None for any other value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None  # type: ignore[return-value]


def truncate_to_integer(value: Json) -> int | None:
    """Return a JSON number without its fraction; None for any other value."""
    number = as_number(value)
    return None if number is None else int(number)


def make_interval_json(error: float | None, count: int | None) -> list[Json] | None:
    """Make the 95 % confidence interval of an error on `count` images; None if one is unknown."""
    if error is None or not count or count < 0:
        return None
    return list(wilson_interval(round(error * count), count))


def find_modification_time(record: RunRecord) -> float:
    paths = [record.run_json_path]
    if not isinstance(record, PackedRunRecord):
        paths.append(record.metrics_path)
    return max(path.stat().st_mtime for path in paths if path.exists())


def name_run(record: RunRecord, root: Path) -> str:
    """Name a run in the list of the runs below `root`."""
    if isinstance(record, PackedRunRecord):
        return name_path(record.folder / record.name, root)
    return name_path(record.folder, root)


def name_path(path: Path, root: Path) -> str:
    """Return a path relative to `root`, printable; `root` itself is called by its own name."""
    relative = path.relative_to(root)
    return make_printable(str(relative) if relative.parts else path.resolve().name)


def make_printable(text: str) -> str:
    """Escape the characters of a name that neither a page nor a terminal can show."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()

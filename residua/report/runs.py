"""Read all runs in a study's folder: finished runs, unfinished runs and damaged records."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from residua.config.families import CIFAR_FAMILIES
from residua.config.serialize import Json, to_json
from residua.config.study import Study
from residua.errors import DamagedRecordError, RecordError
from residua.record import RunRecord, describe_first_difference
from residua.report.format import format_counted_noun
from residua.report.recorded_run import (
    FinishedRun,
    UnfinishedRun,
    find_arms_of_network,
    make_arm_recipe_json,
    read_recorded_run,
)
from residua.study_records import (
    PACKED_RUNS,
    list_run_records,
    read_study_json,
    to_folder_name,
)

RunSortKey = tuple[int, int, str, int, int, int]
"""The key by which runs are sorted.

It holds the arm's index in the study, the family's index in the papers, the arm's name, the depth,
the seed and the fold.
"""


@dataclass(frozen=True, slots=True)
class DamagedRun:
    """A run whose record cannot be read, so that averages leave it out; `why` is the reason."""

    folder: str
    why: str


@dataclass(frozen=True, slots=True)
class StudyRuns:
    """All runs of a folder, sorted by arm, depth, seed and fold; at least one is finished."""

    finished: tuple[FinishedRun, ...]
    unfinished: tuple[UnfinishedRun, ...]
    damaged: tuple[DamagedRun, ...] = ()
    study: Study | None = None  # None for a single run, or for runs that no study started


def read_study_runs(folder: Path) -> StudyRuns:
    """Read all runs in a study's folder, or the single run in a run's folder.

    Raises RecordError if no run is finished, if a record has another format, if a run occurs twice,
    or if runs differ in more than arm, depth and seed and so cannot be compared.
    """
    records = find_run_records(folder)
    study_file = folder / "study.json"
    study = read_study_json(study_file) if study_file.exists() else None
    finished: dict[str, FinishedRun] = {}
    unfinished: list[UnfinishedRun] = []
    damaged: list[DamagedRun] = []
    for record in records:
        try:
            run = read_recorded_run(record, study)
        except DamagedRecordError as error:
            damaged.append(DamagedRun(record.name, str(error).removeprefix(f"{record.folder}/")))
            continue
        if isinstance(run, FinishedRun):
            finished[record.name] = run
        else:
            unfinished.append(run)
    if not finished and damaged:
        raise RecordError(
            f"{folder} contains no finished run: in {damaged[0].folder}, {damaged[0].why}"
        )
    if not finished:
        raise RecordError(
            f"{folder} contains no finished run yet: {format_counted_noun(len(records), 'run')} "
            "started; repeat the original command to continue"
        )
    check_runs_comparable(folder, finished, study)
    if study:
        started_names = {to_folder_name(record.name) for record in records}
        unfinished += list_unstarted_runs(study, started_names, list(finished.values()))
    sorted_runs = sorted(finished.values(), key=make_run_sort_key(study))
    return StudyRuns(tuple(sorted_runs), tuple(unfinished), tuple(damaged), study)


def holds_run_records(folder: Path) -> bool:
    """Return whether a folder is that of a study or of a run, finished or not."""
    return (
        any((folder / name).exists() for name in ("run.json", "study.json", PACKED_RUNS))
        or next(folder.glob("runs/*/run.json"), None) is not None
    )


def find_run_records(folder: Path) -> list[RunRecord]:
    """Find the records of all runs in a folder; raises RecordError if there are none."""
    if (folder / "run.json").exists():
        return [RunRecord(folder)]
    if records := list_run_records(folder):
        return records
    if not folder.exists():
        raise RecordError(f"there is no folder {folder}: give the folder of a study or of a run")
    raise RecordError(
        f"{folder} contains no run: give a study's folder, which has runs/ or runs.jsonl, "
        "or a run's folder, which has run.json"
    )


def list_unstarted_runs(
    study: Study, started_names: set[str], finished: list[FinishedRun]
) -> list[UnfinishedRun]:
    """List the study's runs that have no folder yet, as unfinished runs without any measurement.

    A run that is finished in a folder of another name is not listed.
    """
    finished_points = {(run.arm, run.depth, run.seed, get_fold_number(run)) for run in finished}
    return [
        UnfinishedRun(
            *(point.arm.network_at_depth(point.depth).name, point.seed, None, point.arm.title),
            point.fold,
        )
        for name, point in study.points_by_run_name().items()
        if to_folder_name(name) not in started_names
        and (point.arm.title, point.depth, point.seed, point.fold) not in finished_points
    ]


def get_fold_number(run: FinishedRun) -> int:
    """Return the number of the fold that a run holds out, from 1; 0 without folds."""
    return run.fold.number if run.fold else 0


def check_runs_comparable(
    folder: Path, finished: dict[str, FinishedRun], study: Study | None
) -> None:
    """Raise RecordError if runs differ in more than arm, depth, seed and fold, or a run is twice.

    `finished` maps the name of each run's folder to the run.
    """
    checked_points: set[tuple[str, int, int, int]] = set()
    first_run = next(iter(finished.values()))
    for run_folder, run in finished.items():
        expected_facts = collect_comparable_facts(first_run, run)
        actual_facts = collect_comparable_facts(run, first_run)
        if study:
            arms = find_arms_of_network(study, run.name)
            recipes = [make_arm_recipe_json(arm, study) for arm in arms] or [to_json(study.recipe)]
            expected_facts["recipe"] = run.recipe if run.recipe in recipes else recipes[0]
        if actual_facts != expected_facts:
            raise RecordError(
                f"{folder} holds runs that cannot be compared: "
                f"{describe_first_difference(expected_facts, actual_facts)}, in {run_folder}; "
                "put them into separate folders"
            )
        point = (run.arm, run.depth, run.seed, get_fold_number(run))
        if point in checked_points:
            fold = f" and fold {point[3]}" if point[3] else ""
            raise RecordError(
                f"{folder} holds {run.name} with seed {run.seed}{fold} twice: remove one of the two"
            )
        checked_points.add(point)


def collect_comparable_facts(run: FinishedRun, other: FinishedRun) -> dict[str, Json]:
    """Collect the properties of `run` that `other` must share for the two runs to be comparable.

    The fingerprint of the images and the precision are included only if both runs recorded them,
    and the images only if both runs hold out the same ones.
    """
    facts: dict[str, Json] = {
        "dataset": run.dataset,
        "classes": run.num_classes,
        "recipe": run.recipe,
        "start": run.start_fingerprint,
        "folds": run.fold.count if run.fold else 0,
    }
    for name in ("images", "precision") if run.fold == other.fold else ("precision",):
        if name in run.environment and name in other.environment:
            facts[name] = run.environment[name]
    return facts


def make_run_sort_key(study: Study | None) -> Callable[[FinishedRun], RunSortKey]:
    """Make a sort key function that orders runs by arm, depth and seed.

    Arms are in the study's order.  Runs that belong to no arm of the study follow, in the order of
    `CIFAR_FAMILIES`.
    """
    arm_order = [arm.title for arm in study.arms] if study else []
    family_order = list(CIFAR_FAMILIES)

    def sort_key(run: FinishedRun) -> RunSortKey:
        family = run.family.partition(",")[0]
        arm_index = arm_order.index(run.arm) if run.arm in arm_order else len(arm_order)
        family_index = family_order.index(family) if family in family_order else len(family_order)
        fold = get_fold_number(run)
        return arm_index, family_index, run.arm, run.depth, run.seed, fold

    return sort_key

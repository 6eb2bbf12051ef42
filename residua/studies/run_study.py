"""Train every run of a study (arms x depths x seeds), each in its own folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.fold import Fold
from residua.config.run import Run
from residua.config.serialize import Json, to_json
from residua.config.study import Study
from residua.data.read import ensure_dataset_ready, read_split, read_training_splits
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary, ignore_summary
from residua.errors import RecordError, UsageError
from residua.files import hold_output_lock, holds_visible_entries, write_json
from residua.record import RunRecord, describe_first_difference
from residua.studies.gpu_threads import choose_runs_at_once, train_jobs_on_gpu
from residua.studies.local import StudyJob, count_workers, train_jobs_locally
from residua.studies.ray_cluster import connect_to_ray, train_jobs_on_ray
from residua.studies.study_data import resolve_study_dataset
from residua.study_records import (
    PACKED_RUNS,
    folder_for_name,
    list_run_records,
    read_packed_runs,
    read_study_json,
    to_folder_name,
)
from residua.training.machine import DeviceChoice, Precision, set_up_machine
from residua.training.prepared_network import require_recipe_suits_data
from residua.training.progress import NamedCountListener


def ignore_number(number: int) -> None:
    """Do nothing; this is the `on_start` of a study that nobody watches."""


def train_study(
    study: Study,
    folder: Path,
    *,
    precision: Precision = "auto",
    device_choice: DeviceChoice = "auto",
    data_dir: Path | None = None,
    workers: int = 0,
    ray: bool = False,
    data: Dataset | None = None,
    on_data: Callable[[DataSummary], None] = ignore_summary,
    on_start: Callable[[int], None] = ignore_number,
    on_progress: NamedCountListener,
) -> dict[str, str]:
    """Train the runs of `study` that have no result in `folder` yet.

    Returns the failed runs as {name: reason}; a failed run does not stop the others.  Runs are
    trained in parallel, by `workers` processes on this machine or, with `ray`, on the machines of a
    Ray cluster.  On a GPU, with `workers=0`, this process trains as many at once as fit into its
    memory, up to four.  Unfinished runs resume from their checkpoints.  If the folder holds runs
    already, precision `auto` means the precision of those runs.  `data` is the study's data set, if
    it is resolved already.  `on_data` gets a summary of it, and then `on_start` the number of runs
    that this machine trains at once, unless all are finished.

    Raises UsageError if a run of the study cannot be built, if the data does not allow its recipe,
    or if the folder holds a study with another data set, another recipe, other folds or runs in
    another precision, and DataError if the images cannot be divided into the study's folds.  After
    Ctrl-C, waits until every run has written its checkpoint, then raises Interrupted.
    """
    data = data or resolve_study_dataset(study, data_dir)
    runs = study.make_runs(data)
    first_data = hold_out_first_fold(study, runs, data)
    precision = resolve_study_precision(folder, precision)
    # Problems are reported here once, not by every worker; a Ray cluster's driver may lack a GPU.
    machine = set_up_machine(precision, device_choice="auto" if ray else device_choice)
    ensure_dataset_ready(data, data_dir)
    read_split(first_data, "dev", data_dir)
    on_data(summarize_study_data(study, data, data_dir))
    packed_names = find_packed_results(folder, runs)
    places = {name: folder_for_name(folder / "runs", name) for name in runs}
    jobs = {
        name: StudyJob(run, places[name], precision, device_choice, data_dir)
        for name, run in runs.items()
        if name not in packed_names
    }
    for name in packed_names:
        on_progress(name, 1, 1)
    if ray and jobs:
        with connect_to_ray() as cluster:
            claim_study_folder(folder, study)
            return train_jobs_on_ray(cluster, jobs, on_progress)
    claim_study_folder(folder, study)
    if not jobs:
        return {}
    if workers == 0 and machine.device.type == "cuda":
        runs_at_once = choose_runs_at_once(jobs)
        on_start(runs_at_once)
        return train_jobs_on_gpu(jobs, runs_at_once, on_progress)
    on_start(count_workers(jobs, workers))
    return train_jobs_locally(jobs, workers, on_progress)


def summarize_study_data(study: Study, data: Dataset, data_dir: Path | None) -> DataSummary:
    """Summarize the images of a study; its recipe says whether dev images are held out."""
    train, dev = read_training_splits(data, data_dir, holds_out_dev=study.recipe.dev)
    summary = summarize_training_data(data, train, dev)
    if not study.folds:
        return summary
    count = len(train) + (0 if dev is None else len(dev))
    folds = f"the {count:,} images of train and dev are divided into {study.folds} folds"
    return replace(summary, notes=(*summary.notes, folds))


def hold_out_first_fold(study: Study, runs: dict[str, Run], data: Dataset) -> Dataset:
    """Return the data set with the study's first fold held out, if it has folds.

    Raises UsageError if the data does not allow the recipe of one of the runs.
    """
    first_data = data.hold_out_fold(Fold(1, study.folds)) if study.folds else data
    for run in runs.values():
        require_recipe_suits_data(run.recipe, first_data)
    return first_data


def resolve_study_precision(folder: Path, precision: Precision) -> Precision:
    """Return the precision of the runs in a study's folder, or `precision` if there are none yet.

    Runs in different precisions cannot be compared.  Raises UsageError if `precision` is not `auto`
    and differs from that of a run.
    """
    for record in list_run_records(folder):
        stored = read_run_precision(record)
        if precision == "auto" and stored:
            precision = stored
        elif stored and stored != precision:
            raise UsageError(
                f"{folder} holds runs in {stored}, not {precision}: "
                f"add --precision {stored}, or choose another --out"
            )
    return precision


def read_run_precision(record: RunRecord) -> Precision | None:
    """Read the precision in which a run was started; None if run.json is damaged or lacks it."""
    try:
        environment = record.read_run_json()["environment"]
    except RecordError:  # this run fails later by itself, without stopping the others
        return None
    precision = environment.get("precision") if isinstance(environment, dict) else None
    return "bf16" if precision == "bf16" else "fp32" if precision == "fp32" else None


def find_packed_results(folder: Path, runs: dict[str, Run]) -> set[str]:
    """Return the names of the study's runs whose results are in the folder's `runs.jsonl`.

    Raises UsageError if a run in that file has the name of a run of the study, but other settings.
    """
    names: set[str] = set()
    names_by_folder = {to_folder_name(name): name for name in runs}
    for record in read_packed_runs(folder / PACKED_RUNS):
        name = names_by_folder.get(to_folder_name(record.name))
        if name is not None and record.read_result() is not None:
            record.check_can_continue(runs[name], {}, resume=True)
            names.add(name)
    return names


def claim_study_folder(folder: Path, study: Study) -> None:
    """Write `study.json`, and keep in it the arms of an earlier study that already has runs.

    Raises UsageError if the folder holds other files, or a study that cannot be merged with this
    one.
    """
    path = folder / "study.json"
    folder.mkdir(parents=True, exist_ok=True)
    with hold_output_lock(path):
        has_runs = any((folder / "runs").glob("*")) or (folder / PACKED_RUNS).exists()
        if path.exists() and has_runs:
            study = merge_studies(read_study_json(path), study, folder)
        elif not path.exists() and holds_visible_entries(folder):
            raise UsageError(f"{folder} is not empty and contains no study: choose another --out")
        write_json(path, study.json)


def merge_studies(old: Study, new: Study, folder: Path) -> Study:
    """Return `new` plus the arms that only `old` has.

    Raises UsageError if the two studies differ in data set, recipe or an arm that both have.
    """
    shared_titles = {arm.title for arm in old.arms} & {arm.title for arm in new.arms}
    old_settings = extract_locked_settings(old, shared_titles)
    new_settings = extract_locked_settings(new, shared_titles)
    if old_settings != new_settings:
        difference = describe_first_difference(old_settings, new_settings)
        raise UsageError(f"{folder} holds another study: {difference}; choose another --out")
    earlier_arms = [
        replace(arm, depths=arm.depths or old.depths)
        for arm in old.arms
        if arm.title not in shared_titles
    ]
    return replace(new, arms=(*new.arms, *earlier_arms))


def extract_locked_settings(study: Study, arm_titles: set[str]) -> dict[str, Json]:
    """Extract the settings that may not change in a study's folder.

    These are the data set, its folds and the size of its photographs, the recipe, and the arms
    whose titles are in `arm_titles`.
    """
    arms: dict[str, Json] = {
        arm.title: {"family": arm.family, "changes": list(arm.changes)}
        for arm in study.arms
        if arm.title in arm_titles
    }
    settings: dict[str, Json] = {"dataset": study.dataset, "recipe": to_json(study.recipe)}
    return settings | {"folds": study.folds, "size": study.size} | arms

"""The degradation experiment, and any other study: train arms x depths x seeds, each run into its own record."""

from dataclasses import replace
from pathlib import Path

from residua.config.dataset import get_dataset
from residua.config.serialize import Json, to_json
from residua.config.study import Study
from residua.data.read import read_split
from residua.errors import UsageError
from residua.files import write_json
from residua.record import describe_first_difference, read_study_json
from residua.studies.local import StudyJob, StudyProgressCallback, train_jobs_locally
from residua.training.machine import Precision, detect_machine


def run_study(
    study: Study,
    folder: Path,
    *,
    precision: Precision = "auto",
    data_dir: Path | None = None,
    workers: int = 0,
    ray: bool = False,
    on_progress: StudyProgressCallback,
) -> dict[str, str]:
    """Train every run of `plan` that `folder` holds no result of, side by side here or, by `ray`, on a cluster's machines.

    An unfinished run goes on from its checkpoint.  Returns the runs that failed, and why: they do not stop the others.
    Raises UsageError for a study that cannot be, or where the folder holds one of other data or another recipe, and
    Interrupted after Ctrl-C, once each run has its checkpoint.
    """
    runs = study.make_runs()
    detect_machine(precision)
    read_split(
        get_dataset(study.dataset), "dev", data_dir
    )  # what is wrong with the data is said here once, not by every worker
    jobs = {
        name: StudyJob(run, folder / "runs" / name, precision, data_dir)
        for name, run in runs.items()
    }
    if ray:
        from residua.studies.ray_cluster import connect_to_ray, train_jobs_on_ray

        with connect_to_ray() as cluster:
            claim_study_folder(folder, study)
            return train_jobs_on_ray(cluster, jobs, on_progress)
    claim_study_folder(folder, study)
    return train_jobs_locally(jobs, workers, on_progress)


def claim_study_folder(folder: Path, study: Study) -> None:
    """Write `study.json`, unless the folder holds something else; arms that it had before stay in it."""
    path = folder / "study.json"
    if path.exists() and any((folder / "runs").glob("*")):
        study = merge_studies(read_study_json(path), study, folder)
    elif not path.exists() and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no study: choose another --out")
    write_json(path, study.json)


def merge_studies(old: Study, new: Study, folder: Path) -> Study:
    """`new`, and the arms of `old` that it leaves out; UsageError where the two cannot be compared."""
    shared_titles = {arm.title for arm in old.arms} & {arm.title for arm in new.arms}
    old_settings, new_settings = (
        extract_fixed_settings(old, shared_titles),
        extract_fixed_settings(new, shared_titles),
    )
    if old_settings != new_settings:
        raise UsageError(
            f"{folder} holds another study: {describe_first_difference(old_settings, new_settings)}; choose another --out"
        )
    earlier_arms = [
        replace(arm, depths=arm.depths or old.depths)
        for arm in old.arms
        if arm.title not in shared_titles
    ]
    return replace(new, arms=(*new.arms, *earlier_arms))


def extract_fixed_settings(study: Study, arm_titles: set[str]) -> dict[str, Json]:
    """What must stay as it is in a folder: data, recipe, and what the arms of those titles are."""
    arms: dict[str, Json] = {
        arm.title: {"family": arm.family, "changes": list(arm.changes)}
        for arm in study.arms
        if arm.title in arm_titles
    }
    return {"dataset": study.dataset, "recipe": to_json(study.recipe), **arms}

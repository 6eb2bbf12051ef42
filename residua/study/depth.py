"""The degradation experiment, and any other study: train arms x depths x seeds, each run into its own record."""

from dataclasses import replace
from pathlib import Path

from residua.data.read import read
from residua.errors import UsageError
from residua.files import write_json
from residua.record import difference, read_study
from residua.spec.dataset import dataset
from residua.spec.study import Study
from residua.spec.text import Json, to_json
from residua.study.side_by_side import Job, Tell, side_by_side
from residua.train.machine import Precision, machine


def study(
    plan: Study,
    folder: Path,
    *,
    precision: Precision = "auto",
    data_dir: Path | None = None,
    workers: int = 0,
    ray: bool = False,
    tell: Tell,
) -> dict[str, str]:
    """Train every run of `plan` that `folder` holds no result of, side by side here or, by `ray`, on a cluster's machines.

    An unfinished run goes on from its checkpoint.  Returns the runs that failed, and why: they do not stop the others.
    Raises UsageError for a study that cannot be, or where the folder holds one of other data or another recipe, and
    Interrupted after Ctrl-C, once each run has its checkpoint.
    """
    runs = plan.runs()
    machine(precision)
    read(dataset(plan.dataset), "dev", data_dir)  # what is wrong with the data is said here once, not by every worker
    jobs = {name: Job(run, folder / "runs" / name, precision, data_dir) for name, run in runs.items()}
    if ray:
        from residua.study.cluster import connected, over_machines

        with connected() as cluster:
            claim(folder, plan)
            return over_machines(cluster, jobs, tell)
    claim(folder, plan)
    return side_by_side(jobs, workers, tell)


def claim(folder: Path, plan: Study) -> None:
    """Write `study.json`, unless the folder holds something else; arms that it had before stay in it."""
    path = folder / "study.json"
    if path.exists() and any((folder / "runs").glob("*")):
        plan = joined(read_study(path), plan, folder)
    elif not path.exists() and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no study: choose another --out")
    write_json(path, plan.json)


def joined(old: Study, new: Study, folder: Path) -> Study:
    """`new`, and the arms of `old` that it leaves out; UsageError where the two cannot be compared."""
    shared = {arm.title for arm in old.arms} & {arm.title for arm in new.arms}
    before, after = essence(old, shared), essence(new, shared)
    if before != after:
        raise UsageError(f"{folder} holds another study: {difference(before, after)}; choose another --out")
    left = [replace(arm, depths=arm.depths or old.depths) for arm in old.arms if arm.title not in shared]
    return replace(new, arms=(*new.arms, *left))


def essence(plan: Study, titles: set[str]) -> dict[str, Json]:
    """What must stay as it is in a folder: data, recipe, and what the arms of those titles are."""
    arms: dict[str, Json] = {
        arm.title: {"family": arm.family, "changes": list(arm.changes)} for arm in plan.arms if arm.title in titles
    }
    return {"dataset": plan.dataset, "recipe": to_json(plan.recipe), **arms}

"""Records as a study leaves them, written by hand."""

import json
from pathlib import Path

from residua.config.papers import network
from residua.config.serialize import to_json
from residua.report.study import read_study_summary, write_study_report
from residua.report.tables import StudyCell

RECIPE = {
    "name": "small",
    "epochs": 10,
    "batch_size": 64,
    "schedule": {"kind": "OneCycle", "lr": 0.1, "rise": 0.2},
}
ENVIRONMENT = {
    "residua": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.2",
    "device": "CPU, x86_64",
    "threads": 1,
    "precision": "fp32",
}


def write_run_record(
    folder: Path,
    name: str,
    train_error: float,
    test_error: float,
    *,
    seed: int = 0,
    finished: bool = True,
    extra_result: dict | None = None,
    **run_changes,
) -> None:
    """Write one run into `folder`: three rows of metrics, and the result if it is `finished`.

    The dev error is midway between the training and the test error.
    """
    folder.mkdir(parents=True)
    run = {
        "network": to_json(network(name, input=(1, 8, 8))),
        "dataset": "digits",
        "recipe": RECIPE,
        "seed": seed,
    } | run_changes
    result = {
        "model": name,
        "steps": 200,
        "seconds": 12.5,
        "images_per_second": 1000.0,
        "train_error": train_error,
        "dev_error": (train_error + test_error) / 2,
        "test_error": test_error,
        "best_dev_error": test_error,
    } | (extra_result or {})
    record = {
        "format": 1,
        "id": name,
        "run": run,
        "environment": ENVIRONMENT,
        "result": result if finished else None,
    }
    (folder / "run.json").write_text(json.dumps(record))
    steps_and_shares = [(100, 0.5), (180, 0.1), (200, 0.0)]
    lines = [
        {
            "step": step,
            "train_error": train_error + (0.9 - train_error) * share,
            "dev_error": test_error + (0.9 - test_error) * share,
        }
        for step, share in steps_and_shares
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_study_records(folder: Path, errors: dict[str, list[tuple[float, float]]]) -> Path:
    """Write a study's folder; `errors` has one (train, test) pair per seed for each network."""
    for name, pairs in errors.items():
        for seed, (train, test) in enumerate(pairs):
            write_run_record(folder / "runs" / f"{name}-seed{seed}", name, train, test, seed=seed)
    return folder


def write_page(folder: Path) -> Path:
    """Write the report of a study's folder; return the page's path."""
    return write_study_report(read_study_summary(folder), folder)


def make_cell(
    family: str, depth: int, train_error: float, test_error: float, sd: float | None = None
) -> StudyCell:
    """A cell of one seed, or of three with the standard deviation `sd`."""
    return StudyCell(
        arm=family,
        family=family,
        depth=depth,
        seeds=1 if sd is None else 3,
        train_error=train_error,
        train_error_sd=sd,
        dev_error=test_error,
        dev_error_sd=sd,
        test_error=test_error,
        test_error_sd=sd,
    )

"""Records written by hand, as a study leaves them."""

import json
from pathlib import Path

from residua.report.tables import Cell
from residua.spec.papers import network
from residua.spec.text import to_json

RECIPE = {"name": "small", "epochs": 10, "batch_size": 64, "schedule": {"kind": "OneCycle", "lr": 0.1, "rise": 0.2}}
ENVIRONMENT = {
    "residua": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.2",
    "device": "CPU, x86_64",
    "threads": 1,
    "precision": "fp32",
}


def write_run(
    folder: Path, name: str, train: float, test: float, *, seed: int = 0, finished: bool = True, more: dict | None = None, **changes
) -> None:
    """One run into `folder`: three lines of metrics, and a result of those errors (dev in the middle) where it is finished."""
    folder.mkdir(parents=True)
    run = {"network": to_json(network(name, input=(1, 8, 8))), "dataset": "digits", "recipe": RECIPE, "seed": seed} | changes
    result = {
        "model": name, "steps": 200, "seconds": 12.5, "images_per_second": 1000.0, "train_error": train,
        "dev_error": (train + test) / 2, "test_error": test, "best_dev_error": test,
    } | (more or {})  # fmt: skip
    head = {"format": 1, "id": name, "run": run, "environment": ENVIRONMENT, "result": result if finished else None}
    (folder / "run.json").write_text(json.dumps(head))
    shares = [(100, 0.5), (180, 0.1), (200, 0.0)]
    lines = [
        {"step": step, "train_error": train + (0.9 - train) * share, "dev_error": test + (0.9 - test) * share}
        for step, share in shares
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_study(folder: Path, errors: dict[str, list[tuple[float, float]]]) -> Path:
    """A study's folder: for each network its (train, test) errors, a seed each."""
    for name, pairs in errors.items():
        for seed, (train, test) in enumerate(pairs):
            write_run(folder / "runs" / f"{name}-seed{seed}", name, train, test, seed=seed)
    return folder


def cell(family: str, depth: int, train: float, test: float, sd: float | None = None) -> Cell:
    """A cell of one seed, or of three with that spread."""
    return Cell(
        arm=family, family=family, depth=depth, seeds=1 if sd is None else 3, train_error=train, train_error_sd=sd,
        dev_error=test, dev_error_sd=sd, test_error=test, test_error_sd=sd,
    )  # fmt: skip

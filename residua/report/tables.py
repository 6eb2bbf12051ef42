"""The records of a folder as values: its runs, and for each family and depth the mean and spread over seeds."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

from residua.errors import RecordError, ResiduaError
from residua.record import Line, Record, difference
from residua.spec.families import FAMILIES
from residua.spec.network import Network
from residua.spec.papers import family_of, member
from residua.spec.plan import plan
from residua.spec.text import Json, from_json


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run ends with; errors in [0, 1]."""

    steps: int
    seconds: float
    train_error: float
    dev_error: float
    test_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One run with its result."""

    name: str  # of the network
    family: str
    depth: int
    classes: int
    parameters: int | None  # None where this version cannot read the network
    dataset: str
    recipe: dict[str, Json]
    seed: int
    environment: dict[str, Json]
    result: Result
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, order=True)
class Unfinished:
    """One run without a result, and the last step it measured; None before the first."""

    name: str
    seed: int
    step: int | None


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a folder, by family, depth and seed; at least one is finished."""

    finished: tuple[Finished, ...]
    unfinished: tuple[Unfinished, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A family at a depth: the mean over `seeds` runs and the sample sd, None for a single seed; errors in [0, 1]."""

    family: str
    depth: int
    seeds: int  # how many
    train_error: float
    train_error_sd: float | None = None
    dev_error: float
    dev_error_sd: float | None = None
    test_error: float
    test_error_sd: float | None = None
    parameters: int | None = None
    seconds: float | None = None  # of one run


def cells(runs: Runs) -> list[Cell]:
    """The finished runs averaged over seeds, by family and depth."""
    groups: dict[tuple[str, int], list[Finished]] = {}
    for run in runs.finished:
        groups.setdefault((run.family, run.depth), []).append(run)
    return [averaged(group) for group in groups.values()]


def averaged(group: list[Finished]) -> Cell:
    train, dev, test = (
        [getattr(run.result, f"{split}_error") for run in group] for split in ("train", "dev", "test")
    )  # fmt: skip
    return Cell(
        family=group[0].family, depth=group[0].depth, seeds=len(group), parameters=group[0].parameters,
        train_error=fmean(train), train_error_sd=spread(train),
        dev_error=fmean(dev), dev_error_sd=spread(dev),
        test_error=fmean(test), test_error_sd=spread(test),
        seconds=fmean(run.result.seconds for run in group),
    )  # fmt: skip


def spread(values: list[float]) -> float | None:
    """The sample standard deviation, which one value does not have."""
    return stdev(values) if len(values) > 1 else None


def read(folder: Path) -> Runs:
    """Every run of a study's folder, or the one run that `folder` holds.

    Raises RecordError where no run is finished, and where runs differ in data or recipe and so cannot be compared.
    """
    heads = sorted(folder.glob("runs/*/run.json"))
    if (folder / "run.json").exists():
        heads = [folder / "run.json"]
    if not heads:
        raise RecordError(f"{folder} holds no run: give a study's folder, which has runs/, or a run's, which has run.json")
    finished: list[Finished] = []
    unfinished: list[Unfinished] = []
    for head in heads:
        run = read_run(Record(head.parent))
        finished.append(run) if isinstance(run, Finished) else unfinished.append(run)
    if not finished:
        raise RecordError(f"{folder} holds no finished run yet: {len(heads)} begun; the command that began them goes on with them")
    check_comparable(folder, finished)
    begun = {(run.name, run.seed) for run in finished} | {(run.name, run.seed) for run in unfinished}
    unfinished += [run for run in planned(folder / "study.json") if (run.name, run.seed) not in begun]
    return Runs(tuple(sorted(finished, key=place)), tuple(sorted(unfinished, key=lambda run: (*family_of(run.name), run.seed))))


def read_run(record: Record) -> Finished | Unfinished:
    head = record.read()
    try:
        return decoded(head, record)
    except (TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"{record.head} is damaged: {error!r}") from error


def decoded(head: dict[str, Json], record: Record) -> Finished | Unfinished:
    run, result = head["run"], head["result"]
    if isinstance(run, dict) and run["recipe"] is None:  # fitted at once: it has neither a depth nor a curve
        raise RecordError(
            f"{record.folder} holds no network: what it made of {run['dataset']} stands in its run.json, under result"
        )
    if not isinstance(run, dict) or not isinstance(run["network"], dict) or not isinstance(run["recipe"], dict):
        raise TypeError("run holds no network and recipe")
    name, seed = str(run["network"]["name"]), int(str(run["seed"]))
    if not isinstance(result, dict):
        return Unfinished(name, seed, reached(record))
    family, depth = family_of(name)
    environment = head.get("environment")
    return Finished(
        name=name, family=family, depth=depth, seed=seed,
        classes=int(str(run["network"]["classes"])), parameters=parameters(run["network"]),
        dataset=str(run["dataset"]), recipe=run["recipe"],
        environment=environment if isinstance(environment, dict) else {},
        result=from_json(Result, {field.name: result[field.name] for field in fields(Result)}),
        lines=tuple(record.lines()),
    )  # fmt: skip


def reached(record: Record) -> int | None:
    """The last step that an unfinished run measured."""
    try:
        steps = [line["step"] for line in record.lines()]
    except RecordError:  # it is being written to
        return None
    return int(steps[-1]) if steps and steps[-1] is not None else None


def parameters(network: Json) -> int | None:
    try:
        return plan(from_json(Network, network)).parameters
    except ResiduaError:  # written by another version
        return None


def planned(path: Path) -> list[Unfinished]:
    """The runs that a `study.json` asks for, as if none had begun."""
    if not path.exists():
        return []
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        return [
            Unfinished(member(family, depth), seed, None)
            for family in study["families"]
            for depth in study["depths"]
            for seed in study["seeds"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is damaged: {error!r}") from error


def check_comparable(folder: Path, runs: list[Finished]) -> None:
    seen: dict[tuple[str, int], Finished] = {}
    first: dict[str, Json] = {"dataset": runs[0].dataset, "classes": runs[0].classes, "recipe": runs[0].recipe}
    for run in runs:
        own: dict[str, Json] = {"dataset": run.dataset, "classes": run.classes, "recipe": run.recipe}
        if own != first:
            raise RecordError(f"{folder} holds runs that cannot be compared: {difference(first, own)}; give each its own folder")
        if (run.name, run.seed) in seen:
            raise RecordError(f"{folder} holds {run.name} with seed {run.seed} twice: remove one of them")
        seen[run.name, run.seed] = run


def place(run: Finished) -> tuple[int, str, int, int]:
    """Sorts the papers' families first, in their order."""
    known, kind = list(FAMILIES), run.family.partition(",")[0]
    return known.index(kind) if kind in known else len(known), run.family, run.depth, run.seed

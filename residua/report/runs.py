"""The records of a folder as values: its finished runs, those that are not, and those that cannot be read."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from residua.errors import DamagedError, RecordError, ResiduaError, UsageError
from residua.record import Line, Record, difference, read_study
from residua.spec.families import FAMILIES
from residua.spec.network import Network
from residua.spec.papers import family_of
from residua.spec.plan import plan
from residua.spec.recipe import Recipe
from residua.spec.study import Arm, Study
from residua.spec.text import Json, from_json, to_json


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run ends with; errors in [0, 1]."""

    steps: int
    seconds: float
    train_error: float
    dev_error: float
    test_error: float
    train_error_reestimated: float | None = None  # with BN statistics of the last weights
    train_loss: float | None = None  # nats, of the same pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One run with its result."""

    name: str  # of the network
    arm: str
    family: str
    depth: int
    classes: int
    parameters: int | None  # None where this version cannot read the network
    dataset: str
    recipe: dict[str, Json]
    seed: int
    start: str  # fingerprint of the weights it starts from, if any
    environment: dict[str, Json]
    result: Result
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, order=True)
class Unfinished:
    """One run without a result, and the last step it measured; None before the first."""

    name: str
    seed: int
    step: int | None
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A run whose record cannot be read, and so is in no number."""

    folder: str
    why: str


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a folder, by arm, depth and seed; at least one is finished."""

    finished: tuple[Finished, ...]
    unfinished: tuple[Unfinished, ...]
    damaged: tuple[Damaged, ...] = ()
    study: Study | None = None  # what the folder is a study of


def read(folder: Path) -> Runs:
    """Every run of a study's folder, or the one run that `folder` holds; a damaged record is named, and left out.

    Raises RecordError where no run is finished, where a record has another format, and where runs differ in more than their
    arm and so cannot be compared.
    """
    heads = sorted(folder.glob("runs/*/run.json"))
    if (folder / "run.json").exists():
        heads = [folder / "run.json"]
    if not heads:
        raise RecordError(f"{folder} holds no run: give a study's folder, which has runs/, or a run's, which has run.json")
    told = folder / "study.json"
    asked = read_study(told) if told.exists() else None
    finished: dict[str, Finished] = {}
    unfinished: list[Unfinished] = []
    damaged: list[Damaged] = []
    for head in heads:
        try:
            run = read_run(Record(head.parent), asked)
        except DamagedError as error:
            damaged.append(Damaged(head.parent.name, str(error).removeprefix(f"{head.parent}/")))
            continue
        if isinstance(run, Finished):
            finished[head.parent.name] = run
        else:
            unfinished.append(run)
    if not finished and damaged:
        raise RecordError(f"{folder} holds no finished run: {damaged[0].folder}: {damaged[0].why}")
    if not finished:
        raise RecordError(f"{folder} holds no finished run yet: {len(heads)} begun; the command that began them goes on with them")
    check_comparable(folder, finished, asked)
    unfinished += not_begun(asked, {head.parent.name for head in heads}, list(finished.values())) if asked else []
    order = place(asked)
    return Runs(tuple(sorted(finished.values(), key=order)), tuple(unfinished), tuple(damaged), asked)


def read_run(record: Record, study: Study | None) -> Finished | Unfinished:
    head = record.read()
    try:
        return decoded(head, record, study)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{record.head} is damaged: {error!r}") from error


def decoded(head: dict[str, Json], record: Record, study: Study | None) -> Finished | Unfinished:
    run, result = head["run"], head["result"]
    if isinstance(run, dict) and run["recipe"] is None:  # fitted at once: it has neither a depth nor a curve
        raise RecordError(
            f"{record.folder} holds no network: what it made of {run['dataset']} stands in its run.json, under result"
        )
    if not isinstance(run, dict) or not isinstance(run["network"], dict) or not isinstance(run["recipe"], dict):
        raise TypeError("run holds no network and recipe")
    name, seed, recipe = str(run["network"]["name"]), int(str(run["seed"])), as_written_now(run["recipe"])
    arm = next((arm.title for arm in arms_of(study, name) if recipe_of(arm, study) == recipe), family_of(name)[0])
    if not isinstance(result, dict):
        return Unfinished(name, seed, reached(record), arm)
    family, depth = family_of(name)
    environment = head.get("environment")
    return Finished(
        name=name, arm=arm, family=family, depth=depth, seed=seed, start=str(run.get("start", "")),
        classes=int(str(run["network"]["classes"])), parameters=parameters(run["network"]),
        dataset=str(run["dataset"]), recipe=recipe,
        environment=environment if isinstance(environment, dict) else {},
        result=result_of(result),
        lines=tuple(record.lines()),
    )  # fmt: skip


def result_of(told: dict[str, Json]) -> Result:
    """KeyError or TypeError where a part is missing that every version has written, or is no number."""
    given = {field.name: told[field.name] for field in fields(Result) if field.name in told or field.default is not None}
    try:
        return from_json(Result, given)
    except RecordError as error:
        raise TypeError(str(error)) from error


def as_written_now(recipe: dict[str, Json]) -> dict[str, Json]:
    """A recipe's JSON in this version's form, where this version can read it."""
    try:
        now = to_json(from_json(Recipe, recipe))
    except ResiduaError:
        return recipe
    return now if isinstance(now, dict) else recipe


def arms_of(study: Study | None, name: str) -> list[Arm]:
    """The arms that have a network of that name."""
    found = []
    for arm in study.arms if study else ():
        try:
            if arm.network(family_of(name)[1]).name == name:
                found.append(arm)
        except UsageError:  # no such depth in that arm
            continue
    return found


def recipe_of(arm: Arm, study: Study | None) -> Json:
    return to_json(arm.recipe(study.recipe)) if study else None


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


def not_begun(study: Study, begun: set[str], finished: list[Finished]) -> list[Unfinished]:
    """The runs of `study` that have no folder, whatever it is called, as if none had begun."""
    held = {(run.arm, run.depth, run.seed) for run in finished}
    return [
        Unfinished(place.arm.network(place.depth).name, place.seed, None, place.arm.title)
        for name, place in study.places().items()
        if name not in begun and (place.arm.title, place.depth, place.seed) not in held
    ]


def check_comparable(folder: Path, finished: dict[str, Finished], study: Study | None) -> None:
    """RecordError unless all runs differ in nothing but arm, depth and seed, and no run is there twice."""
    seen: dict[tuple[str, int, int], str] = {}
    first = next(iter(finished.values()))
    for where, run in finished.items():
        common, own = in_common(first, run), in_common(run, first)
        if study:
            recipes = [recipe_of(arm, study) for arm in arms_of(study, run.name)] or [to_json(study.recipe)]
            common["recipe"] = run.recipe if run.recipe in recipes else recipes[0]
        if own != common:
            raise RecordError(
                f"{folder} holds runs that cannot be compared: {difference(common, own)}, in {where}; give each its own folder"
            )
        if (run.arm, run.depth, run.seed) in seen:
            raise RecordError(f"{folder} holds {run.name} with seed {run.seed} twice: remove one of them")
        seen[run.arm, run.depth, run.seed] = where


def in_common(run: Finished, other: Finished) -> dict[str, Json]:
    """What `run` must have in common with `other`; of their surroundings, what both tell."""
    told = [name for name in ("images", "precision") if name in run.environment and name in other.environment]
    facts: dict[str, Json] = {"dataset": run.dataset, "classes": run.classes, "recipe": run.recipe, "start": run.start}
    return facts | {name: run.environment[name] for name in told}


def place(study: Study | None) -> Callable[[Finished], tuple[int, int, str, int, int]]:
    """Sorts arms in the study's order, and what is in none as the papers have it, by depth and seed."""
    arms, kinds = [arm.title for arm in study.arms] if study else [], list(FAMILIES)

    def key(run: Finished) -> tuple[int, int, str, int, int]:
        kind = run.family.partition(",")[0]
        own = arms.index(run.arm) if run.arm in arms else len(arms)
        return own, kinds.index(kind) if kind in kinds else len(kinds), run.arm, run.depth, run.seed

    return key

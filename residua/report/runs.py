"""The records of a folder as values: its finished runs, those that are not, and those that cannot be read."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from residua.config.families import CIFAR_FAMILIES
from residua.config.network import Network
from residua.config.papers import split_network_name
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.serialize import Json, from_json, to_json
from residua.config.study import Arm, Study
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.record import MetricsRow, RunRecord, describe_first_difference, read_study_json


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run ends with; errors in [0, 1]."""

    steps: int
    seconds: float
    train_error: float
    dev_error: float
    test_error: float
    train_error_reestimated: float | None = None  # with BN statistics of the last weights
    train_loss: float | None = None  # nats, of the same pass


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """One run with its result."""

    name: str  # of the network
    arm: str
    family: str
    depth: int
    num_classes: int
    parameters: int | None  # None where this version cannot read the network
    dataset: str
    recipe: dict[str, Json]
    seed: int
    start_fingerprint: str  # fingerprint of the weights it starts from, if any
    environment: dict[str, Json]
    result: RunResult
    metric_lines: tuple[MetricsRow, ...]


@dataclass(frozen=True, slots=True, order=True)
class UnfinishedRun:
    """One run without a result, and the last step it measured; None before the first."""

    name: str
    seed: int
    step: int | None
    arm: str = ""


@dataclass(frozen=True, slots=True)
class DamagedRun:
    """A run whose record cannot be read, and so is in no number."""

    folder: str
    why: str


@dataclass(frozen=True, slots=True)
class StudyRuns:
    """All runs of a folder, by arm, depth and seed; at least one is finished."""

    finished: tuple[FinishedRun, ...]
    unfinished: tuple[UnfinishedRun, ...]
    damaged: tuple[DamagedRun, ...] = ()
    study: Study | None = None  # what the folder is a study of


def read_study_runs(folder: Path) -> StudyRuns:
    """Every run of a study's folder, or the one run that `folder` holds; a damaged record is named, and left out.

    Raises RecordError where no run is finished, where a record has another format, and where runs differ in more than their
    arm and so cannot be compared.
    """
    run_files = sorted(folder.glob("runs/*/run.json"))
    if (folder / "run.json").exists():
        run_files = [folder / "run.json"]
    if not run_files:
        raise RecordError(
            f"{folder} holds no run: give a study's folder, which has runs/, or a run's, which has run.json"
        )
    study_file = folder / "study.json"
    study = read_study_json(study_file) if study_file.exists() else None
    finished: dict[str, FinishedRun] = {}
    unfinished: list[UnfinishedRun] = []
    damaged: list[DamagedRun] = []
    for run_file in run_files:
        try:
            run = read_recorded_run(RunRecord(run_file.parent), study)
        except DamagedRecordError as error:
            damaged.append(
                DamagedRun(run_file.parent.name, str(error).removeprefix(f"{run_file.parent}/"))
            )
            continue
        if isinstance(run, FinishedRun):
            finished[run_file.parent.name] = run
        else:
            unfinished.append(run)
    if not finished and damaged:
        raise RecordError(f"{folder} holds no finished run: {damaged[0].folder}: {damaged[0].why}")
    if not finished:
        raise RecordError(
            f"{folder} holds no finished run yet: {len(run_files)} begun; the command that began them goes on with them"
        )
    check_runs_comparable(folder, finished, study)
    unfinished += (
        list_unstarted_runs(
            study, {head.parent.name for head in run_files}, list(finished.values())
        )
        if study
        else []
    )
    sort_key = make_run_sort_key(study)
    return StudyRuns(
        tuple(sorted(finished.values(), key=sort_key)), tuple(unfinished), tuple(damaged), study
    )


def read_recorded_run(record: RunRecord, study: Study | None) -> FinishedRun | UnfinishedRun:
    run_json = record.read_run_json()
    try:
        return parse_recorded_run(run_json, record, study)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: {error!r}") from error


def parse_recorded_run(
    run_json: dict[str, Json], record: RunRecord, study: Study | None
) -> FinishedRun | UnfinishedRun:
    run_spec, result_json = run_json["run"], run_json["result"]
    if (
        isinstance(run_spec, dict) and run_spec["recipe"] is None
    ):  # fitted at once: it has neither a depth nor a curve
        raise RecordError(
            f"{record.folder} holds no network: what it made of {run_spec['dataset']} stands in its run.json, under result"
        )
    if (
        not isinstance(run_spec, dict)
        or not isinstance(run_spec["network"], dict)
        or not isinstance(run_spec["recipe"], dict)
    ):
        raise TypeError("run holds no network and recipe")
    name, seed, recipe = (
        str(run_spec["network"]["name"]),
        int(str(run_spec["seed"])),
        upgrade_recipe_json(run_spec["recipe"]),
    )
    arm = next(
        (
            arm.title
            for arm in find_arms_of_network(study, name)
            if make_arm_recipe_json(arm, study) == recipe
        ),
        split_network_name(name)[0],
    )
    if not isinstance(result_json, dict):
        return UnfinishedRun(name, seed, read_last_step(record), arm)
    family, depth = split_network_name(name)
    environment = run_json.get("environment")
    return FinishedRun(
        name=name,
        arm=arm,
        family=family,
        depth=depth,
        seed=seed,
        start_fingerprint=str(run_spec.get("start", "")),
        num_classes=int(str(run_spec["network"]["classes"])),
        parameters=count_network_parameters(run_spec["network"]),
        dataset=str(run_spec["dataset"]),
        recipe=recipe,
        environment=environment if isinstance(environment, dict) else {},
        result=parse_run_result(result_json),
        metric_lines=tuple(record.read_metrics()),
    )


def parse_run_result(result_json: dict[str, Json]) -> RunResult:
    """KeyError or TypeError where a part is missing that every version has written, or is no number."""
    known_fields = {
        field.name: result_json[field.name]
        for field in fields(RunResult)
        if field.name in result_json or field.default is not None
    }
    try:
        return from_json(RunResult, known_fields)
    except RecordError as error:
        raise TypeError(str(error)) from error


def upgrade_recipe_json(recipe_json: dict[str, Json]) -> dict[str, Json]:
    """A recipe's JSON in this version's form, where this version can read it."""
    try:
        upgraded_json = to_json(from_json(Recipe, recipe_json))
    except ResiduaError:
        return recipe_json
    return upgraded_json if isinstance(upgraded_json, dict) else recipe_json


def find_arms_of_network(study: Study | None, network_name: str) -> list[Arm]:
    """The arms that have a network of that name."""
    matching_arms = []
    for arm in study.arms if study else ():
        try:
            if arm.network_at_depth(split_network_name(network_name)[1]).name == network_name:
                matching_arms.append(arm)
        except UsageError:  # no such depth in that arm
            continue
    return matching_arms


def make_arm_recipe_json(arm: Arm, study: Study | None) -> Json:
    return to_json(arm.apply_changes(study.recipe)) if study else None


def read_last_step(record: RunRecord) -> int | None:
    """The last step that an unfinished run measured."""
    try:
        steps = [line["step"] for line in record.read_metrics()]
    except RecordError:  # it is being written to
        return None
    return int(steps[-1]) if steps and steps[-1] is not None else None


def count_network_parameters(network_json: Json) -> int | None:
    try:
        return plan(from_json(Network, network_json)).parameters
    except ResiduaError:  # written by another version
        return None


def list_unstarted_runs(
    study: Study, begun_run_names: set[str], finished: list[FinishedRun]
) -> list[UnfinishedRun]:
    """The runs of `study` that have no folder, whatever it is called, as if none had begun."""
    finished_places = {(run.arm, run.depth, run.seed) for run in finished}
    return [
        UnfinishedRun(
            place.arm.network_at_depth(place.depth).name, place.seed, None, place.arm.title
        )
        for name, place in study.points_by_run_name().items()
        if name not in begun_run_names
        and (place.arm.title, place.depth, place.seed) not in finished_places
    ]


def check_runs_comparable(
    folder: Path, finished: dict[str, FinishedRun], study: Study | None
) -> None:
    """RecordError unless all runs differ in nothing but arm, depth and seed, and no run is there twice."""
    folder_by_place: dict[tuple[str, int, int], str] = {}
    first_run = next(iter(finished.values()))
    for run_folder, run in finished.items():
        expected_facts, actual_facts = (
            collect_comparable_facts(first_run, run),
            collect_comparable_facts(run, first_run),
        )
        if study:
            recipes = [
                make_arm_recipe_json(arm, study) for arm in find_arms_of_network(study, run.name)
            ] or [to_json(study.recipe)]
            expected_facts["recipe"] = run.recipe if run.recipe in recipes else recipes[0]
        if actual_facts != expected_facts:
            raise RecordError(
                f"{folder} holds runs that cannot be compared: {describe_first_difference(expected_facts, actual_facts)}, in {run_folder}; give each its own folder"
            )
        if (run.arm, run.depth, run.seed) in folder_by_place:
            raise RecordError(
                f"{folder} holds {run.name} with seed {run.seed} twice: remove one of them"
            )
        folder_by_place[run.arm, run.depth, run.seed] = run_folder


def collect_comparable_facts(run: FinishedRun, other: FinishedRun) -> dict[str, Json]:
    """What `run` must have in common with `other`; of their surroundings, what both tell."""
    shared_keys = [
        name
        for name in ("images", "precision")
        if name in run.environment and name in other.environment
    ]
    facts: dict[str, Json] = {
        "dataset": run.dataset,
        "classes": run.num_classes,
        "recipe": run.recipe,
        "start": run.start_fingerprint,
    }
    return facts | {name: run.environment[name] for name in shared_keys}


def make_run_sort_key(
    study: Study | None,
) -> Callable[[FinishedRun], tuple[int, int, str, int, int]]:
    """Sorts arms in the study's order, and what is in none as the papers have it, by depth and seed."""
    arm_order, family_order = (
        [arm.title for arm in study.arms] if study else [],
        list(CIFAR_FAMILIES),
    )

    def sort_key(run: FinishedRun) -> tuple[int, int, str, int, int]:
        kind = run.family.partition(",")[0]
        own = arm_order.index(run.arm) if run.arm in arm_order else len(arm_order)
        return (
            own,
            family_order.index(kind) if kind in family_order else len(family_order),
            run.arm,
            run.depth,
            run.seed,
        )

    return sort_key

"""One run as a value, read from its record; an unfinished run has no result yet.

A record that an earlier version wrote is converted to this version's form.
"""

from dataclasses import dataclass, fields

from residua.config.network import Network
from residua.config.papers import split_network_name
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.serialize import Json, from_json, to_json
from residua.config.study import Arm, Study
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.record import MetricsRow, RunRecord


@dataclass(frozen=True, slots=True)
class RunResult:
    """The final numbers of a finished run; errors in [0, 1]."""

    steps: int
    seconds: float  # of all training steps
    train_error: float
    dev_error: float
    test_error: float
    # both measured in one pass, after the BN statistics were re-estimated with the final weights
    train_error_reestimated: float | None = None
    train_loss: float | None = None  # nats


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run with its result and its learning curve."""

    name: str  # of the network
    arm: str
    family: str
    depth: int
    num_classes: int
    parameters: int | None  # None if this version cannot read the network
    dataset: str
    recipe: dict[str, Json]
    seed: int
    start_fingerprint: str  # of the weights that training started from; empty for random weights
    environment: dict[str, Json]
    result: RunResult
    metric_lines: tuple[MetricsRow, ...]


@dataclass(frozen=True, slots=True, order=True)
class UnfinishedRun:
    """A run without a result."""

    name: str  # of the network
    seed: int
    step: int | None  # the last step with a measurement; None before the first
    arm: str = ""


def read_recorded_run(record: RunRecord, study: Study | None) -> FinishedRun | UnfinishedRun:
    """The run in a folder; `study` gives the arms that it may belong to.

    Raises DamagedRecordError if the record is cut short or lacks a part, and RecordError if it has
    another format or describes no network.
    """
    run_json = record.read_run_json()
    try:
        return parse_recorded_run(run_json, record, study)
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: {error!r}") from error


def parse_recorded_run(
    run_json: dict[str, Json], record: RunRecord, study: Study | None
) -> FinishedRun | UnfinishedRun:
    """Parse the run that `run.json` holds, finished or not.

    Raises KeyError, TypeError or AttributeError if a part is missing.
    """
    run_spec, result_json = run_json["run"], run_json["result"]
    if not isinstance(run_spec, dict):
        raise TypeError("`run` is not an object that records a network and a recipe")
    if run_spec["recipe"] is None:  # VLAD is fitted in one pass: it has no depth and no curve
        raise RecordError(
            f"{record.folder} contains no trained network, so there is no report: its result on "
            f"{run_spec['dataset']} is in its run.json, under result"
        )
    network_json, recipe_json = run_spec["network"], run_spec["recipe"]
    if not isinstance(network_json, dict) or not isinstance(recipe_json, dict):
        raise TypeError("the run does not record both a network and a recipe")
    name, seed = str(network_json["name"]), int(str(run_spec["seed"]))
    recipe = upgrade_recipe_json(recipe_json)
    arm = match_arm_title(study, name, recipe)
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
        num_classes=int(str(network_json["classes"])),
        parameters=count_network_parameters(network_json),
        dataset=str(run_spec["dataset"]),
        recipe=recipe,
        environment=environment if isinstance(environment, dict) else {},
        result=parse_run_result(result_json),
        metric_lines=tuple(record.read_metrics()),
    )


def parse_run_result(result_json: dict[str, Json]) -> RunResult:
    """The result, without the keys that a report does not need.

    Raises KeyError if a number is missing that every version writes, and TypeError if a value is
    not a number.
    """
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
    """Convert a recipe's JSON to this version's form; unchanged if this version cannot read it."""
    try:
        upgraded_json = to_json(from_json(Recipe, recipe_json))
    except ResiduaError:
        return recipe_json
    return upgraded_json if isinstance(upgraded_json, dict) else recipe_json


def match_arm_title(study: Study | None, network_name: str, recipe: dict[str, Json]) -> str:
    """The title of the arm with that network and recipe; the network's family if no arm matches."""
    for arm in find_arms_of_network(study, network_name):
        if make_arm_recipe_json(arm, study) == recipe:
            return arm.title
    return split_network_name(network_name)[0]


def find_arms_of_network(study: Study | None, network_name: str) -> list[Arm]:
    """The study's arms that have a network of that name."""
    matching_arms = []
    for arm in study.arms if study else ():
        try:
            if arm.network_at_depth(split_network_name(network_name)[1]).name == network_name:
                matching_arms.append(arm)
        except UsageError:  # the arm's family has no network of this depth
            continue
    return matching_arms


def make_arm_recipe_json(arm: Arm, study: Study | None) -> Json:
    """The JSON of the study's recipe with the arm's changes; None without a study."""
    return to_json(arm.apply_changes(study.recipe)) if study else None


def read_last_step(record: RunRecord) -> int | None:
    """The last step that an unfinished run measured; None if it has measured none."""
    try:
        steps = [row["step"] for row in record.read_metrics()]
    except RecordError:  # a row is being written at this moment
        return None
    return int(steps[-1]) if steps and steps[-1] is not None else None


def count_network_parameters(network_json: Json) -> int | None:
    """The number of parameters of a network; None if its JSON is in another version's form."""
    try:
        return plan(from_json(Network, network_json)).parameters
    except ResiduaError:
        return None

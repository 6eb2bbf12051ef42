"""Read the record of one run, finished or not, into a dataclass.

The recipe in the record of an earlier version is converted to this version's form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from residua.config.fold import Fold
from residua.config.network import Network
from residua.config.papers import split_network_name
from residua.config.plan import Plan, PlannedUnit, plan
from residua.config.recipe import Recipe
from residua.config.serialize import Json, from_json, to_json
from residua.config.study import Arm, Study
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.record import MetricsRow, RunRecord

MAX_CLASSES, MAX_IMAGES, MAX_STEPS = 10**9, 10**12, 10**12


@dataclass(frozen=True, slots=True)
class RunResult:
    """The final metrics of a finished run; errors are in [0, 1]."""

    steps: int
    seconds: float  # of all training steps
    train_error: float
    dev_error: float | None  # None if the dev images were trained on
    test_error: float
    # both measured in one pass, after the BN statistics were re-estimated with the final weights
    train_error_reestimated: float | None = None
    train_loss: float | None = None  # nats
    # not in records of version 0.1
    dev_images: int | None = None
    test_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run with its result and its learning curve."""

    name: str  # of the network
    arm: str
    family: str
    depth: int
    num_classes: int
    # both None if this version cannot read the network
    parameters: int | None
    last_unit: PlannedUnit | None
    dataset: str
    recipe: dict[str, Json]
    seed: int
    start_fingerprint: str  # of the weights that training started from; empty for random weights
    environment: dict[str, Json]
    result: RunResult
    metric_lines: tuple[MetricsRow, ...]
    fold: Fold | None = None  # of the training images that is held out


@dataclass(frozen=True, slots=True, order=True)
class UnfinishedRun:
    """A run that has no result yet, whether or not it was started."""

    name: str  # of the network
    seed: int
    step: int | None  # the last step with a measurement; None before the first
    arm: str = ""
    fold: int = 0  # its number, from 1; 0 without folds


def read_recorded_run(record: RunRecord, study: Study | None) -> FinishedRun | UnfinishedRun:
    """Read the run in `record`, and find its arm among those of `study`.

    Raises DamagedRecordError if the record is cut short or lacks a part.  Raises RecordError if the
    record has another format or describes no trained network.
    """
    run_json = record.read_run_json()
    try:
        return parse_recorded_run(run_json, record, study)
    except (KeyError, IndexError) as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: it lacks {error}") from error
    except UsageError as error:  # e.g. a name from which no network can be made
        raise DamagedRecordError(f"{record.run_json_path} cannot be reported: {error}") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DamagedRecordError(f"{record.run_json_path} is damaged: {error}") from error


def parse_recorded_run(
    run_json: dict[str, Json], record: RunRecord, study: Study | None
) -> FinishedRun | UnfinishedRun:
    """Parse the content of `run.json`; the run may be finished or not.

    Raises KeyError, TypeError or AttributeError if a part is missing.  Raises RecordError if the
    run trained no network.
    """
    run_spec, result_json = run_json["run"], run_json["result"]
    if not isinstance(run_spec, dict):
        raise TypeError("`run` is not an object that records a network and a recipe")
    if run_spec["recipe"] is None:  # VLAD is fitted in one pass: it has no depth and no curve
        raise RecordError(
            f"{record.folder} contains no trained network, so there is no report to write: the "
            f"run's result on {run_spec['dataset']} is in {record.folder / 'run.json'}"
        )
    network_json, recipe_json = run_spec["network"], run_spec["recipe"]
    if not isinstance(network_json, dict) or not isinstance(recipe_json, dict):
        raise TypeError("the run does not record both a network and a recipe")
    name, seed = str(network_json["name"]), int(str(run_spec["seed"]))
    recipe = upgrade_recipe_json(recipe_json)
    arm = match_arm_title(study, name, recipe)
    fold = parse_fold(run_spec.get("fold"))
    if not isinstance(result_json, dict):
        fold_number = fold.number if fold else 0
        return UnfinishedRun(name, seed, read_last_step(record), arm, fold_number)
    family, depth = split_network_name(name)
    num_classes = int(str(network_json["classes"]))
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"its network has an impossible number of classes, {num_classes}")
    metric_lines = tuple(record.read_metrics())
    for line in metric_lines:
        check_error_rates(line)
    environment = run_json.get("environment")
    network_plan = plan_recorded_network(network_json)
    return FinishedRun(
        name=name,
        arm=arm,
        family=family,
        depth=depth,
        seed=seed,
        start_fingerprint=str(run_spec.get("start", "")),
        num_classes=num_classes,
        parameters=network_plan.parameters if network_plan else None,
        last_unit=network_plan.units[-1] if network_plan and network_plan.units else None,
        dataset=str(run_spec["dataset"]),
        recipe=recipe,
        environment=environment if isinstance(environment, dict) else {},
        result=parse_run_result(result_json),
        metric_lines=metric_lines,
        fold=fold,
    )


def parse_fold(fold_json: Json) -> Fold | None:
    """Parse the fold that a run holds out, if any; raises TypeError if it describes none."""
    if fold_json is None:
        return None
    try:
        return from_json(Fold, fold_json)
    except RecordError as error:
        raise TypeError(str(error)) from error


def parse_run_result(result_json: dict[str, Json]) -> RunResult:
    """Parse the result in `run.json`; keys that a report does not need are ignored.

    Raises KeyError if a required number is missing, and TypeError if a value is not a number.
    """
    known_fields = {
        field.name: result_json[field.name]
        for field in fields(RunResult)
        if field.name in result_json or field.default is not None
    }
    try:
        result = from_json(RunResult, known_fields)
    except RecordError as error:
        raise TypeError(str(error)) from error
    if not 1 <= result.steps <= MAX_STEPS or result.seconds < 0:
        raise ValueError(
            f"its result is impossible: it has {result.steps} steps and {result.seconds} seconds"
        )
    for name in ("dev_images", "test_images"):
        if (count := getattr(result, name)) is not None and not 1 <= count <= MAX_IMAGES:
            raise ValueError(f"its result is impossible: {name} is {count}")
    check_error_rates(known_fields)
    return result


def check_error_rates(values: Mapping[str, Json] | MetricsRow) -> None:
    """Raise ValueError if an error rate, such as `dev_error`, is not in [0, 1]."""
    for name, value in values.items():
        if "_error" in name and isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, which is not in [0, 1]")


def upgrade_recipe_json(recipe_json: dict[str, Json]) -> dict[str, Json]:
    """Convert a recipe's JSON to this version's form; return it unchanged if that fails."""
    try:
        upgraded_json = to_json(from_json(Recipe, recipe_json))
    except ResiduaError:
        return recipe_json
    return upgraded_json if isinstance(upgraded_json, dict) else recipe_json


def match_arm_title(study: Study | None, network_name: str, recipe: dict[str, Json]) -> str:
    """Return the title of the arm with this network and recipe, or else the network's family."""
    for arm in find_arms_of_network(study, network_name):
        if make_arm_recipe_json(arm, study) == recipe:
            return arm.title
    return split_network_name(network_name)[0]


def find_arms_of_network(study: Study | None, network_name: str) -> list[Arm]:
    """Find the study's arms that include the network `network_name`; [] without a study."""
    matching_arms = []
    for arm in study.arms if study else ():
        try:
            if arm.network_at_depth(split_network_name(network_name)[1]).name == network_name:
                matching_arms.append(arm)
        except UsageError:  # the arm's family has no network of this depth
            continue
    return matching_arms


def make_arm_recipe_json(arm: Arm, study: Study | None) -> Json:
    """Make the JSON of the study's recipe after the arm's changes; None without a study."""
    return to_json(arm.apply_changes(study.recipe)) if study else None


def read_last_step(record: RunRecord) -> int | None:
    """Read the step of the last row in an unfinished run's metrics.jsonl.

    Returns None if there is no row, or if the file is damaged.
    """
    try:
        steps = [row["step"] for row in record.read_metrics_so_far()]
    except RecordError:
        return None
    return int(steps[-1]) if steps and steps[-1] is not None else None


def plan_recorded_network(network_json: Json) -> Plan | None:
    """Plan a recorded network; None if this version cannot read its JSON."""
    try:
        return plan(from_json(Network, network_json))
    except ResiduaError:
        return None

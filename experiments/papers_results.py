"""Collects the results of the runs by the papers' cells: results.json (for papers.py)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, median, stdev, variance
from typing import Any

from papers_cells import CELLS, Cell, plan_network
from papers_jobs import FIRST_STEPS, Job, JobOptions, list_jobs
from papers_records import Place, StepTimes, read_step_times
from scipy.special import stdtrit

from residua.config.network import Network
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.record import RunRecord

FIRST_TABLE = f"first {FIRST_STEPS:,} steps"


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of a net with one recipe, one number per seed, in order of seed."""

    net: str
    recipe: str
    steps: int
    parameters: int | None
    seeds: list[int]
    train_errors: list[float]
    train_errors_reestimated: list[float]
    test_errors: list[float]
    seconds: list[float]
    devices: list[str]

    @property
    def test_error_sd(self) -> float | None:
        return stdev(self.test_errors) if len(self.test_errors) > 1 else None

    def differs_beyond_spread(self, paper: float) -> bool | None:
        """Whether a paper's error lies outside the 95 % interval of one more run of ours.

        Returns None if the spread is unknown.
        """
        deviation, seeds = self.test_error_sd, len(self.test_errors)
        if deviation is None:
            return None
        half = find_t_95(seeds) * deviation * sqrt(1 + 1 / seeds)
        return abs(mean(self.test_errors) - paper) > half


def find_t_95(seeds: int) -> float:
    """Find the two-sided 95 % quantile of Student's t for the deviation of so many seeds."""
    return float(stdtrit(seeds - 1, 0.975))


def measure_nets(records: Iterable[RunRecord]) -> list[Measured]:
    """Collect the results of the queue's nets, and of VLAD, by net and recipe.

    Runs of any seed and duration count: a run belongs to a net if only its seed and its recipe
    differ from those of a job.
    """
    jobs = list_jobs(JobOptions(seeds=(0,)))
    labels = {job.run.recipe: job.recipe for job in jobs}
    names = {job.run.network: job.net for job in jobs}
    groups = defaultdict(list)
    for record in records:
        run = record.read_run()
        if isinstance(run.network, Network):
            if run.network in names:
                assert run.recipe is not None
                label = labels.get(run.recipe) or describe_recipe(run.recipe)
                groups[names[run.network], label].append((run.seed, record))
        elif run.network.name == "vlad":
            groups["vlad", ""].append((run.seed, record))
    return [summarise(net, label, group) for (net, label), group in groups.items()]


def describe_recipe(recipe: Recipe) -> str:
    """Name a recipe that is not in the queue as it is, e.g. of another duration."""
    if recipe.epochs:
        return f"{recipe.name}, {recipe.epochs:g} epochs"
    return f"{recipe.name}, {recipe.steps:,} steps"


def summarise(net: str, label: str, group: list[tuple[int, RunRecord]]) -> Measured:
    """Collect the results of a net's seeds."""
    group = sorted(group, key=lambda pair: pair[0])
    results: list[dict[str, Any]] = [record.read_result() or {} for _, record in group]
    environments: list[Any] = [record.read_run_json()["environment"] for _, record in group]
    return Measured(
        net,
        label,
        results[0]["steps"],
        count_parameters(group[0][1].read_run()),
        [seed for seed, _ in group],
        [result["train_error"] for result in results],
        [result.get("train_error_reestimated", result["train_error"]) for result in results],
        [result["test_error"] for result in results],
        [result["seconds"] for result in results],
        sorted({facts["device"] for facts in environments}),
    )


def count_parameters(run: Run) -> int | None:
    """Count the parameters of a run's network; None for VLAD."""
    return plan_network(run.network).parameters if isinstance(run.network, Network) else None


def make_cells_json(measured: Iterable[Measured]) -> list[dict[str, Any]]:
    """Make the cells of results.json: each cell of the papers with each recipe that was run.

    The nets of which only the first steps were trained are cells of a table of their own.
    """
    measured = list(measured)
    papers = [
        make_cell_json(cell, found)
        for cell in CELLS
        for found in measured
        if belongs_to(found, cell)
    ]
    return papers + [
        make_cell_json(Cell(table=FIRST_TABLE, row=found.net, net=found.net, recipe=""), found)
        for found in measured
        if FIRST_TABLE in found.recipe
    ]


def belongs_to(found: Measured, cell: Cell) -> bool:
    """Whether the results are those of the cell's net, data and batch size, trained to the end."""
    batch = f", batches of {cell.batch_size}"
    has_batch = batch in found.recipe if cell.batch_size else "batches" not in found.recipe
    is_complete = FIRST_TABLE not in found.recipe
    return found.net == cell.net_name and cell.dataset == "cifar10" and has_batch and is_complete


def make_cell_json(cell: Cell, found: Measured) -> dict[str, Any]:
    """Make a cell of results.json."""
    return {
        "table": cell.table,
        "row": cell.row,
        "net": cell.net_name,
        "recipe": found.recipe,
        "seeds": len(found.seeds),
        "train_error": mean(found.train_errors),
        "train_error_reestimated": mean(found.train_errors_reestimated),
        "test_error": mean(found.test_errors),
        "test_error_median": median(found.test_errors),
        "test_error_sd": found.test_error_sd,
        "test_errors": found.test_errors,
        "parameters": found.parameters,
        "paper": cell.paper,
        "paper_printed": cell.printed,
        "beyond_spread": None if cell.paper is None else found.differs_beyond_spread(cell.paper),
        "steps": found.steps,
        "seconds": mean(found.seconds),
        "devices": found.devices,
    }


def make_missing_json(place: Place, jobs: Sequence[Job], done: set[str]) -> list[dict[str, Any]]:
    """List the runs that are missing, by rank, net and recipe, with the minutes that they take.

    The minutes are null if no net was measured.
    """
    times = read_step_times(place, jobs)
    groups = defaultdict(list)
    for job in jobs:
        if job.run.id not in done:
            groups[job.rank, job.net, job.recipe].append(job)
    return [
        {
            "rank": rank,
            "net": net,
            "recipe": recipe,
            "seeds": [job.run.seed for job in group],
            "steps": group[0].total_steps,
            "minutes": sum_minutes(group, times),
            "measured": all(times.has_measured(job) for job in group),
        }
        for (rank, net, recipe), group in groups.items()
    ]


def sum_minutes(jobs: Iterable[Job], times: StepTimes) -> float | None:
    """Sum the minutes of runs; None if no net was measured."""
    seconds = [times.estimate_seconds(job) for job in jobs]
    return None if None in seconds else sum(second or 0 for second in seconds) / 60


def list_compared_nets() -> Iterator[tuple[str, str]]:
    """Yield the nets that are compared with another one: the net and that other one."""
    for depth in (20, 32, 44, 56, 110):
        yield f"cifar-plain{depth}", f"cifar-resnet{depth}"
    for cell in CELLS:
        is_ablation = cell.table in ("2016, Table 1", "2016, Table 2") and cell.layers == 110
        if is_ablation and cell.net_name not in ("cifar-resnet110", "cifar-plain110"):
            yield cell.net_name, "cifar-resnet110"
    for depth in (164, 1001):
        yield f"cifar-preresnet{depth}", f"cifar-preresnet{depth},order=original"
    yield "cifar-preresnet1202", "cifar-resnet1202"


def make_differences_json(measured: Iterable[Measured]) -> list[dict[str, Any]]:
    """List how far test errors of nets with the same recipe differ, with 95 % intervals."""
    found = {(net.net, net.recipe): net for net in measured}
    recipes = dict.fromkeys(recipe for _, recipe in found)
    return [
        {
            "net": net,
            "than": other,
            "recipe": recipe,
            "difference": mean(found[net, recipe].test_errors)
            - mean(found[other, recipe].test_errors),
            "half_width": find_half_width(found[net, recipe], found[other, recipe]),
        }
        for recipe in recipes
        for net, other in dict.fromkeys(list_compared_nets())
        if (net, recipe) in found and (other, recipe) in found
    ]


def find_half_width(one: Measured, other: Measured) -> float | None:
    """Find half the 95 % interval of the difference of two means, or None without seeds.

    The degrees of freedom are those of the net with fewer seeds, which makes the interval wide.
    """
    counts = len(one.test_errors), len(other.test_errors)
    if min(counts) < 2:
        return None
    variances = [variance(net.test_errors) / len(net.test_errors) for net in (one, other)]
    return find_t_95(min(counts)) * sqrt(sum(variances))

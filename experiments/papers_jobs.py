"""The runs that fill the cells of the papers' tables, in order of worth (for papers.py)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache

from papers_cells import CELLS, make_cell_network, name_net, name_order_net, plan_network

from residua.config.dataset import get_dataset
from residua.config.joins import Join
from residua.config.recipe import Recipe
from residua.config.recipes import recipe
from residua.config.run import Run, parse_run
from residua.config.schedules import StepDecay
from residua.study_records import to_folder_name

CIFAR_DEPTHS = (20, 32, 44, 56)
FIRST_STEPS = 2000  # of he2016: the rate is 0.1 after the warm-up, as in the paper's first half
BYTES_PER_PARAMETER = 8  # of a checkpoint: fp32 weights and the optimiser's momentum


@dataclass(frozen=True, slots=True)
class JobNet:
    """A network to train: its name, and the join that the name cannot say."""

    name: str
    join: Join | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the queue.

    rank    the place in the order of worth, from 1
    net     the name of the net, as in the cells
    recipe  the name of the recipe on the page, e.g. "fast" or "fast, 8 epochs"
    run     the run itself
    layers  number of weight layers
    parameters  number of parameters
    """

    rank: int
    net: str
    recipe: str
    run: Run
    layers: int
    parameters: int

    @property
    def name(self) -> str:
        """The name of the run's folder and of its packed record."""
        words = self.recipe.replace(", ", "-").replace(",", "").replace(" ", "-")
        net = to_folder_name(self.net).replace(" ", "_")
        return f"{net}-{words}-seed{self.run.seed}"

    @property
    def total_steps(self) -> int:
        dataset = get_dataset(self.run.dataset)
        assert self.run.recipe is not None
        return self.run.recipe.total_steps(dataset.num_images - dataset.num_dev_images)

    @property
    def checkpoint_mib(self) -> float:
        """About the size of a checkpoint."""
        return self.parameters * BYTES_PER_PARAMETER / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What the command line says about the runs.

    seeds       the seeds of every net
    epochs      duration of `fast`; 0 for its own
    max_carry_mib  largest checkpoint that can be carried to another call; 0 for any
    cut_epochs  duration of `fast` for nets with larger checkpoints; 0 leaves them out
    dataset     the data set
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: float = 0
    max_carry_mib: float = 0
    cut_epochs: float = 0
    dataset: str = "cifar10"


def list_ranked_nets() -> Iterator[tuple[int, str, tuple[JobNet, ...]]]:
    """Yield the groups of nets in order of worth: rank, name of the recipe, nets."""
    small = tuple(
        JobNet(f"cifar-{family}{depth}") for depth in CIFAR_DEPTHS for family in ("resnet", "plain")
    )
    yield 1, "fast", (*small, JobNet("cifar-resnet110"), JobNet("cifar-preresnet110"))
    ablations = [
        JobNet(cell.net, cell.join)
        for table in ("2016, Table 2", "2016, Table 1")
        for cell in CELLS
        if cell.table == table and cell.layers == 110
    ]
    yield 2, "fast", tuple(ablations)
    orders = ("original", "full-preact")
    deep = [JobNet(name_order_net(depth, order)) for depth in (164, 1001) for order in orders]
    yield 3, "fast", (*deep, JobNet("cifar-resnet1202"), JobNet("cifar-preresnet1202"))
    yield 4, "he2015", small
    yield 5, f"he2016, first {FIRST_STEPS:,} steps", tuple(list_nets_of_first_steps())
    yield 6, "fast", tuple(JobNet(cell.net, cell.join) for cell in CELLS if cell.recipe)
    for cell in CELLS:
        if cell.recipe:
            batch = f", batches of {cell.batch_size}" if cell.batch_size else ""
            yield 6, cell.recipe + batch, (JobNet(cell.net, cell.join),)


def list_nets_of_first_steps() -> Iterator[JobNet]:
    """Yield the nets that are compared at 1,000 layers, as in thousand_layers.py."""
    for depth in (1202, 110):
        for parts in ("", ",order=no-relu-after-add", ",start=identity"):
            yield JobNet(f"cifar-resnet{depth}{parts}")
        yield JobNet(f"cifar-preresnet{depth}")
        for parts in (",order=relu-preact", ",join=drop-path"):
            yield JobNet(f"cifar-resnet{depth}{parts}")
    for depth in (1001, 164):
        for order in ("original", "full-preact"):
            yield JobNet(name_order_net(depth, order))


@cache
def list_jobs(options: JobOptions) -> tuple[Job, ...]:
    """List all runs in order of worth, each once; within a group, all nets of one seed first."""
    jobs: dict[str, Job] = {}
    for rank, recipe_name, nets in list_ranked_nets():
        for seed in options.seeds:
            for net in nets:
                job = make_job(rank, net, recipe_name, seed, options)
                if job is not None:
                    jobs.setdefault(job.run.id, job)
    return tuple(sorted(jobs.values(), key=lambda job: job.rank))


def make_job(
    rank: int, job_net: JobNet, recipe_name: str, seed: int, options: JobOptions
) -> Job | None:
    """Make a run, or None if its checkpoint is too large to be carried."""
    dataset = get_dataset(options.dataset)
    net = make_cell_network(job_net.name, job_net.join, dataset.input, len(dataset.classes))
    planned = plan_network(net)
    is_too_large = 0 < options.max_carry_mib < planned.parameters * BYTES_PER_PARAMETER / 2**20
    epochs = options.cut_epochs if is_too_large else options.epochs
    if is_too_large and not (recipe_name == "fast" and epochs):
        return None
    run_recipe, label = make_recipe(recipe_name, epochs)
    run = Run(net, dataset.name, run_recipe, seed)
    run = parse_run(run.json)  # as in a record: 36 epochs are 36.0, and the id is that of a record
    return Job(
        rank, name_net(job_net.name, job_net.join), label, run, planned.depth, planned.parameters
    )


def make_recipe(name: str, epochs: float) -> tuple[Recipe, str]:
    """Make the recipe of a name in `list_ranked_nets`, and its name on the page.

    `epochs` is the duration of `fast`, or 0 for its own.
    """
    base_name, _, change = name.partition(", ")
    made = recipe(base_name)
    if base_name == "fast" and epochs and epochs != made.epochs:
        return made.with_duration(epochs=epochs), f"fast, {epochs:g} epochs"
    if change.startswith("first"):
        return replace(made.with_duration(steps=FIRST_STEPS), schedule=StepDecay(at=())), name
    if change:
        return replace(made, batch_size=int(change.rsplit(" ", 1)[1])), name
    return made, name


def choose_jobs(jobs: Iterable[Job], patterns: Iterable[str]) -> list[Job]:
    """Choose the runs whose net, recipe or folder matches one of the shell patterns.

    Raises ValueError for a pattern that matches no run.
    """
    jobs, chosen = list(jobs), set()
    for pattern in patterns:
        matching = {
            job.run.id
            for job in jobs
            if any(fnmatchcase(word, pattern) for word in (job.net, job.recipe, job.name))
        }
        if not matching:
            raise ValueError(f"no run is called {pattern}: see --list")
        chosen |= matching
    return [job for job in jobs if job.run.id in chosen]

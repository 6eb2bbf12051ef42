"""The degradation experiment: train families x depths x seeds, each run into its own record."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import TypeAlias

import torch

from residua.data.read import read
from residua.errors import Interrupted, RecordError, ResiduaError, UsageError
from residua.files import write_json
from residua.record import Line, difference
from residua.spec.dataset import dataset
from residua.spec.papers import member, network
from residua.spec.recipe import Recipe
from residua.spec.run import Run
from residua.spec.text import FORMAT, from_json, to_json
from residua.train.loop import Progress
from residua.train.machine import Precision, machine
from residua.train.run import asked_to_stop, train

Tell: TypeAlias = Callable[[str, int, int], None]
"""Is told a run's name, the steps it has done and the steps it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Which networks to train, on what, how."""

    dataset: str = "digits"
    families: tuple[str, ...] = ("plain", "resnet", "preresnet")
    depths: tuple[int, ...] = (20, 56, 110)
    seeds: tuple[int, ...] = (0,)
    recipe: Recipe

    def runs(self) -> dict[str, Run]:
        """Each run by name, deepest first so that the last to end are short; UsageError for an impossible depth."""
        data = dataset(self.dataset)
        runs = {}
        for depth, family, seed in product(sorted(self.depths, reverse=True), self.families, self.seeds):
            net = network(member(family, depth), input=data.input, classes=len(data.classes))
            runs[f"{net.name}-seed{seed}"] = Run(net, self.dataset, self.recipe, seed)
        return runs


def study(
    plan: Study, folder: Path, *, precision: Precision = "auto", data_dir: Path | None = None, workers: int = 0, tell: Tell
) -> dict[str, str]:
    """Train every run of `plan` that `folder` holds no result of, `workers` side by side (0: one a core, or one on a GPU).

    An unfinished run goes on from its checkpoint.  Returns the runs that failed, and why: they do not stop the others.
    Raises UsageError for a study that cannot be, or where the folder holds one of other data or another recipe, and
    Interrupted after Ctrl-C, once each run has its checkpoint.
    """
    runs = plan.runs()
    if workers < 0:
        raise UsageError(f"{workers} workers are impossible: give 1 or more, or 0 for one a core")
    machine(precision)
    read(dataset(plan.dataset), "dev", data_dir)  # what is wrong with the data is said here once, not by every worker
    claim(folder, plan)
    workers = workers or (1 if torch.cuda.is_available() else min(os.cpu_count() or 1, len(runs)))
    context = multiprocessing.get_context("spawn")
    events: Queue[tuple[str, int, int]] = context.Queue()
    halt = context.Event()
    settings = (events, halt, os.getpid(), max((os.cpu_count() or 1) // workers, 1))
    with asked_to_stop() as stop, ProcessPoolExecutor(workers, context, start_worker, settings) as pool:
        jobs = {name: pool.submit(work, name, run, folder / "runs" / name, precision, data_dir) for name, run in runs.items()}
        while not (all(job.done() for job in jobs.values()) and events.empty()):
            with suppress(Empty):
                tell(*events.get(timeout=0.2))
            if stop():
                halt.set()
    if stop():
        raise Interrupted("stopped: the same command goes on from the checkpoints")
    return {name: failure(job) for name, job in jobs.items() if job.exception()}


def failure(job: Future[None]) -> str:
    """Why a run failed; what is not one of our errors is a defect, and is raised as it is."""
    match job.exception():
        case ResiduaError() | OSError() as error:
            return str(error)
        case BrokenProcessPool():
            return "its process, or one beside it, was killed; for want of memory?"
        case error:
            raise error or AssertionError


def claim(folder: Path, plan: Study) -> None:
    """Write `study.json`, unless the folder holds something else."""
    path = folder / "study.json"
    new = {
        "format": FORMAT,
        **{name: value for name, value in asdict(plan).items() if name != "recipe"},
        "recipe": to_json(plan.recipe),
    }
    new = json.loads(json.dumps(new))
    if path.exists() and any((folder / "runs").glob("*")):
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            old["recipe"] = to_json(from_json(Recipe, old["recipe"]))  # as this version writes it
        except (ValueError, KeyError, TypeError, RecordError) as error:
            raise RecordError(f"{path} is damaged: {error}") from error
        for name in ("dataset", "recipe"):
            if old.get(name) != new[name]:
                raise UsageError(
                    f"{folder} holds another study: {difference(old.get(name), new[name], name)}; choose another --out"
                )
    elif not path.exists() and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no study: choose another --out")
    write_json(path, new)


# In a worker process:

events_out: "Queue[tuple[str, int, int]]"
halted: Callable[[], bool]


def start_worker(events: "Queue[tuple[str, int, int]]", halt: Event, parent: int, threads: int) -> None:
    global events_out, halted
    events_out = events
    halted = lambda: halt.is_set() or os.getppid() != parent  # noqa: E731 -- or the study's own process is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers it
    torch.set_num_threads(threads)


def work(name: str, run: Run, folder: Path, precision: Precision, data_dir: Path | None) -> None:
    """Train one run, telling the parent."""

    def tell(progress: Progress, line: Line | None) -> None:
        events_out.put((name, progress.step, progress.steps))

    if halted():
        raise Interrupted("stopped before it began")
    train(run, folder, machine(precision), data_dir=data_dir, resume=True, tell=tell, stop=halted)
    events_out.put((name, 1, 1))

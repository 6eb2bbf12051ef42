"""Runs of a study side by side, in processes of this machine."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import TypeAlias

import torch

from residua.errors import Interrupted, ResiduaError, UsageError
from residua.record import Line
from residua.spec.run import Run
from residua.train.loop import Listener, Progress
from residua.train.machine import Precision, machine
from residua.train.run import asked_to_stop, train

Tell: TypeAlias = Callable[[str, int, int], None]
"""Is told a run's name, the steps it has done and the steps it has."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run to train into its folder, or to go on with."""

    run: Run
    folder: Path
    precision: Precision
    data_dir: Path | None

    def train(self, tell: Listener, stop: Callable[[], bool]) -> None:
        if stop():
            raise Interrupted("stopped before it began")
        train(self.run, self.folder, machine(self.precision), data_dir=self.data_dir, resume=True, tell=tell, stop=stop)


def side_by_side(jobs: dict[str, Job], workers: int, tell: Tell) -> dict[str, str]:
    """Train `workers` at a time, 0: one a core, or one on a GPU; returns those that failed, and why.  Interrupted after Ctrl-C."""
    if workers < 0:
        raise UsageError(f"{workers} workers are impossible: give 1 or more, or 0 for one a core")
    workers = workers or (1 if torch.cuda.is_available() else min(os.cpu_count() or 1, len(jobs)))
    context = multiprocessing.get_context("spawn")
    events: Queue[tuple[str, int, int]] = context.Queue()
    halt = context.Event()
    settings = (events, halt, os.getpid(), max((os.cpu_count() or 1) // workers, 1))
    with asked_to_stop() as stop, ProcessPoolExecutor(workers, context, start_worker, settings) as pool:
        futures = {name: pool.submit(work, name, job) for name, job in jobs.items()}
        tell(next(iter(jobs)), 0, 1)  # it has begun, though it takes the processes seconds to set out
        while not (all(future.done() for future in futures.values()) and events.empty()):
            with suppress(Empty):
                tell(*events.get(timeout=0.2))
            if stop():
                halt.set()
    if stop():
        raise Interrupted("stopped: the same command goes on from the checkpoints")
    return {name: failure(future) for name, future in futures.items() if future.exception()}


def failure(future: Future[None]) -> str:
    """Why a run failed; what is not one of our errors is a defect, and is raised as it is."""
    match future.exception():
        case ResiduaError() | OSError() as error:
            return str(error)
        case BrokenProcessPool():
            return "its process, or one beside it, was killed; for want of memory?"
        case error:
            raise error or AssertionError


# In a worker process:

events_out: "Queue[tuple[str, int, int]]"
halted: Callable[[], bool]


def start_worker(events: "Queue[tuple[str, int, int]]", halt: Event, parent: int, threads: int) -> None:
    global events_out, halted
    events_out = events
    halted = lambda: halt.is_set() or os.getppid() != parent  # noqa: E731 -- or the study's own process is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers it
    torch.set_num_threads(threads)


def work(name: str, job: Job) -> None:
    """Train one run, telling the parent."""

    def tell(progress: Progress, line: Line | None) -> None:
        events_out.put((name, progress.step, progress.steps))

    job.train(tell, halted)
    events_out.put((name, 1, 1))

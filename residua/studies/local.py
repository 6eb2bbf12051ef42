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

from residua.config.run import Run
from residua.errors import Interrupted, ResiduaError, UsageError
from residua.record import MetricsRow
from residua.training.loop import ProgressListener, TrainingProgress
from residua.training.machine import Precision, detect_machine
from residua.training.run import catch_stop_signals, train_run

StudyProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Is told a run's name, the steps it has done and the steps it has."""


@dataclass(frozen=True, slots=True)
class StudyJob:
    """A run to train into its folder, or to go on with."""

    run: Run
    folder: Path
    precision: Precision
    data_dir: Path | None

    def train_or_resume(
        self, on_progress: ProgressListener, should_stop: Callable[[], bool]
    ) -> None:
        if should_stop():
            raise Interrupted("stopped before it began")
        train_run(
            self.run,
            self.folder,
            detect_machine(self.precision),
            data_dir=self.data_dir,
            resume=True,
            on_progress=on_progress,
            should_stop=should_stop,
        )


def train_jobs_locally(
    jobs: dict[str, StudyJob], workers: int, on_progress: StudyProgressCallback
) -> dict[str, str]:
    """Train `workers` at a time, 0: one a core, or one on a GPU; returns those that failed, and why.  Interrupted after Ctrl-C."""
    if workers < 0:
        raise UsageError(f"{workers} workers are impossible: give 1 or more, or 0 for one a core")
    workers = workers or (1 if torch.cuda.is_available() else min(os.cpu_count() or 1, len(jobs)))
    spawn_context = multiprocessing.get_context("spawn")
    progress_events: Queue[tuple[str, int, int]] = spawn_context.Queue()
    halt_event = spawn_context.Event()
    worker_arguments = (
        progress_events,
        halt_event,
        os.getpid(),
        max((os.cpu_count() or 1) // workers, 1),
    )
    with (
        catch_stop_signals() as should_stop,
        ProcessPoolExecutor(workers, spawn_context, init_worker_process, worker_arguments) as pool,
    ):
        futures = {name: pool.submit(train_job_in_worker, name, job) for name, job in jobs.items()}
        on_progress(
            next(iter(jobs)), 0, 1
        )  # it has begun, though it takes the processes seconds to set out
        while not (all(future.done() for future in futures.values()) and progress_events.empty()):
            with suppress(Empty):
                on_progress(*progress_events.get(timeout=0.2))
            if should_stop():
                halt_event.set()
    if should_stop():
        raise Interrupted("stopped: the same command goes on from the checkpoints")
    return {
        name: describe_job_failure(future) for name, future in futures.items() if future.exception()
    }


def describe_job_failure(future: Future[None]) -> str:
    """Why a run failed; what is not one of our errors is a defect, and is raised as it is."""
    match future.exception():
        case ResiduaError() | OSError() as error:
            return str(error)
        case BrokenProcessPool():
            return "its process, or one beside it, was killed; for want of memory?"
        case error:
            raise error or AssertionError


# In a worker process:

worker_progress_events: "Queue[tuple[str, int, int]]"
worker_should_stop: Callable[[], bool]


def init_worker_process(
    progress_events: "Queue[tuple[str, int, int]]", halt_event: Event, parent_pid: int, threads: int
) -> None:
    global worker_progress_events, worker_should_stop
    worker_progress_events = progress_events
    worker_should_stop = lambda: halt_event.is_set() or os.getppid() != parent_pid  # noqa: E731 -- or the study's own process is gone
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent answers it
    torch.set_num_threads(threads)


def train_job_in_worker(run_name: str, job: StudyJob) -> None:
    """Train one run, telling the parent."""

    def report_progress(progress: TrainingProgress, line: MetricsRow | None) -> None:
        worker_progress_events.put((run_name, progress.step, progress.total_steps))

    job.train_or_resume(report_progress, worker_should_stop)
    worker_progress_events.put((run_name, 1, 1))

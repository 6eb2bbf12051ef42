"""Train the runs of a study in parallel processes of this machine."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import NamedTuple, Protocol

import torch

from residua.config.run import Run
from residua.errors import Interrupted, ResiduaError, UsageError
from residua.record import MetricsRow
from residua.training.machine import DeviceChoice, Precision, set_up_machine
from residua.training.progress import NamedCountListener, ProgressListener, TrainingProgress
from residua.training.run import catch_stop_signals, train_run

EVENT_POLL_SECONDS = 0.2
STOPPED_MESSAGE = "stopped: repeat the same command to resume from the checkpoints"


class RunProgressEvent(NamedTuple):
    """A message in which a worker process reports the progress of its run."""

    run_name: str
    done: int  # steps
    total: int


@dataclass(frozen=True, slots=True)
class StudyJob:
    """One run of a study that is to be trained, with its folder and its training options."""

    run: Run
    folder: Path
    precision: Precision
    device_choice: DeviceChoice
    data_dir: Path | None

    def train_or_resume(
        self, on_progress: ProgressListener, should_stop: Callable[[], bool]
    ) -> None:
        """Train the run from its last checkpoint, if any.  Raises Interrupted if told to stop."""
        if should_stop():
            raise Interrupted("the study was stopped before this run began")
        train_run(
            self.run,
            self.folder,
            set_up_machine(self.precision, device_choice=self.device_choice),
            data_dir=self.data_dir,
            resume=True,
            on_progress=on_progress,
            should_stop=should_stop,
        )


def train_jobs_locally(
    jobs: dict[str, StudyJob], workers: int, on_progress: NamedCountListener
) -> dict[str, str]:
    """Train `jobs`, given by run name, in `workers` processes.

    Returns the failed runs as {name: reason}.  If `workers` is 0, there is one process per core.
    Raises UsageError if `workers` is negative, and Interrupted after Ctrl-C or SIGTERM.
    """
    core_count = os.cpu_count() or 1
    workers = count_workers(jobs, workers)
    # Processes are spawned, because forked ones could not use CUDA.
    spawn_context = multiprocessing.get_context("spawn")
    progress_events: Queue[RunProgressEvent] = spawn_context.Queue()
    halt_event = spawn_context.Event()
    threads_per_worker = max(core_count // workers, 1)
    worker_arguments = (progress_events, halt_event, os.getpid(), threads_per_worker)
    with (
        catch_stop_signals() as should_stop,
        ProcessPoolExecutor(workers, spawn_context, init_worker_process, worker_arguments) as pool,
    ):
        futures = {name: pool.submit(train_job_in_worker, name, job) for name, job in jobs.items()}
        wait_for_jobs(futures, progress_events, on_progress, should_stop, halt_event.set)
    if should_stop():
        raise Interrupted(STOPPED_MESSAGE)
    return describe_failures(futures)


def count_workers(jobs: Mapping[str, StudyJob], workers: int) -> int:
    """Count the processes that train `jobs`, if `workers` are asked for; 0 means one per core.

    Raises UsageError if `workers` is negative.
    """
    if workers < 0:
        raise UsageError(f"workers must be 1 or more, or 0 for one per core; got {workers}")
    return min(workers or os.cpu_count() or 1, len(jobs))  # more would have nothing to do


class EventQueue(Protocol):
    """The end of a queue from which the events of jobs are read, in a thread or a process."""

    def get(self, block: bool = True, timeout: float | None = None) -> RunProgressEvent: ...

    def empty(self) -> bool: ...


def wait_for_jobs(
    futures: Mapping[str, Future[None]],
    progress_events: EventQueue,
    on_progress: NamedCountListener,
    should_stop: Callable[[], bool] = lambda: False,
    stop_jobs: Callable[[], None] = lambda: None,
) -> None:
    """Wait until all jobs are done, and pass on the events in which they report progress.

    `stop_jobs` is called once `should_stop()` is true.
    """
    if futures:  # shows that the study has begun, though a process takes seconds to start
        on_progress(next(iter(futures)), 0, 1)
    while not (all(future.done() for future in futures.values()) and progress_events.empty()):
        with suppress(Empty):
            on_progress(*progress_events.get(timeout=EVENT_POLL_SECONDS))
        if should_stop():
            stop_jobs()


def describe_failures(futures: Mapping[str, Future[None]]) -> dict[str, str]:
    """Return the failed jobs as {name: reason}; re-raise an exception that is a bug."""
    return {
        name: describe_failure_or_reraise(future)
        for name, future in futures.items()
        if future.exception()
    }


def describe_failure_or_reraise(future: Future[None]) -> str:
    """Say in one line why a job failed; re-raise the exception if it is a bug.

    A ResiduaError, an OSError and a killed process are mistakes of the user or problems of the
    machine.  All other exceptions are bugs.
    """
    match future.exception():
        case ResiduaError() | OSError() as error:
            return str(error)
        case BrokenProcessPool():
            return "a worker process was killed, perhaps for lack of memory"
        case error:
            raise error or AssertionError


# State of a worker process, set by `init_worker_process`, because an executor cannot pass queues or
# events to a job.
worker_progress_events: "Queue[RunProgressEvent]"
worker_should_stop: Callable[[], bool]


def init_worker_process(
    progress_events: "Queue[RunProgressEvent]", halt_event: Event, parent_pid: int, threads: int
) -> None:
    """Set up a worker process with `threads` threads.

    Training in the process stops if the parent process sets `halt_event` or dies.
    """
    global worker_progress_events, worker_should_stop

    def is_halted_or_orphaned() -> bool:
        return halt_event.is_set() or os.getppid() != parent_pid

    worker_progress_events, worker_should_stop = progress_events, is_halted_or_orphaned
    # Ctrl-C reaches every process of the group; the parent alone handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def train_job_in_worker(run_name: str, job: StudyJob) -> None:
    """Train one run in a worker process, and send its progress to the parent process."""

    def report_progress(progress: TrainingProgress, line: MetricsRow | None) -> None:
        worker_progress_events.put(RunProgressEvent(run_name, progress.step, progress.total_steps))

    job.train_or_resume(report_progress, worker_should_stop)
    worker_progress_events.put(RunProgressEvent(run_name, 1, 1))

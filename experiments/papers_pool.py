"""Trains runs one after another or several at once, until Ctrl-C or SIGTERM (for papers.py)."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures import wait as wait_for_futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from multiprocessing.synchronize import Event

import torch
from papers_jobs import Job

from residua.data import read
from residua.errors import Interrupted, TrainingError
from residua.training.gpu_streams import get_own_stream
from residua.training.run import catch_stop_signals

POLL_SECONDS = 0.5
STOPPED = "stopped before this run began"

# Trains a run, and returns its outcome.  Raises Interrupted once the function `stop_also`, a
# keyword, returns true.
TrainFunction = Callable[..., str]


def keep_data_in_memory() -> Callable[[], None]:
    """Keep the images in memory from now on; return the function that ends this.

    Reading and verifying the files takes 2 s, and a run on a GPU half a minute.
    """
    read_files = read.read_published_files
    read.read_published_files = lru_cache(maxsize=2)(read_files)
    return partial(setattr, read, "read_published_files", read_files)


@contextmanager
def data_kept_in_memory() -> Iterator[None]:
    read_anew = keep_data_in_memory()
    try:
        yield
    finally:
        read_anew()


def train_one_by_one(train: TrainFunction, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
    """Train the runs one after another in this process; yield each with its outcome."""
    with catch_stop_signals() as stop_requested, data_kept_in_memory():
        for job in jobs:
            yield job, train(job, stop_also=stop_requested)


def train_in_threads(
    train: TrainFunction, jobs: list[Job], at_once: int
) -> Iterator[tuple[Job, str]]:
    """Train the runs in threads of this process, on a GPU each with a stream of its own."""

    def train_on_own_stream(job: Job) -> str:
        uses_gpu = torch.cuda.is_available()
        with torch.cuda.stream(get_own_stream("run")) if uses_gpu else nullcontext():
            return train(job, stop_also=stop_requested)

    with (
        catch_stop_signals() as stop_requested,
        data_kept_in_memory(),
        ThreadPoolExecutor(at_once) as pool,
    ):
        yield from iterate_outcomes(pool, submit_all(pool, train_on_own_stream, jobs))


def train_in_processes(
    train: TrainFunction, jobs: list[Job], at_once: int
) -> Iterator[tuple[Job, str]]:
    """Train the runs in processes, which are spawned, and which stop if this one is told to.

    Raises TrainingError if one of them is killed.
    """
    spawn = multiprocessing.get_context("spawn")
    stopping = spawn.Event()
    with (
        catch_stop_signals() as stop_requested,
        ProcessPoolExecutor(at_once, spawn, init_worker, (stopping, os.getpid())) as pool,
    ):

        def pass_on_stop() -> None:
            if stop_requested():
                stopping.set()

        with interrupts_held_back():  # of the new processes too, until `init_worker`
            started = submit_all(pool, partial(train_in_worker, train), jobs)
        try:
            yield from iterate_outcomes(pool, started, pass_on_stop)
        except BrokenProcessPool as error:
            if stop_requested():
                raise Interrupted(STOPPED) from error
            raise TrainingError(
                "a process was killed, perhaps for lack of memory: choose a smaller --at-once"
            ) from error


worker_should_stop: Callable[[], bool]  # in a worker process: set by `init_worker`


def init_worker(stopping: Event, parent_pid: int) -> None:
    """Set up a worker process, whose run stops if `stopping` is set or the parent has died."""
    global worker_should_stop

    def is_stopped_or_orphaned() -> bool:
        return stopping.is_set() or os.getppid() != parent_pid

    worker_should_stop = is_stopped_or_orphaned
    # Ctrl-C reaches all processes; between two runs, the parent alone handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    keep_data_in_memory()


def train_in_worker(train: TrainFunction, job: Job) -> str:
    return train(job, stop_also=worker_should_stop)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold back Ctrl-C from this thread, and from the processes that it starts, meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def submit_all(
    pool: Executor, train: Callable[[Job], str], jobs: list[Job]
) -> dict[Future[str], Job]:
    return {pool.submit(train, job): job for job in jobs}


def iterate_outcomes(
    pool: Executor, started: dict[Future[str], Job], poll: Callable[[], None] = lambda: None
) -> Iterator[tuple[Job, str]]:
    """Yield each run with its outcome, as soon as it has one; call `poll` now and then."""
    waiting = set(started)
    try:
        while waiting:
            done, waiting = wait_for_futures(waiting, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                yield started[future], future.result()
            poll()
    finally:
        pool.shutdown(cancel_futures=True)

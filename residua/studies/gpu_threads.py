"""Train the runs of a study on one GPU, several at once, each in a thread with its own stream.

The step of a small network, a CUDA graph of short kernels, leaves most of a GPU idle.  Graphs of
other networks on other streams fill it.  Each run computes the bits that it computes alone.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import torch

from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.errors import Interrupted
from residua.net.activation_checkpoint import draws_randomly
from residua.net.build import ResidualNetwork
from residua.record import MetricsRow, RunRecord
from residua.studies.local import (
    STOPPED_MESSAGE,
    RunProgressEvent,
    StudyJob,
    describe_failures,
    wait_for_jobs,
)
from residua.training.data_settings import prepare_data_of_run
from residua.training.gpu_streams import get_own_stream
from residua.training.machine import set_up_machine
from residua.training.memory import available_memory, estimate_memory_on_machine
from residua.training.progress import NamedCountListener, TrainingProgress
from residua.training.run import catch_stop_signals

# Four networks of 20 layers keep an H100 busy; eight gain nothing.  The record is
# benchmarks/kernels_h100_202611.md.
MAX_RUNS_AT_ONCE = 4
USABLE_MEMORY_SHARE = 0.8  # of the free memory; the rest is for evaluations and fragmentation
REPORT_SECONDS = 0.1


def choose_runs_at_once(jobs: Mapping[str, StudyJob]) -> int:
    """Choose how many of the jobs are trained at once on the GPU, so that the largest fit.

    Runs that are finished, and those that draw random numbers from the generator of the process and
    are trained alone, do not count.
    """
    shared = [
        job
        for job in jobs.values()
        if can_share_process(job.run) and not RunRecord(job.folder).is_finished
    ]
    needs = {
        network: estimate_job_memory(job)
        for network, job in {j.run.network: j for j in shared}.items()
    }
    sizes = sorted((needs[job.run.network] for job in shared), reverse=True)
    free_bytes = USABLE_MEMORY_SHARE * (available_memory(torch.device("cuda")) or 0)
    count = 1
    while count < min(len(sizes), MAX_RUNS_AT_ONCE) and sum(sizes[: count + 1]) <= free_bytes:
        count += 1
    return count


def estimate_job_memory(job: StudyJob) -> int:
    """Estimate the memory in bytes that a run needs on the GPU."""
    assert isinstance(job.run.network, Network)
    machine = set_up_machine(job.precision, device_choice=job.device_choice)
    data = prepare_data_of_run(job.run, None, RunRecord(job.folder))
    return estimate_memory_on_machine(job.run, plan(job.run.network), data, machine).total


def can_share_process(run: Run) -> bool:
    """Return whether a run is trained by steps that draw from no generator of the process."""
    if run.recipe is None or not isinstance(run.network, Network):
        return False
    with torch.device("meta"):
        return not draws_randomly(ResidualNetwork(plan(run.network)))


def train_jobs_on_gpu(
    jobs: dict[str, StudyJob], runs_at_once: int, on_progress: NamedCountListener
) -> dict[str, str]:
    """Train `jobs`, given by run name, `runs_at_once` at a time, on the GPU of this process.

    Runs that draw from the generator of the process are trained after all others, one at a time.
    Returns the failed runs as {name: reason}.  Raises Interrupted after Ctrl-C or SIGTERM.
    """
    shared = {name: job for name, job in jobs.items() if can_share_process(job.run)}
    alone = {name: job for name, job in jobs.items() if name not in shared}
    futures: dict[str, Future[None]] = {}
    with catch_stop_signals() as should_stop:
        for group, count in ((shared, runs_at_once), (alone, 1)):
            events: SimpleQueue[RunProgressEvent] = SimpleQueue()
            with ThreadPoolExecutor(count) as pool:
                group_futures = {
                    name: pool.submit(train_job_on_own_stream, name, job, events.put, should_stop)
                    for name, job in group.items()
                }
                wait_for_jobs(group_futures, events, on_progress)
            futures |= group_futures
    if should_stop():
        raise Interrupted(STOPPED_MESSAGE)
    return describe_failures(futures)


def train_job_on_own_stream(
    run_name: str,
    job: StudyJob,
    report: Callable[[RunProgressEvent], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train one run on a CUDA stream of its own, and report its progress now and then."""
    last_report = 0.0

    def report_progress(progress: TrainingProgress, line: MetricsRow | None) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            report(RunProgressEvent(run_name, progress.step, progress.total_steps))

    with torch.cuda.stream(get_own_stream("run")):
        job.train_or_resume(report_progress, should_stop)
    report(RunProgressEvent(run_name, 1, 1))

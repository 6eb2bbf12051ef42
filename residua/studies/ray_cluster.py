"""Train the runs of a study on a Ray cluster; its machines must share the study's folder.

In this module `ray` has the type Any: Ray is optional, so its types may not be available.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch

from residua.errors import Interrupted, RecordError, ResiduaError, UsageError
from residua.record import RunRecord
from residua.studies.local import STOPPED_MESSAGE, StudyJob
from residua.training.progress import NamedCountListener
from residua.training.run import catch_stop_signals

POLL_SECONDS = 1.0  # between two reads of the runs' records
MAX_RETRIES = 3  # of a run whose machine is lost
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise Ray prints a warning
    # If Ray starts a cluster on this machine, its workers get the priority of any local run.
    "RAY_worker_niceness": "0",
}


@contextmanager
def connect_to_ray() -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at $RAY_ADDRESS.

    Without that variable, a cluster on this machine alone is started and, at the end, stopped.
    Raises UsageError if Ray is not installed or the cluster cannot be reached.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings in Ray's own code
        try:
            ray = import_module("ray")
        except ImportError:
            raise UsageError(
                "--ray needs Ray, which is not installed: pip install ray, or omit --ray"
            ) from None
        try:
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"no Ray cluster can be reached: {reason}; check RAY_ADDRESS, or omit --ray"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def train_jobs_on_ray(
    ray: Any, jobs: dict[str, StudyJob], on_progress: NamedCountListener
) -> dict[str, str]:
    """Train `jobs`, given by run name, each on a free core or GPU of the cluster.

    Returns the failed runs as {name: reason}.  A run whose machine is lost restarts on another one
    from its last checkpoint.  Raises Interrupted after Ctrl-C or SIGTERM.
    """
    uses_gpu = next(iter(jobs.values())).device_choice != "cpu"
    gpus_per_job = 1 if uses_gpu and ray.cluster_resources().get("GPU") else 0
    remote_train = ray.remote(num_cpus=1, num_gpus=gpus_per_job, max_retries=MAX_RETRIES)(
        train_in_ray_worker
    )
    with catch_stop_signals() as should_stop:
        run_names = {remote_train.remote(job): name for name, job in jobs.items()}
        pending, failures, is_stopping = list(run_names), dict[str, str](), False
        # Shows that the study has begun, though the cluster takes seconds to start.
        on_progress(next(iter(jobs)), 0, 1)
        while pending:
            finished, pending = ray.wait(pending, timeout=POLL_SECONDS)
            finished_by_name = {run_names[reference]: reference for reference in finished}
            failures.update(iterate_failures(ray, finished_by_name))
            for name, job in jobs.items():
                report_recorded_progress(name, job, on_progress)
            if should_stop() and not is_stopping:
                is_stopping = True
                for reference in pending:
                    ray.cancel(reference)
    if is_stopping:
        raise Interrupted(STOPPED_MESSAGE)
    return failures


def train_in_ray_worker(job: StudyJob) -> None:
    """Train one run in a worker process of the cluster; a cancelled run writes a checkpoint.

    Ray cancels a task by sending SIGINT, as Ctrl-C does.
    """
    torch.set_num_threads(1)
    with catch_stop_signals() as should_stop:
        job.train_or_resume(lambda progress, line: None, should_stop)


def iterate_failures(ray: Any, finished: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, one-line reason) for each of the `finished` runs that failed.

    A cancelled run is not a failure.  An exception that is a bug rather than a user's mistake is
    raised again.
    """
    for run_name, reference in finished.items():
        try:
            ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            continue
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ResiduaError | OSError):
                raise
            if not isinstance(error.cause, Interrupted):
                yield run_name, str(error.cause)
        except ray.exceptions.RayError as error:
            kind = type(error).__name__
            yield run_name, f"its process was lost ({kind}), perhaps for lack of memory"


def report_recorded_progress(run_name: str, job: StudyJob, on_progress: NamedCountListener) -> None:
    """Report a run's progress, read from its files because Ray workers send no messages."""
    record = RunRecord(job.folder)
    with suppress(RecordError):  # not begun
        if record.read_result() is not None:
            on_progress(run_name, 1, 1)
        elif (metric_rows := record.read_metrics_so_far()) and (recipe := job.run.recipe):
            step, epoch = metric_rows[-1]["step"] or 0, metric_rows[-1]["epoch"] or 1
            total_steps = recipe.steps or round(recipe.epochs * step / epoch)
            on_progress(run_name, int(step), total_steps)

"""Runs of a study over the machines of a Ray cluster, which share the disk of the study's folder."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch

from residua.errors import Interrupted, RecordError, ResiduaError, UsageError
from residua.record import RunRecord
from residua.studies.local import StudyJob, StudyProgressCallback
from residua.training.run import catch_stop_signals

POLL_SECONDS = 1.0  # seconds between two looks at the records
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns
    "RAY_worker_niceness": "0",  # of a cluster that is started here: as any run, not behind all else that the machine does
}


@contextmanager
def connect_to_ray() -> Iterator[Any]:
    """The module `ray`, connected to the cluster of $RAY_ADDRESS, or to one of this machine alone that ends with it.

    Raises UsageError where Ray is not installed, or no cluster is there.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        try:
            ray = import_module("ray")
        except ImportError:
            raise UsageError(
                "--ray needs Ray, which is not installed: pip install ray, or leave --ray out"
            ) from None
        try:
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster answers: {str(error).splitlines()[0]}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def train_jobs_on_ray(
    ray: Any, jobs: dict[str, StudyJob], on_progress: StudyProgressCallback
) -> dict[str, str]:
    """Train each job where a core, or a GPU, is free; returns those that failed, and why.  Interrupted after Ctrl-C.

    A run whose machine is lost is begun again elsewhere, and goes on from its checkpoint.
    """
    gpus_per_job = 1 if ray.cluster_resources().get("GPU") else 0
    remote_train = ray.remote(num_cpus=1, num_gpus=gpus_per_job, max_retries=3)(train_in_ray_worker)
    with catch_stop_signals() as should_stop:
        run_names = {remote_train.remote(job): name for name, job in jobs.items()}
        pending, failures, is_stopping = list(run_names), {}, False
        on_progress(
            next(iter(jobs)), 0, 1
        )  # it has begun, though it takes the cluster seconds to set out
        while pending:
            finished, pending = ray.wait(pending, timeout=POLL_SECONDS)
            for name, reason in iterate_failures(
                ray, {run_names[reference]: reference for reference in finished}
            ):
                failures[name] = reason
            for reference in run_names:
                report_recorded_progress(
                    run_names[reference], jobs[run_names[reference]], on_progress
                )
            if should_stop() and not is_stopping:
                is_stopping = True
                for reference in pending:
                    ray.cancel(reference)
    if is_stopping:
        raise Interrupted("stopped: the same command goes on from the checkpoints")
    return failures


def train_in_ray_worker(job: StudyJob) -> None:
    """In a worker of the cluster: Ctrl-C, which a cancelled task is given, ends with a checkpoint."""
    torch.set_num_threads(1)
    with catch_stop_signals() as should_stop:
        job.train_or_resume(lambda progress, line: None, should_stop)


def iterate_failures(ray: Any, finished: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the finished, those that failed, and why; what is not one of our errors is a defect, and is raised as it is."""
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
            yield run_name, f"its process was lost ({type(error).__name__}); for want of memory?"


def report_recorded_progress(
    run_name: str, job: StudyJob, on_progress: StudyProgressCallback
) -> None:
    """Tell how far a run is, as its record says."""
    record = RunRecord(job.folder)
    with suppress(RecordError):  # not begun, or just being written
        if record.read_result() is not None:
            on_progress(run_name, 1, 1)
        elif (metric_lines := record.read_metrics()) and (recipe := job.run.recipe):
            step, epoch = metric_lines[-1]["step"] or 0, metric_lines[-1]["epoch"] or 1
            on_progress(run_name, int(step), recipe.steps or round(recipe.epochs * step / epoch))

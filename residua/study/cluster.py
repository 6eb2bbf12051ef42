"""Runs of a study over the machines of a Ray cluster, which share the disk of the study's folder."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch

from residua.errors import Interrupted, RecordError, ResiduaError, UsageError
from residua.record import Record
from residua.study.side_by_side import Job, Tell
from residua.train.run import asked_to_stop

POLL = 1.0  # seconds between two looks at the records
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns
    "RAY_worker_niceness": "0",  # of a cluster that is started here: as any run, not behind all else that the machine does
}


@contextmanager
def connected() -> Iterator[Any]:
    """The module `ray`, connected to the cluster of $RAY_ADDRESS, or to one of this machine alone that ends with it.

    Raises UsageError where Ray is not installed, or no cluster is there.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        try:
            ray = import_module("ray")
        except ImportError:
            raise UsageError("--ray needs Ray, which is not installed: pip install ray, or leave --ray out") from None
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster answers: {str(error).splitlines()[0]}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def over_machines(ray: Any, jobs: dict[str, Job], tell: Tell) -> dict[str, str]:
    """Train each job where a core, or a GPU, is free; returns those that failed, and why.  Interrupted after Ctrl-C.

    A run whose machine is lost is begun again elsewhere, and goes on from its checkpoint.
    """
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(trained)
    with asked_to_stop() as stop:
        names = {remote.remote(job): name for name, job in jobs.items()}
        left, failed, stopping = list(names), {}, False
        tell(next(iter(jobs)), 0, 1)  # it has begun, though it takes the cluster seconds to set out
        while left:
            done, left = ray.wait(left, timeout=POLL)
            for name, why in outcomes(ray, {names[reference]: reference for reference in done}):
                failed[name] = why
            for reference in names:
                follow(names[reference], jobs[names[reference]], tell)
            if stop() and not stopping:
                stopping = True
                for reference in left:
                    ray.cancel(reference)
    if stopping:
        raise Interrupted("stopped: the same command goes on from the checkpoints")
    return failed


def trained(job: Job) -> None:
    """In a worker of the cluster: Ctrl-C, which a cancelled task is given, ends with a checkpoint."""
    torch.set_num_threads(1)
    with asked_to_stop() as stop:
        job.train(lambda progress, line: None, stop)


def outcomes(ray: Any, done: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the finished, those that failed, and why; what is not one of our errors is a defect, and is raised as it is."""
    for name, reference in done.items():
        try:
            ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            continue
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ResiduaError | OSError):
                raise
            if not isinstance(error.cause, Interrupted):
                yield name, str(error.cause)
        except ray.exceptions.RayError as error:
            yield name, f"its process was lost ({type(error).__name__}); for want of memory?"


def follow(name: str, job: Job, tell: Tell) -> None:
    """Tell how far a run is, as its record says."""
    record = Record(job.folder)
    with suppress(RecordError):  # not begun, or just being written
        if record.result() is not None:
            tell(name, 1, 1)
        elif (lines := record.lines()) and (recipe := job.run.recipe):
            step, epoch = lines[-1]["step"] or 0, lines[-1]["epoch"] or 1
            tell(name, int(step), recipe.steps or round(recipe.epochs * step / epoch))

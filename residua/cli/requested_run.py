"""The run that `residua train` is asked for: a new one, or the one in a folder to go on with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import training
from residua.cli.run_options import make_run_request
from residua.config.dataset import Dataset
from residua.errors import RecordError
from residua.study_records import folder_for_name

if TYPE_CHECKING:
    from residua.training import Machine, ResolvedRun, RunRequest


def resolve_requested_run(
    arguments: Namespace, dataset: Dataset, machine: "Machine", is_resuming: bool
) -> "ResolvedRun":
    """Turn the arguments into a run, whose photographs have the storage of a run in its folder.

    A run that is resumed starts from the weights that it began with.  If its folder is not given,
    it is that of the first run that is there of those the arguments may stand for.  Raises
    RecordError if none is there and the published weights cannot be had.
    """
    request = make_run_request(arguments)
    if is_resuming:
        request = replace(request, resumed=arguments.out)
    resolved = training.resolve_run_before_storage(request, dataset, machine)
    folder = arguments.out or choose_run_folder(resolved)
    if is_resuming and not arguments.out and not folder.exists():
        for other in list_former_requests(request, resolved):
            former = training.resolve_run_before_storage(other, dataset, machine)
            if choose_run_folder(former).exists():
                resolved, folder = former, choose_run_folder(former)
                break
        else:
            if "from" in resolved.reasons and resolved.missing and arguments.resume:
                raise RecordError(
                    "there is no run to resume that began with random weights, and "
                    f"{resolved.missing} cannot be had for another: {resolved.reasons['from']}"
                )
    return training.choose_storage_in_folder(
        resolved,
        folder,
        machine,
        reads_all=not (arguments.dry_run and training.is_sampled(resolved.dataset)),
    )


def list_former_requests(request: "RunRequest", resolved: "ResolvedRun") -> "Iterator[RunRequest]":
    """Yield what the same command stood for where published weights, or a rule, were missing.

    Runs from trained weights began without a least number of steps, and the published weights that
    a run may start from could not be had.
    """
    if resolved.run.start:
        yield replace(request, min_tuning=0)
    if "from" in resolved.reasons:
        yield replace(request, weights=training.NO_WEIGHTS)


def choose_run_folder(resolved: "ResolvedRun") -> Path:
    """Choose the folder of a run below runs/, if none is given."""
    run_config = resolved.run
    name = f"{run_config.network.name}-{resolved.dataset.name}-{run_config.id}"
    return folder_for_name(Path("runs"), name)

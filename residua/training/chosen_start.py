"""Choose the weights that a run on photographs starts from, if the user has chosen nothing.

They are the published weights of the network that suits the photographs.  Whether they can be had
is decided at once, before the run has a name: a run that starts without them is another run.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from residua.config.published_weights import PublishedWeights
from residua.config.weight_registry import find_weights
from residua.data.sources.listing import ImageListing
from residua.errors import RecordError, ResiduaError
from residua.net.fetch_weights import explain_why_unreachable
from residua.net.hub import resolve_model_source
from residua.net.published_model import is_on_this_machine
from residua.record import RunRecord
from residua.training.auto_config import choose_network_with_weights
from residua.training.initial_weights import resolve_weight_source
from residua.training.machine import Machine

NO_WEIGHTS = "none"  # what the user writes for random weights
WITHOUT_WEIGHTS = (
    "photographs are then learned from nothing, which takes many more of them, and more time, for "
    "the same accuracy"
)


@dataclass(frozen=True, slots=True)
class ChosenStart:
    """The weights to start from, by name or path, or None for random ones; and why these.

    `missing` names the published weights that would have been used, if they cannot be had.
    """

    weights: str | Path | None
    reason: str
    missing: str = ""


def choose_start(
    listing: ImageListing, machine: Machine, resumed_folder: Path | None = None
) -> ChosenStart:
    """Choose the weights to start from: published ones, if they can be had within 10 seconds.

    A run that is resumed, in `resumed_folder`, starts from the weights that it began with.  Every
    rank must call this, and all ranks get the same answer.  Raises RecordError if the recorded
    weights cannot be had, or are not those of the beginning.
    """
    record = RunRecord(resumed_folder) if resumed_folder is not None else None
    if record is not None and record.run_json_path.exists():
        return keep_recorded_start(record, machine)
    name = choose_network_with_weights(listing, machine)
    weights = find_weights(name) if name else None
    if weights is None:
        return ChosenStart(None, "")
    why_not = machine.group.broadcast_from_rank0(partial(explain_why_missing, weights))
    if why_not:
        return ChosenStart(
            None,
            f"starts from random weights, because {weights.name} cannot be fetched ({why_not}): "
            f"{WITHOUT_WEIGHTS}",
            missing=weights.name,
        )
    try:
        machine.group.run_local_rank0_first(partial(resolve_model_source, weights.name))
    except RecordError as error:  # it has been decided that the run starts from them
        raise RecordError(f"{error}; or add --from none to start from random weights") from None
    return ChosenStart(weights.name, describe_chosen_weights(weights))


def explain_why_missing(weights: PublishedWeights) -> str:
    """Explain why weights are not on this machine and cannot be fetched; "" if they can be had."""
    try:
        return "" if is_on_this_machine(weights) else explain_why_unreachable(weights)
    except (ResiduaError, OSError) as error:
        return str(error)


def describe_chosen_weights(weights: PublishedWeights) -> str:
    """Say which weights a run starts from: their name, their sum and their licence."""
    facts = [f"SHA-256 {weights.sha256[:12]}..."] if weights.sha256 else []
    facts += [f"licence {weights.licence}"] if weights.licence else []
    return f"starts from the weights {weights.name} ({', '.join(facts)})"


def keep_recorded_start(record: RunRecord, machine: Machine) -> ChosenStart:
    """Return the start of the run in `record`.

    Raises RecordError if its weights cannot be had, or have changed.
    """
    recorded = record.read_weights_origin()
    if recorded is None:
        return ChosenStart(None, "starts from random weights, as the run that is resumed")
    name, sha256 = str(recorded["name"]), str(recorded["sha256"])
    found = machine.group.run_local_rank0_first(partial(resolve_weight_source, name))
    if found.sha256 != sha256:
        raise RecordError(
            f"the run in {record.folder} started from {name} with the SHA-256 sum {sha256[:12]}"
            f"..., but that of {name} is {found.sha256[:12]}... now: put the former weights back"
        )
    return ChosenStart(name, f"starts from the weights {name}, as the run that is resumed")

"""Choose the weights that a run on photographs starts from, if the user has chosen nothing.

They are the published weights of the network that suits the photographs.  Whether they can be had
is decided at once, before the run has a name: a run that starts without them is another run.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from residua.config.published_weights import PublishedWeights
from residua.config.weight_registry import find_weights
from residua.data.sources.listing import ImageListing
from residua.errors import RecordError, ResiduaError, UsageError
from residua.net.fetch_weights import explain_why_unreachable
from residua.net.published_model import fetch_model_folder, is_on_this_machine
from residua.record import RunRecord
from residua.training.auto_config import (
    MIN_TUNING_STEPS,
    estimate_median_shorter_side,
)
from residua.training.initial_weights import WeightSource, resolve_weight_source
from residua.training.machine import Machine
from residua.training.network_table import choose_network_with_weights

NO_WEIGHTS = "none"  # what the user writes for random weights
WITHOUT_WEIGHTS = (
    "photographs are then learned from nothing, which takes many more of them, and more time, for "
    "the same accuracy"
)


@dataclass(frozen=True, slots=True)
class ChosenStart:
    """The weights to start from, by name or path, or None for random ones; and why these.

    source        these weights on this machine
    missing       name of the published weights that would have been used, if they cannot be had
    why_missing   the reason why not
    shorter_side  median of the photographs' shorter sides in pixels; 0 if it was not estimated
    """

    weights: str | Path | None
    reason: str
    source: WeightSource | None = None
    missing: str = ""
    why_missing: str = ""
    shorter_side: int = 0

    @property
    def which_is_missing(self) -> str:
        """The weights that cannot be had, and why, as a part of a sentence; "" if none."""
        return f", and {self.missing} cannot be had ({self.why_missing})" if self.missing else ""


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
    shorter_side = estimate_median_shorter_side(listing)
    name = choose_network_with_weights(listing, shorter_side, machine)
    weights = find_weights(name) if name else None
    if weights is None:
        return ChosenStart(None, "", shorter_side=shorter_side)
    why_not = machine.group.broadcast_from_rank0(partial(explain_why_missing, weights))
    if isinstance(why_not, UsageError):  # on every rank
        raise why_not
    if why_not:
        return ChosenStart(
            None,
            f"starts from random weights, because {weights.name} cannot be fetched ({why_not}): "
            f"{WITHOUT_WEIGHTS}",
            missing=weights.name,
            why_missing=why_not,
            shorter_side=shorter_side,
        )
    try:
        source = machine.group.run_local_rank0_first(partial(fetch_weight_source, weights))
    except RecordError as error:  # it has been decided that the run starts from them
        raise RecordError(f"{error}; or add --from none to start from random weights") from None
    reason = describe_chosen_weights(weights)
    return ChosenStart(weights.name, reason, source, shorter_side=shorter_side)


def fetch_weight_source(weights: PublishedWeights) -> WeightSource:
    return resolve_weight_source(fetch_model_folder(weights))


def explain_why_missing(weights: PublishedWeights) -> str | UsageError:
    """Explain why weights are not on this machine and cannot be fetched; "" if they can be had.

    Returns a UsageError if a variable that says from where to fetch them is wrong.
    """
    try:
        return "" if is_on_this_machine(weights) else explain_why_unreachable(weights)
    except UsageError as error:
        return error
    except (ResiduaError, OSError) as error:
        return str(error)


def describe_chosen_weights(weights: PublishedWeights) -> str:
    """Say which weights a run starts from: their name, their sum and their licence."""
    facts = [f"SHA-256 {weights.sha256[:12]}..."] if weights.sha256 else []
    facts += [f"licence {weights.licence}"] if weights.licence else []
    described = f" ({', '.join(facts)})" if facts else ""
    return f"starts from the weights {weights.name}{described}"


def describe_unused_weights(model: object) -> str:
    """Say that a run whose network is named does not start from its published weights, if any."""
    with suppress(RecordError):  # of a file of weights that this run does not need
        if isinstance(model, str) and find_weights(model):
            return f"starts from random weights; published ones are named {model}"
    return ""


def choose_min_tuning_steps(resumed_folder: Path | None) -> int:
    """Return the least number of steps of a run from trained weights, if it is left open.

    A run that began before there was one, in `resumed_folder`, goes on without.
    """
    record = RunRecord(resumed_folder) if resumed_folder is not None else None
    if record is not None and record.run_json_path.exists():
        begun = record.read_run().recipe
        return 0 if begun is not None and begun.epochs else MIN_TUNING_STEPS
    return MIN_TUNING_STEPS


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
    return ChosenStart(name, f"starts from the weights {name}, as the run that is resumed", found)

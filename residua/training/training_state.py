"""Save and restore a run's state, so that a resumed run is bit-identical to an uninterrupted one.

The state is all that the rest of the run depends on: weights, buffers, their average if the recipe
has one, the optimiser's state, the step, and the step results that are not yet in metrics.jsonl.
"""

import torch
from torch import Tensor

from residua.errors import RecordError, TrainingError
from residua.record import RunRecord
from residua.training.checkpoint import (
    CheckpointPolicy,
    CheckpointScalars,
    TensorGroups,
    list_checkpoints,
    load_newest_and_delete_damaged,
    write_checkpoint,
)
from residua.training.progress import StepValues, TrainingProgress
from residua.training.step import TrainingStep


def save_training_state(
    record: RunRecord,
    training_step: TrainingStep,
    progress: TrainingProgress,
    checkpoint_policy: CheckpointPolicy,
) -> None:
    """Write a checkpoint on rank 0.  Raises TrainingError if a loss or a weight is not finite."""
    require_finite_losses(progress, record)
    progress.stop_clock()
    if not all(parameter.isfinite().all() for parameter in training_step.net.parameters()):
        raise TrainingError(
            f"weights are not finite after step {progress.step:,} of {progress.total_steps:,}: "
            f"{suggest_divergence_fix(record)}"
        )
    unrecorded = {"losses": progress.losses, "wrong": progress.wrong_counts}
    groups: TensorGroups = {
        "net": training_step.net.state_dict(),
        "optimiser": training_step.optimiser_state(),
        "average": training_step.average.tensors if training_step.average else {},
        "since": {name: values.read() for name, values in unrecorded.items() if len(values)},
    }
    scalars: CheckpointScalars = {
        "step": progress.step,
        "seconds": progress.seconds,
        "best": progress.best_dev_error,
        "waited": progress.data_wait_seconds,
        "processes": training_step.machine.group.world_size,
    }
    if training_step.machine.group.is_main:
        record.flush_metrics()
        write_checkpoint(
            record.checkpoints_folder, progress.step, groups, scalars, checkpoint_policy.keep_last
        )
    progress.start_clock()


def restore_training_state(
    record: RunRecord, training_step: TrainingStep, total_steps: int
) -> TrainingProgress:
    """Restore the newest intact checkpoint into `training_step`, and return the run's progress.

    Without a checkpoint, progress starts at step 0, with a note if the run had begun.  Rows of
    metrics.jsonl after the restored step are removed, and run.json gets another number of
    processes.  Raises RecordError if the checkpoint belongs
    to another network, or if all checkpoints are damaged.
    """
    group = training_step.machine.group
    checkpoint = group.broadcast_from_rank0(
        lambda: load_newest_and_delete_damaged(record.checkpoints_folder)
    )
    if checkpoint is None:
        progress = TrainingProgress(total_steps)
        if group.is_main and record.read_metrics_so_far():
            progress.note = (
                f"{record.folder} holds measurements, but no checkpoint that this version reads: "
                "training starts again from the beginning"
            )
    else:
        groups, scalars, warnings = checkpoint
        restore_weights_and_optimiser(record, training_step, groups)
        unrecorded = groups.get("since", {})
        progress = TrainingProgress(
            total_steps,
            int(scalars["step"] or 0),
            scalars["seconds"] or 0.0,
            scalars["best"],
            restore_step_values(unrecorded.get("losses"), training_step.machine.device),
            restore_step_values(unrecorded.get("wrong"), training_step.machine.device),
            data_wait_seconds=scalars["waited"] or 0.0,
        )
        # checkpoints of a run by one process may lack the number of processes
        previous_world_size = int(scalars.get("processes") or 1)
        warnings += describe_world_size_change(previous_world_size, group.world_size)
        if group.is_main and group.world_size != previous_world_size:
            record.add_resumption(progress.step, group.world_size)
        progress.note = "; ".join(warnings)
    if group.is_main:
        record.truncate_metrics_after(progress.step)
    return progress


def restore_weights_and_optimiser(
    record: RunRecord, training_step: TrainingStep, groups: TensorGroups
) -> None:
    """Load the weights, their average and the optimiser's state.

    Raises RecordError if the weights do not fit the network.
    """
    try:
        training_step.net.load_state_dict(groups["net"])
        if training_step.average:
            training_step.average.load(groups["average"])
    except (KeyError, RuntimeError) as error:
        raise RecordError(
            f"{record.checkpoints_folder} holds checkpoints of another network: "
            f"{str(error).splitlines()[0]}"
        ) from error
    training_step.load_optimiser_state(groups.get("optimiser", {}))


def restore_step_values(values: Tensor | None, device: torch.device) -> StepValues:
    """Restore the scalars (n,) of n steps on the device; none for None."""
    return StepValues(None if values is None else values.to(device))


def describe_world_size_change(previous: int, current: int) -> list[str]:
    """Return a note in a list if the number of processes has changed, otherwise an empty list."""
    if previous == current:
        return []
    before = "1 process" if previous == 1 else f"{previous} processes"
    return [
        f"started with {before}, resuming with {current}: "
        "the same batches, and the same results up to rounding"
    ]


def require_finite_losses(progress: TrainingProgress, record: RunRecord) -> None:
    """Raise TrainingError if a loss since the last row of metrics.jsonl is not finite.

    The check waits until the device has computed the losses.
    """
    losses = progress.losses.read()
    if not losses.isfinite().all():
        first_bad = int((~losses.isfinite()).nonzero()[0])
        step = progress.step - len(losses) + first_bad + 1
        raise TrainingError(
            f"the loss is {losses[first_bad].item()} at step {step:,} of "
            f"{progress.total_steps:,}: {suggest_divergence_fix(record)}"
        )


def suggest_divergence_fix(record: RunRecord) -> str:
    """Return the end of an error message about diverged training.

    The text says whether a checkpoint from before the divergence exists, and suggests settings.
    """
    has_checkpoint = bool(list_checkpoints(record.checkpoints_folder))
    checkpoint_note = (
        "the last good checkpoint is kept" if has_checkpoint else "no checkpoint was written yet"
    )
    return (
        f"{checkpoint_note}; try a lower learning rate (--set schedule.lr=...) or a warm-up, "
        "with another --out"
    )

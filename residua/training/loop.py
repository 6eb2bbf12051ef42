"""The loop: batches in, a trained network and its record out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from residua.config.recipe import Recipe
from residua.data.batches import TrainingBatches
from residua.data.read import Images
from residua.errors import RecordError, TrainingError
from residua.record import MetricsRow, RunRecord
from residua.training import checkpoint
from residua.training.checkpoint import DEFAULT_CHECKPOINT_POLICY, CheckpointPolicy
from residua.training.evaluate import EvaluationScore, evaluate_network
from residua.training.machine import Machine
from residua.training.step import TrainingStep

FINITE_CHECK_SECONDS = (
    10.0  # seconds between two looks at the loss, each of which waits for the device
)


@dataclass
class TrainingProgress:
    """How far a run is, and what was seen since the last line of its record."""

    total_steps: int  # of the whole run
    step: int = 0  # done
    seconds: float = 0.0  # spent on steps, data included, over all sessions
    best_dev_error: float | None = None  # lowest error on the dev split so far
    losses: list[Tensor] = field(default_factory=list)
    wrong_counts: list[Tensor] = field(default_factory=list)
    clock_started: float = 0.0  # when the clock was started
    data_wait_seconds: float = 0.0  # of those seconds, in which a step waited for its batch
    note: str = ""  # what the user should hear now

    def add_step(self, loss: Tensor, wrong_count: Tensor) -> None:
        self.losses.append(loss)
        self.wrong_counts.append(wrong_count)
        self.step += 1

    def start_clock(self) -> None:
        """Start the clock of steps; it stands still while the network is evaluated or saved."""
        self.clock_started = time.perf_counter()

    def stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self.clock_started

    def pop_step_results(self) -> tuple[Tensor, Tensor]:
        """Losses and wrong answers of each step since the last call (n,)."""
        losses, wrong_counts = torch.stack(self.losses), torch.stack(self.wrong_counts)
        self.losses, self.wrong_counts = [], []
        return losses, wrong_counts


class ProgressListener(Protocol):
    """Is told of a run's progress; changes nothing."""

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None: ...


def fit_network(
    net: nn.Module,
    batches: TrainingBatches,
    recipe: Recipe,
    *,
    dev_images: Images | None,
    machine: Machine,
    record: RunRecord,
    checkpoint_policy: CheckpointPolicy = DEFAULT_CHECKPOINT_POLICY,
    save_best: Callable[[], None],
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> TrainingProgress:
    """Train `net`, from where the record's checkpoint stands to the recipe's end, or, resumable, until `stop()`.

    `keep_best` is called whenever the error on `dev` is the lowest so far.  Raises TrainingError, naming the step, when the
    loss is not finite; a run that does not set out is only told so.
    """
    total_steps = recipe.total_steps(len(batches.images))
    training_step = TrainingStep(
        net, recipe.optimiser, machine, recipe.bn_splits, recipe.smoothing, recipe.body_lr
    )
    progress = restore_training_state(record, training_step, total_steps)
    report_every = max(round(len(batches.images) / recipe.batch_size), total_steps // 100)
    last_saved = last_checked = time.monotonic()
    net.train()
    progress.start_clock()
    while progress.step < total_steps and not should_stop():
        wait_started = time.perf_counter()
        images, labels = batches.make_batch(progress.step)
        progress.data_wait_seconds += time.perf_counter() - wait_started
        torch.manual_seed(
            (batches.seed * total_steps + progress.step) % 2**63
        )  # for dropout: a function of seed and step
        progress.add_step(
            *training_step(images, labels, recipe.lr_at_step(progress.step, total_steps))
        )
        is_report_due = progress.step == total_steps or (
            progress.step % report_every == 0 and total_steps - progress.step > report_every / 2
        )
        if is_report_due or time.monotonic() - last_checked > FINITE_CHECK_SECONDS:
            require_finite_losses(progress, record)
            last_checked = time.monotonic()
        line = None
        if is_report_due:
            progress.stop_clock()
            last_report_step = progress.step - len(progress.losses)
            line = make_metrics_line(
                progress,
                recipe,
                batches,
                evaluate_network(net, dev_images, batches.mean, batches.std, machine)
                if dev_images
                else None,
            )
            if line["dev_error"] is not None and (
                progress.best_dev_error is None or line["dev_error"] < progress.best_dev_error
            ):
                progress.best_dev_error = line["dev_error"]
                save_best()
            if machine.group.is_main:
                record.append_metrics(line)
            if last_report_step < learning_start_deadline(recipe, total_steps) <= progress.step:
                progress.note = warning_if_stalled(line, batches)
            progress.start_clock()
        on_progress(progress, line)
        progress.note = ""
        if checkpoint_policy.is_due(time.monotonic() - last_saved, progress.step):
            save_training_state(record, training_step, progress, checkpoint_policy)
            last_saved = time.monotonic()
    save_training_state(record, training_step, progress, checkpoint_policy)
    return progress


def make_metrics_line(
    progress: TrainingProgress,
    recipe: Recipe,
    batches: TrainingBatches,
    dev_score: EvaluationScore | None,
) -> MetricsRow:
    """A line for the record, over the steps since the line before."""
    losses, wrong_counts = progress.pop_step_results()
    return {
        "step": progress.step,
        "epoch": progress.step * recipe.batch_size / len(batches.images),
        "lr": recipe.lr_at_step(progress.step - 1, progress.total_steps),
        "loss": losses.mean().item(),
        "train_error": wrong_counts.sum().item() / (len(wrong_counts) * recipe.batch_size),
        "dev_error": dev_score.error if dev_score else None,
        "dev_loss": dev_score.loss if dev_score else None,
        "seconds": progress.seconds,
    }


def learning_start_deadline(recipe: Recipe, total_steps: int) -> int:
    """The step by which a run should have begun to learn: 400 or the warm-up's end, or half of a short run; our choice."""
    return min(max(400, recipe.warmup.steps if recipe.warmup else 0), total_steps // 2)


def warning_if_stalled(line: MetricsRow, batches: TrainingBatches) -> str:
    """A sentence where the training error is still near chance: above 80 % of ten classes (He et al. 2015, section 4.2)."""
    chance_error = 1 - batches.images.labels.bincount().max().item() / len(batches.images)
    train_error = line["train_error"] or 0.0
    if train_error <= chance_error * 8 / 9:
        return ""
    return (
        f"the training error is still {100 * train_error:.0f} % at step {line['step']:,.0f}, where guessing gives {100 * chance_error:.0f} %: "
        "a deep net may need a lower rate (--set schedule.lr=...), a warm-up (--recipe he2016), or, if it is plain, shortcuts"
    )


def require_finite_losses(progress: TrainingProgress, record: RunRecord) -> None:
    """Wait for the device, and raise TrainingError where a loss since the last line is not finite."""
    losses = torch.stack(progress.losses) if progress.losses else torch.zeros(1)
    if not losses.isfinite().all():
        first_bad = int((~losses.isfinite()).nonzero()[0])
        step = progress.step - len(losses) + first_bad + 1
        raise TrainingError(
            f"the loss is {losses[first_bad].item()} at step {step:,} of {progress.total_steps:,}: {suggest_divergence_fix(record)}"
        )


def suggest_divergence_fix(record: RunRecord) -> str:
    checkpoint_note = (
        "the last good checkpoint is kept"
        if checkpoint.list_checkpoints(record.checkpoints_folder)
        else "no checkpoint was due before"
    )
    return f"{checkpoint_note}; try a lower learning rate (--set schedule.lr=...) or a warm-up, with another --out"


def save_training_state(
    record: RunRecord,
    training_step: TrainingStep,
    progress: TrainingProgress,
    checkpoint_policy: CheckpointPolicy,
) -> None:
    """Write a checkpoint of all that the rest of the run is a function of; TrainingError rather than one of no use."""
    require_finite_losses(progress, record)
    progress.stop_clock()
    if not all(parameter.isfinite().all() for parameter in training_step.net.parameters()):
        raise TrainingError(
            f"weights are not finite after step {progress.step:,} of {progress.total_steps:,}: {suggest_divergence_fix(record)}"
        )
    unreported = {
        name: torch.stack(values)
        for name, values in (("losses", progress.losses), ("wrong", progress.wrong_counts))
        if values
    }
    groups = {
        "net": training_step.net.state_dict(),
        "optimiser": training_step.optimiser_state(),
        "since": unreported,
    }
    scalars = {
        "step": progress.step,
        "seconds": progress.seconds,
        "best": progress.best_dev_error,
        "waited": progress.data_wait_seconds,
    }
    if training_step.machine.group.is_main:
        checkpoint.write_checkpoint(
            record.checkpoints_folder,
            progress.step,
            groups,
            scalars | {"processes": training_step.machine.group.world_size},
            checkpoint_policy.keep_last,
        )
    progress.start_clock()


def restore_training_state(
    record: RunRecord, training_step: TrainingStep, total_steps: int
) -> TrainingProgress:
    """The progress, weights and optimiser state of the record's newest whole checkpoint, or a fresh start."""
    group = training_step.machine.group
    newest_checkpoint = group.broadcast_from_rank0(
        lambda: checkpoint.load_newest_intact(record.checkpoints_folder)
    )
    if newest_checkpoint is None:
        if group.is_main:
            record.truncate_metrics_after(0)
        return TrainingProgress(total_steps)
    groups, scalars, notes = newest_checkpoint
    try:
        training_step.net.load_state_dict(groups["net"])
    except (KeyError, RuntimeError) as error:
        raise RecordError(
            f"{record.checkpoints_folder} holds those of another network: {str(error).splitlines()[0]}"
        ) from error
    training_step.load_optimiser_state(groups.get("optimiser", {}))
    unreported = groups.get("since", {})
    losses, wrong_counts = [
        list(unreported[name].to(training_step.machine.device)) if name in unreported else []
        for name in ("losses", "wrong")
    ]
    progress = TrainingProgress(
        total_steps,
        int(scalars["step"] or 0),
        scalars["seconds"] or 0.0,
        scalars["best"],
        losses,
        wrong_counts,
    )
    if (previous_world_size := int(scalars.get("processes") or 1)) != group.world_size:
        previous_processes = (
            "1 process" if previous_world_size == 1 else f"{previous_world_size} processes"
        )
        notes.append(
            f"begun by {previous_processes}, goes on with {group.world_size}: the same batches, and the same results but for rounding"
        )
    progress.data_wait_seconds, progress.note = scalars["waited"] or 0.0, "; ".join(notes)
    if group.is_main:
        record.truncate_metrics_after(progress.step)
    return progress

"""The training loop: trains a network on batches, and writes metrics and checkpoints."""

import time
from collections.abc import Callable
from contextlib import closing
from math import isfinite

import torch
from torch import nn

from residua.config.recipe import Recipe
from residua.data.batches import TrainingBatches
from residua.data.streamed_images import ImageSet
from residua.record import MetricsRow, RunRecord
from residua.training.checkpoint import DEFAULT_CHECKPOINT_POLICY, CheckpointPolicy
from residua.training.evaluate import EvaluationScore, evaluate_network
from residua.training.machine import Machine
from residua.training.progress import ProgressListener, TrainingProgress
from residua.training.step import TrainingStep, make_training_step
from residua.training.training_state import (
    require_finite_losses,
    restore_training_state,
    save_training_state,
)

# Python runs ahead of the GPU.  Reading a loss waits for the GPU, so losses are read rarely.
FINITE_CHECK_SECONDS = 10.0


def fit_network(
    net: nn.Module,
    batches: TrainingBatches,
    recipe: Recipe,
    *,
    dev_images: ImageSet | None,
    machine: Machine,
    record: RunRecord,
    checkpoint_policy: CheckpointPolicy = DEFAULT_CHECKPOINT_POLICY,
    save_best: Callable[[], None],
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> TrainingProgress:
    """Train `net` to the end of the recipe, from the newest checkpoint of `record` if it has one.

    Once `should_stop()` is true, training writes a checkpoint and stops.  `save_best` is called
    each time the error on `dev_images` is the lowest so far, and `on_progress` after each step.  If
    the run does not start learning, `on_progress` gets a warning in `progress.note`.  If the recipe
    averages weights, `save_best` finds the averaged ones in `net`, and so does the caller after the
    last step.  Raises TrainingError, which names the step, if a loss is not finite.
    """
    total_steps = recipe.total_steps(len(batches.images))
    training_step = make_training_step(net, recipe, machine)
    progress = restore_training_state(record, training_step, total_steps)
    last_saved = last_checked = time.monotonic()
    net.train()
    progress.start_clock()
    with closing(batches):
        while progress.step < total_steps and not should_stop():
            take_step(training_step, batches, recipe, progress)
            is_report_due = is_metrics_step(progress.step, recipe, batches, total_steps)
            if is_report_due or time.monotonic() - last_checked > FINITE_CHECK_SECONDS:
                require_finite_losses(progress, record)
                last_checked = time.monotonic()
            line = None
            if is_report_due:
                line = evaluate_and_record(
                    training_step, batches, recipe, progress, dev_images, record, save_best
                )
            on_progress(progress, line)
            progress.note = ""
            if checkpoint_policy.is_due(time.monotonic() - last_saved, progress.step):
                save_training_state(record, training_step, progress, checkpoint_policy)
                last_saved = time.monotonic()
    save_training_state(record, training_step, progress, checkpoint_policy)
    if training_step.average and progress.step == total_steps:
        training_step.average.swap_with_weights()
    return progress


def evaluate_and_record(
    training_step: TrainingStep,
    batches: TrainingBatches,
    recipe: Recipe,
    progress: TrainingProgress,
    dev_images: ImageSet | None,
    record: RunRecord,
    save_best: Callable[[], None],
) -> MetricsRow:
    """Evaluate on `dev_images` if there are any, and append a row to metrics.jsonl on rank 0.

    Meanwhile the clock stands still.  Notes for the user are left in `progress.note`.
    """
    net, machine = training_step.net, training_step.machine
    progress.stop_clock()
    last_recorded_step = progress.step - len(progress.losses)
    dev_score = None
    with training_step.averaged_weights():
        if dev_images:
            dev_score = evaluate_network(net, dev_images, batches.mean, batches.std, machine)
        if dev_score and progress.update_best(dev_score.error):
            save_best()
    line = make_metrics_line(progress, recipe, batches, dev_score)
    if machine.group.is_main:
        record.append_metrics(line)
    if last_recorded_step < learning_start_deadline(recipe, progress.total_steps) <= progress.step:
        progress.note = warning_if_stalled(line, batches)
    progress.start_clock()
    return line


def take_step(
    training_step: TrainingStep,
    batches: TrainingBatches,
    recipe: Recipe,
    progress: TrainingProgress,
) -> None:
    """Train on the next batch, and add its loss and error count to `progress`."""
    # dropout depends on seed and step alone, so a resumed run draws the same
    torch.manual_seed((batches.seed * progress.total_steps + progress.step) % 2**63)
    if recipe.probe:
        probe_steps = recipe.count_probe_steps(progress.total_steps)
        training_step.set_probing(progress.step < probe_steps)
    lr = recipe.lr_at_step(progress.step, progress.total_steps)
    stem_lr = recipe.stem_lr_at_step(progress.step, progress.total_steps)
    if recipe.stem:
        training_step.set_stem_training(stem_lr > 0)
    if training_step.can_assemble(batches):
        loss, wrong_count = training_step.train_on_step(batches, progress.step, lr, stem_lr)
    else:
        wait_started = time.perf_counter()
        images, labels = batches.make_batch(progress.step)
        progress.data_wait_seconds += batches.count_wait(time.perf_counter() - wait_started)
        loss, wrong_count = training_step(images, labels, lr, stem_lr)
    if training_step.average:
        training_step.average.update(progress.step)
    progress.add_step(loss, wrong_count)


def is_metrics_step(step: int, recipe: Recipe, batches: TrainingBatches, total_steps: int) -> bool:
    """Return whether a row of metrics.jsonl is due after `step`.

    A row is due once per epoch, or once per hundredth of the run if that is longer, and always
    after the last step.  The last interval is 0.5 to 1.5 times as long as the others.
    """
    interval = max(round(len(batches.images) / recipe.batch_size), total_steps // 100)
    return step == total_steps or (step % interval == 0 and total_steps - step > interval / 2)


def make_metrics_line(
    progress: TrainingProgress,
    recipe: Recipe,
    batches: TrainingBatches,
    dev_score: EvaluationScore | None,
) -> MetricsRow:
    """Make the next row of metrics.jsonl: loss and training error are means since the last row.

    A dev loss that is not finite, e.g. of a very deep net whose running statistics lag behind, is
    written as null, because JSON has no such number.
    """
    losses, wrong_counts = progress.pop_step_results()
    return {
        "step": progress.step,
        "epoch": progress.step * recipe.batch_size / len(batches.images),
        "lr": recipe.lr_at_step(progress.step - 1, progress.total_steps),
        "loss": losses.mean().item(),
        "train_error": wrong_counts.sum().item() / (len(wrong_counts) * recipe.batch_size),
        "dev_error": dev_score.error if dev_score else None,
        "dev_loss": dev_score.loss if dev_score and isfinite(dev_score.loss) else None,
        "seconds": progress.seconds,
    }


def learning_start_deadline(recipe: Recipe, total_steps: int) -> int:
    """Return the step by which a run should have started learning.

    The deadline is step 400 or the end of the warm-up, whichever is later, but at most half of the
    run's steps.  This rule is our choice.
    """
    return min(max(400, recipe.warmup.steps if recipe.warmup else 0), total_steps // 2)


def warning_if_stalled(line: MetricsRow, batches: TrainingBatches) -> str:
    """Return a warning if the training error is still near chance level, otherwise "".

    An error is near chance level if it is above 8/9 of the error of always guessing the largest
    class; with ten classes of equal size this means above 80 % (He et al. 2015, section 4.2).
    """
    chance_error = 1 - batches.images.labels.bincount().max().item() / len(batches.images)
    train_error = line["train_error"] or 0.0
    if train_error <= chance_error * 8 / 9:
        return ""
    return (
        f"the training error is still {100 * train_error:.0f} % at step {line['step']:,.0f}; "
        f"guessing gives {100 * chance_error:.0f} %: a deep net may need a lower learning rate "
        "(--set schedule.lr=...), a warm-up (--recipe he2016), or, if it is plain, shortcuts"
    )

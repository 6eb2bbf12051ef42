"""The loop: batches in, a trained network and its record out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from residua.data.batches import Batches
from residua.data.read import Images
from residua.errors import RecordError, TrainingError
from residua.record import Line, Record
from residua.spec.recipe import Recipe
from residua.train import checkpoint
from residua.train.checkpoint import SAVING, Saving
from residua.train.evaluate import Score, evaluate
from residua.train.machine import Machine
from residua.train.step import Step

CHECK_EVERY = 10.0  # seconds between two looks at the loss, each of which waits for the device


@dataclass
class Progress:
    """How far a run is, and what was seen since the last line of its record."""

    steps: int  # of the whole run
    step: int = 0  # done
    seconds: float = 0.0  # spent on steps, data included, over all sessions
    best: float | None = None  # lowest error on the dev split so far
    losses: list[Tensor] = field(default_factory=list)
    wrong: list[Tensor] = field(default_factory=list)
    begun: float = 0.0  # when the clock was started
    waited: float = 0.0  # of those seconds, in which a step waited for its batch
    note: str = ""  # what the user should hear now

    def add(self, loss: Tensor, wrong: Tensor) -> None:
        self.losses.append(loss)
        self.wrong.append(wrong)
        self.step += 1

    def start(self) -> None:
        """Start the clock of steps; it stands still while the network is evaluated or saved."""
        self.begun = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.begun

    def taken(self) -> tuple[Tensor, Tensor]:
        """Losses and wrong answers of each step since the last call (n,)."""
        losses, wrong = torch.stack(self.losses), torch.stack(self.wrong)
        self.losses, self.wrong = [], []
        return losses, wrong


class Listener(Protocol):
    """Is told of a run's progress; changes nothing."""

    def __call__(self, progress: Progress, line: Line | None) -> None: ...


def fit(
    net: nn.Module,
    batches: Batches,
    recipe: Recipe,
    *,
    dev: Images | None,
    machine: Machine,
    record: Record,
    saving: Saving = SAVING,
    keep_best: Callable[[], None],
    tell: Listener,
    stop: Callable[[], bool],
) -> Progress:
    """Train `net`, from where the record's checkpoint stands to the recipe's end, or, resumable, until `stop()`.

    `keep_best` is called whenever the error on `dev` is the lowest so far.  Raises TrainingError, naming the step, when the
    loss is not finite; a run that does not set out is only told so.
    """
    steps = recipe.length(len(batches.images))
    step = Step(net, recipe.optimiser, machine, recipe.parts, recipe.smoothing, recipe.body_lr)
    progress = restored(record, step, steps)
    report_every = max(round(len(batches.images) / recipe.batch_size), steps // 100)
    saved = checked = time.monotonic()
    net.train()
    progress.start()
    while progress.step < steps and not stop():
        asked = time.perf_counter()
        images, labels = batches.at(progress.step)
        progress.waited += time.perf_counter() - asked
        torch.manual_seed((batches.seed * steps + progress.step) % 2**63)  # for dropout: a function of seed and step
        progress.add(*step(images, labels, recipe.lr(progress.step, steps)))
        due = progress.step == steps or (progress.step % report_every == 0 and steps - progress.step > report_every / 2)
        if due or time.monotonic() - checked > CHECK_EVERY:
            check_finite(progress, record)
            checked = time.monotonic()
        line = None
        if due:
            progress.stop()
            since = progress.step - len(progress.losses)
            line = summary(progress, recipe, batches, evaluate(net, dev, batches.mean, batches.std, machine) if dev else None)
            if line["dev_error"] is not None and (progress.best is None or line["dev_error"] < progress.best):
                progress.best = line["dev_error"]
                keep_best()
            if machine.group.leads:
                record.log(line)
            if since < set_out_by(recipe, steps) <= progress.step:
                progress.note = stalled(line, batches)
            progress.start()
        tell(progress, line)
        progress.note = ""
        if saving.due(time.monotonic() - saved, progress.step):
            save(record, step, progress, saving)
            saved = time.monotonic()
    save(record, step, progress, saving)
    return progress


def summary(progress: Progress, recipe: Recipe, batches: Batches, dev: Score | None) -> Line:
    """A line for the record, over the steps since the line before."""
    losses, wrong = progress.taken()
    return {
        "step": progress.step,
        "epoch": progress.step * recipe.batch_size / len(batches.images),
        "lr": recipe.lr(progress.step - 1, progress.steps),
        "loss": losses.mean().item(),
        "train_error": wrong.sum().item() / (len(wrong) * recipe.batch_size),
        "dev_error": dev.error if dev else None,
        "dev_loss": dev.loss if dev else None,
        "seconds": progress.seconds,
    }


def set_out_by(recipe: Recipe, steps: int) -> int:
    """The step by which a run should have begun to learn: 400 or the warm-up's end, or half of a short run; our choice."""
    return min(max(400, recipe.warmup.steps if recipe.warmup else 0), steps // 2)


def stalled(line: Line, batches: Batches) -> str:
    """A sentence where the training error is still near chance: above 80 % of ten classes (He et al. 2015, section 4.2)."""
    chance = 1 - batches.images.labels.bincount().max().item() / len(batches.images)
    error = line["train_error"] or 0.0
    if error <= chance * 8 / 9:
        return ""
    return (
        f"the training error is still {100 * error:.0f} % at step {line['step']:,.0f}, where guessing gives {100 * chance:.0f} %: "
        "a deep net may need a lower rate (--set schedule.lr=...), a warm-up (--recipe he2016), or, if it is plain, shortcuts"
    )


def check_finite(progress: Progress, record: Record) -> None:
    """Wait for the device, and raise TrainingError where a loss since the last line is not finite."""
    losses = torch.stack(progress.losses) if progress.losses else torch.zeros(1)
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).nonzero()[0])
        step = progress.step - len(losses) + first + 1
        raise TrainingError(f"the loss is {losses[first].item()} at step {step:,} of {progress.steps:,}: {remedy(record)}")


def remedy(record: Record) -> str:
    kept = "the last good checkpoint is kept" if checkpoint.saved(record.checkpoints) else "no checkpoint was due before"
    return f"{kept}; try a lower learning rate (--set schedule.lr=...) or a warm-up, with another --out"


def save(record: Record, step: Step, progress: Progress, saving: Saving) -> None:
    """Write a checkpoint of all that the rest of the run is a function of; TrainingError rather than one of no use."""
    check_finite(progress, record)
    progress.stop()
    if not all(parameter.isfinite().all() for parameter in step.net.parameters()):
        raise TrainingError(f"weights are not finite after step {progress.step:,} of {progress.steps:,}: {remedy(record)}")
    since = {name: torch.stack(kept) for name, kept in (("losses", progress.losses), ("wrong", progress.wrong)) if kept}
    groups = {"net": step.net.state_dict(), "optimiser": step.state(), "since": since}
    facts = {"step": progress.step, "seconds": progress.seconds, "best": progress.best, "waited": progress.waited}
    if step.machine.group.leads:
        checkpoint.save(record.checkpoints, progress.step, groups, facts | {"processes": step.machine.group.size}, saving.last)
    progress.start()


def restored(record: Record, step: Step, steps: int) -> Progress:
    """The progress, weights and optimiser state of the record's newest whole checkpoint, or a fresh start."""
    group = step.machine.group
    found = group.told(lambda: checkpoint.newest(record.checkpoints))
    if found is None:
        if group.leads:
            record.rewind(0)
        return Progress(steps)
    groups, facts, notes = found
    try:
        step.net.load_state_dict(groups["net"])
    except (KeyError, RuntimeError) as error:
        raise RecordError(f"{record.checkpoints} holds those of another network: {str(error).splitlines()[0]}") from error
    step.restore(groups.get("optimiser", {}))
    since = groups.get("since", {})
    losses, wrong = [list(since[name].to(step.machine.device)) if name in since else [] for name in ("losses", "wrong")]
    progress = Progress(steps, int(facts["step"] or 0), facts["seconds"] or 0.0, facts["best"], losses, wrong)
    if (before := int(facts.get("processes") or 1)) != group.size:
        by = "1 process" if before == 1 else f"{before} processes"
        notes.append(f"begun by {by}, goes on with {group.size}: the same batches, and the same results but for rounding")
    progress.waited, progress.note = facts["waited"] or 0.0, "; ".join(notes)
    if group.leads:
        record.rewind(progress.step)
    return progress

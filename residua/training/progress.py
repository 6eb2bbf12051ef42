"""The progress of a run, with the step results since the last row of metrics.jsonl."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from residua.record import MetricsRow

MIN_STEP_VALUES = 1024  # that `StepValues` has memory for


class StepValues:
    """One scalar of each step, in a single tensor that grows.

    If each step kept a scalar tensor of its own, these would stand in a CPU's heap between the
    freed activations of the steps, which could then not be used again as a whole: a process grew by
    0.1 to 0.3 MB a step.
    """

    def __init__(self, values: Tensor | None = None) -> None:
        self.memory = None if values is None else values.clone()
        self.count = 0 if values is None else len(values)

    def __len__(self) -> int:
        return self.count

    def append(self, value: Tensor) -> None:
        """Add the scalar of the next step."""
        if self.memory is None:
            self.memory = value.new_empty(MIN_STEP_VALUES)
        if self.count == len(self.memory):
            more = self.memory.new_empty(max(self.count, MIN_STEP_VALUES))
            self.memory = torch.cat((self.memory, more))
        self.memory[self.count].copy_(value)
        self.count += 1

    def read(self) -> Tensor:
        """Return the scalars (n,) of n steps."""
        return torch.zeros(0) if self.memory is None else self.memory[: self.count].clone()

    def clear(self) -> None:
        """Forget all scalars, and keep the memory for others."""
        self.count = 0


@dataclass
class TrainingProgress:
    """The steps, time and best error of a run so far, and the step results not yet recorded."""

    total_steps: int  # of the whole run
    step: int = 0  # steps done
    seconds: float = 0.0  # spent on steps, including waits for data, over all sessions
    best_dev_error: float | None = None  # lowest error on the dev split so far
    losses: StepValues = field(default_factory=StepValues)  # since the last metrics row
    wrong_counts: StepValues = field(default_factory=StepValues)  # likewise, wrong predictions
    clock_started: float = 0.0  # time.perf_counter() when the clock was last started
    data_wait_seconds: float = 0.0  # the part of `seconds` in which a step waited for its batch
    note: str = ""  # a message to show to the user now

    def add_step(self, loss: Tensor, wrong_count: Tensor) -> None:
        self.losses.append(loss)
        self.wrong_counts.append(wrong_count)
        self.step += 1

    def update_best(self, dev_error: float) -> bool:
        """Record an error on the dev split; return whether it is the lowest so far."""
        if self.best_dev_error is not None and dev_error >= self.best_dev_error:
            return False
        self.best_dev_error = dev_error
        return True

    @property
    def data_wait(self) -> float:
        """The share of `seconds` in which steps waited for their batches."""
        return self.data_wait_seconds / self.seconds if self.seconds else 0.0

    def start_clock(self) -> None:
        """Start the clock that counts `seconds`; it stands still in evaluations and checkpoints."""
        self.clock_started = time.perf_counter()

    def stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self.clock_started

    def pop_step_results(self) -> tuple[Tensor, Tensor]:
        """Return and clear the step results since the last call.

        These are the losses (n,) and the numbers of wrong predictions (n,) of n steps.
        """
        losses, wrong_counts = self.losses.read(), self.wrong_counts.read()
        self.losses.clear()
        self.wrong_counts.clear()
        return losses, wrong_counts


class ProgressListener(Protocol):
    """A callback that is called after each step, with the new row of metrics.jsonl, if any.

    The callback must not modify its arguments.
    """

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None: ...


def call_listeners(*listeners: ProgressListener) -> ProgressListener:
    """Return a listener that calls several ones, in this order."""

    def call_each_listener(progress: TrainingProgress, line: MetricsRow | None) -> None:
        for listener in listeners:
            listener(progress, line)

    return call_each_listener


class CountListener(Protocol):
    """A callback that gets the number of finished items and the number of all items."""

    def __call__(self, done: int, total: int, /) -> None: ...


class NamedCountListener(Protocol):
    """A callback that gets a task's name, how many of its items are done, and their total."""

    def __call__(self, name: str, done: int, total: int, /) -> None: ...

"""What a recipe does at each step: the learning rates, and the size of the images."""

from residua.config.schedules import Schedule, Warmup
from residua.errors import UsageError

MAX_STEPS = 10**9  # a GPU takes weeks for so many steps; our choice


class TrainingPhases:
    """The part of `Recipe` that says what happens at which step, from fields of `Recipe`."""

    __slots__ = ()

    batch_size: int
    steps: int
    epochs: float
    schedule: Schedule
    warmup: Warmup | None
    probe: float
    sizes: tuple[float, ...]
    stem: float
    train_size: int

    def total_steps(self, num_images: int) -> int:
        """Return the number of steps of a complete run on `num_images` training images."""
        total_steps = self.steps or max(1, round(self.epochs * num_images / self.batch_size))
        check_step_limit(total_steps)
        return total_steps

    def lr_at_step(self, step: int, total_steps: int) -> float:
        """Return the learning rate at `step`, counted from 0, in a run of `total_steps` steps.

        The schedule and the warm-up start anew when the phase `probe` ends.
        """
        probe_steps = self.count_probe_steps(total_steps)
        if step < probe_steps:
            phase_steps = probe_steps
        else:
            step, phase_steps = step - probe_steps, total_steps - probe_steps
        rate = self.schedule.lr_at_progress(step / phase_steps)
        if self.warmup and step < min(self.warmup.steps, phase_steps // 10):
            return min(self.warmup.lr, rate)
        return rate

    def count_probe_steps(self, total_steps: int) -> int:
        """Return the number of first steps, of `total_steps`, that train only the last layer.

        At least one step is left in which all layers are trained.
        """
        return min(round(self.probe * total_steps), total_steps - 1)

    def require_probe_step(self, total_steps: int) -> None:
        """Raise UsageError if `probe` is set, but its phase has no step of `total_steps`."""
        if self.probe and not self.count_probe_steps(total_steps):
            raise UsageError(
                f"probe={self.probe:g} is less than one of {total_steps:,} steps: raise probe, or "
                "leave it out"
            )

    def full_train_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the training images; `input_size` is that of the network."""
        return (self.train_size, self.train_size) if self.train_size else input_size

    def size_at_step(self, step: int, total_steps: int) -> float:
        """Return the side of the training images at `step`, as a share of the full side."""
        return self.sizes[step * len(self.sizes) // total_steps] if self.sizes else 1.0

    def stem_lr_at_step(self, step: int, total_steps: int) -> float:
        """Return the learning rate of the stem at `step`; with `stem`, it falls to 0 on its own."""
        if not self.stem:
            return self.lr_at_step(step, total_steps)
        return self.schedule.lr * max(0.0, 1 - step / self.count_stem_steps(total_steps))

    def count_stem_steps(self, total_steps: int) -> int:
        """Return the number of first steps, of `total_steps`, that train the stem."""
        return max(1, round(self.stem * total_steps)) if self.stem else total_steps


def check_step_limit(steps: int) -> None:
    """Raise UsageError if a run has too many steps to ever finish."""
    if steps > MAX_STEPS:
        raise UsageError(f"training for {steps:,} steps is too long: give at most {MAX_STEPS:,}")

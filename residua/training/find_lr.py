"""The learning-rate range test (Smith 2017): train while the learning rate rises, and look when.

The test trains the network of a run with the run's own batches and training step, and keeps
nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, sqrt
from pathlib import Path
from statistics import median

import torch
from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.batches import make_training_batches
from residua.data.read import read_training_splits
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary, ignore_summary
from residua.errors import UsageError
from residua.net.model_folder import build_untrained
from residua.training.added_classes import extend_head
from residua.training.initial_weights import load_initial_weights
from residua.training.machine import Machine
from residua.training.memory import require_enough_memory
from residua.training.prepared_network import (
    prepare_network_for_recipe,
    require_recipe_suits_data,
)
from residua.training.prepared_run import start_stem_from_images
from residua.training.progress import CountListener
from residua.training.step import make_training_step

LOWEST_LR, HIGHEST_LR = 1e-6, 10.0  # our choice; fastai has 1e-7 and 10
MIN_TEST_STEPS, MAX_TEST_STEPS = 100, 10_000  # windows of fewer steps are mostly noise; our choice
DIVERGENCE_FACTOR = 4.0  # as in fastai
WINDOW_SHARE = 0.1  # of the test's steps, over which losses are averaged; our choice
MIN_FALL = 0.02  # of the first loss; our choice
MIN_FALL_ERRORS = 3.0  # standard errors of the difference of two windows; our choice
# of a difference of two values with the same normal distribution: median of its size over their std
DIFFERENCE_MEDIAN = 0.6745 * sqrt(2)


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The result of a range test; lists have one entry per step that was taken.

    rates       learning rates of the last layer, rising by a constant factor
    losses      mean training loss of each batch, before its update
    smoothed    mean of the losses in a window around each step
    window      number of steps in a window
    diverged    whether the test stopped because the loss grew, or was not finite
    overflowed  whether the loss was not finite at the rate after the last of `rates`
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    window: int
    diverged: bool
    overflowed: bool = False

    @property
    def lowest_index(self) -> int:
        """The step at which the smoothed loss is lowest, of those amid a full window, if any."""
        half = self.window // 2
        full = range(half, len(self.smoothed) - half) or range(len(self.smoothed))
        return min(full, key=self.smoothed.__getitem__)

    @property
    def lowest_loss_lr(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[self.lowest_index]

    @property
    def steepest_lr(self) -> float:
        """The rate around which the loss falls fastest, per factor of the rate.

        The slopes are those of straight lines fitted to the losses of two windows of steps.
        """
        span = min(2 * self.window, len(self.losses))
        offsets = [i - (span - 1) / 2 for i in range(span)]
        slopes = [  # times a constant
            sum(x * y for x, y in zip(offsets, self.losses[i : i + span], strict=True))
            for i in range(len(self.losses) - span + 1)
        ]
        steepest = min(range(len(slopes)), key=slopes.__getitem__)
        return self.rates[steepest + span // 2]

    @property
    def suggested_lr(self) -> float | None:
        """The smaller of `steepest_lr` and a tenth of `lowest_loss_lr`; None if no loss fell.

        fastai offers both; to take the smaller is our choice.  A loss has fallen if the lowest
        smoothed one is below the mean of the first window by more than noise, and by at least 2 %,
        and if the fall is steepest before the loss is lowest.
        """
        first = self.losses[: self.window]
        start = sum(first) / len(first)
        least_fall = max(MIN_FALL * start, MIN_FALL_ERRORS * sqrt(2) * self.window_error)
        is_fall = start - self.smoothed[self.lowest_index] >= least_fall
        if not is_fall or self.steepest_lr > self.lowest_loss_lr:
            return None
        return min(self.steepest_lr, self.lowest_loss_lr / 10)

    @property
    def window_error(self) -> float:
        """The standard error of the mean loss of a window, from differences of successive losses.

        Their median is that of noise alone, because the loss changes slowly, and grows only in the
        last steps.
        """
        differences = [abs(after - before) for before, after in pairwise(self.losses)]
        return median(differences) / DIFFERENCE_MEDIAN / sqrt(self.window)

    @property
    def json(self) -> dict[str, Json]:
        """The result, as `residua find-lr --json` prints it."""
        rows = zip(self.rates, self.losses, self.smoothed, strict=True)
        return {
            "suggested_lr": self.suggested_lr,
            "steepest_lr": self.steepest_lr,
            "lowest_loss_lr": self.lowest_loss_lr,
            "steps": len(self.rates),
            "diverged": self.diverged,
            "curve": [
                {"lr": rate, "loss": loss, "smoothed_loss": mean} for rate, loss, mean in rows
            ],
        }


def run_range_test(
    run: Run,
    data: Dataset,
    machine: Machine,
    *,
    initial_weights: Path | None = None,
    data_dir: Path | None = None,
    steps: int,
    on_data: Callable[[DataSummary], None] = ignore_summary,
    on_step: CountListener,
) -> RangeTest:
    """Train the network of `run` with a learning rate that grows from 1e-6 to 10.

    The test stops when the mean of the last losses is four times the lowest such mean, or is not
    finite.  All layers are trained on images of full size, whatever `probe` and `sizes` of the
    recipe are.  `on_data` is called with a summary of the data, and `on_step` after each
    step.  Raises UsageError if the number of steps is out of range, if the model is not trained by
    gradient descent, or if the data does not allow the recipe.
    """
    if not MIN_TEST_STEPS <= steps <= MAX_TEST_STEPS:
        raise UsageError(f"{steps} steps are invalid: give {MIN_TEST_STEPS} to {MAX_TEST_STEPS:,}")
    if run.recipe is None or not isinstance(run.network, Network):
        raise UsageError(f"{run.network.name} is not trained by steps: choose another --model")
    require_recipe_suits_data(run.recipe, data)
    require_enough_memory(run, plan(run.network), data, machine)
    recipe = replace(run.recipe, probe=0.0, sizes=(), ema=0.0)
    images, dev_images = read_training_splits(data, data_dir, holds_out_dev=recipe.dev)
    on_data(summarize_training_data(data, images, dev_images))
    images = images.to(machine.device)
    net: nn.Module = build_untrained(run.network, run.seed)
    mean, std = data.mean, data.std
    if initial_weights is not None:
        weights, mean, std = load_initial_weights(initial_weights, run.network, data)
        if run.add_class:
            weights |= extend_head(net, run.network, initial_weights)
        net.load_state_dict({**net.state_dict(), **weights})
    else:
        start_stem_from_images(net, images, data)
    net = prepare_network_for_recipe(net, run, recipe, machine).train()
    batches = make_training_batches(images, recipe, data, mean, std, run.seed, None)
    training_step = make_training_step(net, recipe, machine)
    rates = [LOWEST_LR * (HIGHEST_LR / LOWEST_LR) ** (i / (steps - 1)) for i in range(steps)]
    window = max(round(WINDOW_SHARE * steps), 3)
    losses: list[float] = []
    with closing(batches):
        for i, rate in enumerate(rates):
            torch.manual_seed((run.seed * steps + i) % 2**63)  # of dropout, as in the training loop
            loss, _ = training_step(*batches.make_batch(i), rate)
            losses.append(loss.item())
            on_step(i + 1, steps)
            if has_diverged(losses, window):
                return make_range_test(rates, losses, window, diverged=True)
    return make_range_test(rates, losses, window, diverged=False)


def has_diverged(losses: Sequence[float], window: int) -> bool:
    """Return whether the last loss is not finite, or the mean of the last `window` losses is high.

    High means above `DIVERGENCE_FACTOR` times the lowest mean of so many losses in a row, and above
    the mean of the first ones.
    """
    if not isfinite(losses[-1]):
        return True
    if len(losses) < window:
        return False
    means = [sum(losses[i : i + window]) / window for i in range(len(losses) - window + 1)]
    return means[-1] > max(DIVERGENCE_FACTOR * min(means), means[0])


def make_range_test(
    rates: Sequence[float], losses: list[float], window: int, diverged: bool
) -> RangeTest:
    """Smooth the losses and make the result; losses that are not finite are left out.

    Raises UsageError if fewer than three losses are finite.
    """
    finite = [loss for loss in losses if isfinite(loss)]
    if len(finite) < 3:
        raise UsageError(
            f"the loss is not finite at a learning rate of {rates[len(finite)]:.3g}: "
            "check the images with residua data check, or start from other weights"
        )
    half = window // 2
    smoothed = []
    for i in range(len(finite)):
        around = finite[max(i - half, 0) : i + half + 1]
        smoothed.append(sum(around) / len(around))
    overflowed = len(finite) < len(losses)
    return RangeTest(list(rates[: len(finite)]), finite, smoothed, window, diverged, overflowed)

"""The variants in the tables of He et al. 2016 train."""

from dataclasses import replace
from math import isfinite

import pytest
import torch

from residua.config.dataset import get_dataset
from residua.config.network import Unit
from residua.config.orders import ORDERS
from residua.config.papers import SHORTCUT_ABLATIONS, network
from residua.config.recipes import recipe
from residua.data.batches import TrainingBatches
from residua.data.read import read_split
from residua.net.build import build
from residua.training.machine import Machine
from residua.training.step import TrainingStep

DIGITS = get_dataset("digits")
ABLATION_ROWS = {f"Table 1: {row}": unit for row, unit in SHORTCUT_ABLATIONS.items()}
ABLATION_ROWS |= {
    f"Table 2: {name}": Unit(order=order) for name, order in ORDERS.items() if "bn" in order.each
}
ABLATION_ROWS |= {
    f"Table 3: 1-layer skip, {order}": Unit(kernels=(3,), order=ORDERS[order])
    for order in ("original", "full-preact")
}


def compute_losses(unit, steps=50):
    """The loss of each step of a 20-layer net, trained by the recipe `small`."""
    small_recipe = recipe("small").with_duration(steps=steps)
    base = network("cifar-resnet20", input=DIGITS.input)
    units = 18 // (3 * len(unit.kernels))
    spec = replace(
        base, unit=unit, stages=tuple(replace(stage, units=units) for stage in base.stages)
    )
    batches = TrainingBatches(
        read_split(DIGITS, "train"),
        small_recipe.batch_size,
        small_recipe.augment.adapt_to_dataset(DIGITS),
        DIGITS.mean,
        DIGITS.std,
        0,
    )
    step = TrainingStep(build(spec), small_recipe.optimiser, Machine(torch.device("cpu"), "fp32"))
    step_losses = []
    for i in range(steps):
        torch.manual_seed(i)
        step_losses.append(
            step(*batches.make_batch(i), small_recipe.lr_at_step(i, steps))[0].item()
        )
    return step_losses


@pytest.mark.parametrize("row", ABLATION_ROWS)
def test_every_shortcut_ablation_trains_for_50_steps(row):
    found = compute_losses(ABLATION_ROWS[row])
    assert all(map(isfinite, found))
    if (
        row != "Table 1: exclusive gating"
    ):  # whose gates of bias -6 let 0.2 % of each branch through at the start
        assert sum(found[-5:]) / 5 < 0.75 * found[0], (
            found
        )  # at 20 layers even the rows that fail at 110 begin to learn

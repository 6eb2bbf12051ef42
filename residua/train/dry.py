"""What a run would do, without doing it."""

import time
from pathlib import Path

from residua.data.batches import Batches
from residua.data.read import read
from residua.net.build import build
from residua.spec.dataset import dataset
from residua.spec.memory import activation_bytes
from residua.spec.plan import plan
from residua.spec.recipe import Recipe
from residua.spec.run import Run
from residua.spec.text import Json
from residua.train.machine import Machine
from residua.train.step import Step

TIMED = 3  # steps, after one that is not timed


def outline(run: Run, machine: Machine, data_dir: Path | None) -> dict[str, Json]:
    """The plan of a run: sizes, steps, the learning rate at each change, and the time a few real steps let expect."""
    planned, data = plan(run.network), dataset(run.dataset)
    recipe = run.recipe.for_depth(planned.depth)
    images = read(data, "train", data_dir).to(machine.device)
    batches = Batches(images, recipe.batch_size, recipe.augment.on(data), data.mean, data.std, run.seed)
    steps = recipe.length(len(images))
    return {
        "model": planned.network.name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "activation_bytes": recipe.batch_size * activation_bytes(planned),
        "data": run.dataset,
        "training_images": len(images),
        "recipe": recipe.name,
        "batch_size": recipe.batch_size,
        "steps": steps,
        "epochs": steps * recipe.batch_size / len(images),
        "learning_rates": [{"step": step, "lr": rate} for step, rate in changes(recipe, steps)],
        "weight_decay_on": recipe.optimiser.decay,
        "precision": machine.precision,
        "estimated_seconds": steps * seconds_a_step(run, recipe, batches, machine),
    }


def changes(recipe: Recipe, steps: int) -> list[tuple[int, float]]:
    """(step, rate) wherever the rate changes; for a rate that always changes, at ten places."""
    rates = [recipe.lr(step, steps) for step in range(steps)]
    places = [step for step in range(steps) if step == 0 or rates[step] != rates[step - 1]]
    if len(places) > 10:
        places = [steps * i // 10 for i in range(10)]
    return [(step, rates[step]) for step in places]


def seconds_a_step(run: Run, recipe: Recipe, batches: Batches, machine: Machine) -> float:
    net = machine.place(build(run.network, run.seed))
    step = Step(net, recipe.optimiser, machine)
    for i in range(1 + TIMED):
        if i == 1:
            begun = time.perf_counter()
        loss, _ = step(*batches.at(i), lr=0.0)
        loss.item()  # waits for the device
    return (time.perf_counter() - begun) / TIMED

"""What a run would do, without doing it."""

import time
from functools import partial
from math import prod
from pathlib import Path

from residua.data.batches import Batches, batches_of
from residua.data.folder import data_of
from residua.data.read import Images, read
from residua.net.build import build
from residua.spec.dataset import Dataset
from residua.spec.memory import activation_bytes
from residua.spec.network import Network
from residua.spec.plan import Plan, plan
from residua.spec.recipe import Recipe
from residua.spec.run import Run
from residua.spec.text import Json
from residua.spec.vlad import VladClassifier
from residua.train.machine import Machine
from residua.train.memory import foreseen, refuse_too_large
from residua.train.parallel import share
from residua.train.step import Step
from residua.train.synced import synchronise

TIMED = 3  # steps, after one that is not timed


def outline(run: Run, machine: Machine, data_dir: Path | None) -> dict[str, Json]:
    """The plan of a run; that of VLAD holds no time, for nobody knows before how long an SVM takes."""
    data = data_of(run.dataset, run.network.input)
    if isinstance(run.network, Network):
        refuse_too_large(run, plan(run.network), machine)  # for it takes steps, too
    images = machine.group.first_here(partial(read, data, "train", data_dir)).to(machine.device)
    if isinstance(run.network, VladClassifier):
        return outline_fit(run.network, run.dataset, images)
    return outline_steps(run, data, plan(run.network), images, machine)


def outline_fit(value: VladClassifier, dataset: str, images: Images) -> dict[str, Json]:
    """Sizes; `descriptor_bytes` are those of all training images, and the SVM needs up to twice as many beside them."""
    return {
        "model": value.name,
        "parameters": value.parameters,
        "data": dataset,
        "training_images": len(images),
        "patches_per_image": prod(value.places),
        "descriptor_numbers": value.numbers,
        "descriptor_bytes": 8 * len(images) * value.numbers,
        "precision": "fp32",
    }


def outline_steps(run: Run, data: Dataset, planned: Plan, images: Images, machine: Machine) -> dict[str, Json]:
    """Sizes, steps, the learning rate at each change, and the time a few real steps let expect.

    `activation_bytes` and those of memory are of one process, which keeps one part at a time.
    """
    recipe, group = run.recipe_for(planned.depth), machine.group
    shared = share(recipe, group)
    memory = foreseen(run, planned, machine)
    batches = batches_of(images, recipe, data, data.mean, data.std, run.seed, shared)
    steps = recipe.length(len(images))
    return {
        "model": planned.network.name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "activation_bytes": recipe.batch_size // max(recipe.parts, group.size) * activation_bytes(planned),
        "recompute": machine.recompute,
        "memory_bytes": memory.total,
        "memory_activations_bytes": memory.activations,
        "memory_weights_bytes": memory.weights,
        "memory_data_bytes": memory.data,
        "data": run.dataset,
        "training_images": len(images),
        "recipe": recipe.name,
        "batch_size": recipe.batch_size,
        "steps": steps,
        "epochs": steps * recipe.batch_size / len(images),
        "learning_rates": [{"step": step, "lr": rate} for step, rate in changes(recipe, steps)],
        "weight_decay_on": recipe.optimiser.decay,
        "precision": machine.precision,
        "estimated_seconds": steps * seconds_a_step(planned.network, recipe, batches, machine),
    }


def changes(recipe: Recipe, steps: int) -> list[tuple[int, float]]:
    """(step, rate) wherever the rate changes; for a rate that always changes, at ten places."""
    rates = [recipe.lr(step, steps) for step in range(steps)]
    places = [step for step in range(steps) if step == 0 or rates[step] != rates[step - 1]]
    if len(places) > 10:
        places = [steps * i // 10 for i in range(10)]
    return [(step, rates[step]) for step in places]


def seconds_a_step(network: Network, recipe: Recipe, batches: Batches, machine: Machine) -> float:
    net = machine.place(synchronise(build(network, batches.seed), recipe.parts, machine))
    step = Step(net, recipe.optimiser, machine, recipe.parts, recipe.smoothing, recipe.body_lr)
    for i in range(1 + TIMED):
        if i == 1:
            begun = time.perf_counter()
        loss, _ = step(*batches.at(i), lr=0.0)
        loss.item()  # waits for the device
    return (time.perf_counter() - begun) / TIMED

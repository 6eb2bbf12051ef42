"""List the training recipes, or every field of one with its value and its meaning."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from jsonargparse import Namespace

from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.config.augmentation import Augmentation
from residua.config.optimisers import AdamW, Muon, Optimiser, RmsProp, Sgd
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPE_PURPOSES, RECIPES, recipe
from residua.config.registry import registered_kinds, stored_kind_of
from residua.config.schedules import LinearDecay, OneCycle, StepDecay, Warmup
from residua.config.serialize import Json, stored_key, to_json
from residua.console.output import print_result

DECAY_MEANING = "what is decayed: all, or weights (neither BN parameters nor biases)"
SCHEDULE_KINDS = ("Drops", "OneCycle", "LinearDecay")

FIELD_MEANINGS: dict[type, dict[str, str]] = {
    Recipe: {
        "name": "the name in reports",
        "batch_size": "images per step, summed over all processes (also --batch-size)",
        "steps": "duration in steps, or 0 if epochs is set (also --steps)",
        "epochs": "duration in passes over the training images, or 0 (also --epochs)",
        "optimiser": "the update rule: {optimisers} (also --optimizer)",
        "schedule": "the learning rate over the run: {schedules}",
        "warmup": "lower learning rate in the first steps of deep networks, or null",
        "augment": "random changes of the training images",
        "parts": "equal parts of a batch, each with its own BN statistics; their gradients are "
        "averaged (also accumulate)",
        "smoothing": "label smoothing: the share of each label spread over all classes",
        "balance": "draw all classes equally often (also --balance)",
        "freeze": "train only the last layer (also --freeze)",
        "body_lr": "factor on the learning rate of all layers except the last",
        "layer_decay": "factor on the learning rate from each stage to the one before it",
        "probe": "share of the run, at its start, in which only the last layer is trained",
        "bn": "running statistics of BN: train, frozen, or reestimated after the last step",
        "ema": "decay per step of an average of the weights, which is saved; 0: no average",
        "clip_norm": "largest norm of all gradients together; 0: no limit",
        "sizes": "sides of the images, as shares of the full side, over equal parts of the run",
        "stem": "share of the run, at its start, in which the stem is trained; 0: all of it",
        "dev": "hold out the dev images; false trains on them too",
        "repeats": "how often each image is in a batch, each time augmented anew",
        "train_size": "side of the training images in pixels; 0: as in evaluation",
        "test_resize": "shorter side of a test photograph before the crop; 0: 8/7 of the crop",
        "stored_side": "shorter side of whole training photographs; 0: as in evaluation",
        "views": "views of a test image that are averaged: none, mirror, 10 or six",
    },
    Sgd: {
        "momentum": "share of the last update that is kept",
        "weight_decay": "weight decay, added to the gradient (also --weight-decay)",
        "nesterov": "use Nesterov's momentum",
        "decay": DECAY_MEANING,
    },
    AdamW: {
        "beta1": "decay of the mean of gradients, per step",
        "beta2": "decay of the mean of squared gradients, per step",
        "weight_decay": "decoupled weight decay (also --weight-decay)",
        "decay": DECAY_MEANING,
    },
    RmsProp: {
        "smoothing": "decay of the mean of squared gradients, per step",
        "momentum": "share of the last update that is kept",
        "weight_decay": "weight decay, added to the gradient (also --weight-decay)",
        "decay": DECAY_MEANING,
    },
    Muon: {
        "momentum": "share of the last update that is kept",
        "weight_decay": "decoupled weight decay of the units' weights (also --weight-decay)",
        "share": "factor on the learning rate of all other parameters",
        "rounds": "Newton-Schulz steps of the orthogonalisation",
        "normalise_weights": "scale the units' weights to the norm sqrt(outputs) before each step",
        "others_momentum": "momentum of all other parameters, or null for the same",
        "others_decay": "weight decay of all other parameters",
        "head_scale": "factor on the learning rate of the last layer, or null for share",
    },
    StepDecay: {
        "lr": "learning rate at the start (also --lr)",
        "at": "fractions of the run at which the rate drops",
        "factor": "factor on the rate at each drop",
    },
    OneCycle: {
        "lr": "highest learning rate (also --lr)",
        "rise": "fraction of the run in which the rate rises",
    },
    LinearDecay: {
        "lr": "highest learning rate (also --lr)",
        "floor": "rate at the end, as a share of the highest",
        "rise": "fraction of the run in which the rate rises",
    },
    Warmup: {
        "lr": "highest learning rate during the warm-up",
        "steps": "steps of the warm-up, at most a tenth of the run",
        "from_depth": "layers from which a network is warmed up",
    },
    Augmentation: {
        "pad": "pixels of padding before a random crop",
        "flip": "mirror half of the images, if the data set allows it",
        "cut": "side in pixels of a square that is filled with the mean colour",
        "area": "smallest share of the image's area in a random resized crop; 1: no such crop",
        "stretch": "largest change of the aspect ratio in a random resized crop",
        "colour": "largest change of brightness, contrast and saturation, as a fraction",
        "trivial": "apply TrivialAugment",
        "mixup": "probability of blending an image with another one",
        "cutmix": "probability of pasting a box of another image into an image",
        "extra": "registered transforms of your own, as JSON",
        "randaugment": "random changes of each image by RandAugment; 0: none",
        "magnitude": "strength of RandAugment's changes, 0 to 30",
        "pad_mode": "what the padding shows: mean (colour), or reflect (the image)",
        "alternate_flip": "mirror each image in every second epoch, not at random",
        "shorter_side": "lowest and highest of the random shorter sides that are cropped; []: none",
        "pca_colour": "standard deviation of the shares of ImageNet's colour components; 0: none",
        "erasing": "probability of filling a random box with the mean colour",
        "mixup_alpha": "of the beta distribution of mixup's proportion; 1: uniform",
    },
}
"""What each field of a recipe and of its parts means, by the key that `--set` uses."""


class RecipeField(NamedTuple):
    """One field of a recipe, in the notation of `--set`: `path=value`, where `value` is JSON."""

    path: str
    value: Json
    meaning: str


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "name", nargs="?", completions=RECIPES, help="list the fields of this recipe"
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.name is None:
        recipes = [make_recipe_json(listed) for listed in RECIPES.values()]
        print_result({"recipes": recipes}, format_recipe_table(), arguments.json)
        return
    chosen = recipe(arguments.name)
    recipe_fields = list(iterate_fields(chosen))
    facts = make_recipe_json(chosen) | {"fields": [item._asdict() for item in recipe_fields]}
    print_result(facts, format_recipe_fields(chosen.name, recipe_fields), arguments.json)


def make_recipe_json(listed: Recipe) -> dict[str, Json]:
    return {
        "name": listed.name,
        "purpose": RECIPE_PURPOSES[listed.name],
        "epochs": listed.epochs,
        "steps": listed.steps,
        "batch_size": listed.batch_size,
        "schedule": stored_kind_of(type(listed.schedule)),
        "lr": listed.schedule.lr,
        "optimiser": stored_kind_of(type(listed.optimiser)),
    }


def format_recipe_table() -> str:
    """Format a table with one line per recipe, followed by how to see and change their fields."""
    width = max(map(len, RECIPES))
    titles = f"{'length':14} {'batch':>5}  {'learning rate':16} {'optimiser':10} for"
    lines = [f"{'name':{width}} {titles}"]
    for listed in RECIPES.values():
        length = f"{listed.steps:,} steps" if listed.steps else f"{listed.epochs:g} epochs"
        rate = f"{stored_kind_of(type(listed.schedule))} {listed.schedule.lr:g}"
        kind = stored_kind_of(type(listed.optimiser))
        lines.append(
            f"{listed.name:{width}} {length:14} {listed.batch_size:5}  {rate:16} {kind:10} "
            f"{RECIPE_PURPOSES[listed.name]}"
        )
    lines.append("residua recipes NAME lists the fields of a recipe.")
    return "\n".join(lines)


def format_recipe_fields(name: str, recipe_fields: list[RecipeField]) -> str:
    """Format one line per field: the assignment that `--set` takes, and the meaning."""
    lines = [
        f"{name}: {RECIPE_PURPOSES[name]}",
        "Change a field with --set FIELD=VALUE, e.g. --set augment.mixup=0.2.",
    ]
    for path, value, meaning in recipe_fields:
        text = value if isinstance(value, str) else json.dumps(value)
        assignment = f"{path}={text}"
        lines.append(f"{shlex.quote(assignment):36} {meaning}")
    return "\n".join(lines)


def iterate_fields(value: Any, prefix: str = "") -> Iterator[RecipeField]:
    """Yield the fields of a recipe, or of its part at `prefix`.

    A part comes before its fields: its value is its kind, as in `optimiser={"kind": "Sgd"}`.  If a
    part has only one kind, only its fields are listed.
    """
    optimisers, schedules = ", ".join(registered_kinds(Optimiser)), ", ".join(SCHEDULE_KINDS)
    meanings = FIELD_MEANINGS.get(type(value), {})
    for field in fields(value):
        key, part = stored_key(field), getattr(value, field.name)
        meaning = meanings.get(key, "").format(optimisers=optimisers, schedules=schedules)
        path = f"{prefix}{key}"
        if not is_dataclass(part):
            yield RecipeField(path, to_json(part), meaning)
            continue
        if key in ("optimiser", "schedule"):
            yield RecipeField(path, {"kind": stored_kind_of(type(part))}, meaning)
        yield from iterate_fields(part, f"{path}.")

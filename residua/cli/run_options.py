"""Turns the options of `residua train` into a request to train."""

from dataclasses import replace

from jsonargparse import Namespace

from residua import training
from residua.cli.options import apply_recipe_options, is_given
from residua.config.recipe import Recipe
from residua.config.vlad_config import is_vlad_name
from residua.errors import UsageError

NETWORK_ONLY_OPTIONS = (
    "recipe",
    "steps",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "set",
    "recompute",
    "balance",
    "freeze",
    "from",
    "add_class",
)
CHOSEN_OPTIONS = ("model", "size", "recipe", "steps", "epochs", "balance")


def make_run_request(arguments: Namespace) -> "training.RunRequest":
    """Make the request that the options of `residua train` describe.

    Raises UsageError if VLAD is requested with an option that applies only to networks.
    """
    if arguments.model and is_vlad_name(arguments.model):
        for option in NETWORK_ONLY_OPTIONS:
            if is_given(arguments, option):
                flag = f"--{option.replace('_', '-')}"
                raise UsageError(
                    f"{flag} does not apply to --model {arguments.model}: leave it out"
                )

    def change_recipe(recipe: Recipe) -> Recipe:
        changed = apply_recipe_options(arguments, recipe)
        return replace(
            changed,
            balance=changed.balance or arguments.balance,
            freeze=changed.freeze or arguments.freeze,
        )

    return training.RunRequest(
        model=arguments.model or None,
        weights=arguments["from"] or None,
        size=arguments.size,
        add_class=arguments.add_class,
        seed=arguments.seed,
        change_recipe=change_recipe,
        precision=arguments.precision,
        given=frozenset(name for name in CHOSEN_OPTIONS if is_given(arguments, name)),
    )

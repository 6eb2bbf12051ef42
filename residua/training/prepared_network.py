"""Prepare a network for a recipe: freeze what it freezes, and refuse what the network cannot do."""

from dataclasses import replace

from torch import nn

from residua.config.plan import Plan, plan
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.data.batches import shrink_sides
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.freeze import freeze_backbone, freeze_batchnorm_statistics
from residua.training.machine import Machine
from residua.training.sync_batchnorm import convert_to_sync_modules


def prepare_network_for_recipe(
    net: nn.Module, run: Run, recipe: Recipe, machine: Machine
) -> nn.Module:
    """Freeze what the recipe freezes, synchronise BN, and move the network to the machine.

    Raises UsageError if the recipe needs to know the layers of a module of the user's own, or if
    the network cannot take the smaller images of `sizes`.
    """
    if not isinstance(net, ResidualNetwork):
        refuse_fields_for_own_module(run, recipe)
    else:
        require_network_takes_sizes(net.plan, recipe)
        if recipe.freeze:
            freeze_backbone(net)
    if recipe.bn == "frozen":
        freeze_batchnorm_statistics(net)
    return machine.prepare_model_in_place(convert_to_sync_modules(net, recipe.bn_splits, machine))


def refuse_fields_for_own_module(run: Run, recipe: Recipe) -> None:
    """Raise UsageError if a field of the recipe needs a network whose layers are known."""
    own_module = f"{run.network.name} is a module of your own"
    if recipe.freeze:
        raise UsageError(
            f"freeze needs a network built by residua, but {own_module}: call "
            "requires_grad_(False) on its layers instead"
        )
    values = {
        "probe": recipe.probe > 0,
        "layer_decay": recipe.layer_decay != 1,
        "sizes": bool(recipe.sizes),
        "bn=frozen": recipe.bn == "frozen",
    }
    for name, is_set in values.items():
        if is_set:
            raise UsageError(
                f"{name} needs a network built by residua, but {own_module}: leave {name} out"
            )


def require_network_takes_sizes(full_plan: Plan, recipe: Recipe) -> None:
    """Raise UsageError if the network cannot take the smaller images of `recipe.sizes`."""
    network = full_plan.network
    if recipe.sizes and len(network.input) != 3:
        raise UsageError(f"{network.name} does not take images of other sizes: leave sizes out")
    for size in sorted(set(recipe.sizes) - {1.0}):
        height, width = shrink_sides((network.input[1], network.input[2]), size)
        try:
            plan(replace(network, input=(network.input[0], height, width)))
        except UsageError as error:
            raise UsageError(f"sizes={list(recipe.sizes)} cannot be used: {error}") from None

"""Prepare a network for a recipe: freeze what it freezes, and refuse what the network cannot do."""

from dataclasses import replace

from torch import nn

from residua.config.augmentation import Augmentation
from residua.config.dataset import Dataset
from residua.config.image_views import require_usable_views
from residua.config.plan import Plan, plan
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPES
from residua.config.run import Run
from residua.data.augment import shrink_sides
from residua.data.read import require_dev_can_be_trained_on
from residua.data.sources.resolve import PhotoDataset
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.freeze import freeze_backbone, freeze_batchnorm_statistics
from residua.training.batch_share import share_batch_of_recipe
from residua.training.machine import Machine
from residua.training.sync_batchnorm import convert_to_sync_modules

MIN_TRAINED_SIDE = 4  # in pixels, of the smaller images of `sizes`; our choice


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
    share = share_batch_of_recipe(recipe, machine.group)
    synchronised = convert_to_sync_modules(net, share, machine)
    return machine.prepare_model_in_place(synchronised, recipe.bn_splits)


def require_fields_with_effect(recipe: Recipe, *, is_trained: bool, why_not: str = "") -> None:
    """Raise UsageError if a field of the recipe has no effect, or none that makes sense.

    `is_trained` says whether training starts from trained weights, or may do so; `why_not` is the
    end of a sentence that says why it does not.
    """
    for name, is_set in (
        ("--freeze", recipe.freeze),
        ("bn=frozen", recipe.bn == "frozen"),
        ("probe", recipe.probe > 0),
    ):
        if is_set and not is_trained:
            raise UsageError(f"{name} needs pretrained weights{why_not}: add --from")
    magnitude, usual = recipe.augment.magnitude, Augmentation().magnitude
    if magnitude != usual and not recipe.augment.randaugment:
        raise UsageError(
            f"augment.magnitude={magnitude} has no effect without augment.randaugment: set it to "
            "the number of changes, e.g. augment.randaugment=2"
        )


def require_recipe_suits_data(recipe: Recipe | None, data: Dataset) -> None:
    """Raise UsageError if `data` does not allow the recipe's views, sizes, or use of dev images.

    The same if a fold is held out of photographs that are kept as JPEG.  No image is read for this.
    VLAD has no recipe.
    """
    if data.fold is not None and isinstance(data, PhotoDataset) and data.storage == "jpeg":
        raise UsageError(
            "folds and --storage jpeg cannot be combined, because errors would be those of "
            "photographs that are encoded again: give --storage raw or files"
        )
    require_allowed_views(recipe, data)
    if recipe is not None:
        require_allowed_sizes(recipe, data)
    if recipe is not None and not recipe.dev:
        require_dev_can_be_trained_on(data)


def require_allowed_views(recipe: Recipe | None, data: Dataset) -> None:
    """Raise UsageError if `recipe.views` does not suit the images of `data`."""
    if recipe is not None:
        require_usable_views(
            recipe.views,
            f"views={recipe.views}",
            data.name,
            flip_keeps_class=data.flip_keeps_class,
            margin=data.resize and data.resize - max(data.input[1:]),
        )


def require_allowed_sizes(recipe: Recipe, data: Dataset) -> None:
    """Raise UsageError if the images of `data` cannot have the sizes of the recipe."""
    for name in ("train_size", "test_resize", "stored_side"):
        if getattr(recipe, name) and not data.resize:
            raise UsageError(
                f"{name} applies only to photographs: set {name}=0 for {data.name}, whose images "
                "have one size"
            )
    side = max(data.input[1:])
    if recipe.test_resize and recipe.test_resize < side:
        raise UsageError(
            f"test_resize={recipe.test_resize} is smaller than the crops of {side} pixels: give at "
            f"least {side}, or a smaller --size"
        )
    augment = recipe.augment
    if recipe.train_size > data.resize + 2 * augment.pad and not augment.takes_boxes:
        raise UsageError(
            f"train_size={recipe.train_size} is larger than the stored photographs, of "
            f"{data.resize} pixels: raise test_resize, or crop at random with augment.area=0.35"
        )


def refuse_fields_for_own_module(run: Run, recipe: Recipe) -> None:
    """Raise UsageError if a field of the recipe needs a network whose layers are known."""
    own_module = f"{run.network.name} is a module of your own"
    if recipe.freeze:
        raise UsageError(
            f"freeze needs a network built by residua, but {own_module}: call "
            "requires_grad_(False) on its layers instead"
        )
    named = RECIPES.get(recipe.name)
    has_own_body_lr = recipe.body_lr not in (1, named.body_lr if named else 1)
    values = {
        "probe": recipe.probe > 0,
        "body_lr": has_own_body_lr,  # the recipe tuning sets it for all networks
        "layer_decay": recipe.layer_decay != 1,
        "sizes": bool(recipe.sizes),
        "train_size": bool(recipe.train_size),
        "stem": recipe.stem > 0,
        "bn=frozen": recipe.bn == "frozen",
    }
    for name, is_set in values.items():
        if is_set:
            raise UsageError(
                f"{name} needs a network built by residua, but {own_module}: leave {name} out"
            )


def require_network_takes_sizes(full_plan: Plan, recipe: Recipe) -> None:
    """Raise UsageError if the network cannot take images of `recipe.train_size` or `sizes`."""
    network = full_plan.network
    for name in ("train_size", "sizes"):
        if getattr(recipe, name) and len(network.input) != 3:
            raise UsageError(
                f"{network.name} does not take images of other sizes: leave {name} out"
            )
    if recipe.train_size:
        side = recipe.train_size
        require_network_takes_size(full_plan, (side, side), f"train_size={side}")
    for size in sorted(set(recipe.sizes) - {1.0}):
        full_size = recipe.full_train_size((network.input[1], network.input[2]))
        height, width = shrink_sides(full_size, size)
        if min(height, width) < MIN_TRAINED_SIDE:
            raise UsageError(
                f"sizes={list(recipe.sizes)} cannot be used: {size:g} of the side leaves images of "
                f"{height} x {width} pixels, but training needs at least {MIN_TRAINED_SIDE}"
            )
        require_network_takes_size(full_plan, (height, width), f"sizes={list(recipe.sizes)}")


def require_network_takes_size(full_plan: Plan, size: tuple[int, int], setting: str) -> None:
    """Raise UsageError if the network cannot take images of `size`, with the same parameters."""
    network = full_plan.network
    try:
        other_plan = plan(replace(network, input=(network.input[0], *size)))
    except UsageError as error:
        raise UsageError(f"{setting} cannot be used: {error}") from None
    if other_plan.parameters != full_plan.parameters:
        raise UsageError(
            f"{setting} cannot be used: the number of {network.name}'s parameters depends on the "
            "size of its images"
        )

"""The recipes known by name: those of the papers, those that are usual, and ours.

`recipe("he2015")` looks one up.
"""

from residua.config.augmentation import Augmentation
from residua.config.dataset import DATASETS
from residua.config.imagenet_classes import IMAGENET
from residua.config.imagenet_recipes import (
    IMAGENET_NETWORKS,
    IMAGENET_PURPOSES,
    IMAGENET_RECIPES,
)
from residua.config.optimisers import Muon, Sgd
from residua.config.recipe import Recipe
from residua.config.schedules import LinearDecay, OneCycle, Warmup
from residua.errors import UsageError, unknown_name_error

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # He et al. 2015, section 4.2.  Deviations: channel means instead of a mean image, and a
        # division by the standard deviation; 45,000 training images, as a dev split is held out;
        # BN over the whole batch (the paper used two GPUs, which is parts=2).
        Recipe(name="he2015", steps=64_000, warmup=Warmup()),
        # He et al. 2016, appendix: as he2015, but with a warm-up at every depth.
        Recipe(name="he2016", steps=64_000, warmup=Warmup(from_depth=0)),
        # Ours, for fast training on 32x32 images; experiments/fast records what was tried.
        Recipe(name="fast", epochs=36, optimiser=Muon(), schedule=OneCycle(lr=0.03, rise=0.2)),
        # Ours, for data sets of a few thousand small images.
        Recipe(
            name="small", epochs=12, batch_size=64, schedule=OneCycle(), augment=Augmentation(pad=1)
        ),
        # Ours, for photographs: "photos" from random weights, "tuning" from pretrained weights.
        Recipe(
            name="photos",
            epochs=60,
            batch_size=32,
            optimiser=Sgd(0.9, 5e-4, nesterov=True, decay="weights"),
            schedule=OneCycle(lr=0.05, rise=0.2),
            augment=Augmentation(pad=0, area=0.35),
            smoothing=0.1,
        ),
        Recipe(
            name="tuning",
            epochs=15,
            batch_size=32,
            optimiser=Sgd(0.9, 1e-4, nesterov=True, decay="weights"),
            schedule=OneCycle(lr=0.02, rise=0.2),
            augment=Augmentation(pad=0, area=0.35),
            smoothing=0.1,
            body_lr=0.1,
        ),
        # Ours, for CIFAR-10 in seconds of a GPU, after airbench94 (Jordan 2024).  airbench sums the
        # loss, and we average it, so that its rates of biases and head, 0.053 and 0.67, are taken
        # times the batch size, as multiples of the schedule's rate.
        Recipe(
            name="record",
            epochs=9,
            batch_size=1000,
            optimiser=Muon(
                0.75,
                weight_decay=0.0,
                lr_scale=353.0,
                rounds=3,
                normalise_weights=True,
                others_momentum=0.85,
                others_decay=0.0133,
                head_scale=4470.0,
            ),
            schedule=LinearDecay(lr=0.15),
            augment=Augmentation(pad=3, pad_mode="reflect", alternate_flip=True),
            smoothing=0.2,
            sizes=(0.625,) * 2 + (0.75,) * 3 + (1.0,) * 5,
            stem=0.055,
            dev=False,
            views="six",
        ),
        *IMAGENET_RECIPES,
    )
}
"""The recipes known by name."""

RECIPE_PURPOSES = {
    "he2015": "He et al. 2015, for CIFAR-10: residual and plain nets",
    "he2016": "He et al. 2016, for CIFAR-10: pre-activation nets",
    "fast": "small images in a fifth of the papers' steps",
    "small": "data sets of a few thousand small images, such as digits",
    "photos": "photographs, from random weights",
    "tuning": "photographs, from pretrained weights",
    "record": "CIFAR-10 in seconds of a GPU, with the network cifar-record11",
    **IMAGENET_PURPOSES,
}
"""What each of `RECIPES` is for."""
RECIPE_NETWORKS = {"record": "cifar-record11"} | IMAGENET_NETWORKS
"""The network that a recipe is for, if the user chooses none."""
RECIPE_SIZES = dict.fromkeys(IMAGENET_PURPOSES, 224)
"""The side in pixels of the photographs that a recipe is for, if the user chooses none."""


def recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises UsageError if there is none; the message suggests the nearest name.
    """
    if name not in RECIPES:
        raise unknown_name_error("recipe", name, RECIPES)
    return RECIPES[name]


def usual_recipe(dataset: str) -> Recipe:
    """Return the recipe that is used for a data set if the user chooses none.

    For photographs without a name it is only a beginning, from which others are chosen.
    """
    if dataset in DATASETS:
        return recipe("small" if dataset == "digits" else "he2015")
    return recipe("imagenet-90" if dataset == IMAGENET else "photos")


def resolve_recipe(given: str | Recipe | None, default: Recipe) -> Recipe:
    """Return the recipe that a user gives as a name or a `Recipe`, or else `default`."""
    return recipe(given) if isinstance(given, str) else given or default


def require_size_of_recipe(chosen: Recipe, side: int) -> None:
    """Raise UsageError if photographs of `side` pixels do not suit the sizes that a recipe sets.

    They suit a recipe known by name if it is for this side, or if its sizes have been changed.
    """
    named, usual_side = RECIPES.get(chosen.name), RECIPE_SIZES.get(chosen.name, side)
    sizes = chosen.train_size, chosen.test_resize
    if named is None or side == usual_side or not any(sizes):
        return
    if sizes == (named.train_size, named.test_resize):
        train_size, test_resize = [round(side * size / usual_side) for size in sizes]
        raise UsageError(
            f"--size {side} does not suit the recipe {chosen.name}, whose sizes are for "
            f"{usual_side} pixels: leave --size out, or add --set train_size={train_size} --set "
            f"test_resize={test_resize}"
        )

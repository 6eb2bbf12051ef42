"""Choose network, image size, recipe and duration for a folder of photos.

The rules are our own choice.  They use only the data and the kind of device (CPU or GPU), so the
same command on the same kind of device always gives the same run.  How photographs are kept is
chosen elsewhere, by the space of the machine: see `data.photo_storage`.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median

from residua.config.recipe import Recipe
from residua.config.recipes import RECIPE_NETWORKS, RECIPE_PURPOSES, recipe
from residua.data.decode import open_image_header, read_entry_bytes, suspend_pillow_limits
from residua.data.in_memory import InMemoryDataset
from residua.data.sources.listing import ImageListing
from residua.data.splits import TEST_SHARE, choose_dev_share
from residua.errors import ImageError
from residua.training.machine import Machine
from residua.training.network_table import (
    SMALL_PHOTO_SIDE,
    describe_network_table,
    look_up_network,
)

MAX_FILES_SAMPLED = 100  # files whose image size is read
# Number of 96 x 96 crops in a whole training run on a CPU; resnet18 takes 4 minutes for them on two
# cores (experiments/photos).
CPU_CROP_BUDGET = 40_000
MAX_AUTO_EPOCHS, MIN_AUTO_EPOCHS = 100, 5
# Steps of a run from trained weights, at least: 50 images a class had a lower error after 250 steps
# than after the 82 of 15 epochs (experiments/fine-tuning).
MIN_TUNING_STEPS = 250
DEFAULT_PHOTO_SIDE = 224  # assumed if no image can be read
LEARNED_SIDE = 224  # in pixels, of the images that published weights were learned from
SMALL_IMAGE_SIDE = 40  # in pixels, up to which images in memory get a recipe for small images
SMALL_RECIPE_IMAGES = 20_000  # from which the recipe `fast` is used rather than `small`


@dataclass(frozen=True, slots=True)
class AutoConfig:
    """An automatic choice of network, image size and recipe, with the reason for each."""

    model_name: str
    image_size: int  # side in pixels
    recipe: Recipe
    reasons: dict[str, str]  # sentences, by the option of `residua train` that overrides each


def choose_config_for_photos(
    listing: ImageListing,
    machine: Machine,
    *,
    finetune: bool = False,
    image_size: int = 0,
    shorter_side: int = 0,
    min_tuning_steps: int = MIN_TUNING_STEPS,
) -> AutoConfig:
    """Choose how to train on photos; the other arguments are those of `choose_config`.

    If `shorter_side` is 0, it is estimated.
    """
    label_counts = Counter(entry.label for entry in listing.entries if entry.split in ("train", ""))
    return choose_config(
        label_counts,
        shorter_side or estimate_median_shorter_side(listing),
        machine,
        finetune=finetune,
        image_size=image_size,
        held_out_share=estimate_held_out_share(listing),
        min_tuning_steps=min_tuning_steps,
    )


def choose_config_for_arrays(
    dataset: InMemoryDataset, machine: Machine, *, finetune: bool, min_tuning_steps: int
) -> AutoConfig:
    """Choose the network and the recipe for images in memory, whose size is given."""
    labels, side = dataset.images["train"].labels, min(dataset.input[1:])
    small_recipe = "small" if len(labels) < SMALL_RECIPE_IMAGES else "fast"
    auto_config = choose_config(
        Counter(labels.tolist()),
        side,
        machine,
        finetune=finetune,
        image_size=side,
        scratch_recipe=small_recipe if side <= SMALL_IMAGE_SIDE else "photos",
        min_tuning_steps=min_tuning_steps,
    )
    reasons = {name: text for name, text in auto_config.reasons.items() if name != "size"}
    return replace(auto_config, reasons=reasons)


def choose_config(
    label_counts: Counter[int],
    shorter_side: int,
    machine: Machine,
    *,
    finetune: bool = False,
    image_size: int = 0,
    scratch_recipe: str = "photos",
    held_out_share: float = 0.0,
    min_tuning_steps: int = MIN_TUNING_STEPS,
) -> AutoConfig:
    """Choose how to train on images, from the number of images of each class.

    `shorter_side` is the images' shorter side in pixels, or its median.  `finetune` says that the
    run starts from trained weights.  `image_size` is the side of the images in pixels; if it is 0,
    the side is also chosen.  `scratch_recipe` is the recipe for random initial weights.  Of the
    images, `held_out_share` are not trained on.  A run from trained weights has at least
    `min_tuning_steps` steps.
    """
    image_count = sum(label_counts.values())
    device_phrase = "a GPU" if machine.device.type == "cuda" else "a CPU"
    model_name, why_model = choose_model(image_count, shorter_side, device_phrase, finetune)
    why_size = "as requested"
    if not image_size:
        image_size = choose_image_size(image_count, shorter_side, device_phrase, finetune)
        why_size = (
            f"the median shorter side of the {image_count:,} photos is {shorter_side} pixels, "
            f"and the device is {device_phrase}"
        )
        if finetune and image_size < min(shorter_side, LEARNED_SIDE):
            why_size += f"; published weights were learned at {LEARNED_SIDE}, which takes longer"
    chosen_recipe, why_recipe = choose_recipe(
        image_count,
        image_size,
        device_phrase,
        finetune,
        scratch_recipe,
        trained_count=image_count * (1 - held_out_share),
        min_tuning_steps=min_tuning_steps,
    )
    reasons = {
        "model": f"network {model_name}: {why_model}",
        "size": f"image size {image_size} x {image_size} pixels: {why_size}",
        "recipe": why_recipe,
    }
    largest, smallest = max(label_counts.values()), min(label_counts.values())
    if largest > 3 * smallest:
        reasons["balance"] = (
            f"classes have between {smallest:,} and {largest:,} images, "
            "and are drawn in these proportions"
        )
    return AutoConfig(model_name, image_size, chosen_recipe, reasons)


def suit_config_to_recipe(config: AutoConfig, name: str) -> AutoConfig:
    """Return the choice that the recipe `name`, which is for one network and size, makes."""
    model_name, side = RECIPE_NETWORKS[name], config.image_size
    reasons = {
        "model": f"network {model_name}, which the recipe {name} is for",
        "size": f"image size {side} x {side} pixels, which the recipe {name} is for",
        "recipe": f"recipe {name}: {RECIPE_PURPOSES[name]}",
    }
    return AutoConfig(model_name, side, recipe(name), config.reasons | reasons)


def choose_model(
    image_count: int, shorter_side: int, device_phrase: str, finetune: bool
) -> tuple[str, str]:
    """Choose the network; return its name and the reason for the choice.

    `device_phrase` is "a CPU" or "a GPU", and `finetune` as in `choose_config`.
    """
    if shorter_side <= SMALL_PHOTO_SIDE:
        return (
            "cifar-resnet20",
            f"it is made for small images, and these have {shorter_side} pixels",
        )
    if finetune:
        return (
            look_up_network(image_count, device_phrase),
            f"{image_count:,} photographs on {device_phrase} ({describe_network_table()})",
        )
    if image_count < 20_000:
        return "resnet18", f"{image_count:,} images are too few for a deeper net"
    if device_phrase == "a GPU":
        return "resnet50", f"{image_count:,} images on a GPU are enough for it"
    return "resnet18", "a deeper net would be slow on a CPU"


def choose_image_size(
    image_count: int, shorter_side: int, device_phrase: str, finetune: bool
) -> int:
    """Choose the side of the input images in pixels, a multiple of 32.

    The device can train on images of this side in reasonable time.  The side is at most
    `shorter_side`, the photos' shorter side in pixels, rounded up to a multiple of 32.
    `device_phrase` is "a CPU" or "a GPU".  With `finetune`, the side on a CPU is at least 96 and at
    most 224, the side of the images that published weights were learned from.
    """
    cpu_side = 96 if image_count <= 5000 else 64
    if finetune:
        crops = max(recipe("tuning").epochs * image_count, 1)
        free_side = 96 * sqrt(CPU_CROP_BUDGET / crops)
        cpu_side = min(max(int(free_side // 32) * 32, 96), LEARNED_SIDE)
    affordable = LEARNED_SIDE if device_phrase == "a GPU" else cpu_side
    rounded_up_side = -(-shorter_side // 32) * 32
    return max(min(affordable, rounded_up_side), 32)


def choose_recipe(
    image_count: int,
    image_size: int,
    device_phrase: str,
    finetune: bool,
    scratch_recipe: str,
    *,
    trained_count: float,
    min_tuning_steps: int,
) -> tuple[Recipe, str]:
    """Choose a recipe with its duration and batch size; return it with the reasons for the choice.

    The reasons name each number of the recipe that is replaced.  `device_phrase` is "a CPU" or "a
    GPU", and `trained_count` the number of images without those that are held out.
    """
    base_recipe = recipe("tuning" if finetune else scratch_recipe)
    epochs = base_recipe.epochs
    reasons = ["few images: many epochs with random crops"]
    if finetune:
        reasons = ["training starts from trained weights"]
    if device_phrase == "a CPU":
        affordable_epochs = round(CPU_CROP_BUDGET * (96 / image_size) ** 2 / image_count)
        cpu_epochs = max(affordable_epochs, MIN_AUTO_EPOCHS)
        epochs = min(cpu_epochs, epochs if finetune else MAX_AUTO_EPOCHS)
        why_epochs = f"{epochs * image_count:,.0f} crops in all take minutes on a few CPU cores"
        if not finetune:
            reasons = [why_epochs]
        elif epochs != base_recipe.epochs:
            reasons.append(why_epochs)
    batch_size = max(min(base_recipe.batch_size, image_count // 4), 2)
    if batch_size != base_recipe.batch_size:
        reasons.append(f"a batch holds at most a quarter of the {image_count:,} images")
    duration = base_recipe.with_duration(epochs=float(epochs))
    duration_text = describe_replaced_number("{} epochs", epochs, base_recipe.epochs)
    steps = epochs * trained_count / batch_size
    if finetune and steps < min_tuning_steps:
        duration = base_recipe.with_duration(steps=min_tuning_steps)
        duration_text = (
            f"{min_tuning_steps} steps (not the {steps:.0f} of {epochs:g} epochs, which are too "
            "few)"
        )
    batch_text = describe_replaced_number("batch size {}", batch_size, base_recipe.batch_size)
    return (
        replace(duration, batch_size=batch_size),
        f"recipe {base_recipe.name}, {duration_text}, {batch_text}: {', and '.join(reasons)}",
    )


def estimate_held_out_share(listing: ImageListing) -> float:
    """Estimate the share of a listing's images that is held out, of those not for testing only."""
    splits = Counter(entry.split for entry in listing.entries)
    trained = splits["train"] + (1 - TEST_SHARE) * splits[""]
    if not splits["dev"]:
        trained *= 1 - (listing.dev_share or choose_dev_share(len(listing.entries)))
    return 1 - trained / max(splits["train"] + splits[""], 1)


def describe_replaced_number(phrase: str, number: float, usual: float) -> str:
    """Fill a number into a phrase; say the recipe's own if it differs: `100 epochs (not its 60)`.

    A recipe whose own number is 0 does not set it.
    """
    text = phrase.format(f"{number:g}")
    return f"{text} (not its {usual:g})" if usual and number != usual else text


def estimate_median_shorter_side(listing: ImageListing) -> int:
    """Return the median of the photos' shorter sides in pixels, from a sample of the files.

    About `MAX_FILES_SAMPLED` files are read.  Unreadable files are skipped; if none can be read,
    the result is 224.
    """
    step = max(len(listing.entries) // MAX_FILES_SAMPLED, 1)
    sides = []
    with suspend_pillow_limits():
        for entry in listing.entries[::step]:
            try:
                content = read_entry_bytes(entry)
                with open_image_header(content, entry.name, listing.max_pixels) as image:
                    sides.append(min(image.size))
            except ImageError:
                continue
    return round(median(sides)) if sides else DEFAULT_PHOTO_SIDE

"""How a folder of photographs is trained where nothing is chosen: network, input, recipe and time, by the data and the machine.

All of it is our choice, and a function of the data and the kind of machine alone, so that the same command means the same run.
"""

from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from statistics import median

from PIL import Image, UnidentifiedImageError

from residua.config.recipe import Recipe, recipe
from residua.data.decode import IMAGE_FORMATS, silence_pillow_warnings
from residua.data.sources.listing import ImageListing
from residua.training.machine import Machine

MAX_FILES_SAMPLED = 100  # files whose size is read
CPU_CROP_BUDGET = 40_000  # of 96 x 96 pixels in a whole training: 4 minutes on two cores for resnet18 (experiments/photos)
MAX_AUTO_EPOCHS, MIN_AUTO_EPOCHS = 100, 5  # epochs


@dataclass(frozen=True, slots=True)
class AutoConfig:
    """What is trained, on squares of how many pixels, and how; and why, in sentences."""

    model_name: str
    image_size: int
    recipe: Recipe
    reasons: dict[str, str]  # by the option that would say otherwise


def choose_config(
    listing: ImageListing, machine: Machine, *, finetune: bool = False, image_size: int = 0
) -> AutoConfig:
    """The choice for a folder; `tuned` where weights are there to start from, and `side` where that is given."""
    label_counts = Counter(entry.label for entry in listing.entries if entry.split in ("train", ""))
    image_count, device_phrase = (
        sum(label_counts.values()),
        "a GPU" if machine.device.type == "cuda" else "a CPU",
    )
    shorter_side = median_shorter_side(listing)
    model_name, why_model = choose_model(image_count, shorter_side, device_phrase)
    requested_size, image_size = (
        image_size,
        image_size or choose_image_size(image_count, shorter_side, device_phrase),
    )
    chosen_recipe, why_epochs = choose_recipe(image_count, image_size, device_phrase, finetune)
    why_size = (
        "as asked"
        if requested_size
        else f"the photographs' shorter side is {shorter_side} (median), and there are {image_count:,} on {device_phrase}"
    )
    reasons = {
        "model": f"network {model_name}, {why_model}",
        "size": f"input {image_size} x {image_size} pixels: {why_size}",
        "recipe": f"recipe {chosen_recipe.name}, {chosen_recipe.epochs:g} epochs in batches of {chosen_recipe.batch_size}: {why_epochs}",
    }
    if (largest := max(label_counts.values())) > 3 * (smallest := min(label_counts.values())):
        reasons["balance"] = (
            f"classes have {smallest:,} to {largest:,} images, and the rare ones are seen rarely"
        )
    return AutoConfig(model_name, image_size, chosen_recipe, reasons)


def choose_model(image_count: int, shorter_side: int, device_phrase: str) -> tuple[str, str]:
    """A network, and why that one."""
    if shorter_side <= 40:
        return "cifar-resnet20", f"made for images as small as these, of {shorter_side} pixels"
    if device_phrase == "a GPU" and image_count >= 20_000:
        return "resnet50", f"for {image_count:,} images are enough for it, on {device_phrase}"
    return (
        "resnet18",
        f"for {image_count:,} images are few for a deeper one"
        if image_count < 20_000
        else f"for {device_phrase} takes long for a deeper one",
    )


def choose_image_size(image_count: int, shorter_side: int, device_phrase: str) -> int:
    """Pixels a side: as many as the machine has time for, and no more than the photographs have, in steps of 32."""
    wanted = 224 if device_phrase == "a GPU" else 96 if image_count <= 5000 else 64
    return max(min(wanted, -(-shorter_side // 32) * 32), 32)


def choose_recipe(
    image_count: int, image_size: int, device_phrase: str, finetune: bool
) -> tuple[Recipe, str]:
    """A recipe with its epochs and batch, and why so long."""
    base_recipe = recipe("tuning" if finetune else "photos")
    epochs, why = (
        base_recipe.epochs,
        "from weights that know images already"
        if finetune
        else "few images are seen often, by ever other crops",
    )
    if device_phrase == "a CPU":
        affordable_epochs = CPU_CROP_BUDGET * (96 / image_size) ** 2 / image_count
        epochs = (
            min(epochs, max(round(affordable_epochs), MIN_AUTO_EPOCHS))
            if finetune
            else min(max(round(affordable_epochs), MIN_AUTO_EPOCHS), MAX_AUTO_EPOCHS)
        )
        why = (
            f"{epochs * image_count:,.0f} crops in all, which take minutes on a few cores"
            if not finetune
            else why
        )
    return replace(
        base_recipe,
        epochs=float(epochs),
        batch_size=max(min(base_recipe.batch_size, image_count // 4), 2),
    ), why


def median_shorter_side(listing: ImageListing) -> int:
    """The median of the shorter sides, in pixels, of up to LOOKED_AT files spread over the listing; 224 where none can be read."""
    step = max(len(listing.entries) // MAX_FILES_SAMPLED, 1)
    sides = []
    with silence_pillow_warnings():
        for entry in listing.entries[::step]:
            try:
                with Image.open(BytesIO(entry.read_bytes()), formats=IMAGE_FORMATS) as image:
                    sides.append(min(image.size))
            except (
                OSError,
                UnidentifiedImageError,
                Image.DecompressionBombError,
                SyntaxError,
                ValueError,
            ):
                continue
    return round(median(sides)) if sides else 224

"""Choose network, image size, recipe and duration for a folder of photos.

All rules are our choice.  They depend on the data and on the kind of device alone, so the same
command always gives the same run.
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

MAX_FILES_SAMPLED = 100  # files whose image size is read
# Crops of 96 x 96 pixels in a whole training on a CPU: 4 minutes on two cores for resnet18
# (experiments/photos).
CPU_CROP_BUDGET = 40_000
MAX_AUTO_EPOCHS, MIN_AUTO_EPOCHS = 100, 5
DEFAULT_PHOTO_SIDE = 224  # assumed if no image can be read


@dataclass(frozen=True, slots=True)
class AutoConfig:
    """An automatic choice of network, image size and recipe, with the reason for each."""

    model_name: str
    image_size: int  # side in pixels
    recipe: Recipe
    reasons: dict[str, str]  # sentences, by the option of `residua train` that overrides each


def choose_config(
    listing: ImageListing, machine: Machine, *, finetune: bool = False, image_size: int = 0
) -> AutoConfig:
    """Choose how to train on a folder of photos.

    `finetune` says that the run starts from trained weights; an `image_size` that is not 0 is kept.
    """
    label_counts = Counter(entry.label for entry in listing.entries if entry.split in ("train", ""))
    image_count = sum(label_counts.values())
    device_phrase = "a GPU" if machine.device.type == "cuda" else "a CPU"
    shorter_side = median_shorter_side(listing)
    model_name, why_model = choose_model(image_count, shorter_side, device_phrase)
    why_size = "as requested"
    if not image_size:
        image_size = choose_image_size(image_count, shorter_side, device_phrase)
        why_size = (
            f"the median shorter side of the {image_count:,} photos is {shorter_side} pixels, "
            f"and the device is {device_phrase}"
        )
    chosen_recipe, why_epochs = choose_recipe(image_count, image_size, device_phrase, finetune)
    reasons = {
        "model": f"network {model_name}: {why_model}",
        "size": f"image size {image_size} x {image_size} pixels: {why_size}",
        "recipe": f"recipe {chosen_recipe.name}, {chosen_recipe.epochs:g} epochs, "
        f"batch size {chosen_recipe.batch_size}: {why_epochs}",
    }
    largest, smallest = max(label_counts.values()), min(label_counts.values())
    if largest > 3 * smallest:
        reasons["balance"] = (
            f"classes have between {smallest:,} and {largest:,} images, "
            "and are drawn in these proportions"
        )
    return AutoConfig(model_name, image_size, chosen_recipe, reasons)


def choose_model(image_count: int, shorter_side: int, device_phrase: str) -> tuple[str, str]:
    """Choose the network; return its name and the reason for the choice."""
    if shorter_side <= 40:
        return (
            "cifar-resnet20",
            f"it is made for small images, and these have {shorter_side} pixels",
        )
    if image_count < 20_000:
        return "resnet18", f"{image_count:,} images are too few for a deeper net"
    if device_phrase == "a GPU":
        return "resnet50", f"{image_count:,} images on a GPU are enough for it"
    return "resnet18", "a deeper net would be slow on a CPU"


def choose_image_size(image_count: int, shorter_side: int, device_phrase: str) -> int:
    """Choose the side of the input images in pixels, a multiple of 32.

    It is what this kind of device can train on in reasonable time, but not larger than the photos'
    shorter side `shorter_side`, rounded up to a multiple of 32.
    """
    cpu_side = 96 if image_count <= 5000 else 64
    affordable = 224 if device_phrase == "a GPU" else cpu_side
    rounded_up_side = -(-shorter_side // 32) * 32
    return max(min(affordable, rounded_up_side), 32)


def choose_recipe(
    image_count: int, image_size: int, device_phrase: str, finetune: bool
) -> tuple[Recipe, str]:
    """Choose the recipe, its epochs and batch size; return it and the reason for the epochs."""
    base_recipe = recipe("tuning" if finetune else "photos")
    epochs = base_recipe.epochs
    why = "few images: many epochs with random crops"
    if device_phrase == "a CPU":
        affordable_epochs = round(CPU_CROP_BUDGET * (96 / image_size) ** 2 / image_count)
        cpu_epochs = max(affordable_epochs, MIN_AUTO_EPOCHS)
        epochs = min(cpu_epochs, epochs if finetune else MAX_AUTO_EPOCHS)
        why = f"{epochs * image_count:,.0f} crops in all take minutes on a few CPU cores"
    if finetune:
        why = "training starts from trained weights"
    batch_size = max(min(base_recipe.batch_size, image_count // 4), 2)
    return replace(base_recipe, epochs=float(epochs), batch_size=batch_size), why


def median_shorter_side(listing: ImageListing) -> int:
    """The median of the photos' shorter sides in pixels, from about `MAX_FILES_SAMPLED` files.

    Files that cannot be read are skipped; returns 224 if no file can be read.
    """
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
    return round(median(sides)) if sides else DEFAULT_PHOTO_SIDE

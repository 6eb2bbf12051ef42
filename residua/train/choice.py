"""How a folder of photographs is trained where nothing is chosen: network, input, recipe and time, by the data and the machine.

All of it is our choice, and a function of the data and the kind of machine alone, so that the same command means the same run.
"""

from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from statistics import median

from PIL import Image, UnidentifiedImageError

from residua.data.image import FORMATS, quiet_pillow
from residua.data.listing import Listing
from residua.spec.recipe import Recipe, recipe
from residua.train.machine import Machine

LOOKED_AT = 100  # files whose size is read
CPU_IMAGES = 40_000  # of 96 x 96 pixels in a whole training: 4 minutes on two cores for resnet18 (experiments/photos)
MOST, LEAST = 100, 5  # epochs


@dataclass(frozen=True, slots=True)
class Choice:
    """What is trained, on squares of how many pixels, and how; and why, in sentences."""

    model: str
    side: int
    recipe: Recipe
    reasons: dict[str, str]  # by the option that would say otherwise


def choose(listing: Listing, machine: Machine, *, tuned: bool = False, side: int = 0) -> Choice:
    """The choice for a folder; `tuned` where weights are there to start from, and `side` where that is given."""
    counts = Counter(entry.label for entry in listing.entries if entry.part in ("train", ""))
    images, here = sum(counts.values()), "a GPU" if machine.device.type == "cuda" else "a CPU"
    shorter = typical_side(listing)
    model, why_model = model_for(images, shorter, here)
    asked, side = side, side or side_for(images, shorter, here)
    how, why_long = recipe_for(images, side, here, tuned)
    why_side = "as asked" if asked else f"the photographs' shorter side is {shorter} (median), and there are {images:,} on {here}"
    reasons = {
        "model": f"network {model}, {why_model}",
        "size": f"input {side} x {side} pixels: {why_side}",
        "recipe": f"recipe {how.name}, {how.epochs:g} epochs in batches of {how.batch_size}: {why_long}",
    }
    if (largest := max(counts.values())) > 3 * (smallest := min(counts.values())):
        reasons["balance"] = f"classes have {smallest:,} to {largest:,} images, and the rare ones are seen rarely"
    return Choice(model, side, how, reasons)


def model_for(images: int, shorter: int, here: str) -> tuple[str, str]:
    """A network, and why that one."""
    if shorter <= 40:
        return "cifar-resnet20", f"made for images as small as these, of {shorter} pixels"
    if here == "a GPU" and images >= 20_000:
        return "resnet50", f"for {images:,} images are enough for it, on {here}"
    return (
        "resnet18",
        f"for {images:,} images are few for a deeper one" if images < 20_000 else f"for {here} takes long for a deeper one",
    )


def side_for(images: int, shorter: int, here: str) -> int:
    """Pixels a side: as many as the machine has time for, and no more than the photographs have, in steps of 32."""
    wanted = 224 if here == "a GPU" else 96 if images <= 5000 else 64
    return max(min(wanted, -(-shorter // 32) * 32), 32)


def recipe_for(images: int, side: int, here: str, tuned: bool) -> tuple[Recipe, str]:
    """A recipe with its epochs and batch, and why so long."""
    how = recipe("tuning" if tuned else "photos")
    epochs, why = how.epochs, "from weights that know images already" if tuned else "few images are seen often, by ever other crops"
    if here == "a CPU":
        affordable = CPU_IMAGES * (96 / side) ** 2 / images
        epochs = min(epochs, max(round(affordable), LEAST)) if tuned else min(max(round(affordable), LEAST), MOST)
        why = f"{epochs * images:,.0f} crops in all, which take minutes on a few cores" if not tuned else why
    return replace(how, epochs=float(epochs), batch_size=max(min(how.batch_size, images // 4), 2)), why


def typical_side(listing: Listing) -> int:
    """The median of the shorter sides, in pixels, of up to LOOKED_AT files spread over the listing; 224 where none can be read."""
    step = max(len(listing.entries) // LOOKED_AT, 1)
    sides = []
    with quiet_pillow():
        for entry in listing.entries[::step]:
            try:
                with Image.open(BytesIO(entry.content()), formats=FORMATS) as image:
                    sides.append(min(image.size))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
                continue
    return round(median(sides)) if sides else 224

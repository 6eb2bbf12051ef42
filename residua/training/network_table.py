"""The networks whose published weights training starts from, by number of images and device."""

from residua.data.sources.listing import ImageListing
from residua.training.machine import Machine

SMALL_PHOTO_SIDE = 40  # in pixels, up to which photographs get a network for small images
NETWORKS_WITH_WEIGHTS = (
    # photographs below which the row holds, network on a CPU, network on a GPU
    (100_000, "resnet18", "resnet50"),
    (None, "resnet18", "resnet101"),
)
"""The networks whose published weights a run starts from; our choice, not measured."""


def choose_network_with_weights(listing: ImageListing, shorter_side: int, machine: Machine) -> str:
    """Choose the network whose published weights suit photographs; "" for small images.

    `shorter_side` is the median of their shorter sides in pixels.
    """
    image_count = sum(entry.split in ("train", "") for entry in listing.entries)
    if shorter_side <= SMALL_PHOTO_SIDE:
        return ""
    return look_up_network(image_count, "a GPU" if machine.device.type == "cuda" else "a CPU")


def look_up_network(image_count: int, device_phrase: str) -> str:
    """Look up a network in `NETWORKS_WITH_WEIGHTS`; `device_phrase` is "a CPU" or "a GPU"."""
    row = next(row for row in NETWORKS_WITH_WEIGHTS if row[0] is None or image_count < row[0])
    return row[2] if device_phrase == "a GPU" else row[1]


def describe_network_table() -> str:
    """Describe `NETWORKS_WITH_WEIGHTS` in words, for the reason of a choice."""
    return "; ".join(
        f"{f'below {limit:,}' if limit else 'from there'} {on_cpu} on a CPU and {on_gpu} on a GPU"
        for limit, on_cpu, on_gpu in NETWORKS_WITH_WEIGHTS
    )

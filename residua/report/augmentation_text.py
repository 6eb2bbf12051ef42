"""The random augmentation of training images, as text."""

from residua.config.augmentation import Augmentation
from residua.report.format import format_counted_noun, format_shortest_percent, join_with_and


def describe_augmentation(augment: Augmentation, flips_allowed: bool) -> str:
    """Describe the random augmentation of training images.

    `flips_allowed` is False if mirroring can change the class, as for digits.
    """
    text = f"images are shifted by up to {format_counted_noun(augment.pad, 'pixel')}"
    if augment.area < 1:
        text = (
            f"images are crops of {format_shortest_percent(augment.area)} or more of a photo, "
            "resized to one size"
        )
    if augment.shorter_side:
        low, high = augment.shorter_side
        text = (
            "images are crops of a photo whose shorter side is resized to a random number of "
            f"pixels, {low} to {high}"
        )
    if augment.pad and not augment.takes_boxes and augment.pad_mode == "reflect":
        text += " with reflected edges"
    if augment.flip and flips_allowed:
        text += (
            ", mirrored in every second epoch" if augment.alternate_flip else ", mirrored at random"
        )
    if augment.cut:
        text += f", and a square of {augment.cut} pixels is cut out"
    if augment.colour:
        max_change = format_shortest_percent(augment.colour)
        text += f"; brightness, contrast and saturation change by up to {max_change}"
    if augment.pca_colour:
        text += (
            "; the principal components of ImageNet's colours are added, with normal shares of "
            f"standard deviation {augment.pca_colour:g}"
        )
    if augment.erasing:
        text += f"; a random box is erased in {format_shortest_percent(augment.erasing)}"
    if augment.trivial:
        text += "; each is changed in one of fourteen ways, by one of 31 strengths (TrivialAugment)"
    if augment.randaugment:
        changes = format_counted_noun(augment.randaugment, "random change")
        text += f"; each gets {changes} of strength {augment.magnitude} of 30 (RandAugment)"
    text += "".join(f"; {transform.description}" for transform in augment.extra)
    alpha = "" if augment.mixup_alpha == 1 else f" of alpha {augment.mixup_alpha:g}"
    mixing_texts = [
        f"{format_shortest_percent(probability)} {method}"
        for probability, method in (
            (augment.mixup, f"blended (mixup{alpha})"),
            (augment.cutmix, "with a box of another image (CutMix)"),
        )
        if probability
    ]
    if mixing_texts:
        text += f"; samples are mixed with others: {join_with_and(mixing_texts)}"
    return text

"""TrivialAugment and RandAugment: changes match Pillow's and torchvision's, and are equally likely.

They are drawn for each sample.
"""

from math import atan, ceil, degrees

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from residua.config.augmentation import Augmentation
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import random_bits_from_keys
from residua.data.images import Images
from residua.data.random_changes import (
    RAND_RANGES,
    STRENGTH_LEVELS,
    TRIVIAL_CHANGES,
    apply_rand_augment,
    apply_selected_changes,
    apply_trivial_augment,
)
from tests import third_party

MEAN = (0.5, 0.4, 0.3)
IMAGES = (
    torch.randint(20, 200, (6, 3, 9, 12), generator=torch.Generator().manual_seed(1)) // 3 * 3
).to(torch.uint8)
PILLOW_OPERATIONS = {
    "brightness": lambda image, level, factor: ImageEnhance.Brightness(image).enhance(factor),
    "saturation": lambda image, level, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, level, factor: ImageEnhance.Contrast(image).enhance(factor),
    "sharpness": lambda image, level, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "posterize": lambda image, level, factor: ImageOps.posterize(image, 8 - round(level / 5)),
    "solarize": lambda image, level, factor: ImageOps.solarize(image, ceil(255 - 8.5 * level)),
    "stretch": lambda image, level, factor: ImageOps.autocontrast(image),
    "equalize": lambda image, level, factor: ImageOps.equalize(image),
    "identity": lambda image, level, factor: image,
}


def to_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def apply_operation(
    name: str, level: int, sign: int = 1, pixels: torch.Tensor = IMAGES
) -> torch.Tensor:
    """The images, all changed in the same way."""
    ones = torch.full((len(pixels),), 1)
    signed = ones * sign * level / (STRENGTH_LEVELS - 1)
    return apply_selected_changes(
        pixels.float(), ones * TRIVIAL_CHANGES.index(name), ones * level, signed, MEAN
    )


@pytest.mark.parametrize("level", [0, 7, 18, 30])
@pytest.mark.parametrize("name", PILLOW_OPERATIONS)
def test_colour_operations_match_pillow(name, level):
    for sign in (1, -1):
        found = apply_operation(name, level, sign)
        factor = 1 + 0.99 * sign * level / 30
        theirs = torch.stack(
            [
                torch.from_numpy(np.array(PILLOW_OPERATIONS[name](to_pillow(image), level, factor)))
                for image in IMAGES
            ]
        )
        assert (found.permute(0, 2, 3, 1) - theirs).abs().max() <= 1.5, (
            name,
            level,
            sign,
        )  # whole levels there, and cut off or rounded


def test_geometric_operations_move_pixels_by_the_expected_distance():
    spot = torch.full((1, 3, 21, 21), 0, dtype=torch.uint8)
    spot[:, :, 10, 10] = 255  # in the very middle: no turn and no shear moves it
    for name in ("rotate", "shear x", "shear y"):
        assert apply_operation(name, 30, pixels=spot)[0, 0, 10, 10] == pytest.approx(255, abs=0.1)
    shifted = apply_operation("shift x", 30, pixels=spot)[0, 0]
    assert (
        shifted.argmax().item() == 10 * 21 + 7
    )  # by 3, a seventh of 21: what was to the right comes in
    assert shifted[10, 7] == pytest.approx(255, abs=0.1)
    assert apply_operation("shift x", 30, -1, spot)[0, 0].argmax().item() == 10 * 21 + 13
    assert apply_operation("shift y", 30, pixels=spot)[0, 0].argmax().item() == 7 * 21 + 10


def test_rotation_preserves_angles_in_non_square_images():
    """A spot at (0, 8) from the center, rotated by 135 degrees, is at 8 (sin, cos) of them."""
    spot = torch.zeros(1, 3, 25, 41)
    spot[:, :, 12, 28] = 255
    found = apply_selected_changes(
        spot,
        torch.tensor([TRIVIAL_CHANGES.index("rotate")]),
        torch.tensor([30]),
        torch.ones(1),
        (0.0,) * 3,
    )[0, 0]
    row, column = divmod(found.argmax().item(), 41)
    assert (abs(row - 12), column - 20) == (6, -6)  # 8 / sqrt(2) = 5.7


def test_uncovered_pixels_get_the_mean_colour():
    found = apply_operation(
        "shift y", 30, pixels=torch.full((1, 3, 28, 28), 200, dtype=torch.uint8)
    )
    assert found[0, :, -1, 0].tolist() == pytest.approx([255 * m for m in MEAN], abs=0.1)


def test_all_operations_are_equally_likely_and_most_images_change():
    draws = random_bits_from_keys(5, torch.arange(2800)[:, None], torch.arange(3))
    pixels = torch.randint(0, 256, (2800, 3, 8, 8), dtype=torch.uint8)
    counts = torch.bincount(draws[:, 0] % len(TRIVIAL_CHANGES), minlength=len(TRIVIAL_CHANGES))
    assert counts.min() > 140
    same = (apply_trivial_augment(pixels, MEAN, draws) == pixels).flatten(1).all(1).float().mean()
    assert 1 / 14 < same < 0.3  # the identity, and levels of 0


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_of_a_sample_does_not_depend_on_its_batch(channels):
    images = Images(
        torch.randint(0, 256, (40, channels, 12, 12), dtype=torch.uint8), torch.arange(40) % 3
    )
    augment = Augmentation(pad=1, trivial=True, mixup=0.3)
    large, small = [
        TrainingBatches(images, n, augment, MEAN[:channels], (0.2,) * channels, 1) for n in (20, 10)
    ]
    whole, halves = large.make_batch(1)[0], [small.make_batch(step)[0] for step in (2, 3)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(
        whole,
        TrainingBatches(
            images, 20, Augmentation(pad=1), MEAN[:channels], (0.2,) * channels, 1
        ).make_batch(1)[0],
    )


def test_a_single_colour_image_gives_finite_values():
    even = torch.full((14, 3, 5, 5), 77.0)
    for sign in (1.0, -1.0):
        found = apply_selected_changes(
            even, torch.arange(14), torch.full((14,), 12), torch.full((14,), sign * 0.4), MEAN
        )
        assert found.isfinite().all()
        assert torch.equal(found[[0, 7, 9, 12, 13]], even[[0, 7, 9, 12, 13]])


RAND_OPERATIONS = {  # our name: torchvision's name
    "identity": "Identity",
    "brightness": "Brightness",
    "saturation": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "stretch": "AutoContrast",
    "equalize": "Equalize",
    "shear x": "ShearX",
    "shear y": "ShearY",
    "shift x": "TranslateX",
    "shift y": "TranslateY",
    "rotate": "Rotate",
}


def apply_torchvision_operation(name, level, sign, pixels):
    """torchvision's own operation and strength; geometric ones are not rounded to whole pixels."""
    from torchvision.transforms import InterpolationMode, RandAugment, autoaugment, functional

    height, width = pixels.shape[2:]
    strengths, is_signed = RandAugment()._augmentation_space(31, (height, width))[name]
    strength = float(strengths[level] if strengths.ndim else strengths) * (sign if is_signed else 1)
    bilinear = InterpolationMode.BILINEAR
    if name == "Rotate":
        return functional.rotate(pixels, strength, bilinear)
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
        values = [strength, 0.0] if name.endswith("X") else [0.0, strength]
        shear = [degrees(atan(value)) for value in values] if "Shear" in name else [0.0, 0.0]
        shift = values if "Translate" in name else [0, 0]
        return functional.affine(pixels, 0.0, shift, 1.0, shear, bilinear)
    whole = pixels.to(torch.uint8)
    return autoaugment._apply_op(whole, name, strength, bilinear, None).float()


@pytest.mark.parametrize("level", [0, 9, 21, 30])
@pytest.mark.parametrize("name", RAND_OPERATIONS)
def test_the_changes_of_randaugment_are_those_of_torchvision(name, level):
    third_party.import_torchvision()
    smooth = torch.nn.functional.interpolate(IMAGES.float(), (27, 36), mode="bilinear").round()
    ones = torch.ones(len(smooth), dtype=torch.int64)
    for sign in (1, -1):
        signed = ones * sign * level / 30
        kinds = ones * TRIVIAL_CHANGES.index(name)
        ours = apply_selected_changes(smooth, kinds, ones * level, signed, (0.0,) * 3, RAND_RANGES)
        # our shifts and rotations have the sign of the window's movement, not the content's
        is_reversed = name.startswith(("shift", "rotate"))
        theirs = apply_torchvision_operation(
            RAND_OPERATIONS[name], level, -sign if is_reversed else sign, smooth
        )
        assert (ours - theirs).abs().max() <= 2, (name, level, sign)  # whole levels there


def test_randaugment_makes_its_changes_one_after_another():
    draws = random_bits_from_keys(3, torch.arange(6)[:, None], torch.arange(4))
    first = apply_rand_augment(IMAGES, 12, MEAN, draws[:, :2])
    both = apply_rand_augment(IMAGES, 12, MEAN, draws)
    assert torch.equal(apply_rand_augment(first, 12, MEAN, draws[:, 2:]), both)
    assert not torch.equal(first, both)
    counts = torch.bincount(
        random_bits_from_keys(5, torch.arange(2800)) % len(TRIVIAL_CHANGES), minlength=14
    )
    assert counts.min() > 140


def test_each_sample_and_epoch_has_its_own_changes_whatever_the_batch():
    images = Images(torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8), torch.arange(40) % 3)
    augment = Augmentation(pad=1, randaugment=2, magnitude=15)
    large, small = [TrainingBatches(images, n, augment, MEAN, (0.2,) * 3, 1) for n in (20, 10)]
    whole, halves = large.make_batch(1)[0], [small.make_batch(step)[0] for step in (2, 3)]
    assert torch.equal(whole, torch.cat(halves))
    plain = TrainingBatches(images, 20, Augmentation(pad=1), MEAN, (0.2,) * 3, 1).make_batch(1)[0]
    assert (whole != plain).flatten(1).any(1).float().mean() > 0.8

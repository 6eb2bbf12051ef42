"""Augmentation of a batch compared with numpy code for one image at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from residua.config.dataset import DATASETS
from residua.data.augment import (
    jitter_colours,
    normalise_pixels,
    pad_with_mean,
    random_crop,
    random_horizontal_flip,
    random_resized_crop,
)
from residua.data.counter_rng import random_bits_from_keys

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.fixture
def random_pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 3, 8, 6), dtype=np.uint8))


def test_padding_surrounds_each_channel_with_its_mean(random_pixels):
    for padded, image in zip(
        pad_with_mean(random_pixels, 2, MEAN).numpy(), random_pixels.numpy(), strict=True
    ):
        expected = np.stack(
            [np.pad(c, 2, constant_values=v) for c, v in zip(image, (125, 123, 114), strict=True)]
        )
        np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS)
def test_the_border_is_zero_after_normalisation_to_half_a_grey_level(data):
    empty = torch.zeros(1, *data.input, dtype=torch.uint8)
    border = normalise_pixels(pad_with_mean(empty, 1, data.mean), data.mean, data.std)[0, :, 0, 0]
    assert all(abs(float(x)) * 255 * std <= 0.5001 for x, std in zip(border, data.std, strict=True))


def test_a_crop_is_the_window_given_by_its_random_bits(random_pixels):
    random = random_bits_from_keys(1, torch.arange(9))
    for image, number, cropped in zip(
        random_pixels.numpy(),
        random.tolist(),
        random_crop(random_pixels, (5, 4), random).numpy(),
        strict=True,
    ):
        row, column = number % 4, number // 4 % 3
        np.testing.assert_array_equal(cropped, image[:, row : row + 5, column : column + 4])


def test_every_crop_position_is_equally_likely():
    places = torch.arange(12 * 12).reshape(1, 1, 12, 12).to(torch.uint8)
    corners = random_crop(
        places.expand(16_200, -1, -1, -1), (4, 4), random_bits_from_keys(2, torch.arange(16_200))
    )[:, 0, 0, 0]
    counts = corners.long().bincount(minlength=144).reshape(12, 12)
    assert int(counts[9:].sum()) == int(counts[:, 9:].sum()) == 0
    chi_squared = float(((counts[:9, :9].double() - 200) ** 2 / 200).sum())
    assert chi_squared < 133  # 80 degrees of freedom: 1 in 10,000 lies above


def test_a_crop_of_the_whole_size_changes_nothing(random_pixels):
    assert torch.equal(
        random_crop(random_pixels, (8, 6), random_bits_from_keys(1, torch.arange(9))), random_pixels
    )


def test_odd_bits_mirror_an_image_left_to_right(random_pixels):
    for image, number, flipped in zip(
        random_pixels.numpy(),
        range(9),
        random_horizontal_flip(random_pixels, torch.arange(9)).numpy(),
        strict=True,
    ):
        np.testing.assert_array_equal(flipped, image[:, :, ::-1] if number % 2 else image)


def test_half_of_the_images_are_mirrored():
    assert (
        abs(int((random_bits_from_keys(0, 2, 0, torch.arange(10_000)) % 2).sum()) - 5000) < 200
    )  # 4 standard deviations


def test_normalised_pixels_match_float64_within_fp32_precision(random_pixels):
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    x = normalise_pixels(random_pixels, MEAN, STD)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x.numpy(), (random_pixels.numpy() / 255 - mean) / std, atol=1e-6)


def test_a_resized_crop_matches_bilinear_interpolation_of_its_box():
    """The reference is torch's resizing of a box cut out by hand.

    The bits are chosen so that the box is at whole pixels.
    """
    pixels = torch.randint(
        0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    middle, low, high = 1 << 62, 0, (1 << 63) - 1
    bits = torch.tensor(
        [[low, middle, high, low]]
    )  # the smallest share, a square, far right, at the top
    found = random_resized_crop(pixels, (24, 24), 0.25, 4 / 3, bits)
    box = pixels[:, :, :16, 16:].float()
    wanted = F.interpolate(box, size=(24, 24), mode="bilinear", align_corners=False)
    inner = (
        slice(None),
        slice(None),
        slice(2, -2),
        slice(2, -2),
    )  # at its edges a cut box knows no neighbours
    assert torch.allclose(found[inner], wanted[inner], atol=1e-3)


def test_resized_crops_have_the_requested_areas_and_aspect_ratios():
    """Red is the column and green the row, so that a crop's extremes tell where it was taken."""
    side, count = 64, 400
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack(
        [
            ramp.expand(side, side),
            ramp[:, None].expand(side, side),
            torch.zeros(side, side, dtype=torch.uint8),
        ]
    )
    draws = random_bits_from_keys(0, torch.arange(count)[:, None], torch.arange(4))
    found = random_resized_crop(image.expand(count, 3, side, side), (32, 32), 0.3, 4 / 3, draws)
    across, down = [
        (found[:, c].amax((1, 2)) - found[:, c].amin((1, 2)) + 1) / side * 32 / 31 for c in (0, 1)
    ]
    share, shape = across * down, across / down
    assert 0.25 < share.min() < 0.36
    assert share.max() < 1.07
    assert 0.55 < share.mean() < 0.7
    assert 0.7 < shape.min() < 0.8
    assert 1.25 < shape.max() < 1.42
    left = found[:, 0].amin((1, 2))
    assert left.min() < 2
    assert left.max() > 20


def test_colour_jitter_stays_within_bounds_and_zero_strength_changes_nothing():
    pixels = torch.randint(0, 256, (50, 3, 6, 6), dtype=torch.uint8)
    draws = random_bits_from_keys(1, torch.arange(50)[:, None], torch.arange(3))
    assert torch.allclose(jitter_colours(pixels, 0.0, draws), pixels.float(), atol=1e-3)
    changed = jitter_colours(pixels, 0.4, draws)
    assert changed.min() >= 0
    assert changed.max() <= 255
    brightness = changed.mean((1, 2, 3)) / pixels.float().mean((1, 2, 3))
    assert 0.55 < brightness.min() < 0.75
    assert 1.15 < brightness.max() < 1.45
    grey = torch.full((50, 3, 6, 6), 100, dtype=torch.uint8)
    assert (
        jitter_colours(grey, 0.4, draws).std((1, 2, 3)).max() < 1e-3
    )  # neither contrast nor saturation changes grey

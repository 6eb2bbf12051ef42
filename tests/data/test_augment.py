"""Augmentation of a batch against one image at a time in numpy."""

import numpy as np
import pytest
import torch

from residua.data.augment import crop, flip, normalise, pad
from residua.data.counter import bits
from residua.spec.dataset import DATASETS

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 3, 8, 6), dtype=np.uint8))


def test_padding_surrounds_each_channel_with_its_mean(pixels):
    for padded, image in zip(pad(pixels, 2, MEAN).numpy(), pixels.numpy(), strict=True):
        expected = np.stack([np.pad(c, 2, constant_values=v) for c, v in zip(image, (125, 123, 114), strict=True)])
        np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS)
def test_the_border_is_zero_after_normalisation_to_half_a_grey_level(data):
    empty = torch.zeros(1, *data.input, dtype=torch.uint8)
    border = normalise(pad(empty, 1, data.mean), data.mean, data.std)[0, :, 0, 0]
    assert all(abs(float(x)) * 255 * std <= 0.5001 for x, std in zip(border, data.std, strict=True))


def test_a_crop_is_the_window_its_bits_say(pixels):
    random = bits(1, torch.arange(9))
    for image, number, cropped in zip(pixels.numpy(), random.tolist(), crop(pixels, (5, 4), random).numpy(), strict=True):
        row, column = number % 4, number // 4 % 3
        np.testing.assert_array_equal(cropped, image[:, row : row + 5, column : column + 4])


def test_a_crop_falls_on_every_place_equally_often():
    places = torch.arange(12 * 12).reshape(1, 1, 12, 12).to(torch.uint8)
    corners = crop(places.expand(16_200, -1, -1, -1), (4, 4), bits(2, torch.arange(16_200)))[:, 0, 0, 0]
    counts = corners.long().bincount(minlength=144).reshape(12, 12)
    assert int(counts[9:].sum()) == int(counts[:, 9:].sum()) == 0
    chi_squared = float(((counts[:9, :9].double() - 200) ** 2 / 200).sum())
    assert chi_squared < 133  # 80 degrees of freedom: 1 in 10,000 lies above


def test_a_crop_of_the_whole_size_changes_nothing(pixels):
    assert torch.equal(crop(pixels, (8, 6), bits(1, torch.arange(9))), pixels)


def test_odd_bits_mirror_an_image_left_to_right(pixels):
    for image, number, flipped in zip(pixels.numpy(), range(9), flip(pixels, torch.arange(9)).numpy(), strict=True):
        np.testing.assert_array_equal(flipped, image[:, :, ::-1] if number % 2 else image)


def test_half_of_the_images_are_mirrored():
    assert abs(int((bits(0, 2, 0, torch.arange(10_000)) % 2).sum()) - 5000) < 200  # 4 standard deviations


def test_normalised_pixels_are_those_of_float64_to_fp32(pixels):
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    x = normalise(pixels, MEAN, STD)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x.numpy(), (pixels.numpy() / 255 - mean) / std, atol=1e-6)

"""The parts of digits and of CIFAR-10: which images they hold, and that this never changes."""

from collections import Counter

import numpy as np
import pytest
import torch

from residua.data.read import Images, read
from residua.errors import DataError
from residua.spec.dataset import dataset

SPLITS = ("train", "dev", "test")


def arrays(images):
    return images.pixels, images.labels


@pytest.fixture(scope="module")
def digits():
    return {split: read(dataset("digits"), split) for split in SPLITS}


def test_digits_are_three_parts_of_1797_images(digits):
    assert [len(digits[split]) for split in SPLITS] == [1288, 150, 359]
    for images in digits.values():
        assert images.pixels.shape == (len(images), 1, 8, 8)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert set(images.labels.tolist()) == set(range(10))


def test_the_parts_of_digits_hold_each_image_of_scikit_learn_once(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = Counter(
        zip(((source.images * 255 / 16).round().astype(np.uint8)[i].tobytes() for i in range(1797)), source.target, strict=True)
    )
    found = Counter((x.numpy().tobytes(), int(y)) for images in digits.values() for x, y in zip(*arrays(images), strict=True))
    assert found == expected


def test_mean_and_deviation_of_digits_are_those_of_its_pixels(digits):
    assert_levels(dataset("digits"), digits["train"])


def test_images_of_any_split_are_the_same_at_each_reading(digits):
    for split in SPLITS:
        assert read(dataset("digits"), split).fingerprint == digits[split].fingerprint


def test_a_fingerprint_tells_any_changed_pixel_or_label():
    images = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    prints = {images.fingerprint}
    for tensor in arrays(images):
        tensor.view(-1)[-1] = 1
        prints.add(images.fingerprint)
    assert len(prints) == 3


def assert_levels(data, images):
    """The value's mean and standard deviation of each channel are within 0.01 of those of the training images."""
    x = images.pixels.numpy()
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        counts = np.bincount(x[:, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        found = np.average(levels, weights=counts)
        assert abs(found - mean) < 0.01
        assert abs(np.sqrt(np.average((levels - found) ** 2, weights=counts)) - std) < 0.01


# The real CIFAR-10


@pytest.fixture(scope="module")
def cifar10(real_data):
    return {split: read(dataset("cifar10"), split, real_data) for split in SPLITS}


def test_cifar10_is_45000_and_5000_and_10000_images(cifar10):
    assert {split: tuple(images.pixels.shape) for split, images in cifar10.items()} == {
        "train": (45_000, 3, 32, 32),
        "dev": (5_000, 3, 32, 32),
        "test": (10_000, 3, 32, 32),
    }


def test_cifar10_holds_each_class_equally_often(cifar10):
    train, dev, test = [images.labels.bincount(minlength=10) for images in cifar10.values()]
    assert (train + dev).tolist() == [5000] * 10
    assert test.tolist() == [1000] * 10
    assert int((dev - 500).abs().max()) < 70  # 3 standard deviations of a random 5,000


def test_no_image_held_out_of_cifar10_is_trained_on(cifar10):
    train, dev = [Counter(hash(x.tobytes()) for x in cifar10[split].pixels.numpy()) for split in ("train", "dev")]
    assert not train & dev
    assert sum((train + dev).values()) == 50_000


def test_the_first_images_of_cifar10_are_a_frog_and_a_cat(cifar10):
    data = dataset("cifar10")
    assert data.classes[int(cifar10["train"].labels[0])] == "frog"
    assert data.classes[int(cifar10["test"].labels[0])] == "cat"
    assert cifar10["train"].pixels[0, :, 0, 0].tolist() == [59, 62, 63]  # red, green, blue


def test_the_parts_of_cifar10_never_change(cifar10):
    assert [images.fingerprint for images in cifar10.values()] == ["a1e9323fc5232eb4", "7eff9d810286b867", "2c33b053d1cd726a"]


def test_mean_and_deviation_of_cifar10_are_those_of_its_pixels(cifar10):
    assert_levels(dataset("cifar10"), cifar10["train"])


def test_the_test_images_of_cifar10_are_not_needed_to_train(real_data, tmp_path, cifar10):
    data = dataset("cifar10")
    (tmp_path / data.folder).mkdir()
    for file in data.train:
        (tmp_path / data.folder / file.name).symlink_to(real_data / data.folder / file.name)
    assert read(data, "dev", tmp_path).fingerprint == cifar10["dev"].fingerprint
    with pytest.raises(DataError, match="lacks test_batch of cifar10"):
        read(data, "test", tmp_path)

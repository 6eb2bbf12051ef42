"""The splits of digits and of CIFAR-10: their images, which never change."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from residua.config.dataset import get_dataset
from residua.data.images import Images
from residua.data.read import read_split
from residua.data.sources.listing import ImageEntry
from residua.data.splits import assign_splits
from residua.errors import DataError

SPLITS = ("train", "dev", "test")


def get_pixels_and_labels(images):
    return images.pixels, images.labels


@pytest.fixture(scope="module")
def digits_splits():
    return {split: read_split(get_dataset("digits"), split) for split in SPLITS}


def test_digits_are_three_splits_of_1797_images(digits_splits):
    assert [len(digits_splits[split]) for split in SPLITS] == [1288, 150, 359]
    for images in digits_splits.values():
        assert images.pixels.shape == (len(images), 1, 8, 8)
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert set(images.labels.tolist()) == set(range(10))


def test_the_splits_of_digits_contain_each_scikit_learn_image_once(digits_splits):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = Counter(
        zip(
            ((source.images * 255 / 16).round().astype(np.uint8)[i].tobytes() for i in range(1797)),
            source.target,
            strict=True,
        )
    )
    found = Counter(
        (x.numpy().tobytes(), int(y))
        for images in digits_splits.values()
        for x, y in zip(*get_pixels_and_labels(images), strict=True)
    )
    assert found == expected


def test_mean_and_std_of_digits_match_its_pixels(digits_splits):
    assert_mean_and_std_match(get_dataset("digits"), digits_splits["train"])


def test_every_split_is_identical_each_time_it_is_read(digits_splits):
    for split in SPLITS:
        assert (
            read_split(get_dataset("digits"), split).fingerprint == digits_splits[split].fingerprint
        )


def test_the_fingerprint_changes_with_any_pixel_or_label():
    images = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    prints = {images.fingerprint}
    for tensor in get_pixels_and_labels(images):
        tensor.view(-1)[-1] = 1
        prints.add(images.fingerprint)
    assert len(prints) == 3


def assert_mean_and_std_match(data, images):
    """Mean and std of each channel are within 0.01 of those of the training images."""
    x = images.pixels.numpy()
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        counts = np.bincount(x[:, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        channel_mean = np.average(levels, weights=counts)
        assert abs(channel_mean - mean) < 0.01
        assert abs(np.sqrt(np.average((levels - channel_mean) ** 2, weights=counts)) - std) < 0.01


# The real CIFAR-10


@pytest.fixture(scope="module")
def cifar10_splits(real_data_folder):
    return {split: read_split(get_dataset("cifar10"), split, real_data_folder) for split in SPLITS}


def test_cifar10_is_45000_and_5000_and_10000_images(cifar10_splits):
    assert {split: tuple(images.pixels.shape) for split, images in cifar10_splits.items()} == {
        "train": (45_000, 3, 32, 32),
        "dev": (5_000, 3, 32, 32),
        "test": (10_000, 3, 32, 32),
    }


def test_every_cifar10_class_has_equally_many_images(cifar10_splits):
    train, dev, test = [images.labels.bincount(minlength=10) for images in cifar10_splits.values()]
    assert (train + dev).tolist() == [5000] * 10
    assert test.tolist() == [1000] * 10
    assert int((dev - 500).abs().max()) < 70  # 3 standard deviations of a random 5,000


def test_no_held_out_cifar10_image_is_in_the_training_split(cifar10_splits):
    train, dev = [
        Counter(hash(x.tobytes()) for x in cifar10_splits[split].pixels.numpy())
        for split in ("train", "dev")
    ]
    assert not train & dev
    assert sum((train + dev).values()) == 50_000


def test_the_first_images_of_cifar10_are_a_frog_and_a_cat(cifar10_splits):
    data = get_dataset("cifar10")
    assert data.classes[int(cifar10_splits["train"].labels[0])] == "frog"
    assert data.classes[int(cifar10_splits["test"].labels[0])] == "cat"
    assert cifar10_splits["train"].pixels[0, :, 0, 0].tolist() == [59, 62, 63]  # red, green, blue


def test_the_splits_of_cifar10_never_change(cifar10_splits):
    assert [images.fingerprint for images in cifar10_splits.values()] == [
        "a1e9323fc5232eb4",
        "7eff9d810286b867",
        "2c33b053d1cd726a",
    ]


def test_mean_and_std_of_cifar10_match_its_pixels(cifar10_splits):
    assert_mean_and_std_match(get_dataset("cifar10"), cifar10_splits["train"])


def test_training_on_cifar10_does_not_need_the_test_file(
    real_data_folder, tmp_path, cifar10_splits
):
    data = get_dataset("cifar10")
    (tmp_path / data.folder).mkdir()
    for file in data.train:
        (tmp_path / data.folder / file.name).symlink_to(real_data_folder / data.folder / file.name)
    assert read_split(data, "dev", tmp_path).fingerprint == cifar10_splits["dev"].fingerprint
    with pytest.raises(DataError, match="lacks test_batch of cifar10"):
        read_split(data, "test", tmp_path)


@pytest.mark.parametrize("different", [1, 2, 3, 12, 40])
def test_copies_of_an_image_are_always_in_one_split(different):
    digests = [f"{i * 7919 + 13:064x}"[::-1] for i in range(different) for _ in range(3)]
    for labels in ([0] * len(digests), [i % 2 for i in range(len(digests))]):
        entries = [ImageEntry(Path(), "", label, "") for label in labels]
        splits = assign_splits(entries, digests)
        for digest in set(digests):
            of_copies = {
                (label, split)
                for label, split, other in zip(labels, splits, digests, strict=True)
                if other == digest
            }
            assert len({split for label, split in of_copies if label == labels[0]}) == 1


def test_dev_images_are_held_out_where_a_class_can_spare_one():
    rng = np.random.default_rng(0)
    without_dev = 0
    for _ in range(300):
        labels = rng.integers(0, 4, rng.integers(4, 20)).tolist()
        digests = [rng.bytes(32).hex() for _ in labels]
        entries = [ImageEntry(Path(), "", label, "") for label in labels]
        splits = assign_splits(entries, digests)
        kept = Counter(
            label for label, split in zip(labels, splits, strict=True) if split != "test"
        )
        without_dev += "dev" not in splits
        assert ("dev" in splits) == (max(kept.values()) > 1)
        assert set(kept) == {
            label for label, split in zip(labels, splits, strict=True) if split == "train"
        }
    assert 0 < without_dev < 150

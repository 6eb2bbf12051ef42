"""Folds of the training images: each image is held out once, whole groups at a time."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from residua.config.dataset import get_dataset
from residua.config.fold import Fold
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.data.folds import assign_folds, require_trainable_folds
from residua.data.read import read_split
from residua.data.seen_images import SeenImages, store_seen_images
from residua.data.sources.resolve import dataset_from_listing, list_image_dataset
from residua.data.unseen_images import choose_images
from residua.errors import DataError, UsageError
from tests.data.test_groups import write_table

DIGITS = get_dataset("digits")


def make_keys(names):
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def count_classes(labels, numbers, folds):
    table = np.zeros((folds, max(labels) + 1), int)
    np.add.at(table, (np.array(numbers) - 1, labels), 1)
    return table


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_without_groups_the_images_of_a_class_differ_by_one_at_most_between_folds(folds):
    rng = np.random.default_rng(folds)
    labels = rng.choice(4, 203, p=[0.5, 0.3, 0.15, 0.05]).tolist()
    table = count_classes(labels, assign_folds(labels, make_keys(range(203)), folds), folds)
    assert (table.max(0) - table.min(0)).max() <= 1
    assert np.ptp(table.sum(1)) <= 1


def test_images_with_one_key_share_a_fold_and_classes_are_spread_as_by_scikit_learn():
    ours, theirs = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 40, 400)
        main_class = rng.integers(0, 3, 40)
        labels = np.where(rng.random(400) < 0.7, main_class[groups], rng.integers(0, 3, 400))
        numbers = assign_folds(labels.tolist(), make_keys(groups.tolist()), 5)
        folds_of_groups = defaultdict(set)
        for group, number in zip(groups, numbers, strict=True):
            folds_of_groups[group].add(number)
        assert {len(folds) for folds in folds_of_groups.values()} == {1}
        assert set(numbers) == {1, 2, 3, 4, 5}
        ours.append(count_classes(labels, numbers, 5).std(0).mean())
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        their_numbers = np.zeros(400, int)
        for number, (_, held_out) in enumerate(splitter.split(labels, labels, groups), 1):
            their_numbers[held_out] = number
        theirs.append(count_classes(labels, their_numbers, 5).std(0).mean())
    assert np.mean(ours) < 1.25 * np.mean(theirs)


def test_a_key_goes_where_the_squared_shares_of_the_classes_grow_least():
    """By counting anew for each choice, over classes of very different sizes."""
    rng = np.random.default_rng(3)
    labels = rng.choice(4, size=300, p=[0.7, 0.2, 0.07, 0.03]).tolist()
    keys = [f"k{k}" for k in rng.integers(0, 60, 300)]
    members = defaultdict(list)
    for i, key in enumerate(keys):
        members[key].append(i)
    sizes, folds = Counter(labels), [[] for _ in range(5)]

    def measure_imbalance(fold):
        return sum((n / sizes[c]) ** 2 for c, n in Counter(labels[i] for i in fold).items())

    for key in sorted(members, key=lambda key: (-len(members[key]), key)):
        growths = [
            measure_imbalance(fold + members[key]) - measure_imbalance(fold) for fold in folds
        ]
        # what is added to the fold itself is the same everywhere
        least = min(growths)
        chosen = [f for f in range(5) if growths[f] - least < 1e-9]
        folds[min(chosen, key=lambda f: (len(folds[f]), f))].extend(members[key])
    expected = [0] * 300
    for number, fold in enumerate(folds, 1):
        for i in fold:
            expected[i] = number
    assert assign_folds(labels, keys, 5) == expected


def test_folds_do_not_depend_on_the_order_of_images():
    rng = np.random.default_rng(0)
    labels, keys = rng.integers(0, 3, 90).tolist(), make_keys(rng.integers(0, 50, 90).tolist())
    order = rng.permutation(90)
    numbers = assign_folds(labels, keys, 4)
    shuffled = assign_folds([labels[i] for i in order], [keys[i] for i in order], 4)
    assert shuffled == [numbers[i] for i in order]


def test_folds_that_cannot_be_trained_on_are_refused():
    with pytest.raises(DataError, match="all training images of b are in one fold"):
        require_trainable_folds([1, 2, 1], [0, 0, 1], ("a", "b"), 2)
    with pytest.raises(DataError, match="leave 1 of 3 folds empty: choose fewer folds"):
        require_trainable_folds([1, 2, 1], [0, 0, 0], ("a",), 3)
    for number, count in ((1, 1), (0, 2), (3, 2), (1, 1001)):
        with pytest.raises(UsageError, match="fold"):
            Fold(number, count)


def list_images(images):
    return Counter(
        (pixels.tobytes(), label)
        for pixels, label in zip(images.pixels.numpy(), images.labels.tolist(), strict=True)
    )


def test_every_training_image_of_digits_is_held_out_once_and_no_test_image():
    held_out = Counter()
    whole = list_images(read_split(DIGITS, "train")) + list_images(read_split(DIGITS, "dev"))
    for number in (1, 2, 3):
        dataset = DIGITS.hold_out_fold(Fold(number, 3))
        fold = list_images(read_split(dataset, "dev"))
        assert list_images(read_split(dataset, "train")) + fold == whole
        held_out += fold
        assert abs(sum(fold.values()) - 1438 / 3) <= 1
        assert read_split(dataset, "test").fingerprint == read_split(DIGITS, "test").fingerprint
    assert held_out == whole


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    return dataset_from_listing(list_image_dataset(write_table(folder)), (3, 16, 16))


def make_config(dataset, fold):
    net = network("cifar-resnet8", input=dataset.input, classes=len(dataset.classes))
    return ModelConfig(
        network=net,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        dataset=dataset.name,
        fold=fold,
    )


def test_groups_of_photographs_stay_together_in_folds(photographs):
    digests = []
    for number in (1, 2, 3):
        dataset = photographs.hold_out_fold(Fold(number, 3))
        config = store_seen_images(make_config(dataset, dataset.fold), dataset)
        seen = SeenImages.from_config(config)
        assert len(read_split(dataset, "dev")) == len(seen.dev)
        assert len(read_split(dataset, "train")) == len(seen.train)
        assert read_split(dataset, "train").pixels.shape[-1] == dataset.resize
        assert read_split(dataset, "dev").pixels.shape[-1] == 16
        assert not seen.train & seen.dev
        assert len(seen.dev) % 4 == 0  # the patients of the table have four images each
        digests.append(seen.dev)
    assert len(set.union(*map(set, digests))) == sum(map(len, digests))


def test_a_model_of_a_fold_is_evaluated_on_that_fold_if_asked_for_dev(photographs):
    fold = Fold(2, 3)
    choice = choose_images(DIGITS, "dev", make_config(DIGITS, fold))
    assert choice.dataset.fold == fold
    assert choose_images(DIGITS, None, make_config(DIGITS, fold)).dataset.fold is None
    dataset = photographs.hold_out_fold(fold)
    config = store_seen_images(make_config(dataset, fold), dataset)
    whole = replace(dataset, fold=None)
    chosen = choose_images(whole, "dev", config)
    assert len(chosen.dataset.listing.entries) == len(read_split(dataset, "dev"))

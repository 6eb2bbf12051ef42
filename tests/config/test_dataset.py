"""The published facts of the data sets: Alpaydin & Kaynak 1998, Krizhevsky 2009, LeCun et al. 1998
and Xiao et al. 2017; what is held out of the training images is said in He et al. 2015, 4.2."""

import pytest

from residua.config.dataset import DATASETS, get_dataset
from residua.errors import UsageError

FACTS = {  # shape, classes, training images, dev images among them, flips allowed, files, archives
    "digits": ((1, 8, 8), 10, 1438, 150, False, 0, 0),
    "cifar10": ((3, 32, 32), 10, 50_000, 5000, True, 6, 1),
    "cifar100": ((3, 32, 32), 100, 50_000, 5000, True, 2, 1),
    "cifar100-coarse": ((3, 32, 32), 20, 50_000, 5000, True, 2, 1),
    "mnist": ((1, 28, 28), 10, 60_000, 5000, False, 4, 4),
    "fashion-mnist": ((1, 28, 28), 10, 60_000, 5000, True, 4, 4),
}


def test_the_published_data_sets_are_these():
    assert set(DATASETS) == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_a_published_data_set_has_its_published_facts(name):
    dataset = get_dataset(name)
    shape, classes, images, dev_images, flips, files, archives = FACTS[name]
    assert dataset.name == name
    assert dataset.input == dataset.stored_shape == shape
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    assert (dataset.num_images, dataset.num_dev_images) == (images, dev_images)
    assert dataset.flip_keeps_class == flips
    assert len({file.md5 for file in (*dataset.train, *dataset.test)}) == files
    assert len({archive.md5 for archive in dataset.archives}) == archives
    assert len(dataset.mean) == len(dataset.std) == shape[0]
    assert all(0 < value < 1 for value in (*dataset.mean, *dataset.std))
    assert dataset.resize == 0


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_test_files_of_idx_data_sets_are_those_named_t10k(name):
    dataset = get_dataset(name)
    assert [file.name for file in dataset.train] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]
    assert all(file.name.startswith("t10k-") for file in dataset.test)
    assert [a.name for a in dataset.archives] == [
        f"{file.name}.gz" for file in (*dataset.train, *dataset.test)
    ]


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        get_dataset("cifar-10")

import pytest

from residua.config.augmentation import Augmentation
from residua.errors import UsageError


@pytest.mark.parametrize(
    "values",
    [
        {"pad": 0, "cut": 0},
        {"area": 1},
        {"area": 1e-9},
        {"stretch": 1},
        {"colour": 0},
        {"colour": 0.9999},
        {"mixup": 1, "cutmix": 0},
        {"mixup": 0.25, "cutmix": 0.75},
    ],
)
def test_values_up_to_the_limits_are_accepted(values):
    assert {name: getattr(Augmentation(**values), name) for name in values} == values


@pytest.mark.parametrize(
    "values",
    [
        {"pad": -1},
        {"cut": -1},
        {"area": 0},
        {"area": 1.0001},
        {"stretch": 0.9999},
        {"colour": -0.0001},
        {"colour": 1},
        {"mixup": -0.0001},
        {"cutmix": -0.0001},
        {"mixup": 0.5, "cutmix": 0.5001},
    ],
)
def test_values_beyond_the_limits_are_refused_by_name(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Augmentation(**values)

"""Labels in arrays, and the side of the square that photographs are cached in."""

import numpy as np
import pytest

from residua.data.convert_arrays import convert_labels
from residua.data.sources.resolve import cached_image_side
from residua.errors import DataError


def test_numbers_beyond_the_classes_that_are_named_are_refused():
    labels, names = convert_labels(np.array([0, 1, 1]), 3, ("cat", "dog"))
    assert labels.tolist() == [0, 1, 1]
    assert names == ("cat", "dog")
    for label in (2, -1):
        with pytest.raises(DataError, match="give whole numbers from 0 to 1$"):
            convert_labels(np.array([0, label]), 2, ("cat", "dog"))


def test_without_names_the_classes_are_called_by_their_numbers():
    labels, names = convert_labels(np.array([0, 3, 1]), 3)
    assert labels.tolist() == [0, 3, 1]
    assert names == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("input_side", "cached_side"), [(224, 256), (100, 116), (99, 115), (97, 109), (28, 32), (8, 12)]
)
def test_the_cached_square_is_an_eighth_of_itself_larger_by_a_multiple_of_four(
    input_side, cached_side
):
    """4 round(side / 28), at least 4: 256 for 224, as in most projects."""
    assert cached_image_side(input_side) == cached_side

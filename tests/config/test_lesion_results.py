import pytest
from scipy.stats import binom

from residua.config.lesion_results import share_of_paths_by_length


@pytest.mark.parametrize("units", [1, 2, 54])
def test_lengths_of_paths_are_binomial(units):
    shares = share_of_paths_by_length(units)
    assert shares == pytest.approx(binom.pmf(range(units + 1), units, 0.5).tolist())

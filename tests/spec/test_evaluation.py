from math import isclose

import pytest
from scipy.stats import binomtest

from residua.spec.evaluation import Bin, Calibration, Evaluation, Mistake, wilson
from residua.spec.text import from_json, to_json


@pytest.mark.parametrize(("part", "whole"), [(0, 1), (1, 1), (3, 7), (827, 10_000), (0, 359), (50_000, 50_000)])
def test_the_interval_is_scipys(part, whole):
    theirs = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    low, high = wilson(part, whole)
    assert isclose(low, theirs.low, abs_tol=1e-12)
    assert isclose(high, theirs.high, abs_tol=1e-12)


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def three(**changes):
    """Ten images of two of three classes."""
    even = Calibration(ece=0.1, loss=0.5, bins=(Bin(0, 0.0, 0.0), Bin(10, 0.9, 0.8)))
    said = {
        "model": "cifar-resnet8", "dataset": "letters", "split": "test", "mirror": False, "classes": ("a", "b", "c"), "count": 10,
        "wrong": 3, "wrong5": 0, "loss": 0.5, "error_interval": wilson(3, 10), "top5_error_interval": wilson(0, 10),
        "confusion": ((5, 1, 0), (0, 2, 2), (0, 0, 0)), "recall_intervals": (wilson(5, 6), wilson(2, 4), wilson(0, 0)),
        "calibration": even, "scaled": even, "temperature": 1.5, "fitted": "halves",
        "mistakes": (Mistake(where="image 4", thumbnail="data:image/png;base64,AAAA", truth=1, guess=2, probability=0.99),),
    }  # fmt: skip
    return Evaluation(**said | changes)


def test_precision_and_recall_are_shares_of_columns_and_of_rows():
    found = three()
    assert [found.recall(k) for k in range(3)] == [5 / 6, 0.5, None]
    assert [found.precision(k) for k in range(3)] == [1.0, 2 / 3, 0.0]
    assert found.confusions() == [(2, 1, 2), (1, 0, 1)]


def test_an_evaluation_survives_json():
    assert from_json(Evaluation, to_json(three())) == three()

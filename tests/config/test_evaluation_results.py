from math import isclose

import pytest
from scipy.stats import binomtest

from residua.config.evaluation_results import (
    CalibrationBin,
    CalibrationResult,
    ClassifiedImage,
    EvaluationResult,
    wilson_interval,
)
from residua.config.serialize import from_json, to_json


@pytest.mark.parametrize(
    ("part", "whole"), [(0, 1), (1, 1), (3, 7), (827, 10_000), (0, 359), (50_000, 50_000)]
)
def test_the_wilson_interval_matches_scipy(part, whole):
    theirs = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(part, whole)
    assert isclose(low, theirs.low, abs_tol=1e-12)
    assert isclose(high, theirs.high, abs_tol=1e-12)


def test_the_interval_of_zero_images_is_the_whole_range():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def make_evaluation(**changes):
    """Ten images of two of three classes."""
    even = CalibrationResult(
        ece=0.1, loss=0.5, bins=(CalibrationBin(0, 0.0, 0.0), CalibrationBin(10, 0.9, 0.8))
    )
    fields = {
        "model": "cifar-resnet8",
        "dataset": "letters",
        "split": "test",
        "mirror": False,
        "classes": ("a", "b", "c"),
        "count": 10,
        "wrong": 3,
        "wrong5": 0,
        "loss": 0.5,
        "error_interval": wilson_interval(3, 10),
        "top5_error_interval": wilson_interval(0, 10),
        "confusion": ((5, 1, 0), (0, 2, 2), (0, 0, 0)),
        "recall_intervals": (wilson_interval(5, 6), wilson_interval(2, 4), wilson_interval(0, 0)),
        "calibration": even,
        "scaled": even,
        "temperature": 1.5,
        "fitted": "halves",
        "mistakes": (
            ClassifiedImage(
                where="image 4",
                thumbnail="data:image/png;base64,AAAA",
                truth=1,
                guess=2,
                probability=0.99,
            ),
        ),
    }
    return EvaluationResult(**fields | changes)


def test_precision_is_per_column_and_recall_per_row():
    found = make_evaluation()
    assert [found.class_recall(k) for k in range(3)] == [5 / 6, 0.5, None]
    assert [found.class_precision(k) for k in range(3)] == [1.0, 2 / 3, 0.0]
    assert found.most_frequent_confusions() == [(2, 1, 2), (1, 0, 1)]


def test_an_evaluation_round_trips_through_json():
    assert from_json(EvaluationResult, to_json(make_evaluation())) == make_evaluation()


def test_the_views_of_an_evaluation_are_stored_as_in_older_records():
    for views, stored in (("none", False), ("mirror", True), ("10", False), ("six", False)):
        evaluation = make_evaluation().with_views(views)
        assert evaluation.views == views
        assert to_json(evaluation)["mirror"] is stored
        assert from_json(EvaluationResult, to_json(evaluation)).views == views

from dataclasses import replace

import pytest

from residua.report.compare import by_arm
from residua.report.decision import slow_starts, smaller_gaps, trend
from tests.report.records import cell


def started(arm, depth, step, seeds_out=3, sd=0.0, train=0.1):
    """A cell of three seeds that begin to learn at that step, and end at that training error."""
    return replace(
        cell(arm, depth, train, train, 0.01), set_out=seeds_out, set_out_step=step, set_out_step_sd=sd, line_every=20, steps=242
    )


def test_a_slow_start_is_told_with_its_steps_and_with_what_cures_it():
    arms = by_arm([
        started("original", 110, 40), started("original", 1202, 242, seeds_out=0, train=0.8),
        started("zero-initialised", 110, 40), started("zero-initialised", 1202, 60, sd=20),
        started("drop-path original", 1202, 242, seeds_out=0, train=0.8),
        started("warmed-up original", 1202, 40, train=0.8),  # sets out, and does not arrive
    ])  # fmt: skip
    assert slow_starts(arms, 10) == [
        "Slow start: deeper original nets need more steps until their training error is below 80 %: 40 at 110 layers and more than "
        "242 at 1202, read every 20 steps. At 1202 layers the zero-initialised net needs 60: what they change cures it."
    ]


def test_a_start_later_by_less_than_a_line_of_the_record_is_none():
    assert slow_starts(by_arm([started("resnet", 20, 40), started("resnet", 56, 50)]), 10) == []


@pytest.mark.parametrize(
    ("deep", "words"), [(0.0, "over-fitting, not a failure to optimise."), (0.05, "and over-fitting as well.")]
)
def test_equal_training_error_and_a_larger_gap_is_over_fitting_and_both_can_be_true(deep, words):
    text = trend([cell("resnet", 110, 0.0, 0.06, 0.001), cell("resnet", 1202, deep, 0.09 + 2 * deep, 0.001)])
    assert text.endswith(words)
    assert ("degradation, a failure to optimise" in text) is (deep > 0)


def test_a_test_error_that_rises_with_a_gap_that_does_not_clearly_is_left_open():
    text = trend([cell("resnet", 20, 0.010, 0.021), cell("resnet", 110, 0.015, 0.034)])
    assert text.endswith(
        "Test error rises, from 2.1 % at 20 layers to 3.4 % at 110, and the gap to training error from 1.1 points at 20 layers to "
        "1.9 points at 110, too close to tell apart with one seed: over-fitting or a failure to optimise, these seeds cannot tell."
    )


def test_a_gap_that_grows_by_less_than_training_error_is_told():
    text = trend([cell("resnet", 20, 0.01, 0.05), cell("resnet", 110, 0.21, 0.40)])
    assert text.endswith(
        "degradation, a failure to optimise; the gap to training error grows too, from 4.0 points at 20 layers to 19.0 points "
        "at 110."
    )


def test_a_larger_gap_beside_a_training_error_that_may_have_risen_is_left_open():
    text = trend([cell("fc-resnet", 10, 0.037, 0.05, 0.002), replace(cell("fc-resnet", 22, 0.345, 0.397, 0.13), gap_sd=0.005)])
    assert text.startswith("training error does not clearly change with depth")
    assert text.endswith("over-fitting or a failure to optimise, these seeds cannot tell.")


def test_the_largest_rise_of_test_error_is_told_wherever_it_is():
    text = trend([cell("resnet", 20, 0.01, 0.05), cell("resnet", 110, 0.03, 0.075), cell("resnet", 1202, 0.0, 0.20)])
    assert "Test error rises more, from 5.0 % at 20 layers to 20.0 % at 1202" in text


def test_an_arm_that_over_fits_less_is_named():
    arms = by_arm([cell("original", 110, 0, 0.06), cell("original", 1202, 0, 0.08), cell("drop-path", 1202, 0.005, 0.05)])
    assert smaller_gaps(arms) == [
        "Over-fitting: the gap between test and training error of original nets grows from 6.0 points at 110 layers to 8.0 points "
        "at 1202; at 1202 layers it is 4.5 points in the drop-path one."
    ]

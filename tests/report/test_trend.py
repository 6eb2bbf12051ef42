from dataclasses import replace

import pytest

from residua.report.significance import group_cells_by_arm
from residua.report.study_findings import make_findings_table
from residua.report.trend import describe_depth_trend, describe_slow_starts, describe_smaller_gaps
from tests.report.fake_records import make_cell


def make_cell_with_start(arm, depth, first_learned_step, seeds_learned=3, sd=0.0, train_error=0.1):
    """A cell of three seeds that start learning at that step and end with that training error."""
    return replace(
        make_cell(arm, depth, train_error, train_error, 0.01),
        learned_seeds=seeds_learned,
        first_learned_step=first_learned_step,
        first_learned_step_sd=sd,
        measured_every=20,
        steps=242,
    )


def test_a_slow_start_is_reported_with_its_steps_and_with_the_arms_that_avoid_it():
    arms = group_cells_by_arm(
        [
            make_cell_with_start("original", 110, 40),
            make_cell_with_start("original", 1202, 242, seeds_learned=0, train_error=0.8),
            make_cell_with_start("zero-initialised", 110, 40),
            make_cell_with_start("zero-initialised", 1202, 60, sd=20),
            make_cell_with_start("drop-path original", 1202, 242, seeds_learned=0, train_error=0.8),
            # starts learning early, and still ends with a high training error
            make_cell_with_start("warmed-up original", 1202, 40, train_error=0.8),
        ]
    )
    assert describe_slow_starts(arms, 10) == [
        "Slow start: deeper original nets start learning later. Steps until training error is "
        "below 80 %, measured every 20 steps: 40 at 110 layers and more than 242 at 1,202. "
        "At 1,202 layers the zero-initialised net needs 60: its change removes the slow start."
    ]


def test_a_delay_below_the_logging_interval_is_no_slow_start():
    assert (
        describe_slow_starts(
            group_cells_by_arm(
                [make_cell_with_start("resnet", 20, 40), make_cell_with_start("resnet", 56, 50)]
            ),
            10,
        )
        == []
    )


@pytest.mark.parametrize(
    ("deep", "words"),
    [(0.0, "over-fitting, not a failure to optimise."), (0.05, "and over-fitting as well.")],
)
def test_a_larger_gap_is_over_fitting_with_or_without_a_higher_training_error(deep, words):
    text = describe_depth_trend(
        [
            make_cell("resnet", 110, 0.0, 0.06, 0.001),
            make_cell("resnet", 1202, deep, 0.09 + 2 * deep, 0.001),
        ]
    )
    assert text.endswith(words)
    assert ("degradation, a failure to optimise" in text) is (deep > 0)


def test_a_rising_test_error_with_an_unclear_gap_is_inconclusive():
    text = describe_depth_trend(
        [make_cell("resnet", 20, 0.010, 0.021), make_cell("resnet", 110, 0.015, 0.034)]
    )
    assert text.endswith(
        "Test error rises, from 2.1 % at 20 layers to 3.4 % at 110, and the gap to training error "
        "from 1.1 points at 20 layers to 1.9 points at 110, too close to tell apart with one seed. "
        "Inconclusive: 1 seed is too few to tell over-fitting from a failure to optimise."
    )


def test_a_gap_that_grows_less_than_training_error_is_mentioned():
    text = describe_depth_trend(
        [make_cell("resnet", 20, 0.01, 0.05), make_cell("resnet", 110, 0.21, 0.40)]
    )
    assert text.endswith(
        "degradation, a failure to optimise (1 seed); the gap to training error grows too, "
        "from 4.0 points at 20 layers to 19.0 points at 110."
    )


def test_a_larger_gap_with_an_unclear_training_error_is_inconclusive():
    text = describe_depth_trend(
        [
            make_cell("fc-resnet", 10, 0.037, 0.05, 0.002),
            replace(make_cell("fc-resnet", 22, 0.345, 0.397, 0.13), generalisation_gap_sd=0.005),
        ]
    )
    assert text.startswith("training error does not clearly change with depth")
    assert text.endswith(
        "Inconclusive: 3 seeds are too few to tell over-fitting from a failure to optimise."
    )


def test_the_largest_rise_of_test_error_is_reported_at_any_depth():
    text = describe_depth_trend(
        [
            make_cell("resnet", 20, 0.01, 0.05),
            make_cell("resnet", 110, 0.03, 0.075),
            make_cell("resnet", 1202, 0.0, 0.20),
        ]
    )
    assert "Test error rises more, from 5.0 % at 20 layers to 20.0 % at 1,202" in text


def with_reestimated_train_error(cell, reestimated):
    sd = cell.train_error_sd
    return replace(cell, train_error_reestimated=reestimated, train_error_reestimated_sd=sd)


def test_test_error_is_compared_with_training_error_of_the_same_bn_statistics():
    shallow = with_reestimated_train_error(make_cell("resnet", 8, 0.37, 0.40, 0.01), 0.37)
    lagging = with_reestimated_train_error(make_cell("resnet", 14, 0.703, 0.752, 0.01), 0.361)
    text = describe_depth_trend([shallow, lagging])
    assert "37.0 % at 8 layers and 36.1 % at 14" in text  # of two depths: re-estimated
    assert text.endswith(
        "Test error rises, from 40.0 % at 8 layers to 75.2 % at 14, and so does the training error "
        "with the same running BN statistics, from 37.0 % at 8 layers to 70.3 % at 14: in the "
        "deeper net these statistics lag behind the weights, which explains most of the rise, not "
        "over-fitting."
    )
    assert make_findings_table([shallow, lagging], 10).rows[0][1] == "No degradation"
    over_fitted = with_reestimated_train_error(make_cell("resnet", 14, 0.36, 0.752, 0.01), 0.361)
    text = describe_depth_trend([shallow, over_fitted])
    assert "from 3.0 points at 8 layers to 39.2 points at 14: over-fitting" in text
    assert make_findings_table([shallow, over_fitted], 10).rows[0][1] == "No degradation, over-fits"
    plain = with_reestimated_train_error(make_cell("plain", 14, 0.703, 0.735, 0.01), 0.45)
    assert describe_depth_trend([shallow, plain]).endswith(
        "Test error rises too, from 40.0 % at 8 layers to 73.5 % at 14: degradation, a failure to "
        "optimise, not over-fitting."
    )


def test_an_arm_that_over_fits_less_is_reported():
    arms = group_cells_by_arm(
        [
            make_cell("original", 110, 0, 0.06),
            make_cell("original", 1202, 0, 0.08),
            make_cell("drop-path", 1202, 0.005, 0.05),
        ]
    )
    assert describe_smaller_gaps(arms) == [
        "Over-fitting: the gap between test and training error of original nets grows from "
        "6.0 points at 110 layers to 8.0 points at 1,202; "
        "at 1,202 layers it is only 4.5 points in the drop-path net."
    ]

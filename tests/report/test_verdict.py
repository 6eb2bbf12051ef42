from dataclasses import replace

import pytest

from residua.report.significance import CellComparison, find_largest_significant_rise
from residua.report.study_findings import (
    choose_headline_number,
    make_findings_table,
    shorten_answer,
)
from residua.report.verdict import describe_study_verdict
from tests.report.fake_records import make_cell


def test_a_degrading_plain_net_is_distinguished_from_a_residual_net_that_does_not_degrade():
    cells = [
        make_cell("plain", 20, 0.026, 0.058),
        make_cell("plain", 56, 0.65, 0.711),
        make_cell("resnet", 20, 0.008, 0.017),
        make_cell("resnet", 56, 0.006, 0.022),
    ]
    answer, plain, residual, at20, at56, doubt = describe_study_verdict(cells, 10)
    assert answer == (
        "Deeper plain nets train worse (1 seed): training error rises from 2.6 % at 20 layers to "
        "65.0 % at 56. Residual nets show no degradation (1 seed)."
    )
    assert plain == (
        "Plain: training error rises with depth: 2.6 % at 20 layers and 65.0 % at 56. Test error "
        "rises too, from 5.8 % at 20 layers to 71.1 % at 56: degradation, a failure to optimise "
        "(1 seed), not over-fitting."
    )
    assert residual == (
        "Residual: training error does not clearly change with depth: 0.8 % at 20 layers and 0.6 "
        "% at 56, too close to tell apart with one seed. Test error goes from 1.7 % at 20 layers "
        "to 2.2 % at 56: 0.5 points, too close to tell apart with one seed."
    )
    assert (
        at20
        == "At 20 layers the plain net gets 5.8 % test error, the residual one 1.7 %: 4.1 points."
    )
    assert (
        at56
        == "At 56 layers the plain net gets 71.1 % test error, the residual one 2.2 %: 68.9 points."
    )
    assert (
        doubt == "Each network was trained with one seed, so the spread over seeds is unknown: "
        "differences below 1 point are called unclear, and larger ones may still be chance."
    )


def test_a_rising_test_error_without_a_rising_training_error_is_over_fitting():
    _, resnet, _ = describe_study_verdict(
        [make_cell("resnet", 110, 0.001, 0.064), make_cell("resnet", 1202, 0.001, 0.079)], 10
    )
    assert resnet.endswith(
        "Test error rises, from 6.4 % at 110 layers to 7.9 % at 1,202, and the gap to training "
        "error from 6.3 points at 110 layers to 7.8 points at 1,202: over-fitting, not a failure "
        "to optimise."
    )


def test_too_few_seeds_give_an_inconclusive_verdict():
    cells = [
        replace(make_cell("resnet", 110, 0.015, 0.03, 0.01), seeds=2),
        replace(make_cell("resnet", 1202, 0.30, 0.35, 0.2), seeds=2),
    ]
    assert describe_study_verdict(cells, 10)[0] == (
        "Inconclusive for residual nets: 2 seeds are too few to tell whether deeper ones "
        "train worse."
    )


def test_only_arms_within_the_spread_of_seeds_are_called_alike():
    cells = [
        make_cell("plain", 20, 0.1, 0.08, 0.05),
        make_cell("resnet", 20, 0.1, 0.06, 0.001),
        make_cell("highway", 20, 0.1, 0.02, 0.001),
    ]
    assert describe_study_verdict(cells, 10)[1].endswith(
        "6.0 points from worst to best. "
        "The plain and residual nets differ by no more than the spread over seeds."
    )


@pytest.mark.parametrize(("sds", "degrees_of_freedom"), [((0.01, 0.01), 4), ((0.001, 0.1), 2)])
def test_unequal_variances_are_compared_by_welchs_test(sds, degrees_of_freedom):
    from scipy.stats import t

    ends = [
        make_cell("resnet", depth, 0.1, 0.1, spread)
        for depth, spread in zip((20, 110), sds, strict=True)
    ]
    wanted = t.ppf(0.975, degrees_of_freedom) * sum(spread**2 / 3 for spread in sds) ** 0.5
    assert CellComparison(*ends, "train").significance_threshold == pytest.approx(wanted, rel=2e-3)


def test_with_more_comparisons_a_rise_must_be_larger_to_count():
    pair = [
        make_cell("resnet", 20, 0.01, 0.02, 0.004),
        make_cell("resnet", 110, 0.022, 0.02, 0.004),
    ]
    assert find_largest_significant_rise(pair, "train").is_significant
    assert not find_largest_significant_rise(
        [*pair, make_cell("resnet", 302, 0.012, 0.02, 0.004)], "train"
    ).is_significant


def test_a_falling_test_error_means_that_depth_helps():
    answer, resnet, _ = describe_study_verdict(
        [make_cell("resnet", 20, 0.05, 0.0875), make_cell("resnet", 110, 0.001, 0.0643)], 10
    )
    assert answer == "Residual nets show no degradation (1 seed)."
    assert "training error falls with depth: 5.0 % at 20 layers and 0.1 % at 110." in resnet
    assert resnet.endswith(
        "Test error falls, from 8.8 % at 20 layers to 6.4 % at 110: depth helps."
    )


def test_a_higher_training_error_without_a_higher_test_error_is_not_called_degradation():
    _, plain, _ = describe_study_verdict(
        [make_cell("plain", 20, 0.01, 0.10), make_cell("plain", 56, 0.05, 0.10)], 10
    )
    assert "Test error goes from 10.0 % at 20 layers to 10.0 % at 56: 0.0 points" in plain
    assert "degradation" not in plain


def test_a_peak_at_an_intermediate_depth_is_called_unsteady():
    answer, plain, _ = describe_study_verdict(
        [
            make_cell("plain", 20, 0.01, 0.02),
            make_cell("plain", 56, 0.5, 0.6),
            make_cell("plain", 110, 0.05, 0.07),
        ],
        10,
    )
    assert "rises from 1.0 % at 20 layers to 50.0 % at 56" in answer
    assert (
        "rises with depth, but not steadily: 1.0 % at 20 layers, 50.0 % at 56 and 5.0 % at 110."
        in plain
    )


def test_a_small_rise_is_called_slight():
    answer, *_ = describe_study_verdict(
        [make_cell("resnet", 20, 0.005, 0.02), make_cell("resnet", 110, 0.017, 0.04)], 10
    )
    assert answer.startswith(
        "Deeper residual nets train slightly worse (1 seed): training error rises from 0.5 %"
    )


@pytest.mark.parametrize(("test", "lost"), [(0.80, False), (0.82, True)])
def test_a_net_is_at_chance_above_nine_tenths_of_the_guessing_error(test, lost):
    text = "\n".join(
        describe_study_verdict(
            [make_cell("plain", 20, 0.03, 0.05), make_cell("plain", 110, test, test)], 10
        )
    )
    assert (
        "At 110 layers it is at chance: guessing among 10 classes gives 90.0 %." in text
    ) is lost


def test_a_family_at_chance_at_every_depth_is_reported_as_guessing():
    answer, plain, _ = describe_study_verdict(
        [make_cell("plain", 56, 0.89, 0.9), make_cell("plain", 110, 0.9, 0.9)], 10
    )
    assert answer == "At every depth, plain nets do no better than guessing."
    assert plain == (
        "Plain: test error is at chance at every depth, 90.0 % at 56 layers and 90.0 % at 110, "
        "and guessing among 10 classes gives 90.0 %: nothing was learned that could be compared."
    )


def test_one_seed_cannot_resolve_a_small_difference():
    *_, compared, doubt = describe_study_verdict(
        [make_cell("plain", 20, 0.02, 0.034), make_cell("resnet", 20, 0.02, 0.030)], 10
    )
    assert compared.endswith(
        "the residual one 3.0 %: 0.4 points, too close to tell apart with one seed."
    )
    assert doubt.startswith("Each network was trained with one seed")


def test_with_several_seeds_their_spread_decides():
    near = [
        make_cell("plain", 20, 0.02, 0.034, sd=0.003),
        make_cell("resnet", 20, 0.02, 0.030, sd=0.003),
    ]
    clear = [
        make_cell("plain", 20, 0.02, 0.034, sd=0.001),
        make_cell("resnet", 20, 0.02, 0.030, sd=0.001),
    ]
    assert describe_study_verdict(near, 10)[1].endswith(
        ": 0.4 points, within the spread over seeds."
    )
    assert describe_study_verdict(clear, 10)[1].endswith(": 0.4 points.")
    assert (
        describe_study_verdict(clear, 10)[-1] == "Errors are means over 3 seeds. "
        "Two errors count as different if a t-test over seeds is significant at the 5 % level."
    )


def test_indistinguishable_families_among_three_are_reported():
    cells = [
        make_cell("plain", 56, 0.6, 0.711),
        make_cell("resnet", 56, 0.01, 0.022),
        make_cell("preresnet", 56, 0.01, 0.019),
    ]
    assert describe_study_verdict(cells, 10)[1] == (
        "At 56 layers the plain net gets 71.1 % test error, the residual one 2.2 % and the "
        "pre-activation one 1.9 %: 69.2 points from worst to best. The residual and "
        "pre-activation nets are too close to tell apart with one seed."
    )


def test_of_one_cell_the_errors_are_named():
    assert describe_study_verdict([make_cell("resnet", 20, 0.008, 0.017)], 10) == [
        "The 20-layer residual net gets 1.7 % test error and 0.8 % training error."
    ]
    assert describe_study_verdict([make_cell("plain", 110, 0.9, 0.9)], 10)[0].endswith(
        "90.0 % training error, which is chance among 10 classes."
    )


def test_findings_of_one_seed_say_so_and_those_of_several_do_not():
    def make_cells(*sds):
        errors_by_depth = ((20, 0.02, sds[0]), (56, 0.65, sds[1]))
        return [make_cell("plain", depth, e, e + 0.03, sd) for depth, e, sd in errors_by_depth]

    for sds, words in (
        ((None, None), " (1 seed)"),
        ((0.01, None), " (1 to 3 seeds)"),
        ((0.01,) * 2, ""),
    ):
        cells = make_cells(*sds)
        answer, plain, *_ = describe_study_verdict(cells, 10)
        assert answer.startswith(f"Deeper plain nets train worse{words}: ")
        assert plain.endswith(f"degradation, a failure to optimise{words}, not over-fitting.")
        assert make_findings_table(cells, 10).rows[0][1] == f"Degradation{words}"


def test_of_one_cell_both_training_errors_are_named_if_they_differ():
    cell = replace(make_cell("resnet", 14, 0.703, 0.752), train_error_reestimated=0.361)
    assert describe_study_verdict([cell], 10) == [
        "The 14-layer residual net gets 75.2 % test error and 70.3 % training error (36.1 % with "
        "re-estimated BN statistics)."
    ]


def test_families_with_one_depth_each_give_no_verdict_about_depth():
    lines = describe_study_verdict(
        [make_cell("plain", 20, 0.02, 0.05), make_cell("resnet", 56, 0.01, 0.02)], 10
    )
    assert (
        lines[0] == "Each family was trained at one depth only, so nothing can be said about depth."
    )
    assert len(lines) == 2


def test_a_modified_family_is_named_with_its_modification():
    lines = describe_study_verdict(
        [
            make_cell("resnet,shortcut=project", 20, 0.02, 0.05),
            make_cell("resnet,shortcut=project", 56, 0.01, 0.02),
        ],
        10,
    )
    assert lines[1].startswith("Residual (shortcut=project): training error falls")


def test_at_a_single_depth_the_verdict_states_the_best_and_the_worst():
    cells = [
        make_cell("plain", 20, 0.02, 0.06),
        make_cell("resnet", 20, 0.01, 0.02),
        make_cell("highway", 20, 0.02, 0.03),
    ]
    assert describe_study_verdict(cells, 10)[0] == (
        "At 20 layers the residual net does best, 2.0 % test error, and the plain one worst, 6.0 %."
    )
    assert describe_study_verdict(cells[1:], 10)[0].endswith("worst, 3.0 %.")
    close = [make_cell("plain", 20, 0.02, 0.022), make_cell("resnet", 20, 0.01, 0.02)]
    assert describe_study_verdict(close, 10)[0].endswith(
        "worst, 2.2 %: too close to tell apart with one seed."
    )


def test_a_custom_label_is_used_unchanged():
    lines = describe_study_verdict(
        [make_cell("plain, by hand", 20, 0.02, 0.05), make_cell("plain, by hand", 56, 0.9, 0.05)],
        10,
    )
    assert lines[0].startswith("Deeper plain, by hand nets train worse")


def test_a_net_that_guesses_at_every_depth_does_not_degrade():
    """Its training error rises from 85 to 90 %, which says nothing about depth."""
    guessing = [make_cell("plain", 20, 0.85, 0.9), make_cell("plain", 56, 0.9, 0.9)]
    cells = [*guessing, make_cell("resnet", 20, 0.01, 0.05), make_cell("resnet", 56, 0.01, 0.05)]
    answer = describe_study_verdict(cells, 10)[0]
    assert answer == (
        "Residual nets show no degradation (1 seed). At every depth, plain nets do no better than "
        "guessing."
    )
    assert choose_headline_number(cells, 10).number == "5.0 %"
    degrading = [
        make_cell(arm, depth, error, error + 0.01)
        for arm in ("highway", "preresnet", "wide")
        for depth, error in ((20, 0.05), (56, 0.4))
    ]
    assert shorten_answer([*cells, *degrading], "", 10) == (
        "Deeper nets train worse in 3 of 5 designs (1 seed). In highway nets, training error rises "
        "from 5.0 % at 20 layers to 40.0 % at 56. " + answer
    )


def test_a_net_that_degrades_at_a_middle_depth_is_not_called_healthy_as_well():
    cells = [
        make_cell(arm, depth, error, error + 0.01)
        for arm in ("plain", "resnet", "highway")
        for depth, error in ((20, 0.1), (56, 0.4), (110, 0.02))
    ]
    assert "no degradation" not in shorten_answer(cells, "", 10)


def test_a_depth_without_measured_steps_is_no_early_start():
    shallow, deep = make_cell("plain", 20, 0.01, 0.05), make_cell("plain", 56, 0.01, 0.05)
    started = {"learned_seeds": 3, "first_learned_step": 500.0, "measured_every": 20}
    [row] = make_findings_table([shallow, replace(deep, **started)], 10).rows
    assert row[1] == "No degradation (1 seed)"
    early = replace(shallow, **started | {"first_learned_step": 20.0})
    [row] = make_findings_table([early, replace(deep, **started)], 10).rows
    assert row[1] == "No degradation (1 seed), starts later"

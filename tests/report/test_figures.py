import re
from dataclasses import replace
from itertools import pairwise

import pytest

from residua.report import figures, study_figures
from residua.report.runs import read
from residua.report.tables import cells
from tests.report.records import cell, write_study

CELLS = [
    cell("plain", 20, 0.03, 0.06, 0.01),
    cell("plain", 56, 0.8, 0.82),
    cell("resnet", 20, 0.0, 0.02),
    cell("resnet", 56, 0.0, 0.02),
]


@pytest.fixture
def runs(tmp_path):
    return read(write_study(tmp_path, {"cifar-plain20": [(0.03, 0.06)], "cifar-resnet20": [(0.0, 0.02), (0.01, 0.03)]}))


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_same_numbers_give_the_same_bytes(runs):
    assert study_figures.depth_figure(CELLS, 10) == study_figures.depth_figure(CELLS, 10)
    assert study_figures.curves_figure(runs.finished) == study_figures.curves_figure(runs.finished)
    assert study_figures.depth_figure(cells(runs), 10) == study_figures.depth_figure(cells(runs), 10)


def test_a_users_matplotlibrc_changes_nothing():
    from matplotlib import rc_context

    plain = study_figures.depth_figure(CELLS, 10)
    with rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert study_figures.depth_figure(CELLS, 10) == plain


def test_axes_carry_units_and_the_real_depths():
    written = texts(study_figures.depth_figure(CELLS, 10))
    assert {"depth (weight layers)", "error (%)", "20", "56", "plain", "residual", "guessing, 90 %"} <= set(written)


def test_curves_have_a_panel_a_family_and_name_the_steps(runs):
    written = texts(study_figures.curves_figure(runs.finished))
    assert {"plain", "residual", "step", "error (%)", "dev", "training", "test, at the end"} <= set(written)


def test_names_with_dollars_and_brackets_are_drawn_as_they_are():
    assert "a$\\frac$&lt;b&gt;" in texts(
        study_figures.depth_figure([cell("a$\\frac$<b>", 20, 0.1, 0.2), cell("b", 56, 0.1, 0.2)], 10)
    )


def test_text_stays_text_and_nothing_is_dated():
    svg = study_figures.depth_figure(CELLS, 10)
    assert "<metadata" not in svg
    assert "DejaVu" not in svg


def test_every_ink_in_a_page_is_a_variable(runs):
    inks = figures.inks(1)
    for svg in (study_figures.depth_figure(CELLS, 10), study_figures.curves_figure(runs.finished)):
        inside = figures.inlined(svg, "a", "A figure", inks)
        assert re.findall(r"#[0-9a-f]{6}\b", inside) == []
        assert set(re.findall(r"var\(--(\w+)\)", inside)) <= {ink[1:] for ink in inks}


def test_ids_of_two_figures_in_a_page_never_meet():
    svg = study_figures.depth_figure(CELLS, 10)
    ids = [set(re.findall(r'id="([^"]+)"', figures.inlined(svg, prefix, "A figure", figures.inks(2)))) for prefix in "ab"]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_figure_on_its_own_stands_on_white():
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in figures.standalone(study_figures.depth_figure(CELLS, 10))


@pytest.mark.parametrize("heights", [[0.5, 0.5, 0.5], [0.1, 0.9], [0.3, 0.31, 0.32, 0.9], [0.2], [0.98] * 4])
def test_labels_are_moved_apart_and_keep_their_order(heights):
    moved = figures.apart(heights, 0.1)
    assert all(b - a >= 0.1 - 1e-3 for a, b in pairwise(sorted(moved)))
    assert sorted(range(len(heights)), key=lambda i: heights[i]) == sorted(range(len(heights)), key=lambda i: moved[i])
    assert max(moved) <= 1  # above the axes stands the key


def test_a_tick_too_near_another_goes_unlabelled():
    assert figures.uncrowded([20, 56, 110]) == ["20", "56", "110"]
    assert figures.uncrowded([107, 110, 1202]) == ["107", "", "1202"]


def test_a_last_line_over_few_steps_is_left_out_of_the_training_curve(runs):
    steps, errors = study_figures.curve(runs.finished[0], "train_error")
    assert steps == [100, 180]
    assert errors == pytest.approx([100 * (0.03 + 0.87 * 0.5), 100 * (0.03 + 0.87 * 0.1)])
    assert study_figures.curve(runs.finished[0], "dev_error")[0] == [100, 180, 200]


def test_points_show_their_numbers_to_the_pointer_on_a_desk(runs):
    svg = study_figures.depth_figure(cells(runs), 10)
    assert "<title>residual, 20 layers: test error 2.5 % ± 0.7, training error 0.5 % ± 0.7; 2 seeds</title>" in svg
    assert "<title>plain, 20 layers, seed 0: test error 6.0 %</title>" in study_figures.curves_figure(runs.finished)
    assert "<title>" not in study_figures.depth_figure(cells(runs), 10, figures.NARROW)
    assert "tip:" not in svg


def test_names_in_hover_values_cannot_put_markup_into_a_page():
    svg = study_figures.depth_figure([cell('a"<b>', 20, 0.1, 0.2), cell("c", 56, 0.1, 0.2)], 10)
    assert "<b>" not in svg
    assert "&lt;b&gt;, 20 layers" in svg


def test_arms_at_one_depth_are_drawn_beside_each_other():
    written = texts(study_figures.arms_figure([cell("plain", 20, 0.03, 0.06, 0.01), cell("resnet", 20, 0.0, 0.9)], 10))
    assert {"plain", "residual", "error (%), 20 layers", "test error", "training error"} <= set(written)


def test_a_start_that_never_comes_is_drawn_above_the_line():
    cells = [
        replace(cell("plain", d, 0.9, 0.9), set_out=d < 50, set_out_step=s, line_every=20, steps=242)
        for d, s in ((20, 40), (56, 242))
    ]
    svg = study_figures.start_figure(cells)
    assert {"not in 242 steps", "steps", "20", "56", "plain"} <= set(texts(svg))
    assert "<title>plain, 56 layers: more than 242 steps, to within 20</title>" in svg


def test_more_arms_than_inks_are_still_told_apart():
    assert len({(figures.family_ink(i), figures.marker(i)) for i in range(11)}) == 11

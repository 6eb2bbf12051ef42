import re
from dataclasses import replace
from itertools import pairwise

import pytest

from residua.report import figures, line_labels
from residua.report.arms_figure import render_arms_figure
from residua.report.depth_figures import render_depth_figure, render_learning_start_figure
from residua.report.learning_curves import get_error_curve, render_learning_curves
from residua.report.runs import read_study_runs
from residua.report.tables import average_runs_over_seeds
from tests.report.fake_records import make_cell, write_study_records

CELLS = [
    make_cell("plain", 20, 0.03, 0.06, 0.01),
    make_cell("plain", 56, 0.8, 0.82),
    make_cell("resnet", 20, 0.0, 0.02),
    make_cell("resnet", 56, 0.0, 0.02),
]


@pytest.fixture
def finished_runs(tmp_path):
    return read_study_runs(
        write_study_records(
            tmp_path,
            {"cifar-plain20": [(0.03, 0.06)], "cifar-resnet20": [(0.0, 0.02), (0.01, 0.03)]},
        )
    )


def list_svg_texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_same_data_gives_byte_identical_figures(finished_runs):
    assert render_depth_figure(CELLS, 10) == render_depth_figure(CELLS, 10)
    assert render_learning_curves(finished_runs.finished) == render_learning_curves(
        finished_runs.finished
    )
    assert render_depth_figure(average_runs_over_seeds(finished_runs), 10) == render_depth_figure(
        average_runs_over_seeds(finished_runs), 10
    )


def test_a_users_matplotlibrc_changes_nothing():
    from matplotlib import rc_context

    plain = render_depth_figure(CELLS, 10)
    with rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert render_depth_figure(CELLS, 10) == plain


def test_axes_show_units_and_the_actual_depths():
    written = list_svg_texts(render_depth_figure(CELLS, 10))
    assert {
        "depth (weight layers)",
        "error (%)",
        "20",
        "56",
        "plain",
        "residual",
        "guessing, 90 %",
    } <= set(written)


def test_curves_have_one_panel_per_family_and_label_the_steps(finished_runs):
    written = list_svg_texts(render_learning_curves(finished_runs.finished))
    assert {"plain", "residual", "step", "error (%)", "dev", "training", "test, at the end"} <= set(
        written
    )


def test_names_with_dollars_and_brackets_are_drawn_as_they_are():
    assert "a$\\frac$&lt;b&gt;" in list_svg_texts(
        render_depth_figure(
            [make_cell("a$\\frac$<b>", 20, 0.1, 0.2), make_cell("b", 56, 0.1, 0.2)], 10
        )
    )


def test_text_stays_text_and_no_date_is_embedded():
    svg = render_depth_figure(CELLS, 10)
    assert "<metadata" not in svg
    assert "DejaVu" not in svg


def test_every_colour_in_a_page_is_a_css_variable(finished_runs):
    inks = figures.make_figure_colors(1)
    for svg in (
        render_depth_figure(CELLS, 10),
        render_learning_curves(finished_runs.finished),
    ):
        inside = figures.inline_svg(svg, "a", "A figure", inks)
        assert re.findall(r"#[0-9a-f]{6}\b", inside) == []
        assert set(re.findall(r"var\(--(\w+)\)", inside)) <= {ink[1:] for ink in inks}


def test_ids_of_two_figures_in_a_page_never_clash():
    svg = render_depth_figure(CELLS, 10)
    ids = [
        set(
            re.findall(
                r'id="([^"]+)"',
                figures.inline_svg(svg, prefix, "A figure", figures.make_figure_colors(2)),
            )
        )
        for prefix in "ab"
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_standalone_figure_has_a_white_background():
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in figures.add_white_background(
        render_depth_figure(CELLS, 10)
    )


@pytest.mark.parametrize(
    "heights", [[0.5, 0.5, 0.5], [0.1, 0.9], [0.3, 0.31, 0.32, 0.9], [0.2], [0.98] * 4]
)
def test_overlapping_labels_are_spread_and_keep_their_order(heights):
    moved = line_labels.spread_labels(heights, 0.1)
    assert all(b - a >= 0.1 - 1e-3 for a, b in pairwise(sorted(moved)))
    assert sorted(range(len(heights)), key=lambda i: heights[i]) == sorted(
        range(len(heights)), key=lambda i: moved[i]
    )
    assert max(moved) <= 1  # the legend is above the axes


def test_a_tick_too_close_to_another_is_not_labelled():
    assert line_labels.hide_crowded_labels([20, 56, 110]) == ["20", "56", "110"]
    assert line_labels.hide_crowded_labels([107, 110, 1202]) == ["107", "", "1202"]


def test_a_last_line_averaged_over_few_steps_is_not_drawn(finished_runs):
    steps, errors = get_error_curve(finished_runs.finished[0], "train_error")
    assert steps == [100, 180]
    assert errors == pytest.approx([100 * (0.03 + 0.87 * 0.5), 100 * (0.03 + 0.87 * 0.1)])
    assert get_error_curve(finished_runs.finished[0], "dev_error")[0] == [
        100,
        180,
        200,
    ]


def test_points_show_their_values_on_hover(finished_runs):
    svg = render_depth_figure(average_runs_over_seeds(finished_runs), 10)
    assert (
        "<title>residual, 20 layers: test error 2.5 ± 0.7 %, training error 0.5 ± 0.7 %; 2 "
        "seeds</title>" in svg
    )
    assert "<title>plain, 20 layers, seed 0: test error 6.0 %</title>" in render_learning_curves(
        finished_runs.finished
    )
    assert "<title>" not in render_depth_figure(
        average_runs_over_seeds(finished_runs), 10, figures.PHONE_WIDTH
    )
    assert "tip:" not in svg


def test_names_in_hover_values_are_escaped():
    svg = render_depth_figure([make_cell('a"<b>', 20, 0.1, 0.2), make_cell("c", 56, 0.1, 0.2)], 10)
    assert "<b>" not in svg
    assert "&lt;b&gt;, 20 layers" in svg


def test_arms_at_one_depth_are_drawn_next_to_each_other():
    written = list_svg_texts(
        render_arms_figure(
            [make_cell("plain", 20, 0.03, 0.06, 0.01), make_cell("resnet", 20, 0.0, 0.9)], 10
        )
    )
    assert {"plain", "residual", "error (%), 20 layers", "test error", "training error"} <= set(
        written
    )


def test_a_run_that_never_starts_learning_is_drawn_above_the_line():
    cells = [
        replace(
            make_cell("plain", d, 0.9, 0.9),
            learned_seeds=d < 50,
            first_learned_step=s,
            measured_every=20,
            steps=242,
        )
        for d, s in ((20, 40), (56, 242))
    ]
    svg = render_learning_start_figure(cells)
    assert {"not in 242 steps", "steps", "20", "56", "plain"} <= set(list_svg_texts(svg))
    assert "<title>plain, 56 layers: more than 242 steps, measured every 20</title>" in svg


def test_more_arms_than_colours_are_still_distinguishable():
    assert (
        len({(figures.pick_series_color(i), figures.pick_series_marker(i)) for i in range(11)})
        == 11
    )

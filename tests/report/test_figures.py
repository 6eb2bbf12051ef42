import re
from dataclasses import replace
from itertools import pairwise

import pytest

from residua.report import figures, line_labels
from residua.report.arms_figure import render_arms_figure
from residua.report.depth_figures import render_depth_figure
from residua.report.learning_curves import (
    average_error_curves,
    get_error_curve,
    render_learning_curves,
)
from residua.report.learning_start_figure import render_learning_start_figure
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
    inks = figures.map_figure_colors_to_dark(1)
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
                figures.inline_svg(svg, prefix, "A figure", figures.map_figure_colors_to_dark(2)),
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
    assert line_labels.hide_crowded_labels([107, 110, 1202]) == ["107", "", "1,202"]
    depths = [20, 110, 164, 302, 602, 1001, 1202]
    assert line_labels.hide_crowded_labels(depths, 380) == [
        *("20", "110", "164", "302", "602", "", "1,202")
    ]
    assert line_labels.hide_crowded_labels(depths, 130) == [
        *("20", "110", "", "302", "", "", "1,202")
    ]


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
        "<title>residual, 20 layers: test error 2.5 % (2.0 to 3.0 %), training error 0.5 % (0.0 to "
        "1.0 %); 2 seeds</title>" in svg
    )
    assert (
        "<title>residual, 20 layers: test error 2.5 % at the end; 2 seeds</title>"
        in render_learning_curves(finished_runs.finished)
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


def test_curves_are_the_mean_over_seeds_and_their_range(finished_runs):
    residual = [run for run in finished_runs.finished if run.family == "resnet"]
    curve = average_error_curves(residual, "dev_error")
    assert curve.steps == [100, 180, 200]
    assert curve.means == pytest.approx([46.25, 11.25, 2.5])
    assert curve.lowest == pytest.approx([46.0, 10.8, 2.0])
    assert curve.highest == pytest.approx([46.5, 11.7, 3.0])


def test_a_step_that_one_seed_did_not_measure_is_in_no_mean(finished_runs):
    first, second = [run for run in finished_runs.finished if run.family == "resnet"]
    shorter = replace(second, metric_lines=second.metric_lines[1:])
    assert average_error_curves([first, shorter], "dev_error").steps == [180, 200]


def test_only_lower_bounds_have_open_markers():
    cell = replace(make_cell("plain", 20, 0.1, 0.1), measured_every=20, steps=242)
    learned = replace(cell, learned_seeds=1, first_learned_step=40)
    bound = replace(cell, depth=56, learned_seeds=0, first_learned_step=242)
    open_marker = f"fill: {figures.PAPER_COLOR}"
    assert open_marker not in render_learning_start_figure([learned, replace(learned, depth=56)])
    assert open_marker in render_learning_start_figure([learned, bound])


@pytest.mark.parametrize(("arms", "panels"), [(4, 1), (5, 2)])
def test_many_nets_have_a_panel_for_each_error(arms, panels):
    cells = [make_cell(f"net {i}", depth, 0.1, 0.2) for i in range(arms) for depth in (20, 56)]
    written = list_svg_texts(render_depth_figure(cells, 10))
    assert written.count("depth (weight layers)") == panels
    assert written.count("net 0") == 1


def compute_contrast(color, other):
    """The contrast ratio of two colors, by the formula of WCAG 2.1."""

    def luminance(hex_color):
        parts = [int(hex_color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(color), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("num_depths", [1, 2, 5, 9])
def test_labels_in_the_color_of_their_line_can_be_read(num_depths):
    inks = figures.SERIES_COLORS | figures.map_depth_colors_to_dark(num_depths)
    inks[figures.MUTED_COLOR] = figures.BASE_COLORS[figures.MUTED_COLOR]
    dark_paper = figures.BASE_COLORS[figures.PAPER_COLOR]
    for light, dark in inks.items():
        assert compute_contrast(light, figures.PAPER_COLOR) >= 4.5, light
        assert compute_contrast(dark, dark_paper) >= 4.5, dark

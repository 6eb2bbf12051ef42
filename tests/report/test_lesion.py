"""The report of a lesion study, from numbers written by hand."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    PathLengthShare,
    RandomDeletionResult,
    RandomSwapResult,
    UnitDeletionResult,
)
from residua.config.papers import network
from residua.config.plan import plan
from residua.errors import RecordError, UsageError
from residua.report import figures
from residua.report.format import format_percent_number
from residua.report.lesion import (
    check_lesion_output_folder,
    make_lesion_json,
    read_lesion_study,
    write_lesion_report,
)
from residua.report.lesion_curve_figures import (
    render_deletions_swaps_figure,
    render_kept_units_paths_figure,
)
from residua.report.lesion_panels import make_drawn_point, pick_net_colors
from residua.report.lesion_summary import describe_lesion_study, format_lesion_for_terminal
from residua.report.lesion_unit_figure import render_single_deletion_figure
from tests.browser import assert_page_fits, needs_chromium
from tests.cli_runner import run_cli

LESION_RECORDS = Path(__file__).parent.parent.parent / "experiments" / "lesion"
ERROR_RISES = [0.00, 0.01, 0.30, 0.02, 0.00, 0.00, 0.05, 0.00, 0.00]


def make_net_results(name, error, rises, thinned, paths=True):
    planned = plan(network(name))
    units = tuple(
        UnitDeletionResult(
            unit.name,
            unit.stage,
            unit.index,
            unit.input_shape != unit.output_shape,
            None if rise is None else error + rise,
        )
        for unit, rise in zip(planned.units, rises, strict=True)
    )
    thinned_results = tuple(
        RandomDeletionResult(count, 9 - count, mean_error, 0.012 if count < 9 else None)
        for count, mean_error in thinned.items()
    )
    lengths = tuple(
        PathLengthShare(k, -1.0 - k, True, share)
        for k, share in enumerate([0.02, 0.3, 0.4, 0.2, 0.05, 0.03, 0.0, 0.0, 0.0, 0.0])
    )
    return NetworkLesionResult(
        label=name,
        network=planned.network,
        depth=planned.depth,
        error=error,
        units=units,
        thinned=thinned_results,
        swapped=(RandomSwapResult(1, 0.94, 0.06, 0.01), RandomSwapResult(4, 0.8, 0.5, 0.2)),
        paths=lengths if paths else (),
        gradient_images=64 if paths else 0,
    )


RESIDUAL = make_net_results(
    "cifar-resnet20", 0.05, ERROR_RISES, {1: 0.09, 2: 0.1, 4: 0.3, 8: 0.8, 9: 0.9}
)
PLAIN = make_net_results(
    "cifar-plain20",
    0.06,
    [0.8, 0.7, 0.75, None, 0.8, 0.8, None, 0.7, 0.8],
    {1: 0.8, 2: 0.85, 7: 0.9},
    paths=False,
)
STUDY = LesionStudyResult(
    dataset="digits",
    split="test",
    classes=10,
    images=400,
    draws=5,
    seed=0,
    nets=(RESIDUAL, PLAIN),
)


def extract_text(html):
    return " ".join(
        re.sub(
            r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", html, flags=re.DOTALL
        ).split()
    )


EXPECTED_VERDICT = """
Removing one unit leaves cifar-resnet20 at a median error of 5.0 % (intact 5.0 %)
 and cifar-plain20 at 86.0 % (intact 6.0 %).
cifar-resnet20: 6 of 9 single deletions raise the error by at most one point;
 the worst, stage1.unit3, raises it to 35.0 %.
 Without a shape-changing unit the median error is 8.5 %.
cifar-resnet20: with random units deleted, the error is 10.0 ± 1.2 % without 2,
 30.0 ± 1.2 % without 4 and 80.0 ± 1.2 % without 8.
cifar-resnet20: with random units swapped, the error is 6.0 ± 1.0 % after 1 swap (tau 0.94)
 and 50.0 ± 20.0 % after 4 swaps (tau 0.80).
cifar-resnet20: 90 % of the gradient comes through paths of 1 to 4 of the 9 units;
 50 % of all paths have these lengths.
cifar-plain20: 0 of 7 single deletions raise the error by at most one point;
 the worst, stage1.unit1, raises it to 86.0 %.
 2 units change the shape and cannot be deleted, as the net has no shortcuts.
cifar-plain20: with random units deleted, the error is 85.0 ± 1.2 % without 2.
cifar-plain20: with random units swapped, the error is 6.0 ± 1.0 % after 1 swap (tau 0.94)
 and 50.0 ± 20.0 % after 4 swaps (tau 0.80).
An error of 5.0 % on 400 images has a standard error of 1.1 points.
"""


def test_the_verdict_follows_from_the_numbers():
    assert "\n".join(describe_lesion_study(STUDY)) == EXPECTED_VERDICT.strip().replace("\n ", " ")


def test_the_terminal_output_has_one_line_per_stage():
    printed_lines = format_lesion_for_terminal(STUDY)
    assert printed_lines[:6] == [
        "400 test images of digits; errors in percent, * marks units that change the shape",
        "",
        "cifar-resnet20: intact 5.0; without one unit:",
        "  stage1   5.0 6.0 35.0",
        "  stage2   7.0* 5.0 5.0",
        "  stage3   10.0* 5.0 5.0",
    ]
    assert "  stage2   –* 86.0 86.0" in printed_lines
    assert (
        max(map(len, printed_lines[: printed_lines.index(describe_lesion_study(STUDY)[0])])) <= 100
    )


def test_written_results_are_read_back_and_rewritten_identically(tmp_path):
    write_lesion_report(STUDY, tmp_path)
    assert read_lesion_study(tmp_path) == STUDY
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_lesion_report(read_lesion_study(tmp_path), tmp_path)
    assert {path: path.read_bytes() for path in first} == first
    assert json.loads((tmp_path / "results.json").read_text()) == make_lesion_json(STUDY)


def test_the_report_command_regenerates_the_page(tmp_path, capsys):
    page = write_lesion_report(STUDY, tmp_path)
    before = page.read_bytes()
    page.unlink()
    code, out, _ = run_cli(capsys, "report", tmp_path)
    assert code == 0
    assert page.read_bytes() == before
    assert make_lesion_json(STUDY)["verdict"] in out


def test_the_page_starts_with_the_answer_draws_the_nets_and_loads_nothing(tmp_path):
    html = write_lesion_report(STUDY, tmp_path).read_text()
    order = [
        html.index(part)
        for part in (
            "<h1>",
            'class="lead"',
            "<figure>",
            "<table>",
            "<details>",
            "How it was measured",
        )
    ]
    assert order == sorted(order)
    assert not re.search(
        r'(src|href)="(?!#|results\.json|data:)[^"]*"', html.replace("xlink:href", "href")
    )
    assert "http" not in html.replace("http://www.w3.org/", "")
    assert html.count('data-unit="stage1.unit1"') == 2
    text = extract_text(html).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "Removing one unit adds 0.0 points to the error of cifar-resnet20 and 80.0 to that of "
        "cifar-plain20 (medians over their units)."
    ) in text
    assert html.count("<table>") == 1
    assert "net intact median without one unit worst unit" in text
    assert (
        "cifar-resnet20 5.0 5.0 35.0 stage1.unit3 cifar-plain20 6.0 86.0 86.0 stage1.unit1" in text
    )
    assert not re.search(r"\b(nan|inf|None|undefined)\b", text)


def test_every_point_has_its_value_as_a_tooltip():
    units, many, paths = (
        render_single_deletion_figure(STUDY),
        render_deletions_swaps_figure(STUDY),
        render_kept_units_paths_figure(STUDY),
    )
    assert units.count('class="tip"') == 18
    assert "<title>without stage1.unit3: 35.0 %</title>" in units
    assert "<title>stage2.unit1: cannot be deleted, as it changes the shape</title>" in units
    assert "<title>cifar-resnet20, 4 of 9 deleted: 30.0 ± 1.2 %</title>" in many
    assert "<title>cifar-plain20, 4 swaps (tau 0.80): 50.0 ± 20.0 %</title>" in many
    assert "<title>cifar-resnet20, paths of 2 units: 40 % of the gradient</title>" in paths
    for svg in (units, many, paths):
        assert (
            re.findall(
                r"#[0-9a-f]{6}\b",
                figures.inline_svg(svg, "a", "A figure", figures.map_figure_colors_to_dark(1)),
            )
            == []
        )


def test_the_ends_of_every_spread_are_inside_0_and_100_percent():
    for sample, ends, text in (
        (RandomDeletionResult(2, 7, 0.9, 0.3), [60, 100], "90.0 ± 30.0 %"),
        (RandomSwapResult(2, 0.5, 0.1, 0.3), [0, 40], "10.0 ± 30.0 %"),
        (RandomSwapResult(2, 0.5, 0.1, 0.3, (0.02, 0.7)), [2, 70], "10.0 % (2.0 to 70.0 %)"),
    ):
        point = make_drawn_point(3, sample, "a net")
        assert [*point.spread_percents] == pytest.approx(ends)
        assert point.text == f"a net: {text}"
    assert make_drawn_point(3, RandomDeletionResult(2, 7, 0.9, None), "").spread_percents is None
    with pytest.raises(UsageError, match="error_range=1.2 is invalid"):
        replace(RESIDUAL, swapped=(RandomSwapResult(2, 0.5, 0.1, 0.3, (0.02, 1.2)),))


def test_the_range_of_the_draws_is_stored_and_drawn(tmp_path):
    swaps = (RandomSwapResult(1, 0.94, 0.06, 0.01, (0.05, 0.08)),)
    deletions = (RandomDeletionResult(2, 7, 0.3, 0.4, (0.1, 0.9)),)
    study = replace(STUDY, nets=(replace(RESIDUAL, swapped=swaps, thinned=deletions),))
    html = write_lesion_report(study, tmp_path).read_text()
    assert read_lesion_study(tmp_path) == study
    assert "bars are the smallest and the largest error" in extract_text(html)
    encoded = re.search(r'download="lesion.csv" href="data:text/csv;base64,([^"]*)"', html)[1]
    rows = b64decode(encoded).decode().splitlines()
    assert rows[1] == "cifar-resnet20,intact,,0.05,,"
    assert rows[-2:] == [
        "cifar-resnet20,random deleted,2,0.3,0.1,0.9",
        "cifar-resnet20,random swaps,1,0.06,0.05,0.08",
    ]


def test_a_plain_net_has_the_same_colour_as_in_other_figures():
    assert pick_net_colors([RESIDUAL, PLAIN, RESIDUAL]) == [
        figures.pick_series_color(1),
        figures.pick_series_color(0),
        figures.pick_series_color(2),
    ]


def test_a_study_of_one_small_net_has_its_page_too(tmp_path):
    small = replace(RESIDUAL, swapped=(), thinned=RESIDUAL.thinned[:1])
    assert "cifar-plain20" not in extract_text(
        write_lesion_report(replace(STUDY, nets=(small,)), tmp_path).read_text()
    )


def test_a_folder_without_a_lesion_study_is_reported(tmp_path):
    with pytest.raises(RecordError, match="contains no lesion study: it has no results.json"):
        read_lesion_study(tmp_path)
    check_lesion_output_folder(tmp_path)
    for text, sentence in {
        "{": "is damaged",
        '{"kind": "study"}': "contains no lesion study",
        '{"kind": "lesion", "format": 9}': "has format 9, but this version of residua reads "
        "format 1",
        '{"kind": "lesion", "format": 1}': "not a valid lesion study result",
    }.items():
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(RecordError, match=sentence):
            read_lesion_study(tmp_path)
    (tmp_path / "results.json").write_text('{"cells": []}')
    with pytest.raises(
        UsageError, match="is not empty and contains no lesion study: choose another --out"
    ):
        check_lesion_output_folder(tmp_path)
    write_lesion_report(STUDY, tmp_path)
    check_lesion_output_folder(tmp_path)


def test_the_numbers_in_the_experiment_readme_match_its_records():
    table = (LESION_RECORDS / "README.md").read_text()
    for folder in ("digits", "cifar10"):
        for net in read_lesion_study(LESION_RECORDS / folder).nets:
            intact, typical, worst = (
                f"{format_percent_number(error)} %"
                for error in (net.error, net.median_deletion_error, net.worst_deletion.error)
            )
            assert f"| {intact} | {typical} | {worst} ({net.worst_deletion.name}) |" in table


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_errors_and_values_on_hover(tmp_path, width):
    hover = """page.querySelectorAll('details').forEach(part => part.open = true);
      const isVisible = svg => svg.getBoundingClientRect().height > 100;
      const shown = [...page.querySelectorAll('figure svg')].filter(isVisible);
      const point = shown[0].querySelector('.tip use, .tip path');
      point.dispatchEvent(new view.PointerEvent('pointerover', {bubbles: true}));
      const touches = (a, b) => a.left < b.right && b.left < a.right
        && a.top < b.bottom - 1 && b.top < a.bottom - 1;
      let legends = 0, covering = 0;
      for (const svg of shown) {
        const panels = [...svg.querySelectorAll('[id*="axes_"]')].map(
          axes => axes.querySelector('[id*="patch_"]').getBoundingClientRect());
        for (const legend of svg.querySelectorAll('[id*="legend_"]')) {
          legends += 1;
          covering += panels.some(panel => touches(panel, legend.getBoundingClientRect()));
        }
      }"""
    results = """shown.length, page.querySelectorAll('details svg').length,
      page.getElementById('tooltip').textContent, legends, covering"""
    html = write_lesion_report(STUDY, tmp_path / "study").read_text()
    assert (
        assert_page_fits(html, width, tmp_path, hover, results)
        == "3|2|without stage1.unit1: 5.0 %|4|0"
    )

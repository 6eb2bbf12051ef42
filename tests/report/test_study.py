import csv
import json
import re
from base64 import b64decode
from io import StringIO

import pytest

from residua.errors import RecordError
from residua.report import study
from residua.report.study import make_study_results, read_study_summary
from tests.browser import assert_page_fits, load_in_chromium, needs_chromium
from tests.report.fake_records import (
    RECIPE,
    write_page,
    write_run_record,
    write_study_records,
)


@pytest.fixture
def study_folder(tmp_path):
    errors = {
        "cifar-plain20": [(0.02, 0.05), (0.03, 0.06)],
        "cifar-plain56": [(0.80, 0.85), (0.82, 0.86)],
        "cifar-resnet20": [(0.01, 0.02), (0.012, 0.021)],
        "cifar-resnet56,shortcut=project": [(0.0, 0.02)],
    }
    folder = write_study_records(tmp_path / "study", errors)
    write_run_record(folder / "runs" / "cut", "cifar-resnet110", 0.3, 0.3, finished=False)
    return folder


def test_the_page_loads_nothing_and_shows_no_nan(study_folder):
    html = write_page(study_folder).read_text()
    assert "http" not in html
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None|undefined)\b", words)
    assert not re.search(r"\bnan\b", html)
    assert not re.search(
        r'(src|href)="(?!#|data:|results\.json")[^"]*"', re.sub(r'xlink:href="#', 'href="#', html)
    )


def test_the_page_starts_with_the_answer_and_shows_mean_and_spread(study_folder):
    html = write_page(study_folder).read_text()
    order = [
        html.index(part)
        for part in (
            "<h1>Do deeper networks train?",
            '<p class="number">81.0\N{NO-BREAK SPACE}%',
            'class="lead"',
            '<svg class="depth wide"',
            'class="drawing"',
            '<table class="changes">',
            '<table class="results">',
            "How it was measured",
        )
    ]
    assert order == sorted(order)
    assert "269,434" in html
    assert "CPU, x86_64, 1 thread, fp32" in html
    assert "residua 0.1.0, torch 2.13.0, python 3.11.2" in html
    assert "cifar-resnet110, seed 0: measured up to step 200" in html


def test_a_recipe_is_described_in_words(study_folder):
    assert (
        "Recipe small: 200 steps (10 epochs) of 64 images; SGD with momentum 0.9 and weight decay "
        "0.0001; the learning rate rises to 0.1 over the first 20\N{NO-BREAK SPACE}% of steps, "
        "then falls along a cosine; images are shifted by up to 4 pixels."
    ) in write_page(study_folder).read_text()


def test_warm_up_and_learning_rate_drops_are_described_when_used(tmp_path):
    recipe = {"name": "he2015", "steps": 64000, "schedule": {"kind": "Drops"}, "warmup": {}}
    write_run_record(
        tmp_path / "one", "cifar-resnet110", 0.1, 0.1, recipe=recipe, dataset="cifar10"
    )
    html = write_page(tmp_path / "one").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "the learning rate is 0.1, times 0.1 after 50 % and 75 % of steps; the learning rate is "
        "0.01 for the first 400 steps from 110 layers on;" in html
    )
    assert "shifted by up to 4 pixels, mirrored at random." in html


def test_a_recipe_of_another_version_is_shown_by_its_name(tmp_path):
    write_run_record(tmp_path / "one", "cifar-resnet20", 0.1, 0.1, recipe=RECIPE | {"novelty": 1})
    assert "Recipe small, 200 steps." in write_page(tmp_path / "one").read_text()


def test_results_json_has_the_same_numbers_as_the_page(study_folder):
    found = make_study_results(read_study_summary(study_folder))
    assert write_page(study_folder) == study_folder / "report.html"
    assert isinstance(found["verdict"], str)
    assert [(cell["family"], cell["depth"], cell["seeds"]) for cell in found["cells"]] == [
        ("plain", 20, 2),
        ("plain", 56, 2),
        ("resnet", 20, 2),
        ("resnet,shortcut=project", 56, 1),
    ]
    assert found["cells"][0]["test_error"] == pytest.approx(0.055)
    assert found["cells"][-1]["test_error_sd"] is None


def test_writing_a_report_twice_gives_identical_files(study_folder):
    def read_all_files():
        write_page(study_folder)
        return {
            path.relative_to(study_folder): path.read_bytes()
            for path in sorted(study_folder.rglob("*"))
            if path.is_file()
        }

    first = read_all_files()
    assert read_all_files() == first
    assert {str(path) for path in first} >= {
        "report.html",
        "results.json",
        "figures/depth.svg",
        "figures/curves.svg",
    }
    written = json.loads(first[next(path for path in first if path.name == "results.json")])
    assert written["cells"] == make_study_results(read_study_summary(study_folder))["cells"]
    assert (
        str(study_folder)
        not in first[next(path for path in first if path.name == "report.html")].decode()
    )


def test_records_are_read_and_averaged_once_per_report(study_folder, monkeypatch):
    calls = []
    for function in (study.read_study_runs, study.average_runs_over_seeds):
        monkeypatch.setattr(
            study,
            function.__name__,
            lambda argument, function=function: calls.append(function) or function(argument),
        )
    summary = read_study_summary(study_folder)
    study.write_study_report(summary, study_folder)
    make_study_results(summary)
    assert len(calls) == 2


def test_a_study_of_one_run_shows_its_errors(tmp_path):
    write_run_record(tmp_path / "one", "cifar-resnet20", 0.008, 0.017)
    html = write_page(tmp_path / "one").read_text()
    assert "How well does cifar-resnet20 train?" in html
    assert '<p class="number">1.7\N{NO-BREAK SPACE}%<small>test error of the residual net' in html
    assert not (tmp_path / "one" / "figures" / "depth.svg").exists()


def test_a_run_without_measurements_has_a_page_without_figures(tmp_path):
    write_run_record(tmp_path / "one", "cifar-resnet20", 0.008, 0.017)
    (tmp_path / "one" / "metrics.jsonl").unlink()
    html = write_page(tmp_path / "one").read_text()
    assert "wide" not in " ".join(re.findall(r'<svg class="(.*?)"', html))


def test_names_from_records_are_escaped(study_folder):
    head = study_folder / "runs" / "cut" / "run.json"
    head.write_text(head.read_text().replace("cifar-resnet110", "<script>alert(1)</script>110"))
    head = study_folder / "runs" / "cifar-plain20-seed0" / "run.json"
    head.write_text(head.read_text().replace("cifar-plain20", "cifar-<i>20"))
    html = write_page(study_folder).read_text()
    assert "<script>alert" not in html
    assert "<i>" not in html


def test_without_a_finished_run_no_page_is_written(tmp_path):
    write_run_record(tmp_path / "runs" / "a", "cifar-resnet20", 0.1, 0.1, finished=False)
    with pytest.raises(RecordError, match="no finished run yet"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(study_folder, tmp_path, width):
    assert_page_fits(write_page(study_folder).read_text(), width, tmp_path)


@pytest.mark.slow
@needs_chromium
def test_a_browser_draws_every_figure_without_errors(study_folder, tmp_path):
    page = write_page(study_folder)
    document = load_in_chromium(page.as_uri(), tmp_path, "--window-size=1280,2000")
    for figure in ("depth", "start", "curves"):
        for size in ("wide", "narrow"):
            assert f'<svg class="{figure} {size}"' in document
    points = re.findall(r'<g class="tip" data-tip="([^"]*)"', document)
    assert (
        "plain, 56 layers: test error 85.5 % (85.0 to 86.0 %), training error 81.0 % (80.0 to "
        "82.0 %); 2 seeds" in points
    )
    assert len(points) == len(set(points))


def test_each_kind_of_block_is_drawn_once_and_says_its_nets(study_folder):
    html = write_page(study_folder).read_text()
    drawings = re.findall(r'<svg[^>]*class="drawing"[^>]*aria-label="([^"]*)"', html)
    plain = "weight 3×3, BN, ReLU, weight 3×3, BN"
    assert drawings == [
        f"Block of plain nets: {plain}, then ReLU",
        f"Block of residual and residual (shortcut=project) nets: {plain}, joined with x by +, "
        "then ReLU",
    ]


def test_two_blocks_of_the_same_arm_are_told_apart_by_their_depths(study_folder):
    for name in ("cifar-preresnet20", "cifar-preresnet56", "cifar-preresnet164"):
        write_run_record(study_folder / "runs" / name, name, 0.1, 0.1)
    html = write_page(study_folder).read_text()
    assert set(re.findall(r"</svg><p>(.*?)</p>", html)) == {
        "Plain",
        "Residual and residual (shortcut=project)",
        "Pre-activation (20 and 56 layers)",
        "Pre-activation (164 layers)",
    }


def test_a_unit_that_halves_the_image_is_drawn_only_if_the_arm_has_no_other(tmp_path):
    folder = tmp_path / "study"
    for name in ("cifar-resnet8", "cifar-preresnet8", "cifar-preresnet14"):
        write_run_record(folder / "runs" / name, name, 0.1, 0.1)
    html = write_page(folder).read_text()
    assert re.findall(r"</svg><p>(.*?)</p>", html) == ["Residual", "Pre-activation"]
    labels = re.findall(r'class="drawing"[^>]*aria-label="([^"]*)"', html)
    assert ["joined with pad by" in label for label in labels] == [True, False]
    assert "nets of 8 and 14 layers on digits, after 200 steps<" in html


def test_the_page_holds_its_figures_and_numbers_as_files(study_folder):
    html = write_page(study_folder).read_text()
    links = re.findall(r'download="([^"]*)" href="data:[^,]*;base64,([^"]*)"', html)
    files = {name: b64decode(content).decode() for name, content in links}
    assert files["results.json"] == (study_folder / "results.json").read_text()
    assert files["depth.svg"] == (study_folder / "figures" / "depth.svg").read_text()
    rows = list(csv.DictReader(StringIO(files["results.csv"])))
    cells = make_study_results(read_study_summary(study_folder))["cells"]
    assert [float(row["test_error"]) for row in rows] == [cell["test_error"] for cell in cells]


def test_the_findings_of_each_net_are_a_row(study_folder):
    html = write_page(study_folder).read_text()
    [table] = re.findall(r'<table class="changes">(.*?)</table>', html, re.DOTALL)
    rows = [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    ]
    assert rows[1] == [
        *("Plain", "Degradation", "20 → 56", "2.5 → 81.0", "5.5 → 85.5"),
        "100 → &gt; 200",
    ]
    assert rows[2] == ["Residual", "–", "20", "1.1", "2.1", "100"]


def test_the_gap_is_that_of_errors_with_the_same_bn_statistics(tmp_path):
    extra = {"train_error_reestimated": 0.361}
    write_run_record(tmp_path / "one", "cifar-resnet14", 0.703, 0.752, extra_result=extra)
    html = write_page(tmp_path / "one").read_text()
    assert "<td>36.1</td>\n<td>72.8</td>\n<td>75.2</td>\n<td>4.9</td>" in html
    assert "both with the running BN statistics" in html
    [cell] = json.loads((tmp_path / "one" / "results.json").read_text())["cells"]
    assert cell["gap"] == pytest.approx(0.391)  # means what it meant in earlier versions
    assert cell["generalisation_gap"] == pytest.approx(0.049)


def test_the_table_shows_ranges_intervals_gaps_and_first_learned_steps(study_folder):
    write_run_record(study_folder / "runs" / "third", "cifar-resnet20", 0.013, 0.022, seed=2)
    html = write_page(study_folder).read_text()
    assert "<td>81.0<small>80.0 to 82.0</small></td>" in html  # two seeds
    assert "<td>1.2 ± 0.2<small>CI ± 0.4</small></td>" in html  # three
    assert "steps to<br>80\N{NO-BREAK SPACE}%" in html
    assert "<td>&gt; 200</td>" in html
    assert '<th scope="row">56<small>at chance</small></th>' in html

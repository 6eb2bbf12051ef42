"""The page of a single run, from records written by hand."""

import json
import re
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from residua.files import write_json
from residua.report.evaluation_page import write_evaluation_report
from residua.report.run_curves import choose_log_ticks
from residua.report.run_page import describe_run, write_run_report
from residua.report.run_summary import compute_gap_interval, count_training_images
from residua.report.runs import read_study_runs
from residua.report.study import read_study_summary
from tests.browser import assert_page_fits, needs_chromium
from tests.cli_runner import run_cli
from tests.report.fake_records import write_run_record
from tests.report.test_evaluation_page import PIXEL_URI, make_evaluation

COUNTS = {"dev_images": 180, "test_images": 500}


def read_run(folder):
    [run] = read_study_runs(folder).finished
    return run


def write_run_page(folder):
    return write_run_report(read_study_summary(folder), folder).read_text()


def write_metrics(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_folder(tmp_path):
    """A run that is wrong on 1 % of the training and 20 % of 500 test images."""
    write_run_record(tmp_path / "run", "cifar-resnet20", 0.01, 0.2, extra_result=COUNTS)
    rows = [
        {
            "step": 20 * i,
            "epoch": i,
            "lr": 0.1 / i,
            "loss": 2.3 / i,
            "train_error": 0.9 / i,
            "dev_error": 0.9 / i,
            "dev_loss": loss,
        }
        for i, loss in enumerate((2.0, 1.0, 0.8, 0.9, 1.2), 1)
    ]
    write_metrics(tmp_path / "run", rows)
    return tmp_path / "run"


def test_the_headline_is_the_accuracy_with_the_interval_of_scipy(run_folder):
    low, high = binomtest(400, 500).proportion_ci(0.95, method="wilson")
    assert describe_run(read_run(run_folder)).text.splitlines()[0] == (
        f"80.0 % of 500 test images are right, 95 % interval {100 * low:.1f} to {100 * high:.1f} %."
    )
    html = write_run_page(run_folder).replace("\N{NO-BREAK SPACE}", " ")
    assert '<p class="number">80.0 %<small>of 500 test images are right, 95 % interval' in html


@pytest.mark.parametrize(
    ("train", "test", "begin"),
    [
        (
            0.01,
            0.2,
            "It over-fits: the training error is 1.0 %, the test error 20.0 %, 19.0 points",
        ),
        (0.16, 0.2, "It over-fits: "),
        (0.17, 0.2, "No over-fitting is measurable: the training error is 17.0 %, the test error "),
        (0.23, 0.2, "No over-fitting is measurable: "),
        (0.24, 0.2, "No over-fitting: the training error is 24.0 %, the test error 20.0 %, 4.0 "),
        (0.2, 0.3, "It over-fits: "),
        (0.7, 0.85, "It does no better than guessing: the test error is 85.0 %, and guessing "),
    ],
)
def test_over_fitting_is_said_if_the_gap_is_beyond_its_interval(tmp_path, train, test, begin):
    write_run_record(tmp_path / "run", "cifar-resnet20", train, test, extra_result=COUNTS)
    assert describe_run(read_run(tmp_path / "run")).over_fitting.startswith(begin)


def test_the_interval_of_the_gap_is_that_of_newcombe(tmp_path):
    """Newcombe 1998, table II, comparison (a), method 10: 56 of 70 minus 48 of 80."""
    counts = {"dev_images": 70, "test_images": 70}
    write_run_record(tmp_path / "run", "cifar-resnet20", 48 / 80, 56 / 70, extra_result=counts)
    write_metrics(tmp_path / "run", [{"step": 5, "epoch": 4, "train_error": 0.5}])  # 64 a batch
    run = read_run(tmp_path / "run")
    assert count_training_images(run) == 80
    assert compute_gap_interval(run) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_training_error_is_that_of_the_saved_network(tmp_path):
    """The one with re-estimated BN statistics is named in the details alone."""
    extra = COUNTS | {"train_error_reestimated": 0.13}
    write_run_record(tmp_path / "run", "cifar-resnet20", 0.17, 0.2, extra_result=extra)
    text = describe_run(read_run(tmp_path / "run")).text
    assert "the training error is 17.0 %, the test error 20.0 %" in text
    html = write_run_page(tmp_path / "run").replace("\N{NO-BREAK SPACE}", " ")
    assert '<tr><th scope="row">training</th><td>83.0</td>' in html
    assert html.count("13.0 %") == 1
    details = html[html.index("How it was measured") :]
    assert "BN statistics re-estimated with the final weights over up to 5,000" in details
    assert "the training error is 13.0 %." in details


def test_few_images_do_not_tell_whether_a_run_over_fits(tmp_path):
    counts = {"dev_images": 16, "test_images": 16}
    write_run_record(tmp_path / "run", "cifar-resnet20", 0.25, 0.4375, extra_result=counts)
    text = describe_run(read_run(tmp_path / "run")).over_fitting
    assert text.startswith("Too few images to tell whether it over-fits: the training error is 25")
    assert re.search(r"95 % interval of the gap \N{MINUS SIGN}\d+\.\d to \d\d\.\d\)", text)


def test_an_accuracy_of_averaged_views_says_so(run_folder):
    path = run_folder / "run.json"
    stored = json.loads(path.read_text())
    stored["run"]["recipe"]["views"] = "six"
    path.write_text(json.dumps(stored))
    run = read_run(run_folder)
    assert "of 500 test images are right with six views, 95 % interval" in describe_run(run).text
    assert "test with six views" in write_run_page(run_folder)


def test_a_run_of_version_0_1_has_a_gap_and_no_interval(tmp_path):
    write_run_record(tmp_path / "run", "cifar-resnet20", 0.01, 0.2)
    text = describe_run(read_run(tmp_path / "run")).text
    assert text == (
        "80.0 % of the test images are right.\n"
        "The training error is 1.0 %, the test error 20.0 %: a gap of 19.0 points."
    )


def test_a_dev_loss_that_rises_while_the_training_loss_falls_is_said(run_folder):
    run = read_run(run_folder)
    assert describe_run(run).late_training == (
        "After 30 % of training the dev loss rose, from 0.8 to 1.2, while the training loss fell "
        "from 0.767 to 0.46; the dev error went from 30.0 % to 18.0 %."
    )
    for last_row in ({"dev_loss": 0.82}, {"loss": 0.8}, {"dev_loss": None}):
        rows = (*run.metric_lines[:3], run.metric_lines[-1] | last_row)
        assert not describe_run(replace(run, metric_lines=rows)).late_training


def test_the_page_has_error_loss_and_rate_and_compares_nothing(run_folder):
    html = write_run_page(run_folder)
    for part in ("Error, %", "Loss, nats", "Learning rate", ">epoch<", "After training"):
        assert part in html
    assert "compare" not in html
    assert (run_folder / "figures" / "curves.svg").exists()
    assert "residua evaluate " in html
    (run_folder / "metrics.jsonl").unlink()
    assert "Learning rate" not in write_run_page(run_folder)


def test_the_page_shows_the_worst_mistakes_of_the_evaluation_and_its_link(run_folder):
    write_evaluation_report(make_evaluation(dataset="digits"), run_folder / "evaluation")
    html = write_run_page(run_folder)
    assert html.count(PIXEL_URI) == 8
    assert "The 8 most confident of 80 wrong test images" in html
    assert 'href="evaluation/evaluation.html"' in html
    assert "residua evaluate " not in html
    (run_folder / "evaluation" / "evaluation.json").write_text("{")
    assert "residua evaluate " in write_run_page(run_folder)


@pytest.mark.parametrize("location", ["/data/my photos", "photos/my photos.csv"])
def test_the_evaluation_of_photos_is_named_after_their_folder_or_table(run_folder, location):
    record = json.loads((run_folder / "run.json").read_text())
    record["run"]["dataset"] = location
    write_json(run_folder / "run.json", record)
    write_evaluation_report(make_evaluation(dataset="my-photos"), run_folder / "evaluation")
    html = write_run_page(run_folder)
    assert 'href="evaluation/evaluation.html"' in html
    assert "residua evaluate " not in html


@pytest.mark.parametrize("change", [{"split": "dev"}, {"split": "all"}, {"dataset": "letters"}])
def test_an_evaluation_of_other_images_is_not_that_of_the_test_images(run_folder, change):
    evaluation = make_evaluation(**{"dataset": "digits", **change})
    write_evaluation_report(evaluation, run_folder / "evaluation")
    html = write_run_page(run_folder)
    assert "wrong test images" not in html
    assert "residua evaluate " in html


def test_the_name_of_a_network_is_text_and_never_markup(run_folder):
    record = json.loads((run_folder / "run.json").read_text())
    record["run"]["network"]["name"] = '"><script>alert(1)</script>20'
    write_json(run_folder / "run.json", record)
    assert "<script>alert" not in write_run_page(run_folder)


def test_residua_report_writes_the_pages_of_a_run_and_of_its_evaluation(capsys, run_folder):
    write_evaluation_report(make_evaluation(dataset="digits"), run_folder / "evaluation")
    page = run_folder / "evaluation" / "evaluation.html"
    before = page.read_bytes()
    page.write_text("old")
    code, out, _ = run_cli(capsys, "report", run_folder)
    assert (code, page.read_bytes() == before) == (0, True)
    assert out.startswith("80.0 % of 500 test images are right")
    code, out, _ = run_cli(capsys, "report", run_folder, "--json")
    facts = json.loads(out)
    assert facts["cells"][0]["test_error"] == 0.2
    assert json.loads((run_folder / "results.json").read_text())["verdict"] == facts["verdict"]
    page.write_text("old")
    code, out, _ = run_cli(capsys, "report", page.parent)
    assert (code, page.read_bytes() == before) == (0, True)
    assert out.startswith("80 of 400 test images wrong")
    (page.parent / "evaluation.json").write_text("{")
    code, _, notes = run_cli(capsys, "report", run_folder)
    assert code == 0
    assert "the page of the evaluation was not written: " in notes


@pytest.mark.parametrize(
    "row",
    [
        {"loss": 1e308, "dev_loss": -1e308, "lr": -5, "epoch": 1e308},
        {"loss": 0, "dev_loss": 0, "lr": 0, "epoch": 0},
        {"loss": 1e-320, "lr": 1e308, "epoch": -1},
        {"loss": None, "dev_loss": None, "lr": None, "epoch": None},
    ],
)
def test_any_numbers_in_the_metrics_can_be_drawn(run_folder, row):
    write_metrics(run_folder, [{"step": 200, "train_error": 0.5, "dev_error": 0.5} | row] * 2)
    assert "</html>" in write_run_page(run_folder)


@pytest.mark.parametrize("count", [0, -1, 10**400, "many", 0.5])
def test_an_impossible_number_of_test_images_is_damage(capsys, run_folder, count):
    record = json.loads((run_folder / "run.json").read_text())
    record["result"]["test_images"] = count
    write_json(run_folder / "run.json", record)
    code, _, error = run_cli(capsys, "report", run_folder)
    assert (code, "run.json" in error, "Traceback" in error) == (1, True, False)


@pytest.mark.parametrize(("low", "high"), [(0.9, 2.6), (1e-6, 5.0), (0.011, 0.013), (3.0, 4.0)])
def test_a_logarithmic_axis_has_few_round_ticks_within_its_limits(low, high):
    ticks = choose_log_ticks(low, high)
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 8


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_run_fits_its_window(run_folder, tmp_path, width):
    write_evaluation_report(make_evaluation(dataset="digits"), run_folder / "evaluation")
    script = "root.querySelectorAll('svg').length"
    assert assert_page_fits(write_run_page(run_folder), width, tmp_path, "", script) == "2"
    assert not re.search(r"https?://", write_run_page(run_folder))

"""The report of an evaluation, from numbers written by hand."""

import csv
import re
from dataclasses import replace

import pytest

from residua.config.evaluation_results import (
    CalibrationBin,
    CalibrationResult,
    ConfidentMistake,
    EvaluationResult,
    wilson_interval,
)
from residua.errors import RecordError
from residua.report.evaluation_page import (
    collect_evaluation_metrics,
    read_evaluation,
    write_evaluation_report,
)
from residua.report.evaluation_summary import describe_evaluation, list_skipped_files
from tests.browser import assert_page_fits, needs_chromium

PIXEL_URI = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptV"
    "AAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def make_evaluation(
    names=("airplane", "automobile", "a class with a <very> long name", "bird"), **changes
):
    """An evaluation in which 80 of each class's 100 images are right, and 20 taken for the next."""
    k = len(names)
    confusion = tuple(
        tuple(80 if i == j else 20 if j == (i + 1) % k else 0 for j in range(k)) for i in range(k)
    )
    bins = tuple(CalibrationBin(0, 0.0, 0.0) for _ in range(14))
    mistake = ConfidentMistake(
        where="image 7", thumbnail=PIXEL_URI, truth=0, guess=1, probability=0.999
    )
    fields = {
        "model": "cifar-resnet20",
        "dataset": "letters",
        "split": "test",
        "mirror": False,
        "classes": names,
        "count": 100 * k,
        "wrong": 20 * k,
        "wrong5": k,
        "loss": 0.7,
        "error_interval": wilson_interval(20 * k, 100 * k),
        "top5_error_interval": wilson_interval(k, 100 * k),
        "confusion": confusion,
        "recall_intervals": (wilson_interval(80, 100),) * k,
        "calibration": CalibrationResult(
            ece=0.15, loss=0.7, bins=(*bins, CalibrationBin(100 * k, 0.95, 0.8))
        ),
        "scaled": CalibrationResult(
            ece=0.01, loss=0.5, bins=(*bins[:11], CalibrationBin(100 * k, 0.81, 0.8), *bins[:3])
        ),
        "temperature": 1.7,
        "fitted": "dev",
        "mistakes": (mistake,) * 24,
        "environment": (
            ("device", "CPU, x86_64"),
            ("threads", "2"),
            ("precision", "fp32"),
            ("torch", "2.13.0"),
        ),
        "left_out": ("dog/1.png is truncated: its data end too early",),
    }
    return EvaluationResult(**fields | changes)


def test_the_summary_states_error_confidence_and_confusions():
    assert describe_evaluation(make_evaluation()) == [
        "80 of 400 test images wrong: error 20.00 % (95 % CI 16.4-24.2 %).",
        "Mean confidence 95.0 %, accuracy 80.0 %: over-confident, "
        "with an expected calibration error (ECE) of 15.0 %. "
        "At temperature 1.70 (fitted on the dev split) the ECE is 1.0 %.",
        "Most frequent confusion: airplane classified as automobile, "
        "20 of 100 images (reverse: 0 of 100).",
    ]
    uneven = replace(
        make_evaluation(("a", "b")), confusion=((100, 0), (40, 60)), count=200, wrong=40
    )
    assert describe_evaluation(uneven)[2] == "Recall: best a 100.0 %, worst b 60.0 %."
    undivided = describe_evaluation(replace(make_evaluation(), split="all"))[0]
    assert undivided.startswith("80 of 400 images wrong: ")
    six = describe_evaluation(make_evaluation(tuple("abcdef")))[0]
    assert six.endswith("top-5 error 1.00 % (95 % CI 0.5-2.2 %).")


def test_the_page_shows_the_whole_evaluation_and_loads_nothing(tmp_path):
    html = write_evaluation_report(make_evaluation(), tmp_path / "new").read_text()
    for part in (
        "How well does cifar-resnet20 classify?",
        "400 test images of letters, 4 classes",
        "16.4-24.2",
        "24 most confident mistakes",
        "Confusion matrix",
        "Classes, lowest recall first",
        "CPU, x86_64, 2 threads, fp32",
        "dog/1.png is truncated: its data end too early",
        "a class with a &lt;very&gt; long name",
    ):
        assert part in html
    assert "http" not in html
    assert "<very>" not in html
    assert html.count("<svg") == 2
    assert html.count(PIXEL_URI) == 24
    assert not re.search(
        r'(src|href)="(?!#|data:|(evaluation\.json|classes\.csv|confusion\.csv)")[^"]*"', html
    )


def test_the_page_can_be_regenerated_from_its_record(tmp_path):
    first = write_evaluation_report(make_evaluation(), tmp_path / "a").read_bytes()
    assert read_evaluation(tmp_path / "a") == make_evaluation()
    assert (
        write_evaluation_report(read_evaluation(tmp_path / "a"), tmp_path / "b").read_bytes()
        == first
    )
    rows = list(csv.reader((tmp_path / "a" / "confusion.csv").read_text().splitlines()))
    assert rows[1] == ["airplane", "80", "20", "0", "0"]
    assert (tmp_path / "a" / "classes.csv").read_text().splitlines()[
        1
    ] == "airplane,100,100,0.8,0.8"


def test_many_classes_get_a_list_of_confusions_instead_of_a_matrix(tmp_path):
    html = write_evaluation_report(
        make_evaluation(tuple(f"class {i}" for i in range(60))), tmp_path
    ).read_text()
    assert "Most frequent confusions" in html
    assert 'class="matrix"' not in html


def test_a_network_without_mistakes_has_a_page(tmp_path):
    perfect = make_evaluation(
        ("a", "b"),
        wrong=0,
        wrong5=0,
        confusion=((100, 0), (0, 100)),
        error_interval=wilson_interval(0, 200),
        mistakes=(),
        left_out=(),
        temperature=0.4,
        fitted="halves",
        environment=(),
    )
    html = write_evaluation_report(perfect, tmp_path).read_text()
    assert "most confident" not in html
    assert len(describe_evaluation(perfect)) == 2
    assert collect_evaluation_metrics(perfect)["left_out"] == 0


def test_many_skipped_files_are_counted():
    names = list_skipped_files(
        replace(make_evaluation(), left_out=tuple(f"{i}.png is empty" for i in range(30)))
    )
    assert (len(names), names[0], names[-1]) == (
        21,
        "skipped: 0.png is empty",
        "10 more files were skipped",
    )


def test_an_unreadable_record_is_reported(tmp_path):
    with pytest.raises(RecordError, match=r"contains no evaluation: it has no evaluation.json"):
        read_evaluation(tmp_path)
    for text in ("{", '{"model": 3}'):
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(RecordError, match=r"evaluation.json is damaged"):
            read_evaluation(tmp_path)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(tmp_path, width):
    html = write_evaluation_report(
        make_evaluation(tuple(f"a long name of class {i}" for i in range(25))), tmp_path / "p"
    ).read_text()
    assert (
        assert_page_fits(html, width, tmp_path, result_script="root.querySelectorAll('svg').length")
        == "2"
    )

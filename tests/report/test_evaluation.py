import csv
import re
from dataclasses import replace

import pytest

from residua.errors import RecordError
from residua.report.evaluation import facts, left_out, read, summary, write
from residua.spec.evaluation import Bin, Calibration, Evaluation, Mistake, wilson
from tests.browser import fitting, needs_chromium

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def evaluation(names=("airplane", "automobile", "a class with a <very> long name", "bird"), **changes):
    """Of k classes each right in 80 of 100, and 20 taken for the next one."""
    k = len(names)
    confusion = tuple(tuple(80 if i == j else 20 if j == (i + 1) % k else 0 for j in range(k)) for i in range(k))
    bins = tuple(Bin(0, 0.0, 0.0) for _ in range(14))
    mistake = Mistake(where="image 7", thumbnail=PIXEL, truth=0, guess=1, probability=0.999)
    said = {
        "model": "cifar-resnet20", "dataset": "letters", "split": "test", "mirror": False, "classes": names, "count": 100 * k,
        "wrong": 20 * k, "wrong5": k, "loss": 0.7, "error_interval": wilson(20 * k, 100 * k),
        "top5_error_interval": wilson(k, 100 * k), "confusion": confusion, "recall_intervals": (wilson(80, 100),) * k,
        "calibration": Calibration(ece=0.15, loss=0.7, bins=(*bins, Bin(100 * k, 0.95, 0.8))),
        "scaled": Calibration(ece=0.01, loss=0.5, bins=(*bins[:11], Bin(100 * k, 0.81, 0.8), *bins[:3])),
        "temperature": 1.7, "fitted": "dev", "mistakes": (mistake,) * 24,
        "environment": (("device", "CPU, x86_64"), ("threads", "2"), ("precision", "fp32"), ("torch", "2.13.0")),
        "left_out": ("dog/1.png is truncated: its data end too early",),
    }  # fmt: skip
    return Evaluation(**said | changes)


def test_the_summary_says_how_wrong_how_sure_and_where():
    assert summary(evaluation()) == [
        "80 of 400 test images wrong: error 20.00 % (with 95 % between 16.37 and 24.20 %).",
        "It is 95.0 % sure on average and right in 80.0 %: over-confident, by an expected calibration error (ECE) of 15.0 %. "
        "At a temperature of 1.70 (fitted on the dev split) it is 1.0 %.",
        "Most often it takes airplane for automobile: 20 of 100 images, and 0 of 100 the other way round.",
    ]
    uneven = replace(evaluation(("a", "b")), confusion=((100, 0), (40, 60)), count=200, wrong=40)
    assert summary(uneven)[2] == "It finds 100.0 % of the images of a, but only 60.0 % of those of b."
    six = summary(evaluation(tuple("abcdef")))[0]
    assert six.endswith("top-5 error 1.00 % (between 0.46 and 2.16 %).")


def test_a_page_shows_all_of_it_and_fetches_nothing(tmp_path):
    html = write(evaluation(), tmp_path / "new").read_text()
    for part in (
        "How well does cifar-resnet20 classify?", "400 test images of letters, 4 classes", "16.37 and 24.20",
        "The 24 mistakes it was surest of", "What is taken for what", "Class by class", "CPU, x86_64, 2 threads, fp32",
        "dog/1.png is truncated: its data end too early", "a class with a &lt;very&gt; long name",
    ):  # fmt: skip
        assert part in html
    assert "http" not in html
    assert "<very>" not in html
    assert html.count("<svg") == 2
    assert html.count(PIXEL) == 24
    assert not re.search(r'(src|href)="(?!#|data:|(evaluation\.json|classes\.csv|confusion\.csv)")[^"]*"', html)


def test_the_record_makes_the_same_page_again(tmp_path):
    first = write(evaluation(), tmp_path / "a").read_bytes()
    assert read(tmp_path / "a") == evaluation()
    assert write(read(tmp_path / "a"), tmp_path / "b").read_bytes() == first
    rows = list(csv.reader((tmp_path / "a" / "confusion.csv").read_text().splitlines()))
    assert rows[1] == ["airplane", "80", "20", "0", "0"]
    assert (tmp_path / "a" / "classes.csv").read_text().splitlines()[1] == "airplane,100,100,0.8,0.8"


def test_many_classes_have_a_list_of_confusions_in_place_of_a_matrix(tmp_path):
    html = write(evaluation(tuple(f"class {i}" for i in range(60))), tmp_path).read_text()
    assert "What is taken for what most often" in html
    assert 'class="matrix"' not in html


def test_a_network_without_mistakes_has_a_page(tmp_path):
    perfect = evaluation(
        ("a", "b"), wrong=0, wrong5=0, confusion=((100, 0), (0, 100)), error_interval=wilson(0, 200), mistakes=(), left_out=(),
        temperature=0.4, fitted="halves", environment=(),
    )  # fmt: skip
    html = write(perfect, tmp_path).read_text()
    assert "surest" not in html
    assert len(summary(perfect)) == 2
    assert facts(perfect)["left_out"] == 0


def test_many_files_left_out_are_counted():
    names = left_out(replace(evaluation(), left_out=tuple(f"{i}.png is empty" for i in range(30))))
    assert (len(names), names[0], names[-1]) == (21, "left out: 0.png is empty", "10 more were left out")


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"holds no evaluation: it has no evaluation.json"):
        read(tmp_path)
    for text in ("{", '{"model": 3}'):
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(RecordError, match=r"evaluation.json is damaged"):
            read(tmp_path)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(tmp_path, width):
    html = write(evaluation(tuple(f"a long name of class {i}" for i in range(25))), tmp_path / "p").read_text()
    assert fitting(html, width, tmp_path, found="root.querySelectorAll('svg').length") == "2"

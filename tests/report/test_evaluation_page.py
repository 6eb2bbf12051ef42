"""The report of an evaluation, from numbers written by hand."""

import csv
import json
import re
from dataclasses import replace

import pytest

from residua.config.evaluation_results import (
    CalibrationBin,
    CalibrationResult,
    ClassifiedImage,
    DoubtfulLabel,
    EvaluationResult,
    wilson_interval,
)
from residua.config.serialize import to_json
from residua.errors import RecordError
from residua.files import write_json
from residua.report.calibration_summary import (
    describe_calibration,
    describe_calibration_gain,
    describe_temperature_images,
    is_worth_storing,
)
from residua.report.evaluation_page import (
    collect_evaluation_metrics,
    read_evaluation,
    write_evaluation_report,
)
from residua.report.evaluation_summary import (
    describe_evaluation,
    describe_label_check,
    describe_label_rule,
    list_skipped_files,
)
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
    mistake = ClassifiedImage(
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


def make_checked_evaluation():
    """An evaluation with a mistake, two examples, and three labels to check, of which two are kept.

    The first of these labels is that of an example; each image has a thumbnail of its own.
    """
    images = [
        ClassifiedImage(
            where=where, thumbnail=f"{PIXEL_URI}{i}", truth=truth, guess=1, probability=0.9
        )
        for i, (where, truth) in enumerate((("m/0.png", 0), ("e/0.png", 0), ("e/1.png", 1)))
    ]
    return make_evaluation(
        mistakes=tuple(images[:1]),
        examples=tuple(images[1:]),
        label_check="last and best",
        doubtful_count=3,
        doubtful_labels=(
            DoubtfulLabel("e/0.png", 0, 1, 0.004, 0.97),
            DoubtfulLabel("=2.png", 0, 1, 0.01, 0.95),
        ),
        doubts_are_scaled=False,
    )


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
    shifted = make_evaluation().with_views("six")
    assert describe_evaluation(shifted)[0].startswith("80 of 400 test images wrong with six views")
    six = describe_evaluation(make_evaluation(tuple("abcdef")))[0]
    assert six.endswith("top-5 error 1.00 % (95 % CI 0.5-2.2 %).")


def test_the_page_shows_the_whole_evaluation_and_loads_nothing(tmp_path):
    html = write_evaluation_report(make_evaluation(), tmp_path / "new").read_text()
    text = html.replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "How well does cifar-resnet20 classify?",
        "400 test images of letters, 4 classes",
        '<p class="number">80.0 %<small>of 400 test images are right, 95 % interval 75.8 to 83.6 %',
        "Most frequent confusion: airplane classified as automobile, 20 of 100 images",
        "Most confident mistakes",
        "Confusion matrix",
        "Calibration helps: at temperature 1.70",
        "CPU, x86_64, 2 threads, fp32",
        "dog/1.png is truncated: its data end too early",
        "a class with a &lt;very&gt; long name",
    ):
        assert part in text
    places = [
        text.index(f"<h2>{name}</h2>")
        for name in ("Confusion matrix", "Classes", "Most confident mistakes", "Calibration")
    ]
    assert text.index('class="number"') < places[0]
    assert places == sorted(places)
    assert "http" not in html
    assert "<very>" not in html
    assert html.count("<svg") == 2
    assert html.count(PIXEL_URI) == 24
    files = r"evaluation\.json|confusion\.csv"
    assert not re.search(rf'(src|href)="(?!#|data:|({files})")[^"]*"', html)


def test_images_and_cells_are_in_the_page_once(tmp_path):
    evaluation = make_checked_evaluation()
    html = write_evaluation_report(evaluation, tmp_path).read_text()
    for image in (*evaluation.mistakes, *evaluation.examples):
        assert html.count(image.thumbnail) == 1, image.where
    [content] = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html)
    data = json.loads(content)
    assert data["classes"] == list(evaluation.classes)
    assert [0, 1, 20] in data["cells"]
    assert len(data["cells"]) == 8
    assert [image[1:4] for image in data["images"]] == [
        ["m/0.png", 0, 1],
        ["e/0.png", 0, 1],
        ["e/1.png", 1, 1],
    ]
    assert [image[0] is None for image in data["images"]] == [True, True, False]
    assert html.count('data-cell="0-1"') == 2  # in the matrix, and in the table of classes
    assert 'data-cell="0-2"' not in html


def test_labels_to_check_are_listed_with_their_rule_and_as_csv(tmp_path):
    html = write_evaluation_report(make_checked_evaluation(), tmp_path).read_text()
    text = html.replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "3 labels of 400 are in doubt",
        "The first 2 of 3; the CSV has the first 2.",
        "<td>airplane<small>0.4 %</small></td><td>automobile<small>97.0 %</small></td>"
        '<th scope="row">e/0.png</th>',
        "below 12.5 %, half of a guess among 4 classes",
        "The table has the network&#39;s own probabilities, as the mistakes above have. "
        "The rule takes probabilities at temperature 1.70 (fitted on the dev split).",
        "The weights of the run&#39;s best epoch say the same.",
        'download="labels-to-check.csv"',
    ):
        assert part in text, part
    assert "was trained on" not in text
    rows = list(csv.reader((tmp_path / "labels-to-check.csv").read_text().splitlines()))
    assert rows[1:] == [
        ["e/0.png", "airplane", "automobile", "0.004000", "0.970000"],
        ["'=2.png", "airplane", "automobile", "0.010000", "0.950000"],
    ]
    old = replace(make_checked_evaluation(), doubts_are_scaled=True)
    assert "The rule and the table take probabilities at temp" in describe_label_rule(old)
    trained = replace(make_checked_evaluation(), split="all", label_check="last")
    assert "The network was trained on some of these labels" in describe_label_rule(trained)
    assert "best epoch" not in describe_label_rule(trained)
    many = describe_label_rule(make_evaluation(tuple(map(str, range(1000)))))
    assert "a probability below 0.05 %, half of a guess among 1000 classes" in many
    assert collect_evaluation_metrics(make_checked_evaluation())["doubtful_labels"] == 3
    assert describe_label_check(make_evaluation()) == ""
    assert describe_label_check(make_evaluation(label_check="last")) == "No label is in doubt."


@pytest.mark.parametrize(
    ("ece", "loss", "verdict"),
    [
        (0.01, 0.5, "Calibration helps: "),
        (0.01, 0.8, "Calibration helps in part: "),
        (0.2, 0.5, "Calibration helps in part: "),
        (0.2, 0.8, "Calibration does not help: "),
    ],
)
def test_the_page_says_whether_calibration_helps(ece, loss, verdict):
    scaled = replace(make_evaluation().scaled, ece=ece, loss=loss)
    assert describe_calibration_gain(make_evaluation(scaled=scaled)).startswith(verdict)
    beyond = make_evaluation(scaled=scaled, loss_change_error=0.05)
    assert describe_calibration_gain(beyond).startswith(verdict)
    within = make_evaluation(scaled=scaled, loss_change_error=0.3)
    assert describe_calibration_gain(within).startswith("Calibration makes no measurable diff")


def make_small_evaluation(wrong, **changes):
    """An evaluation of 16 images of two classes, 8 each, all taken for the first if 8 are wrong."""
    counts = {
        "count": 16,
        "wrong": wrong,
        "wrong5": 0,
        "error_interval": wilson_interval(wrong, 16),
    }
    fields = {
        "confusion": ((8, 0), (wrong, 8 - wrong)),
        "fitted": "halves",
        "temperature": 50.24,
        "half_temperatures": (0.49, 99.99),
        "calibration": CalibrationResult(
            ece=0.23, loss=0.7, bins=(CalibrationBin(16, 0.54, 0.56),)
        ),
    }
    return replace(
        make_checked_evaluation(),
        classes=("a", "b"),
        recall_intervals=((0, 1),) * 2,
        **(counts | fields | changes),
    )


def test_few_images_get_a_reliability_diagram_and_no_verdict(tmp_path):
    few = make_small_evaluation(7)
    html = write_evaluation_report(few, tmp_path).read_text()
    assert "Too few images to judge the calibration (16; at least 100 are needed)." in html
    for text in (html, describe_calibration(few), (tmp_path / "reliability.svg").read_text()):
        assert "50.24" not in text
        assert "99.99" not in text
    for word in ("--calibrate", "Calibration helps", "Calibration does not", "cross-entropy from"):
        assert word not in html
    assert not re.search("(over|under)-confident", describe_calibration(few))
    assert "at temperature 1.70" in (
        write_evaluation_report(replace(few, fitted="dev", temperature=1.7), tmp_path).read_text()
    )


@pytest.mark.parametrize(
    ("confidence", "word"),
    [(0.84, "over-confident"), (0.76, "under-confident"), (0.815, "no measurable difference")],
)
def test_confidence_is_too_high_or_low_only_beyond_the_standard_error(confidence, word):
    """The binomial standard error of 400 images of accuracy 0.8 is 0.02."""
    calibration = CalibrationResult(ece=0.02, loss=1, bins=(CalibrationBin(400, confidence, 0.8),))
    text = describe_calibration(make_evaluation(calibration=calibration))
    assert f"accuracy 80.0 %: {word}, with" in text


def test_both_temperatures_of_the_halves_are_shown_and_never_their_mean():
    halves = make_evaluation(fitted="halves", temperature=1.75, half_temperatures=(1.5, 2.0))
    for text in (describe_calibration(halves), describe_calibration_gain(halves)):
        assert "at temperatures 1.50 and 2.00 (fitted for each half" in text.replace("At t", "at t")
    old = replace(halves, half_temperatures=())
    assert "at temperatures of mean 1.75 (" in describe_calibration_gain(old)


def test_a_temperature_is_to_be_stored_only_if_it_helps(tmp_path):
    halves = make_evaluation(fitted="halves")
    worse = replace(halves, scaled=replace(halves.scaled, ece=0.3, loss=0.9))
    for evaluation, is_worth in ((halves, True), (worse, False), (make_evaluation(), False)):
        assert is_worth_storing(evaluation) is is_worth
        html = write_evaluation_report(evaluation, tmp_path).read_text()
        assert ("--calibrate" in html) is is_worth


def test_a_network_at_chance_doubts_no_label(tmp_path):
    guessing = make_small_evaluation(8)
    text = (
        "It does no better than guessing: the error is 50.0 % (95 % CI 28.0-72.0 %), and always "
        "guessing the most frequent class gives 50.0 %."
    )
    assert describe_evaluation(guessing)[1] == text
    html = write_evaluation_report(guessing, tmp_path).read_text()
    assert f'<p class="lead">{text}' in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "No label is listed, because the network does no better than guessing." in html
    assert "in doubt" not in html
    assert "e/0.png</th>" not in html
    assert len((tmp_path / "labels-to-check.csv").read_text().splitlines()) == 1
    assert collect_evaluation_metrics(guessing)["doubtful_labels"] == 0
    perhaps = describe_evaluation(make_small_evaluation(5))[1]
    assert perhaps.startswith("It does no better than guessing, as far as these images tell: ")
    better = make_small_evaluation(2)
    assert "All probabilities are the network's own, as those" in describe_label_rule(better)
    assert "temperature" not in describe_label_rule(better)
    assert "guessing" not in " ".join(describe_evaluation(better))
    assert "in doubt" in describe_label_check(better)
    one_class = make_small_evaluation(0, confusion=((16, 0), (0, 0)))
    assert "guessing" not in " ".join(describe_evaluation(one_class))


@pytest.mark.parametrize(
    ("fitted", "split", "part"),
    [
        ("folder", "test", "are not among these"),
        ("dev", "test", "are not among these"),
        ("folder", "dev", "may be among these"),
        ("folder", "all", "may be among these"),
        ("halves", "all", "on the other half"),
    ],
)
def test_the_page_says_on_which_images_the_temperature_was_fitted(fitted, split, part):
    assert part in describe_temperature_images(make_evaluation(fitted=fitted, split=split))


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


def test_many_classes_get_a_map_and_a_list_of_confusions_instead_of_a_matrix(tmp_path):
    html = write_evaluation_report(
        make_evaluation(tuple(f"class {i}" for i in range(60))), tmp_path
    ).read_text()
    assert '<canvas class="map"' in html
    assert "The 50 most frequent confusions." in html
    assert '<table class="matrix"' not in html


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
    assert "Most confident mistakes" not in html
    assert "No image is classified wrongly." in html
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


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("a", "b")},
        {"recall_intervals": ()},
        {"count": 0},
        {"mistakes": (replace(make_evaluation().mistakes[0], truth=4),)},
        {"examples": (replace(make_evaluation().mistakes[0], guess=-1),)},
        {"doubtful_labels": (DoubtfulLabel("a", 9, 0, 0.1, 0.9),)},
    ],
)
def test_a_record_whose_parts_do_not_fit_is_damaged(tmp_path, change):
    write_json(tmp_path / "evaluation.json", to_json(make_evaluation(**change)))
    with pytest.raises(RecordError, match=r"evaluation.json is damaged: "):
        read_evaluation(tmp_path)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_cell_opens_its_images_by_click_and_by_keyboard(tmp_path, width):
    html = write_evaluation_report(make_checked_evaluation(), tmp_path / "p").read_text()
    script = """
      const press = (target, key) =>
        target.dispatchEvent(new view.KeyboardEvent('keydown', {key, bubbles: true}));
      const cells = page.querySelectorAll('.matrix button'), found = [];
      found.push([...cells].filter(cell => cell.tabIndex === 0).length);
      cells[0].focus();
      press(cells[0], 'ArrowRight');
      found.push(page.activeElement.dataset.cell);
      page.activeElement.click();
      const gallery = page.getElementById('cell-images'), viewer = page.getElementById('one-image');
      found.push(gallery.open, page.getElementById('cell-title').textContent);
      found.push(page.getElementById('cell-note').textContent);
      found.push([...gallery.querySelectorAll('img')].every(image => /^data:/.test(image.src)));
      gallery.querySelector('[data-image]').click();
      const title = page.getElementById('one-note').textContent;
      press(viewer, 'ArrowRight');
      found.push(viewer.open, title, page.getElementById('one-note').textContent);
      viewer.querySelector('[data-close]').click();
      gallery.querySelector('[data-close]').click();
      found.push(viewer.open, gallery.open);
      page.querySelector('.classes thead button').click();
      found.push(page.querySelector('.classes tbody th').textContent.slice(0, 5));
      found.push([...page.querySelectorAll('[data-copy]')].every(image => image.src));"""
    found = assert_page_fits(html, width, tmp_path, script, "found.join(';')")
    assert found.split(";") == [
        *("1", "0-1", "true", "airplane, classified as automobile"),
        *("2 of 20 images are on this page: mostly the most confident ones.", "true"),
        *("true", "m/0.png (1 of 2)", "e/0.png (2 of 2)", "false", "false", "a cla", "true"),
    ]


@pytest.mark.slow
@needs_chromium
def test_a_class_among_many_is_found_by_a_part_of_its_name(tmp_path):
    names = tuple(f"class {i}" for i in range(300))
    html = write_evaluation_report(make_evaluation(names), tmp_path / "p").read_text()
    script = """
      const search = page.getElementById('class-search'), found = [];
      for (const text of ['29', 'nothing', '']) {
        search.value = text;
        search.dispatchEvent(new view.Event('input'));
        found.push(page.querySelectorAll('#confusions tr').length);
        found.push(page.getElementById('confusion-count').textContent);
      }
      found.push(page.querySelector('.map').width);"""
    found = assert_page_fits(html, 1280, tmp_path, script, "found.join(';')")
    # 29, 129, 229 and 290 to 299 are taken for the next, and 28, 128, 228 and 289 for one of them
    assert found.split(";") == [
        *("17", "17 confusions.", "0", "0 confusions."),
        *("200", "The first 200 of 300 confusions.", "600"),
    ]


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

"""The signals report: its sentences follow from the numbers, and its page works in a browser."""

import base64
import csv
import html
import json
import re
from io import StringIO

import pytest

from residua.errors import RecordError
from residua.report.format import format_three_digits
from residua.report.signals import write_signals_report
from residua.report.signals_record import read_signals_record
from residua.report.signals_summary import describe_signals_findings
from residua.report.signals_verdict import choose_main_figure, describe_signals_lead
from tests.browser import assert_page_fits, needs_chromium

SIGNAL_KEYS = (
    "clip_fraction",
    "survival",
    "response_std",
    "residual_ratio",
    "gradient_norm",
    "activation_gradient_norm",
    "mean",
    "variance",
    "gradient_cosine",
    "gradient_correlation",
)


def write_example_signals(folder, null=True, plain=False, **changes):
    """Write a record of twelve units in three stages; each of `changes` is a signal's values."""
    values = {key: [0.1 + 0.05 * i for i in range(12)] for key in SIGNAL_KEYS} | changes
    units = [
        {"name": f"stage{i // 4 + 1}.unit{i % 4 + 1}", "stage": i // 4 + 1, "index": i % 4 + 1}
        for i in range(12)
    ]
    units = [unit | {key: values[key][i] for key in SIGNAL_KEYS} for i, unit in enumerate(units)]
    content = {
        "format": 1,
        "model": "cifar-resnet26",
        "depth": 26,
        "plain": plain,
        "trained": False,
        "seed": 0,
        "data": "digits",
        "images": 16,
        "environment": {"device": "CPU", "torch": "2.13.0"},
        "units": units,
        "null": [dict.fromkeys(SIGNAL_KEYS[:4], 0.1) for _ in units] if null else None,
    }
    folder.mkdir(exist_ok=True)
    (folder / "signals.json").write_text(json.dumps(content))
    return folder


def read_written_page(folder):
    write_signals_report(folder)
    return (folder / "report.html").read_text()


def make_report_sentences(folder):
    signals = read_signals_record(folder / "signals.json")
    return [describe_signals_lead(signals), *describe_signals_findings(signals).values()]


def test_the_lead_says_that_a_net_is_healthy_and_how_much_of_the_identity_path_survives(tmp_path):
    survival = [0.6, 0.5, 0.4, 0.31] * 2 + [0.6, 0.5, 0.4, 0.3]
    lead, survival_finding, *_ = make_report_sentences(
        write_example_signals(tmp_path, survival=survival)
    )
    assert lead == (
        "Healthy: 30 % or more of the identity paths pass each stage unclipped, and the "
        "gradient's norm stays within a factor of 10."
    )
    assert survival_finding == (
        "31 % of identity paths pass stage 1 unclipped, 31 % pass stage 2 and 30 % pass stage 3; "
        "the post-addition ReLU clips the others. "
        "The random-walk model predicts 10 %, 10 % and 10 %."
    )
    unclipped = {"clip_fraction": [0.0] * 12, "survival": [1.0] * 12}
    lead, *_ = make_report_sentences(write_example_signals(tmp_path, null=False, **unclipped))
    assert lead.startswith(
        "Healthy: no unit clips the identity path, and the gradient's norm stays"
    )


def test_the_lead_names_the_units_at_which_identity_paths_end(tmp_path):
    survival = [0.6, 0.5, 0.4, 0.1, 0.5, 0.2, 0.099, 0.05, 0.09, 0.08, 0.07, 0.0]
    folder = write_example_signals(tmp_path, survival=survival)
    assert make_report_sentences(folder)[0] == (
        "Identity paths end in stage 2: from stage2.unit3 on fewer than 10 % are unclipped, and "
        "5 % reach the stage's end and stage 3: from stage3.unit1 on fewer than 10 % are "
        "unclipped, and 0 % reach the stage's end."
    )
    page = read_written_page(folder)
    assert 'value="7"><output id="name" for="unit">stage2.unit3<' in page


def test_a_vanishing_or_exploding_signal_is_reported(tmp_path):
    for variances, verb in (([1.0] * 11 + [1e3], "explodes"), ([1.0] * 11 + [1e-3], "vanishes")):
        folder = write_example_signals(tmp_path, variance=variances)
        assert make_report_sentences(folder)[0].startswith(f"The signal {verb}: the variance goes")
        assert choose_main_figure(read_signals_record(folder / "signals.json")) == "activations"


def test_vanishing_and_exploding_gradients_are_reported(tmp_path):
    healthy = "Healthy for a plain net, which has no identity path: the gradient's norm"
    for factor, start in (
        (1e-2, "The gradient vanishes: its norm goes from 1 at the last unit's output to 1e-22"),
        (1e2, "The gradient explodes: its norm goes from 1 at the last unit's output to 1e+22"),
        (1.5, f"{healthy} grows by a factor of 86.5 on its way back."),
        (1 / 1.5, f"{healthy} shrinks by a factor of 86.5 on its way back."),
        (1.0, f"{healthy} stays within a factor of 10."),
    ):
        norms = [factor ** (11 - i) for i in range(12)]
        folder = write_example_signals(tmp_path, plain=True, activation_gradient_norm=norms)
        assert make_report_sentences(folder)[0].startswith(start)
        assert choose_main_figure(read_signals_record(folder / "signals.json")) == "gradients"


def test_a_flat_signal_is_named_with_its_value_and_not_drawn(tmp_path):
    flat = {"clip_fraction": [0.0] * 12, "survival": [1.0] * 12, "response_std": [1.0, 1.009] * 6}
    page = read_written_page(write_example_signals(tmp_path, null=False, **flat))
    assert (
        "The same at every unit, so without a figure: values zeroed by the unit's final ReLU (0 %),"
        " identity paths unclipped so far (100 %) and standard deviation of the branch's output F"
        " (1)."
    ) in html.unescape(page).replace("\N{NO-BREAK SPACE}", " ")
    assert 'data-figure="path"' not in page
    assert page.count('data-figure="branch"') == 1  # |F| / |x| is drawn alone
    assert not (tmp_path / "figures" / "path.svg").exists()
    branch = (tmp_path / "figures" / "branch.svg").read_text()
    assert "|F| / |x|" in branch
    assert "standard deviation" not in branch
    assert "without a figure" not in read_written_page(write_example_signals(tmp_path, null=False))


def test_the_table_of_the_page_holds_every_value(tmp_path):
    folder = write_example_signals(tmp_path)
    page = read_written_page(folder)
    encoded = re.search(r'download="signals.csv" href="data:text/csv;base64,([^"]*)"', page)[1]
    rows = list(csv.DictReader(StringIO(base64.b64decode(encoded).decode())))
    units = json.loads((folder / "signals.json").read_text())["units"]
    assert [row["unit"] for row in rows] == [unit["name"] for unit in units]
    assert [float(row["variance"]) for row in rows] == [unit["variance"] for unit in units]
    assert {float(row["model_survival"]) for row in rows} == {0.1}
    assert "model_variance" not in rows[0]


def test_non_finite_values_are_reported_and_not_drawn(tmp_path):
    broken = [1.0] * 5 + [None] * 7
    first, *others = write_signals_report(
        write_example_signals(tmp_path, **dict.fromkeys(SIGNAL_KEYS, broken))
    )
    assert first == "The signal explodes: outputs are not finite in fp32 from stage2.unit2 on."
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(others))
    assert "NaN" not in (tmp_path / "report.html").read_text()
    assert make_report_sentences(
        write_example_signals(tmp_path, **dict.fromkeys(SIGNAL_KEYS, [None] * 12))
    )[0].endswith("from stage1.unit1 on.")


def test_the_same_record_gives_the_same_page(tmp_path):
    write_signals_report(write_example_signals(tmp_path))
    page = (tmp_path / "report.html").read_bytes()
    write_signals_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == page
    assert b"http" not in page


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "signals.json is damaged: Expecting property name"),
        ("[]", "signals.json is damaged: it does not describe the signals of a network"),
        (None, "contains no signals of a network: it has no signals.json"),
    ],
)
def test_a_damaged_record_is_reported(tmp_path, text, sentence):
    if text:
        (tmp_path / "signals.json").write_text(text)
    with pytest.raises(RecordError, match=sentence):
        read_signals_record(tmp_path / "signals.json")


def test_another_format_and_a_unit_with_missing_fields_are_reported(tmp_path):
    path = write_example_signals(tmp_path) / "signals.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 9}))
    with pytest.raises(
        RecordError, match="has format 9, but this version of residua reads format 1"
    ):
        read_signals_record(path)
    del content["units"][3]["mean"]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="signals.json is damaged: it lacks 'mean'"):
        read_signals_record(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"units": []},
        {"units": {}},
        {"null": [None]},
        {"environment": None},
        {"units": [{"name": "a", "stage": 1}]},
        {"units": 3},
    ],
)
def test_a_record_without_measurements_is_reported_as_damaged(tmp_path, changes):
    path = write_example_signals(tmp_path) / "signals.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecordError, match="signals.json is damaged: "):
        read_signals_record(path)


def test_text_in_place_of_numbers_is_reported_as_damaged(tmp_path):
    path = write_example_signals(tmp_path) / "signals.json"
    content = json.loads(path.read_text())
    content["units"][2]["variance"] = "big"
    path.write_text(json.dumps(content))
    with pytest.raises(
        RecordError, match="signals.json is damaged: a value of variance is not a number"
    ):
        read_signals_record(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03981, "0.0398"), (1234.6, "1,235"), (3.2e-12, "3.2e-12"), (None, "–"), (0.0, "0")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert format_three_digits(value) == text


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works_in_a_browser_and_is_no_wider_than_its_window(tmp_path, width):
    write_signals_report(write_example_signals(tmp_path / "s"))
    point = """const plots = page.querySelectorAll('figure .plot svg');
      const isShown = element => element.getBoundingClientRect().width > 100;
      const shown = [...plots].filter(isShown)[0];
      const box = shown.getBoundingClientRect();
      const at = {clientX: box.left + 0.999 * box.width - 10, bubbles: true};
      shown.dispatchEvent(new view.PointerEvent('pointermove', at));
      const slider = page.getElementById('unit');
      let hairs = 0, crossed = 0;
      for (let unit = 1; unit <= 12; unit++) {
        slider.value = unit;
        slider.dispatchEvent(new view.Event('input'));
        for (const svg of [...plots].filter(isShown)) {
          const words = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());
          for (const hair of svg.querySelectorAll('.hair')) {
            const line = hair.getBoundingClientRect();
            hairs += line.height > 20;
            crossed += words.filter(word => word.left < line.right && line.left < word.right
              && word.top < line.bottom && line.top < word.bottom).length;
          }
        }
      }
      const atEnd = page.querySelector('.read').textContent;"""
    shown = assert_page_fits(
        (tmp_path / "s" / "report.html").read_text(),
        width,
        tmp_path,
        point,
        "plots.length, hairs, crossed, slider.getAttribute('aria-valuetext'), atEnd",
    )
    assert shown == (
        "10|120|0|stage3.unit4|"
        "stage3.unit4: zeroed 65 % (model 10 %), paths unclipped so far 65 % (model 10 %)"
    )

"""The signals report: its sentences follow from the numbers, and its page works in a browser."""

import json
import re

import pytest

from residua.errors import RecordError
from residua.report.format import format_three_digits
from residua.report.signals import write_signals_report
from residua.report.signals_record import read_signals_record
from residua.report.signals_summary import describe_signals_answer, describe_signals_findings
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


def make_report_sentences(folder):
    signals = read_signals_record(folder / "signals.json")
    return [describe_signals_answer(signals), *describe_signals_findings(signals)]


def test_the_lead_sentence_states_how_much_of_the_identity_path_survives(tmp_path):
    survival = [0.6, 0.5, 0.4, 0.31] * 3
    assert make_report_sentences(write_example_signals(tmp_path, survival=survival))[0] == (
        "31 % of identity paths pass stage 1 unclipped, 31 % pass stage 2 and 31 % pass stage 3; "
        "the post-addition ReLU clips the others. "
        "The random-walk model predicts 10 %, 10 % and 10 %."
    )
    unclipped = {"clip_fraction": [0.0] * 12, "survival": [1.0] * 12}
    first, *_ = make_report_sentences(write_example_signals(tmp_path, null=False, **unclipped))
    assert first.startswith("No unit clips the identity path:")


def test_vanishing_and_exploding_gradients_are_reported(tmp_path):
    for factor, word in (
        (1e-2, "vanishes"),
        (1e2, "explodes"),
        (1.5, "grows"),
        (1.0, "stays within a factor of 10"),
    ):
        norms = [factor ** (11 - i) for i in range(12)]
        [first, *_] = make_report_sentences(
            write_example_signals(tmp_path, plain=True, activation_gradient_norm=norms)
        )
        assert first.startswith(f"A plain net has no identity path. The gradient {word}")


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
    with pytest.raises(RecordError, match="has format 9; this version reads format 1"):
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
      const shown = [...plots].filter(svg => svg.getBoundingClientRect().width > 100)[1];
      const box = shown.getBoundingClientRect();
      const at = {clientX: box.left + 0.999 * box.width - 10, bubbles: true};
      shown.dispatchEvent(new view.PointerEvent('pointermove', at));"""
    shown = assert_page_fits(
        (tmp_path / "s" / "report.html").read_text(),
        width,
        tmp_path,
        point,
        "plots.length, page.querySelector('.read').textContent",
    )
    assert shown == (
        "10|stage3.unit4: zeroed 65 % (model 10 %), paths unclipped so far 65 % (model 10 %)"
    )

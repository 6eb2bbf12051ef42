"""Records that anyone may have edited end in a report or in one sentence with the file's name."""

import json
import random

import pytest

from residua.bounded_json import read_json, read_json_lines
from residua.config.papers import network
from residua.config.serialize import to_json
from residua.errors import ResiduaError
from residua.files import write_json
from residua.report.evaluation_page import EVALUATION_RECORD, read_evaluation
from residua.report.lesion import LESION_RECORD, read_lesion_study
from residua.report.runs import read_study_runs
from residua.report.signals_record import SIGNALS_RECORD, read_signals_record
from residua.report.signals_summary import describe_signals_findings
from residua.report.signals_verdict import describe_signals_lead
from residua.report.study import make_study_results, read_study_summary
from tests.cli_runner import run_cli
from tests.report.fake_records import RECIPE, write_page, write_study_records
from tests.report.test_evaluation_page import make_evaluation
from tests.report.test_lesion import STUDY as LESION_STUDY
from tests.report.test_signals import write_example_signals

HOSTILE = [
    None,
    True,
    0,
    -1,
    1,
    10**99,
    -(10**50),
    1e308,
    -1e308,
    1e-320,
    0.5,
    "",
    "x",
    "\N{SNOWMAN}",
    "\udcff",
    "a" * 3000,
    "9" * 5000,
    "\N{SUPERSCRIPT TWO}",
    [],
    {},
    [[]],
    [None],
    [1, 2, 3],
    {"a": 1},
    {"kind": []},
    "null",
    "\x1b[31m",
    "a\nb",
]


def list_places(value, place=()):
    """The place of each value inside a JSON value: the keys and indices that lead to it."""
    if place:
        yield place
    items = []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, item in items:
        yield from list_places(item, (*place, key))


def change_one_value(value, generator):
    """Delete one value of a JSON value, or replace it by a hostile one; return its place."""
    *parents, last = place = generator.choice([*list_places(value)])
    for key in parents:
        value = value[key]
    if generator.random() < 0.2:
        del value[last]
    else:
        value[last] = generator.choice(HOSTILE)
    return place


def report_study(folder):
    make_study_results(read_study_summary(folder))


def report_signals(folder):
    signals = read_signals_record(folder / SIGNALS_RECORD)
    describe_signals_lead(signals)
    describe_signals_findings(signals)


def write_study_json(folder):
    content = {
        "format": 1,
        "question": "Why?",
        "dataset": "digits",
        "arms": [{"family": "resnet"}, {"family": "plain"}],
        "depths": [20],
        "seeds": [0],
        "recipe": RECIPE,
    }
    write_json(folder / "study.json", content)


RECORDS = {
    "run.json": (None, report_study),
    "study.json": (write_study_json, report_study),
    SIGNALS_RECORD: (write_example_signals, report_signals),
    LESION_RECORD: (
        lambda folder: write_json(folder / LESION_RECORD, to_json(LESION_STUDY)),
        read_lesion_study,
    ),
    EVALUATION_RECORD: (
        lambda folder: write_json(folder / EVALUATION_RECORD, to_json(make_evaluation())),
        read_evaluation,
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_any_changed_value_is_reported_or_refused_with_the_name_of_the_file(tmp_path, name):
    write_record, report = RECORDS[name]
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2)], "cifar-plain20": [(0.2, 0.3)]})
    path = tmp_path / name
    if write_record is None:
        path = tmp_path / "runs" / "cifar-plain20-seed0" / name
    else:
        write_record(tmp_path)
    intact = path.read_text()
    report(tmp_path)
    generator = random.Random(name)
    refused = 0
    for _ in range(200):
        record = json.loads(intact)
        change = change_one_value(record, generator), record
        path.write_text(json.dumps(record))
        try:
            report(tmp_path)
        except ResiduaError as error:
            refused += 1
            assert str(tmp_path) in str(error), (change, error)
            assert error.exit_code == 1, (change, error)
        except Exception as error:
            raise AssertionError(change) from error
    assert 20 < refused < 200 or name == "run.json"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("environment", None, "its environment is None"),
        ("environment", [], "its environment is []"),
        ("result", {}, "its result is empty"),
        ("result", [1], "its result is [1]"),
        ("run", None, "its run is None"),
    ],
)
def test_a_part_of_run_json_with_the_wrong_form_is_named(tmp_path, key, value, reason):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2), (0.1, 0.2)]})
    path = tmp_path / "runs" / "cifar-resnet20-seed1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    [damaged] = read_study_runs(tmp_path).damaged
    assert damaged.why.startswith(f"run.json is damaged: {reason}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"step": 1, "dev_error": "low"}', "in one row, dev_error is 'low', not a number"),
        ('{"step": 1, "dev_error": 7}', "dev_error is 7, which is not in [0, 1]"),
        ('{"step": true}', "is not a row of metrics"),
        ("[" * 1000, "nested more than 64"),
        ("\0\1\2", "Expecting value"),
    ],
)
def test_a_damaged_row_of_metrics_is_named(tmp_path, line, reason):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2), (0.1, 0.2)]})
    path = tmp_path / "runs" / "cifar-resnet20-seed1" / "metrics.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    [damaged] = read_study_runs(tmp_path).damaged
    assert reason in damaged.why


def test_classes_that_are_no_number_make_a_record_damaged(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2), (0.1, 0.2)]})
    path = tmp_path / "runs" / "cifar-resnet20-seed1" / "run.json"
    for classes in (None, 0, -1, "ten", 10**50):
        record = json.loads(path.read_text())
        record["run"]["network"]["classes"] = classes
        path.write_text(json.dumps(record))
        [damaged] = read_study_runs(tmp_path).damaged
        assert damaged.why.startswith("run.json "), classes


def test_a_study_comes_before_signals_and_lesions_that_stand_in_its_folder(capsys, tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2)]})
    (tmp_path / SIGNALS_RECORD).write_text("{")
    (tmp_path / "results.json").write_text("[" * 100_000)
    code, out, _ = run_cli(capsys, "report", tmp_path, "--json")
    assert (code, len(json.loads(out)["cells"])) == (0, 1)
    lesion = to_json(LESION_STUDY)
    write_json(tmp_path / LESION_RECORD, lesion)
    code, out, note = run_cli(capsys, "report", tmp_path, "--json")
    assert (code, len(json.loads(out)["cells"])) == (0, 1)
    assert "of a lesion study is now called lesion-results.json" in note
    assert read_json(tmp_path / "lesion-results.json") == lesion  # which took hours to measure
    assert (tmp_path / SIGNALS_RECORD).read_text() == "{"


def test_the_rows_of_metrics_are_those_that_python_reads(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.1, 0.2)]})
    path = tmp_path / "runs" / "cifar-resnet20-seed0" / "metrics.jsonl"
    assert read_json_lines(path) == [json.loads(line) for line in path.read_text().splitlines()]
    assert network("cifar-resnet20").classes == 10
    assert write_page(tmp_path).exists()

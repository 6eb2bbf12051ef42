import json
import os
import time

import pytest

from residua.cli.runs import MAX_NAMED_SKIPPED
from residua.record import RunRecord
from residua.report.damaged_metrics import describe_damaged_metrics
from residua.report.runs_page import PAGE_MARK
from tests.cli_runner import run_cli
from tests.report.fake_records import write_run_record

COUNTS = {"test_images": 359, "dev_images": 150}


@pytest.fixture
def run_folder(tmp_path):
    """Three runs: the first in the alphabet is the newest, and the worst."""
    root = tmp_path / "runs"
    for age, (name, error) in enumerate((("a", 0.3), ("b", 0.1), ("c", 0.2))):
        write_run_record(root / name, "cifar-resnet20", 0.01, error, extra_result=COUNTS)
        for path in (root / name).iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    return root


def list_names(out):
    return [line.split()[0] for line in out.splitlines()[1:] if line.strip()]


def test_the_newest_run_is_last(capsys, run_folder):
    code, out, error = run_cli(capsys, "runs", run_folder, "--no-page")
    assert (code, error) == (0, "")
    assert list_names(out) == ["c", "b", "a"]
    assert "70.0 % (65.0-74.4)" in out  # Wilson, 108 of 359
    assert not (run_folder / "index.html").exists()


@pytest.mark.parametrize(
    ("column", "names"), [("run", "abc"), ("test", "acb"), ("dev", "acb"), ("newest", "cba")]
)
def test_the_list_is_sorted_by_any_column(capsys, run_folder, column, names):
    _, out, _ = run_cli(capsys, "runs", run_folder, "--no-page", "--sort", column)
    assert list_names(out) == list(names)


def test_json_has_the_promised_keys(capsys, run_folder):
    (run_folder / "notes").mkdir()
    code, out, _ = run_cli(capsys, "runs", run_folder, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["page"] == str(run_folder / "index.html")
    assert facts["skipped"] == [{"folder": "notes", "why": "it contains no run"}]
    newest = facts["runs"][-1]
    interval = newest.pop("test_error_interval")
    assert interval == pytest.approx([0.256, 0.350], abs=2e-3)
    assert newest == {
        "run": "a",
        "folder": str(run_folder / "a"),
        "data": "digits",
        "model": "cifar-resnet20",
        "recipe": "small",
        "seed": 0,
        "state": "finished",
        "damaged": None,
        "step": 200,
        "total_steps": 200,
        "seconds": 12.5,
        "dev_error": 0.155,
        "dev_images": 150,
        "dev_error_interval": newest["dev_error_interval"],
        "test_error": 0.3,
        "test_images": 359,
        "test_views": None,
        "modified": "2001-09-09T01:46:40+00:00",
    }


DAMAGED_METRICS = {
    "bytes": b"\x00\xff\x80" * 100,
    "nesting": b"[" * 100_000 + b"\n",
    "nested row": b'{"step": 1, "a": ' + b'{"a": ' * 100 + b"1" + b"}" * 101 + b"\n",
    "cut": b'{"step": 100, "dev_er',
    "text": b'{"step": 100, "loss": "low"}\n',
    "no step": b'{"loss": 1.5}\n',
    "number": b'{"step": 100, "loss": 1.2.3}\n',
    "rate": b'{"step": 100, "dev_error": 7}\n',
    "other rate": b'{"step": 100, "dev_error": 1.5}\n',
    "two": b'{"step": 100}{"step": 200}\n',
}


@pytest.mark.parametrize("damage", DAMAGED_METRICS)
def test_a_finished_run_with_damaged_measurements_is_called_damaged(capsys, run_folder, damage):
    metrics = run_folder / "b" / "metrics.jsonl"
    metrics.write_bytes(DAMAGED_METRICS[damage])
    code, out, error = run_cli(capsys, "runs", run_folder, "--no-page")
    assert code == 0
    states = {line.split()[0]: line.split("  ")[-1] for line in out.splitlines()[1:]}
    assert states == {"a": "finished", "b": "finished, but damaged", "c": "finished"}
    assert error.startswith(f"residua: {metrics} is damaged")
    assert error.endswith("; the run is listed by the result in its run.json")
    listed = json.loads(run_cli(capsys, "runs", run_folder, "--json", "--no-page")[1])["runs"]
    damages = {run["run"]: run["damaged"] for run in listed}
    assert damages.pop("b").startswith(f"{metrics} is damaged")
    assert damages == {"a": None, "c": None}
    code, _, refusal = run_cli(capsys, "report", run_folder / "b")
    assert (code, str(metrics) in refusal or "is damaged" in refusal) == (1, True)


@pytest.mark.parametrize(
    "rows",
    [
        b"",
        b'{"step": 1, "loss": NaN}\n',  # as version 0.1 wrote
        b'{"step": 1, "loss": 1e+20, "dev_error": 1.0, "train_error": 5e-05, "lr": null}\n',
        b'{"step": 1, "dev_error": 0}\n\n{"dev_error": 1, "step": 2}',
    ],
)
def test_whatever_is_intact_is_not_called_damaged(capsys, run_folder, rows):
    (run_folder / "b" / "metrics.jsonl").write_bytes(rows)
    code, out, error = run_cli(capsys, "runs", run_folder, "--no-page")
    assert (code, error, "damaged" in out) == (0, "", False)


def test_the_measurements_of_many_runs_are_checked_in_a_moment(capsys, run_folder):
    row = {"step": 100, "epoch": 1.5, "lr": 0.1, "loss": 1.25, "dev_error": 0.5, "seconds": 2.5}
    (run_folder / "a" / "metrics.jsonl").write_text(200 * (json.dumps(row) + "\n"))
    start = time.process_time()
    for _ in range(1000):
        assert describe_damaged_metrics(RunRecord(run_folder / "a")) == ""
    assert time.process_time() - start < 2


def test_an_accuracy_of_averaged_views_says_so(capsys, run_folder):
    path = run_folder / "a" / "run.json"
    stored = json.loads(path.read_text())
    stored["result"]["test_views"] = "six"
    path.write_text(json.dumps(stored))
    os.utime(path, (10**9, 10**9))
    assert "70.0 % (65.0-74.4) with six views" in run_cli(capsys, "runs", run_folder)[1]
    page = (run_folder / "index.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "65.0–74.4 with six views" in page
    listed = json.loads(run_cli(capsys, "runs", run_folder, "--json")[1])["runs"]
    assert {run["run"]: run["test_views"] for run in listed}["a"] == "six"


def test_the_page_is_written_where_out_says(capsys, run_folder, tmp_path):
    for out in (tmp_path / "page.html", tmp_path / "folder"):
        code, printed, _ = run_cli(capsys, "runs", run_folder, "--out", out)
        page = out if out.suffix else out / "index.html"
        assert code == 0
        assert printed.endswith(f"The page: {page}\n")
        assert PAGE_MARK in page.read_text()
    assert not (run_folder / "index.html").exists()


def test_a_page_of_others_is_kept_and_the_runs_are_listed_all_the_same(capsys, run_folder):
    page = run_folder / "index.html"
    page.write_text("mine")
    code, out, error = run_cli(capsys, "runs", run_folder)
    assert (code, list_names(out)) == (0, ["c", "b", "a"])
    assert error == (
        f"residua: no page was written: {page} was not written by the command residua runs, so it "
        "is not replaced: give another place with --out, or add --no-page"
    )
    assert run_cli(capsys, "runs", run_folder, "--out", page)[0] == 2
    assert page.read_text() == "mine"


def test_what_is_no_run_is_named_up_to_a_limit(capsys, run_folder):
    for i in range(MAX_NAMED_SKIPPED + 2):
        (run_folder / f"notes{i:02}").mkdir()
    assert run_cli(capsys, "runs", run_folder, "--no-page")[2] == (
        "residua: 2 more were skipped: --json names all"
    )


def test_an_empty_folder_a_missing_one_and_options_that_exclude_each_other(capsys, tmp_path):
    code, out, _ = run_cli(capsys, "runs", tmp_path)
    assert code == 0
    assert out == f"There are no runs in {tmp_path} yet: residua train DATA stores one.\n"
    assert json.loads(run_cli(capsys, "runs", tmp_path, "--json")[1])["runs"] == []
    assert run_cli(capsys, "runs", tmp_path / "none")[0] == 1
    code, _, error = run_cli(capsys, "runs", tmp_path, "--no-page", "--out", tmp_path / "p.html")
    assert (code, error) == (
        2,
        "residua: --out names a page and --no-page forbids it: leave one of them out",
    )


def test_a_thousand_runs_are_listed_in_seconds(capsys, run_folder):
    content = (run_folder / "a" / "run.json").read_bytes()
    for i in range(1000):
        (run_folder / f"r{i}").mkdir()
        (run_folder / f"r{i}" / "run.json").write_bytes(content)
    start = time.process_time()
    code, out, _ = run_cli(capsys, "runs", run_folder, "--no-page")
    assert (code, len(list_names(out))) == (0, 1003)
    assert time.process_time() - start < 5

"""Runs, studies and model folders that version 0.1 wrote are read, reported on, evaluated and
resumed.

`fixtures/version_0_1.tar.xz` was written by the commands of version 0.1 (commit 1608681) in fp32:

    finished/    train digits --model cifar-resnet8 --epochs 3 --seed 3
    unfinished/  train digits --model cifar-preresnet8,join=drop-path --epochs 6 --seed 5
                 --save-every 20 --set parts=2 --set 'optimiser={"kind": "Muon"}', killed at step 40
    unfinished_finished_*  run.json and metrics.jsonl of the same run after --resume
    vlad/        train digits --model vlad
    study/       study --families plain resnet --depths 8 --seeds 0 --epochs 2, and what it printed
    evaluation/  evaluate finished digits --calibrate
    signals/     signals finished
    lesion/      lesion finished digits
"""

import json
import tarfile
from pathlib import Path

import pytest

from residua.config.run import parse_run
from residua.record import RunRecord
from tests.cli_runner import run_cli

ARCHIVE = Path(__file__).with_name("fixtures") / "version_0_1.tar.xz"
FLOAT_TOLERANCE = 0.02  # errors of a run that goes on: another CPU rounds otherwise


@pytest.fixture
def old_files(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def run_json_command(capsys, *arguments):
    """The JSON object that a command prints."""
    code, output, error = run_cli(capsys, *arguments, "--json")
    assert code == 0, error
    return json.loads(output)


def read_json_file(path):
    return json.loads(path.read_text())


def test_stored_runs_keep_their_ids_and_their_json(old_files):
    for path in old_files.rglob("run.json"):
        content = read_json_file(path)
        run = parse_run(content["run"])
        assert run.id == content["id"]
        assert run.json == content["run"]


@pytest.mark.parametrize("name", ["finished", "vlad"])
def test_a_finished_run_evaluates_to_its_recorded_error(capsys, old_files, name):
    result = RunRecord(old_files / name).read_result()
    evaluation = run_json_command(capsys, "evaluate", str(old_files / name), "digits")
    assert evaluation["error"] == pytest.approx(result["test_error"], abs=1e-6)


def test_training_a_finished_run_again_returns_its_recorded_result(capsys, old_files):
    result = RunRecord(old_files / "finished").read_result()
    arguments = [
        "--model",
        "cifar-resnet8",
        "--epochs",
        "3",
        "--seed",
        "3",
        "--precision",
        "fp32",
        "--resume",
        "--out",
    ]
    printed = run_json_command(capsys, "train", "digits", *arguments, str(old_files / "finished"))
    assert {key: printed[key] for key in result} == result


def test_an_unfinished_run_resumes_and_ends_as_version_0_1_did(capsys, old_files):
    folder = old_files / "unfinished"
    before = RunRecord(folder).read_metrics()
    arguments = [
        "--model",
        "cifar-preresnet8,join=drop-path",
        "--epochs",
        "6",
        "--seed",
        "5",
        "--precision",
        "fp32",
    ]
    settings = ["--set", "parts=2", "--set", 'optimiser={"kind": "Muon"}', "--resume"]
    printed = run_json_command(
        capsys, "train", "digits", *arguments, *settings, "--out", str(folder)
    )
    expected = read_json_file(old_files / "unfinished_finished_run.json")["result"]
    assert printed["steps"] == expected["steps"]
    for key in ("train_error", "dev_error", "test_error", "train_loss"):
        assert printed[key] == pytest.approx(expected[key], abs=FLOAT_TOLERANCE), key
    lines = (old_files / "unfinished_finished_metrics.jsonl").read_text().splitlines()
    expected_rows, rows = [json.loads(line) for line in lines], RunRecord(folder).read_metrics()
    assert rows[: len(before)] == before
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row["lr"] == expected_row["lr"]
        assert row["loss"] == pytest.approx(expected_row["loss"], abs=FLOAT_TOLERANCE)


def test_a_study_is_reported_with_the_same_cells(capsys, old_files):
    printed = run_json_command(capsys, "report", str(old_files / "study"))
    expected = read_json_file(old_files / "study_printed.json")
    for cell, expected_cell in zip(printed["cells"], expected["cells"], strict=True):
        assert {key: cell[key] for key in expected_cell} == expected_cell


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_goes_on_with_a_run_that_is_missing(capsys, old_files):
    folder = old_files / "study"
    finished_run = folder / "runs" / "cifar-plain8-seed0" / "run.json"
    before = finished_run.read_bytes()
    for path in sorted((folder / "runs" / "cifar-resnet8-seed0").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "runs" / "cifar-resnet8-seed0").rmdir()
    arguments = [
        "--families",
        "plain",
        "resnet",
        "--depths",
        "8",
        "--seeds",
        "0",
        "--epochs",
        "2",
        "--out",
    ]
    printed = run_json_command(capsys, "study", *arguments, str(folder))
    assert finished_run.read_bytes() == before
    expected = read_json_file(old_files / "study_printed.json")
    for cell, expected_cell in zip(printed["cells"], expected["cells"], strict=True):
        for key in ("train_error", "test_error"):
            assert cell[key] == pytest.approx(expected_cell[key], abs=FLOAT_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "record"), [("signals", "signals.json"), ("lesion", "results.json")]
)
def test_signals_and_lesions_are_reported_anew(capsys, old_files, name, record):
    before = read_json_file(old_files / name / record)
    printed = run_json_command(capsys, "report", str(old_files / name))
    assert Path(printed["page"]).exists()
    after = read_json_file(old_files / name / record)
    assert {key for key in before if after[key] != before[key]} <= {"verdict"}  # which is prose


def test_an_evaluation_finds_the_same_mistakes(capsys, old_files):
    stored = read_json_file(old_files / "evaluation" / "evaluation.json")
    out = old_files / "new"
    printed = run_json_command(
        capsys, "evaluate", str(old_files / "finished"), "digits", "--out", str(out)
    )
    assert (printed["count"], printed["wrong"]) == (stored["count"], stored["wrong"])
    assert read_json_file(out / "evaluation.json")["confusion"] == stored["confusion"]

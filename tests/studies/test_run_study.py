"""Small studies on the digits, from the command to the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

import residua
from residua.cli.main import main
from residua.config.recipes import recipe
from residua.config.serialize import apply_override
from residua.config.study import Arm, Study
from residua.errors import Interrupted, UsageError
from residua.record import RunRecord
from residua.report.cross_validation import differ_by_folds
from residua.report.study import read_study_summary
from residua.studies.local import StudyJob
from residua.studies.run_study import train_study
from residua.study_records import list_run_records, pack_runs
from tests.data.test_groups import write_table
from tests.measured import without_times
from tests.studies.in_process import train_studies_in_this_process

STUDY_ARGUMENTS = [
    "study",
    "--families",
    "plain",
    "resnet",
    "--depths",
    "8",
    "14",
    "--steps",
    "6",
    "--precision",
    "fp32",
    "--json",
]


def ignore_progress(run_name, done, total):
    pass


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_trains_every_cell_once_and_writes_its_page(tmp_path, capsys):
    folder = tmp_path / "s"
    assert main([*STUDY_ARGUMENTS, "--seeds", "0", "1", "--out", str(folder)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(cell["family"], cell["depth"], cell["seeds"]) for cell in results["cells"]] == [
        ("plain", 8, 2),
        ("plain", 14, 2),
        ("resnet", 8, 2),
        ("resnet", 14, 2),
    ]
    assert all(
        0 <= cell["test_error"] <= 1 and cell["test_error_sd"] >= 0 for cell in results["cells"]
    )
    assert results["verdict"]
    assert results["packed"] == min(os.cpu_count(), 8)
    assert (folder / "report.html").read_text().lower().startswith("<!doctype html>")

    runs = {
        path.name: (path / "run.json").stat().st_mtime_ns for path in (folder / "runs").iterdir()
    }
    assert len(runs) == 8
    assert main([*STUDY_ARGUMENTS, "--seeds", "0", "1", "2", "--out", str(folder)]) == 0
    after = {
        path.name: (path / "run.json").stat().st_mtime_ns for path in (folder / "runs").iterdir()
    }
    assert len(after) == 12
    assert runs.items() <= after.items()

    capsys.readouterr()
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"][0]["seeds"] == 3
    assert (folder / "report.html").read_bytes() == page


def test_a_study_with_parallel_workers_equals_sequential_runs(tmp_path):
    study = Study(
        arms=(Arm("plain"), Arm("resnet")),
        depths=(8,),
        recipe=recipe("small").with_duration(steps=8),
    )
    progress_reports = []
    with train_studies_in_this_process():
        train_study(study, tmp_path / "1", precision="fp32", workers=1, on_progress=ignore_progress)
    train_study(
        study,
        tmp_path / "2",
        precision="fp32",
        workers=2,
        on_progress=lambda *report: progress_reports.append(report),
    )
    for name in study.make_runs():
        sequential, parallel = [
            RunRecord(tmp_path / folder / "runs" / name).read_result() for folder in ("1", "2")
        ]
        assert sequential["test_error"] == parallel["test_error"]
        assert [
            line["loss"] for line in RunRecord(tmp_path / "1" / "runs" / name).read_metrics()
        ] == pytest.approx(
            [line["loss"] for line in RunRecord(tmp_path / "2" / "runs" / name).read_metrics()],
            rel=1e-5,
        )
    assert {name for name, _, _ in progress_reports} == set(study.make_runs())


@pytest.mark.usefixtures("studies_in_this_process")
def test_packed_runs_are_not_trained_again(tmp_path):
    study = Study(
        arms=(Arm("plain"),),
        depths=(8,),
        seeds=(0, 1),
        recipe=recipe("small").with_duration(steps=2),
    )
    options = {"precision": "fp32", "workers": 1}
    train_study(replace(study, seeds=(0,)), tmp_path, **options, on_progress=ignore_progress)
    assert pack_runs(tmp_path) == 1
    packed, reports = (tmp_path / "runs.jsonl").read_bytes(), set()
    train_study(study, tmp_path, **options, on_progress=lambda *report: reports.add(report))
    assert ("cifar-plain8-seed0", 1, 1) in reports
    assert (tmp_path / "runs.jsonl").read_bytes() == packed
    assert not (tmp_path / "runs" / "cifar-plain8-seed0" / "run.json").exists()
    assert RunRecord(tmp_path / "runs" / "cifar-plain8-seed1").read_result() is not None
    other = replace(study, recipe=recipe("small").with_duration(steps=3))
    with pytest.raises(UsageError, match=r"holds another run: recipe.steps is 2 there, 3 here"):
        train_study(other, tmp_path, **options, on_progress=ignore_progress)


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_folder_of_another_study_is_refused(tmp_path):
    study = Study(arms=(Arm("plain"),), depths=(8,), recipe=recipe("small").with_duration(steps=2))
    train_study(study, tmp_path, precision="fp32", workers=1, on_progress=ignore_progress)
    other = Study(arms=(Arm("plain"),), depths=(8,), recipe=recipe("small").with_duration(steps=3))
    with pytest.raises(
        UsageError,
        match=r"holds another study: recipe.steps is 2 there, 3 here; choose another --out",
    ):
        train_study(other, tmp_path, precision="fp32", workers=1, on_progress=ignore_progress)


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_goes_on_in_the_precision_of_its_runs(tmp_path):
    study = Study(arms=(Arm("plain"),), depths=(8,), recipe=recipe("small").with_duration(steps=2))
    train_study(study, tmp_path, precision="fp32", workers=1, on_progress=ignore_progress)
    more = replace(study, seeds=(0, 1))
    with pytest.raises(
        UsageError, match="holds runs in fp32, not bf16: add --precision fp32, or choose another"
    ):
        train_study(more, tmp_path, precision="bf16", workers=1, on_progress=ignore_progress)
    train_study(more, tmp_path, precision="auto", workers=1, on_progress=ignore_progress)
    for record in list_run_records(tmp_path):
        assert record.read_run_json()["environment"]["precision"] == "fp32"


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_that_fails_at_once_leaves_its_folder_reusable(tmp_path):
    study = Study(
        arms=(Arm("plain"),),
        depths=(8,),
        recipe=apply_override(recipe("small").with_duration(steps=2), "batch_size=5000"),
    )
    failed = train_study(study, tmp_path, precision="fp32", workers=1, on_progress=ignore_progress)
    assert failed == {
        "cifar-plain8-seed0": "batch size 5000 exceeds the 1288 training images: "
        "choose at most 1288"
    }
    right = replace(study, recipe=recipe("small").with_duration(steps=2))
    assert (
        train_study(right, tmp_path, precision="fp32", workers=1, on_progress=ignore_progress) == {}
    )
    with pytest.raises(
        UsageError, match="workers must be 1 or more, or 0 for one per core; got -1"
    ):
        train_study(right, tmp_path, workers=-1, on_progress=ignore_progress)


def test_a_failed_run_prevents_neither_the_other_runs_nor_the_page(tmp_path, capsys):
    arguments = [
        "study",
        "--families",
        "plain",
        "resnet",
        "--depths",
        "8",
        "--seeds",
        "0",
        "--steps",
        "2",
        "--precision",
        "fp32",
    ]
    with train_studies_in_this_process():
        assert main([*arguments, "--out", str(tmp_path / "s")]) == 0
    broken = tmp_path / "s" / "runs" / "cifar-plain8-seed0"
    shutil.rmtree(broken)
    shutil.rmtree(tmp_path / "s" / "runs" / "cifar-resnet8-seed0")
    broken.write_text("not a folder")
    assert main([*arguments, "--workers", "1", "--out", str(tmp_path / "s")]) == 1
    assert (
        "1 of 2 runs failed (the report page lists them), e.g. cifar-plain8-seed0: "
        in capsys.readouterr().err
    )
    assert RunRecord(tmp_path / "s" / "runs" / "cifar-resnet8-seed0").read_result() is not None
    assert (tmp_path / "s" / "report.html").exists()


def test_ctrl_c_stops_all_workers_and_the_same_command_resumes(tmp_path):
    arguments = [
        "study",
        "--families",
        "plain",
        "resnet",
        "--depths",
        "8",
        "14",
        "--seeds",
        "0",
        "--epochs",
        "4",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "s"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "residua", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "s").glob("runs/*/metrics.jsonl")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (
        errors.splitlines()[-1]
        == "residua: stopped: repeat the same command to resume from the checkpoints"
    )
    assert "Traceback" not in errors
    runs = [RunRecord(path) for path in (tmp_path / "s" / "runs").iterdir()]
    assert any(run.checkpoints_folder.exists() for run in runs)
    assert len([run for run in runs if run.read_result()]) < 4
    with train_studies_in_this_process():
        assert main(arguments) == 0
    assert all(RunRecord(path).read_result() for path in (tmp_path / "s" / "runs").iterdir())


FOLDED = Study(
    arms=(Arm("plain"), Arm("resnet")),
    depths=(8,),
    recipe=recipe("small").with_duration(steps=3),
    folds=3,
)


@pytest.fixture(scope="module")
def folded_study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folded")
    with train_studies_in_this_process():
        assert not train_study(
            FOLDED, folder, precision="fp32", workers=1, on_progress=ignore_progress
        )
    return folder


def read_fold_errors(folder):
    """The errors on the held-out folds, read from the records by hand: {net: [error]}."""
    errors = defaultdict(dict)
    for path in (folder / "runs").glob("*/run.json"):
        content = json.loads(path.read_text())
        fold = content["run"]["fold"]
        assert fold["count"] == 3
        name = content["run"]["network"]["name"]
        errors[name][fold["number"]] = content["result"]["dev_error"]
    return {name: [by_fold[i] for i in (1, 2, 3)] for name, by_fold in errors.items()}


def test_a_study_with_folds_reports_their_mean_and_standard_error(folded_study, capsys):
    assert main(["report", str(folded_study), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    errors = read_fold_errors(folded_study)
    for cell in results["cells"]:
        own = np.array(errors[f"cifar-{cell['family']}8"])
        assert (cell["folds"], cell["seeds"], cell["test_error_sd"]) == (3, 1, None)
        assert cell["fold_error"] == pytest.approx(own.mean())
        assert cell["fold_error_se"] == pytest.approx(stats.sem(own))
        rows = [row for row in results["folds"] if row["arm"] == cell["arm"]]
        assert [row["error"] for row in rows] == own.tolist()
        assert sum(row["images"] for row in rows) == 1438
    assert "Bengio & Grandvalet 2004" in results["folds_note"]
    assert results["verdict"].startswith("In 3-fold cross-validation, the ")
    page = (folded_study / "report.html").read_text()
    assert "Error on held-out folds" in page
    assert "each of 3 folds of the training images is held out once" in page


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_with_folds_goes_on_with_the_runs_that_are_missing(folded_study, tmp_path):
    shutil.copytree(folded_study, tmp_path / "s")
    lost = tmp_path / "s" / "runs" / "cifar-resnet8-seed0-fold2"
    result = RunRecord(lost).read_result()
    shutil.rmtree(lost)
    summary = read_study_summary(tmp_path / "s")
    [missing] = summary.runs.unfinished
    assert (missing.name, missing.fold) == ("cifar-resnet8", 2)
    assert any("1 of 2 nets have not finished all 3 folds" in text for text in summary.findings)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("runs/*/run.json")}
    options = {"precision": "fp32", "workers": 1, "on_progress": ignore_progress}
    train_study(FOLDED, tmp_path / "s", **options)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    again = RunRecord(lost).read_result()
    assert without_times(again) == without_times(result)
    with pytest.raises(UsageError, match="another study: folds is 3 there, 0 here"):
        train_study(replace(FOLDED, folds=0), tmp_path / "s", **options)


def test_folds_are_compared_by_the_corrected_t_test():
    rng = np.random.default_rng(0)
    decisions = set()
    for _ in range(200):
        differences = rng.normal(0.02, 0.01, 5)
        variance = (1 / 5 + 1 / 4) * differences.var(ddof=1)
        p_value = 2 * stats.t.sf(abs(differences.mean()) / variance**0.5, 4)
        expected = p_value <= 0.05 and abs(differences.mean()) >= 0.001
        assert differ_by_folds(differences.tolist(), 0.05) == expected
        decisions.add(expected)
    assert decisions == {True, False}


@pytest.mark.usefixtures("studies_in_this_process")
def test_photographs_are_studied_with_folds_from_python(tmp_path):
    table = write_table(tmp_path)
    summary = residua.study(
        ["resnet"], [8], seeds=[0], data=str(table), size=16, steps=2, folds=2, quiet=True
    )
    assert [(cell.folds, cell.seeds) for cell in summary.cells] == [(2, 1)]
    assert sum(run.result.dev_images for run in summary.runs.finished) == 60 - (
        summary.runs.finished[0].result.test_images
    )


def test_impossible_folds_are_refused_before_training(tmp_path, capsys):
    common = ["study", "--depths", "8", "--out", str(tmp_path / "s")]
    assert main([*common, "--folds", "1"]) == 2
    assert "folds must be 2 to 1,000, but 1 were given" in capsys.readouterr().err
    assert main([*common, "--size", "32"]) == 2
    assert "--size applies only to photographs" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_run_of_a_fold_that_is_stopped_resumes_bit_identically(folded_study, tmp_path):
    name = "cifar-plain8-seed0-fold3"
    run = FOLDED.make_runs()[name]
    job = StudyJob(run, tmp_path / "run", "fp32", "auto", None)
    steps = []
    with pytest.raises(Interrupted):
        job.train_or_resume(lambda progress, row: steps.append(progress.step), lambda: 2 in steps)
    job.train_or_resume(lambda progress, row: None, lambda: False)
    whole = RunRecord(folded_study / "runs" / name)
    tensors = [
        load_file(folder / "last" / "model.safetensors")
        for folder in (tmp_path / "run", whole.folder)
    ]
    assert all(np.array_equal(tensors[0][key], tensor) for key, tensor in tensors[1].items())

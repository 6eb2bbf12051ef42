"""A small study on the digits, from the command to its page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from residua.cli.main import main
from residua.errors import UsageError
from residua.record import Record
from residua.spec.recipe import recipe
from residua.spec.study import Arm, Study
from residua.spec.text import overridden
from residua.study.depth import study

ARGUMENTS = ["study", "--families", "plain", "resnet", "--depths", "8", "14", "--steps", "15", "--precision", "fp32", "--json"]


def test_a_study_trains_every_cell_once_and_writes_its_page(tmp_path, capsys):
    folder = tmp_path / "s"
    assert main([*ARGUMENTS, "--seeds", "0", "1", "--out", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(cell["family"], cell["depth"], cell["seeds"]) for cell in found["cells"]] == [
        ("plain", 8, 2), ("plain", 14, 2), ("resnet", 8, 2), ("resnet", 14, 2),
    ]  # fmt: skip
    assert all(0 <= cell["test_error"] <= 1 and cell["test_error_sd"] >= 0 for cell in found["cells"])
    assert found["verdict"]
    assert (folder / "report.html").read_text().lower().startswith("<!doctype html>")

    runs = {path.name: (path / "run.json").stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert len(runs) == 8
    assert main([*ARGUMENTS, "--seeds", "0", "1", "2", "--out", str(folder)]) == 0
    after = {path.name: (path / "run.json").stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert len(after) == 12
    assert runs.items() <= after.items()

    capsys.readouterr()
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"][0]["seeds"] == 3
    assert (folder / "report.html").read_bytes() == page


def test_a_study_side_by_side_equals_single_runs(tmp_path):
    plan = Study(arms=(Arm("plain"), Arm("resnet")), depths=(8,), recipe=recipe("small").lasting(steps=8))
    told = []
    for workers in (1, 2):
        study(plan, tmp_path / str(workers), precision="fp32", workers=workers, tell=lambda *news: told.append(news))
    for name in plan.runs():
        one, two = [Record(tmp_path / folder / "runs" / name).result() for folder in ("1", "2")]
        assert one["test_error"] == two["test_error"]
        assert [line["loss"] for line in Record(tmp_path / "1" / "runs" / name).lines()] == pytest.approx(
            [line["loss"] for line in Record(tmp_path / "2" / "runs" / name).lines()], rel=1e-5
        )
    assert {name for name, _, _ in told} == set(plan.runs())


def test_a_folder_of_another_study_is_refused(tmp_path):
    plan = Study(arms=(Arm("plain"),), depths=(8,), recipe=recipe("small").lasting(steps=2))
    study(plan, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)
    other = Study(arms=(Arm("plain"),), depths=(8,), recipe=recipe("small").lasting(steps=3))
    with pytest.raises(UsageError, match=r"holds another study: recipe.steps is 2 there, 3 here; choose another --out"):
        study(other, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)


def test_a_mistaken_study_leaves_its_folder_free(tmp_path):
    plan = Study(arms=(Arm("plain"),), depths=(8,), recipe=overridden(recipe("small").lasting(steps=2), "batch_size=5000"))
    failed = study(plan, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)
    assert failed == {"cifar-plain8-seed0": "a batch of 5000 is larger than the 1288 training images: choose at most that"}
    right = replace(plan, recipe=recipe("small").lasting(steps=2))
    assert study(right, tmp_path, precision="fp32", workers=1, tell=lambda *news: None) == {}
    with pytest.raises(UsageError, match="-1 workers are impossible: give 1 or more, or 0 for one a core"):
        study(right, tmp_path, workers=-1, tell=lambda *news: None)


def test_a_run_that_fails_costs_neither_the_others_nor_the_page(tmp_path, capsys):
    arguments = ["study", "--families", "plain", "resnet", "--depths", "8", "--seeds", "0", "--steps", "2", "--precision", "fp32"]
    assert main([*arguments, "--out", str(tmp_path / "s")]) == 0
    broken = tmp_path / "s" / "runs" / "cifar-plain8-seed0"
    shutil.rmtree(broken)
    shutil.rmtree(tmp_path / "s" / "runs" / "cifar-resnet8-seed0")
    broken.write_text("not a folder")
    assert main([*arguments, "--out", str(tmp_path / "s")]) == 1
    assert "1 of 2 runs failed, and the page says which; cifar-plain8-seed0: " in capsys.readouterr().err
    assert Record(tmp_path / "s" / "runs" / "cifar-resnet8-seed0").result() is not None
    assert (tmp_path / "s" / "report.html").exists()


def test_ctrl_c_stops_a_study_whole_and_the_same_command_goes_on(tmp_path):
    arguments = ["study", "--families", "plain", "resnet", "--depths", "14", "20", "--seeds", "0", "--epochs", "4"]
    command = [sys.executable, "-m", "residua", *arguments, "--workers", "2", "--out", str(tmp_path / "s")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "s").glob("runs/*/metrics.jsonl")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "residua: stopped: the same command goes on from the checkpoints"
    assert "Traceback" not in errors
    runs = [Record(path) for path in (tmp_path / "s" / "runs").iterdir()]
    assert any(run.checkpoints.exists() for run in runs)
    assert len([run for run in runs if run.result()]) < 4
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert all(Record(path).result() for path in (tmp_path / "s" / "runs").iterdir())

"""A small study on the digits, from the command to its page."""

import json

import pytest

from residua.cli.main import main
from residua.errors import UsageError
from residua.record import Record
from residua.spec.recipe import recipe
from residua.study.depth import Study, study

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


def test_a_study_side_by_side_equals_single_runs_to_the_bit(tmp_path):
    plan = Study(families=("plain", "resnet"), depths=(8,), recipe=recipe("small").lasting(steps=8))
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
    plan = Study(families=("plain",), depths=(8,), recipe=recipe("small").lasting(steps=2))
    study(plan, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)
    other = Study(families=("plain",), depths=(8,), recipe=recipe("small").lasting(steps=3))
    with pytest.raises(UsageError, match=r"holds another study: recipe.steps is 2 there, 3 here; choose another --out"):
        study(other, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)


def test_one_failing_run_does_not_stop_the_others(tmp_path):
    from residua.errors import RecordError

    plan = Study(families=("plain", "resnet"), depths=(8,), recipe=recipe("small").lasting(steps=2))
    broken, whole = [tmp_path / "runs" / name for name in plan.runs()]
    study(plan, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)
    (broken / "run.json").write_text("{")
    for path in whole.iterdir():
        if path.is_file():
            path.unlink()
    import shutil

    shutil.rmtree(whole)
    with pytest.raises(RecordError, match="run.json is damaged"):
        study(plan, tmp_path, precision="fp32", workers=1, tell=lambda *news: None)
    assert Record(whole).result() is not None

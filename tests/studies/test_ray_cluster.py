"""Studies on a Ray cluster, here a cluster of one machine."""

import importlib.util
import shutil

import pytest

from residua.cli.main import main
from residua.record import RunRecord
from tests.studies.in_process import train_studies_in_this_process

STUDY_ARGUMENTS = [
    "study",
    "--families",
    "plain",
    "resnet",
    "--depths",
    "8",
    "--seeds",
    "0",
    "1",
    "--steps",
    "3",
    "--precision",
    "fp32",
    "--json",
]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_study_on_a_ray_cluster_equals_a_local_one(tmp_path, capsys):
    folder = tmp_path / "s"
    with train_studies_in_this_process():
        assert main([*STUDY_ARGUMENTS, "--out", str(folder)]) == 0
    finished, missing, damaged = [
        folder / "runs" / f"cifar-{name}"
        for name in ("plain8-seed1", "plain8-seed0", "resnet8-seed0")
    ]
    before = (finished / "run.json").stat().st_mtime_ns
    local = RunRecord(missing).read_result()
    shutil.rmtree(missing)
    (damaged / "run.json").write_text("{")
    capsys.readouterr()
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(folder)]) == 1
    assert (
        "1 of 4 runs failed (the report page lists them), e.g. cifar-resnet8-seed0: "
        in capsys.readouterr().err
    )
    on_ray = RunRecord(missing).read_result()
    assert on_ray["steps"] == local["steps"] == 3
    assert on_ray["test_error"] == pytest.approx(local["test_error"], abs=0.01)
    assert (finished / "run.json").stat().st_mtime_ns == before


def test_without_ray_a_one_line_error_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "residua: --ray needs Ray, which is not installed: pip install ray, or omit --ray"
    )
    assert not (tmp_path / "s").exists()

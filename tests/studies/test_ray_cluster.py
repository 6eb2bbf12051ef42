"""Studies on a Ray cluster, here a cluster of one machine."""

import importlib.util
import json

import pytest

from residua.cli.main import main
from residua.record import RunRecord

STUDY_ARGUMENTS = [
    "study",
    "--families",
    "plain",
    "resnet",
    "--depths",
    "8",
    "--seeds",
    "0",
    "--steps",
    "3",
    "--precision",
    "fp32",
    "--json",
]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_study_on_a_ray_cluster_equals_a_local_one(tmp_path, capsys):
    assert main([*STUDY_ARGUMENTS, "--workers", "1", "--out", str(tmp_path / "here")]) == 0
    local = json.loads(capsys.readouterr().out)
    intact = tmp_path / "there" / "runs" / "cifar-plain8-seed0"
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "there")]) == 0
    on_ray = json.loads(capsys.readouterr().out)
    for local_cell, ray_cell in zip(local["cells"], on_ray["cells"], strict=True):
        assert local_cell["test_error"] == pytest.approx(ray_cell["test_error"], abs=0.01)
    before = (intact / "run.json").stat().st_mtime_ns
    assert RunRecord(intact).read_result()["steps"] == 3
    (tmp_path / "there" / "runs" / "cifar-resnet8-seed0" / "run.json").write_text("{")
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "there")]) == 1
    assert (
        "1 of 2 runs failed (the report page lists them), e.g. cifar-resnet8-seed0: "
        in capsys.readouterr().err
    )
    assert (intact / "run.json").stat().st_mtime_ns == before


def test_without_ray_a_one_line_error_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "residua: --ray needs Ray, which is not installed: pip install ray, or omit --ray"
    )
    assert not (tmp_path / "s").exists()

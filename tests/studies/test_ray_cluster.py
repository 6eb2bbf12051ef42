"""Runs over a Ray cluster; that of one machine is one too."""

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
    here = json.loads(capsys.readouterr().out)
    broken = tmp_path / "there" / "runs" / "cifar-plain8-seed0"
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "there")]) == 0
    there = json.loads(capsys.readouterr().out)
    for one, two in zip(here["cells"], there["cells"], strict=True):
        assert one["test_error"] == pytest.approx(two["test_error"], abs=0.01)
    before = (broken / "run.json").stat().st_mtime_ns
    assert RunRecord(broken).read_result()["steps"] == 3
    (tmp_path / "there" / "runs" / "cifar-resnet8-seed0" / "run.json").write_text("{")
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "there")]) == 1
    assert (
        "1 of 2 runs failed, and the page says which; cifar-resnet8-seed0: "
        in capsys.readouterr().err
    )
    assert (broken / "run.json").stat().st_mtime_ns == before


def test_without_ray_a_one_line_error_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main([*STUDY_ARGUMENTS, "--ray", "--out", str(tmp_path / "s")]) == 2
    assert (
        capsys.readouterr().err
        == "residua: --ray needs Ray, which is not installed: pip install ray, or leave --ray out\n"
    )
    assert not (tmp_path / "s").exists()

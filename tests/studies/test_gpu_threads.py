"""Runs of a study that share one GPU."""

import json

import pytest
import torch

from residua.cli.main import main
from residua.config.network import Network
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.studies.gpu_threads import can_share_process
from residua.studies.local import StudyJob
from tests.training.short_runs import load_last_weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_job(name, folder):
    built = network(name, input=(1, 8, 8), classes=10)
    assert isinstance(built, Network)
    return StudyJob(Run(built, "digits", recipe("small"), 0), folder, "auto", "auto", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar-resnet20", True),
        ("cifar-preresnet20", True),
        ("cifar-highway8", True),
        ("cifar-resnet20,join=drop-path", False),
        ("cifar-resnet20,join=dropout", False),
    ],
)
def test_runs_that_draw_from_the_generator_of_the_process_are_trained_alone(
    tmp_path, name, expected
):
    assert can_share_process(make_job(name, tmp_path).run) == expected


@needs_gpu
def test_runs_at_once_have_the_bits_of_runs_one_after_another(tmp_path):
    families, depths, seeds = ["plain", "resnet"], ["8", "20"], ["0", "1"]
    study = ["study", "--families", *families, "--depths", *depths, "--seeds", *seeds]
    for folder, options in (("together", []), ("apart", ["--workers", "1"])):
        out = str(tmp_path / folder)
        assert main([*study, "--steps", "60", *options, "--out", out]) == 0
    together, apart = [
        json.loads((tmp_path / folder / "results.json").read_text())["cells"]
        for folder in ("together", "apart")
    ]
    assert len(together) == 4
    runs = sorted(path.name for path in (tmp_path / "together" / "runs").iterdir())
    assert len(runs) == 8
    for name in runs:
        ours, theirs = [
            load_last_weights(tmp_path / folder / "runs" / name) for folder in ("together", "apart")
        ]
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    for ours, theirs in zip(together, apart, strict=True):
        assert ours["train_error"] == theirs["train_error"]

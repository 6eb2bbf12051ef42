import getpass
import json

import numpy as np
import pytest
from torch import nn

import residua
from residua.cli.main import main
from residua.config.study import Arm
from residua.errors import TrainingError, UsageError
from residua.report.lesion import read_lesion_study

QUICKLY = {"images": 40, "draws": 1, "quiet": True, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A residual and a plain network, hardly trained, each with its folder."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: residua.train(
            name, "digits", steps=6, quiet=True, precision="fp32", out=folder / name
        )
        for name in ("cifar-resnet8", "cifar-plain8")
    }


def test_python_and_the_command_line_measure_the_same_lesions(trained, tmp_path):
    runs = [result.folder for result in trained.values()]
    study = residua.lesion(runs, "digits", out=tmp_path / "a", **QUICKLY)
    options = ["--beside", str(runs[1]), "--images", "40", "--draws", "1", "--device", "cpu"]
    command = ["lesion", str(runs[0]), "digits", *options, "--out", str(tmp_path / "b")]
    assert main(command) == 0
    stored = [(tmp_path / folder / "results.json").read_text() for folder in "ab"]
    assert stored[0] == stored[1]
    assert (tmp_path / "a" / "report.html").exists()
    assert read_lesion_study(tmp_path / "a") == study
    assert repr(study).startswith("LesionStudyResult(cifar-")
    assert len(repr(study)) < 200


def test_a_network_in_memory_has_the_same_lesions_as_its_folder(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = trained["cifar-resnet8"]
    by_folder = residua.lesion(result.folder, **QUICKLY)
    assert by_folder.dataset == "digits"
    assert residua.lesion(result, **QUICKLY) == by_folder
    assert residua.lesion([result.classifier], **QUICKLY) == by_folder
    assert list(tmp_path.iterdir()) == []


def test_lesions_on_arrays_are_counted_on_these_images(trained):
    result = trained["cifar-resnet8"]
    pixels = np.random.default_rng(3).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    predicted = [int(answer.label) for answer in result.classifier.predict(pixels[..., None])]
    study = residua.lesion(result, (pixels, np.array(predicted)), draws=1, quiet=True)
    assert (study.images, study.split) == (30, "test")
    assert study.nets[0].error == 0
    wrong = (np.array(predicted) + 1) % 10
    assert residua.lesion(result, (pixels, wrong), draws=1, quiet=True).nets[0].error == 1


def test_a_network_trained_on_arrays_needs_data():
    pixels = np.random.default_rng(3).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    result = residua.train("cifar-resnet8", (pixels, np.arange(40) % 2), steps=1, quiet=True)
    for function in (residua.lesion, residua.signals):
        with pytest.raises(
            UsageError, match="was trained on arrays-.* by name: give data=NAME or data=\\(im"
        ):
            function(result, quiet=True)


def test_lesions_that_are_impossible_are_refused_with_one_sentence(trained, tmp_path):
    residual, plain = trained["cifar-resnet8"], trained["cifar-plain8"]
    (tmp_path / "thesis.tex").write_text("")
    cases = [
        ((plain,), {}, "cifar-plain8 has no shortcuts: give a residual network before it$"),
        (([],), {}, "no network was given to the lesion study"),
        ((residual.net,), {}, "a module has no class names and no normalisation"),
        ((nn.Linear(2, 2),), {}, "Linear has no units that residua knows"),
        ((residual, "mnist"), {}, "cifar-resnet8 takes images of"),
        ((residual,), {"images": 0}, "images must be at least 1, got 0"),
        ((residual,), {"draws": 0}, "draws must be at least 1"),
        ((residual,), {"out": tmp_path}, "contains no lesion study: choose another out$"),
    ]
    for arguments, keywords, message in cases:
        with pytest.raises(UsageError, match=message):
            residua.lesion(*arguments, **{"quiet": True} | keywords)


STUDY = {"steps": 3, "precision": "fp32", "device": "cpu", "workers": 1, "quiet": True}


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_keeps_its_runs_and_its_page_only_in_a_given_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = residua.study(["plain"], [8], seeds=[0], out="kept", **STUDY)
    assert (tmp_path / "kept" / "report.html").exists()
    assert repr(kept) == f"StudySummary(1 run: {kept.findings[0]})"
    results = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert results["cells"] == [cell.json for cell in kept.cells]

    arms = ["plain", Arm("plain", ("schedule.lr=1e30",), "too fast")]
    with pytest.warns(UserWarning, match="1 of 2 runs failed, e.g. .*too-fast.*: ") as caught:
        lost = residua.study(arms, [8], seeds=[0], **STUDY)
    assert caught[0].filename == __file__
    assert [cell.test_error for cell in lost.cells] == [cell.test_error for cell in kept.cells]
    assert [run.arm for run in lost.runs.unfinished] == ["too fast"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {f"torchinductor_{getpass.getuser()}"} == {"kept"}  # a folder of PyTorch's own


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_study_of_which_every_run_fails_raises_the_reason():
    with pytest.raises(TrainingError, match="no run finished: "):
        residua.study([Arm("plain", ("schedule.lr=1e30",), "too fast")], [8], seeds=[0], **STUDY)


def test_studies_that_are_impossible_are_refused_with_one_sentence(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    cases = [
        (["resnet"], [9], {}, "9"),
        ([], [8], {}, "a study needs at least one arm"),
        (["resnet"], [8], {"data": "digit"}, "did you mean 'digits'"),
        (["resnet"], [8], {"epochs": 1}, "steps and epochs cannot be combined: give one of them"),
        (["resnet"], [8], {"workers": -1}, "workers must be 1 or more"),
        (["resnet"], [8], {"out": tmp_path}, "contains no study: choose another out$"),
    ]
    for families, depths, keywords, message in cases:
        with pytest.raises(UsageError, match=message):
            residua.study(families, depths, **STUDY | keywords)

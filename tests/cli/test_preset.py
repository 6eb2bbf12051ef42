"""The studies in experiments/: each is a Python value with a command line."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from residua.cli.preset import run_study_script

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PRESET_FILES = sorted(p for p in EXPERIMENTS.glob("*.py") if "run_study_script(" in p.read_text())


def load_study(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STUDY


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_is_short_asks_a_question_and_can_be_run(path):
    study = load_study(path)
    assert len(path.read_text().splitlines()) <= 60
    assert study.question.endswith("?")
    runs = study.make_runs()
    lengths = {run.recipe.total_steps(1288) for run in runs.values()}
    assert len(lengths) == 1, "arms of different lengths cannot be compared"
    assert len(study.seeds) >= 3


def test_the_thousand_layers_preset_runs_deepest_first_and_compares_equal_architectures():
    runs = load_study(EXPERIMENTS / "thousand_layers.py").make_runs()
    assert len(runs) == 117
    depths = [
        int("".join(c for c in run.network.name.split(",")[0] if c.isdigit()))
        for run in runs.values()
        if run.seed == 0
    ]
    assert depths == sorted(depths, reverse=True)
    v1, v2 = [
        run.network for name, run in runs.items() if "1001" in name and name.endswith("seed0")
    ]
    assert (v1.unit.shortcut, v1.unit.kernels, v1.stages) == (
        v2.unit.shortcut,
        v2.unit.kernels,
        v2.stages,
    )


def test_a_preset_file_runs_with_command_line_overrides(tmp_path):
    command = [
        sys.executable,
        str(EXPERIMENTS / "optimisers.py"),
        "--arms",
        "residual AdamW",
        "plain SGD",
        "--depths",
        "8",
    ]
    command += [
        "--workers",
        "1",
        "--seeds",
        "5",
        "--steps",
        "2",
        "--precision",
        "fp32",
        "--json",
        "--out",
        str(tmp_path / "s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [(cell["arm"], cell["family"], cell["depth"]) for cell in results["cells"]] == [
        ("residual AdamW", "resnet", 8),
        ("plain SGD", "plain", 8),
    ]
    assert results["cells"][0]["train_error_reestimated"] is not None
    run = json.loads((tmp_path / "s/runs/cifar-resnet8-residual-adamw-seed5/run.json").read_text())[
        "run"
    ]
    assert (run["recipe"]["steps"], run["recipe"]["optimiser"]["kind"], run["seed"]) == (
        2,
        "AdamW",
        5,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--arms", "residual Adam"],
            "residua: there is no arm 'residual Adam': did you mean 'residual AdamW'?",
        ),
        (
            ["--depths", "20", "57"],
            "residua: cifar-plain networks cannot have 57 layers: depth must be 6n+2, e.g. "
            "56 or 62",
        ),
        (["--data", "digit"], "residua: there is no data set 'digit': did you mean 'digits'?"),
    ],
)
def test_usage_errors_of_a_preset_give_one_line(arguments, sentence, capsys, tmp_path):
    assert (
        run_study_script(
            load_study(EXPERIMENTS / "optimisers.py"), [*arguments, "--out", str(tmp_path / "s")]
        )
        == 2
    )
    assert capsys.readouterr().err == f"{sentence}\n"
    assert not (tmp_path / "s").exists()


def test_depths_filter_arms_that_define_their_own_depths(capsys, tmp_path):
    study = load_study(EXPERIMENTS / "thousand_layers.py")
    arguments = ["--arms", "original bottleneck", "--depths", "20", "--out", str(tmp_path / "s")]
    assert run_study_script(study, arguments) == 2
    assert (
        capsys.readouterr().err
        == "residua: no arm has 20 layers: leave --depths out, or choose others\n"
    )

"""`residua signals` as scripts use it: keys, files, and one line for each usage error."""

import json

import pytest

from residua.cli.main import main
from residua.record import RunRecord
from tests.cli.test_main import run_cli
from tests.training.short_runs import CPU_FP32, ignore_progress, make_digits_run, never_stop

SIGNALS_COMMAND = ["signals", "cifar-resnet8", "--data", "digits"]
UNIT_KEYS = {
    "name",
    "stage",
    "index",
    "clip_fraction",
    "survival",
    "response_std",
    "residual_ratio",
    "gradient_norm",
    "activation_gradient_norm",
    "mean",
    "variance",
    "gradient_cosine",
    "gradient_correlation",
}


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    from residua.training.run import train_run

    folder = tmp_path_factory.mktemp("trained") / "run"
    train_run(
        make_digits_run(steps=6),
        folder,
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    return folder


def test_signals_json_has_the_promised_keys(capsys, tmp_path):
    code, out, _ = run_cli(
        capsys, *SIGNALS_COMMAND, "--json", "--images", "8", "--out", str(tmp_path / "s")
    )
    assert code == 0
    printed = json.loads(out)
    assert (printed["model"], printed["depth"], printed["data"], printed["images"]) == (
        "cifar-resnet8",
        8,
        "digits",
        8,
    )
    assert [unit["name"] for unit in printed["units"]] == [
        "stage1.unit1",
        "stage2.unit1",
        "stage3.unit1",
    ]
    assert set(printed["units"][0]) == UNIT_KEYS
    assert set(printed["null"][0]) <= UNIT_KEYS
    assert printed["null"][0]["clip_fraction"] == pytest.approx(0.375, abs=1e-4)
    files = {
        str(path.relative_to(tmp_path / "s"))
        for path in (tmp_path / "s").rglob("*")
        if path.is_file()
    }
    names = ("path", "branch", "gradients", "activations", "agreement")
    assert files == {"signals.json", "report.html", *(f"figures/{name}.svg" for name in names)}
    assert json.loads((tmp_path / "s" / "signals.json").read_text())["units"] == printed["units"]
    page = (tmp_path / "s" / "report.html").read_bytes()
    (tmp_path / "s" / "report.html").unlink()
    _, out, _ = run_cli(capsys, "report", str(tmp_path / "s"))
    assert out.splitlines()[0] == printed["findings"][0]
    assert (tmp_path / "s" / "report.html").read_bytes() == page


def test_a_run_is_measured_on_its_own_data_and_not_modified(capsys, tmp_path, trained_run):
    before = {path: path.read_bytes() for path in trained_run.rglob("*") if path.is_file()}
    code, out, _ = run_cli(
        capsys, "signals", str(trained_run), "--json", "--out", str(tmp_path / "s")
    )
    assert code == 0
    facts = json.loads(out)
    assert (facts["trained"], facts["data"], facts["seed"]) == (True, "digits", None)
    assert "Training has moved the net" in (tmp_path / "s" / "report.html").read_text()
    assert {path: path.read_bytes() for path in trained_run.rglob("*") if path.is_file()} == before


def test_networks_are_measured_on_digits_by_default(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("RESIDUA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "signals", "cifar-plain8", "--json")
    assert (code, json.loads(out)["data"]) == (0, "digits")
    assert (tmp_path / "signals" / "cifar-plain8" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["cifar-resnet57"],
            2,
            "residua: cifar-resnet networks cannot have 57 layers: depth must be 6n+2, e.g. "
            "56 or 62",
        ),
        (
            ["cifar-resnt56"],
            2,
            "residua: there is no network 'cifar-resnt56': did you mean 'cifar-resnet56'?",
        ),
        (["vlad"], 2, "residua: vlad has no units: give a network, e.g. cifar-resnet110"),
        (
            ["nowhere/run"],
            1,
            "residua: there is no folder nowhere/run: give a run folder, a model folder or a "
            "network name, or hf:nowhere/run if it is on the Hugging Face hub",
        ),
        (
            ["{empty}"],
            1,
            "residua: {empty} is neither a run folder nor a model folder: "
            "it has no run.json and no config.json",
        ),
        (
            ["{unfinished}"],
            2,
            "residua: the run in {unfinished} is not finished: continue it with --resume",
        ),
        (
            ["cifar-resnet8", "--data", "digit"],
            2,
            "residua: there is no data set 'digit': did you mean 'digits'?",
        ),
        (
            ["{run}", "--data", "cifar10"],
            2,
            "residua: the classes of {run}/last and cifar10 differ in name or order "
            "(only in the model: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; only in the data: "
            "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck): "
            "use data with the model's classes",
        ),
        (
            [*SIGNALS_COMMAND[1:], "--images", "1"],
            2,
            "residua: signals need at least 2 images, got 1: "
            "batch normalization and the gradient correlation are computed across images",
        ),
        (
            [*SIGNALS_COMMAND[1:], "--images", "0"],
            2,
            "residua: signals need at least 2 images, got 0: "
            "batch normalization and the gradient correlation are computed across images",
        ),
        (
            [*SIGNALS_COMMAND[1:], "--images", "2000"],
            2,
            "residua: 2,000 images are too many: give at most 1,288, the number of training "
            "images of digits",
        ),
        (
            [*SIGNALS_COMMAND[1:], "--seed", "-1"],
            2,
            "residua: seed -1 is invalid: give a whole number from 0 to 4294967295",
        ),
        (
            [*SIGNALS_COMMAND[1:], "--out", "{run}"],
            2,
            "residua: {run} is not empty and has no signals.json: choose another --out",
        ),
    ],
)
def test_a_usage_error_gives_one_line(capsys, tmp_path, trained_run, arguments, code, sentence):
    (tmp_path / "empty").mkdir()
    RunRecord(tmp_path / "unfinished").claim_folder(make_digits_run(), {}, resume=False)
    folders = {
        "empty": tmp_path / "empty",
        "unfinished": tmp_path / "unfinished",
        "run": trained_run,
    }
    command = ["signals", *(word.format(**folders) for word in arguments)]
    out = [] if "--out" in command else ["--out", str(tmp_path / "out")]
    assert run_cli(capsys, *command, *out)[::2] == (code, sentence.format(**folders))
    assert not (tmp_path / "out").exists()


def test_a_run_of_vlad_has_no_signals(capsys, tmp_path):
    folder = tmp_path / "v"
    assert (
        main(
            [
                "train",
                "digits",
                "--model",
                "vlad,words=4,cells=1,samples=2000",
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    _, _, sentence = run_cli(capsys, "signals", str(folder), "--out", str(tmp_path / "out"))
    assert (
        sentence
        == f"residua: {folder}/last holds VLAD, which has no units: give the folder of a network"
    )

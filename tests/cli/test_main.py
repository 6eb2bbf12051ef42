"""The command line as scripts use it: JSON keys, exit codes, and one line per usage error."""

import json

import pytest

import residua
from residua.cli.main import main
from tests.cli_runner import run_cli

SHORT_TRAINING = ["--model", "cifar-resnet8", "--steps", "12", "--precision", "fp32"]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "digits", *SHORT_TRAINING, "--out", str(folder)]) == 0
    return folder


def test_show_json_has_the_promised_keys(capsys):
    code, out, _ = run_cli(capsys, "show", "cifar-resnet110", "--json")
    assert code == 0
    assert json.loads(out) == {
        "name": "cifar-resnet110",
        "depth": 110,
        "parameters": 1_727_962,
        "multiply_adds": 252_887_680,
        "activation_bytes": 8_401_152,
    }


def test_show_compares_with_the_published_figures(capsys):
    _, out, _ = run_cli(capsys, "show", "cifar-resnet110")
    assert "1,727,962   (paper: 1.7 M)" in out
    assert "stage1.unit1-18" in out
    _, changed, _ = run_cli(
        capsys, "show", "cifar-resnet110", "--shortcut", "B", "--data", "digits"
    )
    assert "(paper:" not in changed
    assert "1x1/2 bn" in changed


@pytest.mark.parametrize("name", ["cifar-preresnet164", "resnet18", "cifar-plain20"])
def test_show_draws_every_design(capsys, name):
    code, out, _ = run_cli(capsys, "show", name)
    assert code == 0
    assert out.startswith(name)


def test_models_lists_matching_networks(capsys):
    _, out, _ = run_cli(capsys, "models", "cifar-plain*", "--json")
    assert [row["name"] for row in json.loads(out)["models"]] == [
        f"cifar-plain{depth}" for depth in (20, 32, 44, 56, 110)
    ]
    _, out, _ = run_cli(capsys, "models")
    assert "cifar-resnet1202" in out
    assert "7.93 %" in out


def test_train_json_has_the_promised_keys(capsys, tmp_path):
    code, out, _ = run_cli(
        capsys, "train", "digits", *SHORT_TRAINING, "--out", str(tmp_path / "r"), "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert set(result) >= {
        "model",
        "steps",
        "seconds",
        "images_per_second",
        "train_error",
        "dev_error",
        "test_error",
        "folder",
    }
    assert result["steps"] == 12
    assert result["folder"] == str(tmp_path / "r")


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path):
    arguments = [
        "train",
        "digits",
        "--model",
        "cifar-resnet8",
        "--recipe",
        "he2015",
        "--steps",
        "640",
        "--out",
        str(tmp_path / "r"),
    ]
    code, out, _ = run_cli(capsys, *arguments, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert [(change["step"], round(change["lr"], 6)) for change in plan["learning_rates"]] == [
        (0, 0.1),
        (320, 0.01),
        (480, 0.001),
    ]
    assert plan["steps"] == 640
    assert plan["estimated_seconds"] > 0
    assert not (tmp_path / "r").exists()
    _, out, _ = run_cli(capsys, *arguments, "--dry-run")
    assert "0.1 from step 0, 0.01 from step 320, 0.001 from step 480" in out


def test_evaluate_reproduces_the_error_of_the_run(capsys, trained_run):
    code, out, _ = run_cli(capsys, "evaluate", str(trained_run), "digits", "--json")
    score = json.loads(out)
    assert code == 0
    assert set(score) >= {
        "count",
        "wrong",
        "error",
        "top5_error",
        "loss",
        "error_interval",
        "ece",
        "classes",
        "confusion",
    }
    assert score["count"] == 359
    assert (
        score["error"] == json.loads((trained_run / "run.json").read_text())["result"]["test_error"]
    )
    _, out, _ = run_cli(capsys, "evaluate", str(trained_run / "best"), "digits", "--split", "dev")
    assert "of 150 dev images wrong" in out


def test_a_configuration_file_can_replace_the_options(capsys, tmp_path):
    _, printed, _ = run_cli(capsys, "train", "digits", *SHORT_TRAINING, "--print_config")
    (tmp_path / "c.yaml").write_text(printed)
    code, out, _ = run_cli(
        capsys, "train", "--config", str(tmp_path / "c.yaml"), "--dry-run", "--json"
    )
    assert code == 0
    assert json.loads(out)["model"] == "cifar-resnet8"


USAGE_ERRORS = [
    (["trian"], "residua: there is no command 'trian': did you mean 'train'?"),
    ([], "residua: no command was given: see residua --help for the commands"),
    (["train"], "residua: DATA is missing: see residua train --help"),
    (
        ["train", "digits", "--modle", "x"],
        "residua train: there is no option '--modle': did you mean '--model'?",
    ),
    (["train", "digitz"], "residua: there is no data set 'digitz': did you mean 'digits'?"),
    (
        ["train", "digits", "--model", "cifar-resnet57"],
        "residua: cifar-resnet networks cannot have 57 layers: depth must be 6n+2, e.g. 56 or 62",
    ),
    (
        ["train", "digits", "--model", "cifar-resnt20"],
        "residua: there is no network 'cifar-resnt20': did you mean 'cifar-resnet20'?",
    ),
    (["train", "digits", "--steps", "many"], "residua train: --steps: many is not a whole number"),
    (
        ["train", "digits", "--steps", "0"],
        "residua: training length must be positive, got 0",
    ),
    (
        ["train", "digits", "--steps", "9", "--epochs", "1"],
        "residua: --steps and --epochs cannot be combined: give one of them",
    ),
    (
        ["train", "digits", "--precision", "fp16"],
        "residua: there is no precision 'fp16': choose from auto, bf16, fp32",
    ),
    (
        ["train", "digits", "--recompute", "sqtr"],
        "residua: there is no mode of activation checkpointing 'sqtr': did you mean 'sqrt'?",
    ),
    (
        ["train", "digits", "--recompute", "all"],
        "residua: there is no mode of activation checkpointing 'all': choose from none, "
        "unit, stage, sqrt",
    ),
    (
        ["train", "digits", "--recipe", "smal"],
        "residua: there is no recipe 'smal': did you mean 'small'?",
    ),
    (["train", "digits", "--set", "momentum=1"], "residua: recipe has no field 'momentum'"),
    (
        ["train", "digits", "--set", "batch_size=5000"],
        "residua: batch size 5000 exceeds the 1288 training images: choose at most 1288",
    ),
    (
        ["show", "cifar-resnet20", "--shortcut", "E"],
        "residua: there is no shortcut 'E': choose from none, pad, pad-last, project, "
        "project-all, pool-project, A, B, C, D",
    ),
    (
        ["study", "--depths", "20", "57"],
        "residua: cifar-plain networks cannot have 57 layers: depth must be 6n+2, e.g. 56 or 62",
    ),
    (
        ["study", "--families", "resnett"],
        "residua: there is no family 'resnett': did you mean 'resnet'?",
    ),
    (["study", "--depths", "deep"], "residua study: --depths: deep is not a whole number"),
    (
        ["evaluate", "x", "digits", "--split", "tset"],
        "residua evaluate: --split has no value 'tset': did you mean 'test'?",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    USAGE_ERRORS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_gives_one_line_and_exit_code_2(
    capsys, arguments, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, last_line = run_cli(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert last_line.startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_a_model_with_other_classes_is_refused_with_the_difference(capsys, trained_run):
    code, _, sentence = run_cli(capsys, "evaluate", str(trained_run), "cifar10")
    assert code == 2
    assert "and cifar10 differ in name or order (only in the model: 0, 1, 2" in sentence
    assert "airplane" in sentence


def test_a_folder_without_a_model_is_an_error(capsys, tmp_path):
    code, _, sentence = run_cli(capsys, "evaluate", str(tmp_path), "digits")
    assert code == 1
    assert sentence == f"residua: {tmp_path} is not a model folder: it has no config.json"


def test_a_missing_data_folder_is_an_error(capsys, tmp_path):
    code, _, sentence = run_cli(
        capsys,
        "train",
        "cifar10",
        "--data-dir",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "r"),
    )
    assert code == 1
    assert str(tmp_path / "none") in sentence
    assert not (tmp_path / "r").exists()


def test_the_folder_of_another_run_is_refused_even_with_resume(capsys, trained_run):
    code, _, sentence = run_cli(
        capsys,
        "train",
        "digits",
        *SHORT_TRAINING,
        "--seed",
        "1",
        "--resume",
        "--out",
        str(trained_run),
    )
    assert code == 2
    assert sentence == (
        f"residua: {trained_run} holds another run: seed is 0 there, 1 here; choose another --out"
    )


def test_impossible_values_are_refused(capsys, tmp_path):
    for setting, sentence in (
        ("augment.pad=-1", "residua: pad=-1 is invalid: it must be at least 0"),
        (
            "optimiser.weight_decay=-1",
            "residua: weight_decay=-1.0 is invalid: it must be at least 0",
        ),
        (
            "warmup.lr=0.1",
            (
                "residua: warmup.lr cannot be set, because warmup is not set: set the whole "
                "warmup, as JSON"
            ),
        ),
    ):
        assert run_cli(capsys, "train", "digits", "--set", setting, "--out", str(tmp_path / "r"))[
            ::2
        ] == (2, sentence)
    code, _, sentence = run_cli(
        capsys, "train", "digits", "--seed", "-3", "--out", str(tmp_path / "r")
    )
    assert (code, sentence) == (
        2,
        "residua: seed -3 is invalid: give a whole number from 0 to 4294967295",
    )


def test_a_file_instead_of_a_folder_is_an_error(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "r"
    code, _, error = run_cli(capsys, "train", "digits", *SHORT_TRAINING, "--out", out)
    assert code == 1
    assert error.startswith("residua: Not a directory: ")


def test_help_and_version(capsys):
    code, out, _ = run_cli(capsys, "--help")
    assert code == 0
    assert all(
        command in out for command in ("study", "train", "evaluate", "show", "models", "report")
    )
    code, out, _ = run_cli(capsys, "--version")
    assert code == 0
    assert out.strip() == f"residua {residua.__version__}"

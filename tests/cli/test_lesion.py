"""`residua lesion` as scripts use it: JSON keys, the page, and one line for each usage error."""

import json

import pytest

from residua.cli.main import main
from residua.config.lesion_results import LesionStudyResult
from residua.report.lesion import make_lesion_json, read_lesion_study
from tests.cli_runner import run_cli

JSON_KEYS = {
    "dataset",
    "split",
    "classes",
    "images",
    "draws",
    "seed",
    "nets",
    "kind",
    "format",
    "verdict",
    "page",
}


@pytest.fixture(scope="module")
def trained_nets(tmp_path_factory):
    """A residual net and a plain one, hardly trained."""
    folder = tmp_path_factory.mktemp("nets")
    for name in ("cifar-resnet14", "cifar-plain14", "cifar-plain11,block=bottleneck"):
        arguments = [
            "--model",
            name,
            "--steps",
            "6",
            "--precision",
            "fp32",
            "--out",
            str(folder / name),
        ]
        assert main(["train", "digits", *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def lesion_folder(trained_nets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesion") / "out"
    arguments = [
        trained_nets / "cifar-resnet14",
        "digits",
        "--beside",
        trained_nets / "cifar-plain14",
        "--images",
        60,
        "--draws",
        2,
        "--out",
        folder,
    ]
    assert main(["lesion", *map(str, arguments)]) == 0
    return folder


def test_json_has_the_promised_keys_and_the_same_seed_gives_the_same_files(
    capsys, trained_nets, lesion_folder, tmp_path
):
    beside = ["--beside", trained_nets / "cifar-plain14", "--images", 60, "--draws", 2]
    code, out, _ = run_cli(
        capsys,
        "lesion",
        trained_nets / "cifar-resnet14",
        "digits",
        *beside,
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert code == 0
    content = json.loads(out)
    assert set(content) == JSON_KEYS
    assert content["page"] == str(tmp_path / "o" / "report.html")
    assert (content["images"], content["classes"]) == (60, 10)
    residual, plain = content["nets"]
    assert {
        "label",
        "network",
        "depth",
        "error",
        "units",
        "thinned",
        "swapped",
        "paths",
        "gradient_images",
    } == set(residual)
    assert [unit["name"] for unit in residual["units"]][:3] == [
        "stage1.unit1",
        "stage1.unit2",
        "stage2.unit1",
    ]
    assert [unit["changes"] for unit in residual["units"]] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert all(0 <= unit["error"] <= 1 for unit in residual["units"])
    assert [unit["error"] is None for unit in plain["units"]] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert [many["deleted"] for many in residual["thinned"]] == [1, 2, 4, 5, 6]
    assert [many["kept"] for many in residual["thinned"]] == [5, 4, 2, 1, 0]
    assert [many["swaps"] for many in residual["swapped"]] == [1, 2, 4]
    assert all(-1 <= many["tau"] <= 1 for many in residual["swapped"])
    for many in (*residual["thinned"][:-1], *residual["swapped"]):  # of two draws
        low, high = many["error_range"]
        assert many["error"] == pytest.approx((low + high) / 2)
        assert many["error_sd"] == pytest.approx((high - low) / 2**0.5)
    assert "error_range" not in residual["thinned"][-1]  # of a single draw
    assert sum(path["share"] for path in residual["paths"]) == pytest.approx(1)
    assert (residual["gradient_images"], plain["gradient_images"], plain["paths"]) == (60, 0, [])
    for name in (
        "results.json",
        "report.html",
        "figures/units.svg",
        "figures/many.svg",
        "figures/paths.svg",
    ):
        assert (tmp_path / "o" / name).read_bytes() == (lesion_folder / name).read_bytes()


def test_the_results_are_read_back_unchanged(lesion_folder):
    study = read_lesion_study(lesion_folder)
    assert isinstance(study, LesionStudyResult)
    assert make_lesion_json(study) == json.loads((lesion_folder / "results.json").read_text())


def test_another_seed_samples_other_ablations(capsys, trained_nets, lesion_folder, tmp_path):
    arguments = ["--images", 60, "--draws", 2, "--seed", 1, "--out", tmp_path / "o", "--json"]
    [net] = json.loads(
        run_cli(capsys, "lesion", trained_nets / "cifar-resnet14", "digits", *arguments)[1]
    )["nets"]
    first = json.loads((lesion_folder / "results.json").read_text())["nets"][0]
    assert net["units"] == first["units"]
    assert net["paths"] != first["paths"]


def test_the_terminal_output_lists_every_unit_and_the_verdict(capsys, trained_nets, tmp_path):
    code, out, _ = run_cli(
        capsys,
        "lesion",
        trained_nets / "cifar-resnet14",
        "digits",
        "--images",
        60,
        "--draws",
        1,
        "--out",
        tmp_path / "o",
    )
    assert code == 0
    assert out.startswith(
        "60 test images of digits; errors in percent, * marks units that change the shape"
    )
    assert "Removing one unit leaves cifar-resnet14 at a median error of " in out
    assert "90 % of the gradient comes through paths of " in out
    assert out.endswith(f"The page: {tmp_path / 'o' / 'report.html'}\n")


def test_a_usage_error_gives_one_line(capsys, trained_nets, lesion_folder, tmp_path):
    resnet, plain, out = (
        trained_nets / "cifar-resnet14",
        trained_nets / "cifar-plain14",
        ("--out", tmp_path / "o"),
    )
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    cases = {
        (plain, "digits", *out): (
            2,
            "cifar-plain14 has no shortcuts: give a residual network first, "
            f"and this one with --beside {plain}",
        ),
        (resnet, "digits", "--images", 0, *out): (2, "images must be at least 1, got 0"),
        (resnet, "digits", "--draws", 0, *out): (
            2,
            "draws must be at least 1 and at most 10,000, got 0",
        ),
        (resnet, "digits", "--seed=-1", *out): (
            2,
            "seed -1 is invalid: give a whole number from 0 to 4294967295",
        ),
        (resnet, "digits", "--out", tmp_path / "taken"): (
            2,
            f"{tmp_path / 'taken'} is not empty and contains no lesion study: choose another --out",
        ),
        (tmp_path / "none", "digits", *out): (
            1,
            f"{tmp_path / 'none'} does not exist: give the folder of a run or of a model",
        ),
        (tmp_path / "taken", "digits", *out): (
            1,
            f"{tmp_path / 'taken'} is not a model folder: it has no config.json",
        ),
        (study, "digits", *out): (
            1,
            f"{study} holds a study: give one of its runs, {study / 'runs'}/...",
        ),
        (
            resnet,
            "digits",
            "--beside",
            trained_nets / "cifar-plain11,block=bottleneck",
            "--images",
            4,
            "--draws",
            1,
            *out,
        ): (
            2,
            "no unit of cifar-plain11,block=bottleneck can be deleted: the network has no "
            "shortcuts, "
            "and each of its units changes the shape of its input; use a deeper network, where "
            "some units keep the shape",
        ),
    }
    for arguments, (code, sentence) in cases.items():
        assert run_cli(capsys, "lesion", *arguments)[::2] == (code, f"residua: {sentence}")
    assert not (tmp_path / "o").exists()
    assert run_cli(capsys, "lesion", resnet, "cifar10", *out)[2].startswith(
        f"residua: the classes of {resnet / 'last'} and cifar10 differ"
    )

"""Packed records of a study are read like its folders; damaged ones are named."""

import json

import pytest

from residua.errors import DamagedRecordError, RecordError, UsageError
from residua.record import RunRecord
from residua.record_checks import read_json_record
from residua.report.runs import read_study_runs
from residua.report.tables import average_runs_over_seeds
from residua.study_records import (
    PACKED_RUNS,
    folder_for_name,
    list_run_records,
    pack_runs,
    read_packed_runs,
)
from tests.cli_runner import run_cli
from tests.studies.in_process import train_studies_in_this_process

STUDY_ARGUMENTS = ["--families", "plain", "resnet,start=identity", "--depths", "8", "--steps", "4"]


@pytest.fixture(scope="module")
def trained_study(tmp_path_factory):
    """A finished study of two runs, whose model folders are kept."""
    from residua.cli.main import main

    folder = tmp_path_factory.mktemp("study") / "s"
    with train_studies_in_this_process():
        assert main(["study", *STUDY_ARGUMENTS, "--seeds", "0", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def study_folder(trained_study, tmp_path):
    import shutil

    shutil.copytree(trained_study, tmp_path / "s")
    return tmp_path / "s"


def read_cells(folder):
    return [cell.json for cell in average_runs_over_seeds(read_study_runs(folder))]


def test_folders_of_runs_have_no_commas_or_equals_signs(study_folder):
    names = sorted(path.name for path in (study_folder / "runs").iterdir())
    assert names == ["cifar-plain8-seed0", "cifar-resnet8_start-identity-seed0"]
    old = study_folder / "runs" / "cifar-resnet8,start=identity-seed0"
    assert folder_for_name(study_folder / "runs", old.name).name == names[1]
    old.mkdir()  # as version 0.1 called it
    assert folder_for_name(study_folder / "runs", old.name) == old


def test_a_packed_study_is_reported_with_the_same_cells_and_keeps_its_model_folders(
    capsys, study_folder
):
    before, rows = read_cells(study_folder), read_study_runs(study_folder).finished
    code, _, error = run_cli(capsys, "report", study_folder, "--pack")
    assert (code, error.endswith(f"packed 2 runs into {study_folder / PACKED_RUNS}")) == (0, True)
    assert read_cells(study_folder) == before
    assert read_study_runs(study_folder).finished == rows
    assert not list(study_folder.glob("runs/*/run.json"))
    assert (study_folder / "runs" / "cifar-plain8-seed0" / "last" / "model.safetensors").exists()
    code, output, _ = run_cli(capsys, "report", study_folder, "--json")
    assert (code, json.loads(output)["cells"]) == (0, before)


@pytest.mark.usefixtures("studies_in_this_process")
def test_a_packed_study_trains_only_what_is_new(capsys, study_folder):
    pack_runs(study_folder)
    before = (study_folder / PACKED_RUNS).read_bytes()
    arguments = ["study", *STUDY_ARGUMENTS, "--seeds", "0", "1", "--out", study_folder]
    code, _, error = run_cli(capsys, *arguments)
    assert code == 0, error
    assert (study_folder / PACKED_RUNS).read_bytes() == before
    assert {path.parent.name for path in study_folder.glob("runs/*/run.json")} == {
        "cifar-plain8-seed1",
        "cifar-resnet8_start-identity-seed1",
    }
    assert len(list_run_records(study_folder)) == 4
    assert pack_runs(study_folder) == 2
    assert len(read_packed_runs(study_folder / PACKED_RUNS)) == 4


def test_only_a_finished_study_is_packed(capsys, study_folder):
    path = study_folder / "runs" / "cifar-plain8-seed0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": None}))
    with pytest.raises(UsageError, match="holds an unfinished run: finish the study first"):
        pack_runs(study_folder)
    assert not (study_folder / PACKED_RUNS).exists()
    code, _, error = run_cli(capsys, "report", path.parent, "--pack")
    assert (code, error) == (
        2,
        f"residua: --pack needs the folder of a study, but {path.parent} has no study.json: "
        "give a study's folder, or leave --pack out",
    )


def test_a_damaged_packed_record_is_named(study_folder):
    pack_runs(study_folder)
    path = study_folder / PACKED_RUNS
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:50]}\n")
    with pytest.raises(RecordError, match=r"runs.jsonl is damaged in line 2"):
        read_study_runs(study_folder)
    path.write_text(f"{first}\n{json.dumps({'name': 'x', 'run': {}, 'metrics': []})}\n")
    runs = read_study_runs(study_folder)
    assert [(run.folder, len(runs.finished)) for run in runs.damaged] == [("x", 1)]
    path.write_text("[]\n")
    with pytest.raises(RecordError, match="line 1: the line describes no run"):
        read_study_runs(study_folder)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", DamagedRecordError, "is damaged: Expecting value"),
        ("[1]", DamagedRecordError, "is damaged: it does not describe a run"),
        ('{"format": 1}', DamagedRecordError, "is damaged: it does not describe a run"),
        (
            '{"format": 9, "run": 1}',
            RecordError,
            "has format 9, but this version of residua reads format 1",
        ),
        ("[" * 100_000, DamagedRecordError, "is damaged: "),
    ],
)
def test_anything_but_a_record_is_one_sentence(tmp_path, text, kind, message):
    path = tmp_path / "run.json"
    with pytest.raises(RecordError, match=f"{tmp_path} contains no run: it has no run.json"):
        read_json_record(path, "a run", ["run"])
    path.write_text(text)
    with pytest.raises(kind, match=message):
        read_json_record(path, "a run", ["run"])
    with pytest.raises(RecordError):
        RunRecord(tmp_path).read_run_json()


def test_losses_that_version_0_1_wrote_as_nan_are_read_as_missing(tmp_path):
    row = '{"step": 3, "dev_loss": NaN, "train_error": 0.5, "loss": Infinity}'
    (tmp_path / "metrics.jsonl").write_text(row + "\n")
    assert RunRecord(tmp_path).read_metrics() == [
        {"step": 3, "dev_loss": None, "train_error": 0.5, "loss": None}
    ]

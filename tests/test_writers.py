"""All writing goes through `residua.files`, and commands may write to one place at once."""

import ast
import json
import os
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import residua
from residua import study_records
from residua.cli.main import main
from residua.config.recipes import recipe
from residua.config.study import Arm, Study
from residua.deploy import export
from residua.deploy.export_check import OutputDifference
from residua.errors import RecordError, UsageError
from residua.files import try_lock_folder
from residua.net.model_folder import load_model_folder, read_model_config, replace_model_config
from residua.record import RunRecord
from residua.report import study
from residua.report.lesion import check_lesion_output_folder
from residua.report.signals import choose_signals_folder
from residua.studies.run_study import claim_study_folder
from residua.study_records import read_packed_runs
from tests.crash_scenarios import decode_photos, save_new_model, save_old_model, write_photos
from tests.forks import run_at_once
from tests.report.fake_records import write_study_records
from tests.third_party import ThirdPartyCifarResNet

PACKAGE = Path(residua.__file__).parent
WRITING_MODULES = {"files.py", "file_locks.py", "interrupted_writes.py"}
WRITING_METHODS = {
    *("chmod", "hardlink_to", "mkdir", "rename", "rmdir", "symlink_to", "touch", "truncate"),
    *("unlink", "write_bytes", "write_text", "extract", "extractall", "memmap", "quantize_static"),
    *("save", "save_file", "save_model", "savefig", "savetxt", "savez", "to_csv", "to_parquet"),
    *("tofile", "mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile"),
}
OS_FUNCTIONS = {
    *("chmod", "fchmod", "ftruncate", "link", "makedirs", "mkdir", "mkfifo", "remove"),
    *("removedirs", "rename", "renames", "replace", "rmdir", "symlink", "truncate", "unlink"),
}
READING_SHUTIL = {"which", "disk_usage", "get_terminal_size"}
STAGED = "writes to a path that atomic_write yielded"
MAKES_FOLDER = "makes a folder, which needs no staging"
EMPTY_ONLY = "deletes a folder only if it is empty"
TO_MEMORY = "writes to memory"
CHECKED_CACHE = "a part of a cache, in one step; its checksum is compared when it is read"
ALLOWED = {
    ("api/studies.py", "tempfile.TemporaryDirectory"): "runs that nobody keeps",
    ("api/training_session.py", "tempfile.TemporaryDirectory"): "a run that nobody keeps",
    ("cli/convert_check.py", "TemporaryDirectory"): "model folders that nobody keeps",
    ("cli/report.py", "(folder / report.LESION_RECORD).rename"): "one step, to a new name",
    ("cli/streams.py", "open"): "opens the null device",
    ("cli/streams.py", "os.open"): "opens the null device",
    ("cli/unexpected_error.py", "tempfile.mkstemp"): "a new file in the temporary folder",
    ("data/checked_arrays.py", "staging.write_bytes"): STAGED,
    ("data/digest_index.py", "os.makedirs"): MAKES_FOLDER,
    ("data/image_cache.py", "cache_folder.parent.mkdir"): MAKES_FOLDER,
    ("data/pack_shard.py", "image.save"): TO_MEMORY,
    ("data/pack_shard.py", "open"): STAGED,
    ("data/photo_cache.py", "folder.parent.mkdir"): MAKES_FOLDER,
    ("data/photo_cache.py", "open"): STAGED,
    ("data/photo_cache.py", "staging.mkdir"): STAGED,
    ("data/photo_index.py", "(folder / PHOTO_INDEX_FILE).write_text"): STAGED,
    ("data/photo_index.py", "np.savez"): STAGED,
    ("data/photo_records.py", "image.save"): TO_MEMORY,
    ("data/photo_records.py", "self.file.truncate"): STAGED,
    ("data/pixel_file.py", "(staging / INDEX_FILE).write_text"): STAGED,
    ("data/pixel_file.py", "open"): STAGED,
    ("data/pixel_file.py", "self.file.truncate"): STAGED,
    ("data/pixel_file.py", "staging.mkdir"): STAGED,
    ("data/sources/download.py", "downloads.mkdir"): MAKES_FOLDER,
    ("data/sources/download.py", "open"): STAGED,
    ("data/sources/download.py", "shutil.copyfile"): STAGED,
    ("data/sources/download.py", "shutil.copyfileobj"): STAGED,
    ("data/sources/download.py", "staging.mkdir"): STAGED,
    ("data/sources/download.py", "target.parent.mkdir"): MAKES_FOLDER,
    ("data/sources/remote_cache.py", "open"): CHECKED_CACHE,
    ("data/sources/remote_cache.py", "os.replace"): CHECKED_CACHE,
    ("data/sources/remote_cache.py", "os.unlink"): CHECKED_CACHE,
    ("data/sources/remote_cache.py", "path.parent.mkdir"): MAKES_FOLDER,
    ("data/sources/remote_cache.py", "self.find_path(file, start, stop).unlink"): CHECKED_CACHE,
    ("data/sources/remote_cache.py", "temporary.unlink"): CHECKED_CACHE,
    ("data/sources/remote_dataset.py", "path.parent.mkdir"): MAKES_FOLDER,
    ("data/sources/remote_dataset.py", "open"): STAGED,
    ("data/sources/shard_index.py", "index_file.parent.mkdir"): MAKES_FOLDER,
    ("data/thumbnails.py", "image.save"): TO_MEMORY,
    ("deploy/explain.py", "image.save"): STAGED,
    ("deploy/export_files.py", "TemporaryDirectory"): STAGED,
    ("deploy/export_files.py", "openvino.save_model"): STAGED,
    ("deploy/export_files.py", "path.mkdir"): STAGED,
    ("deploy/export_files.py", "path.write_bytes"): STAGED,
    ("deploy/export_files.py", "torch.export.save"): TO_MEMORY,
    ("deploy/int8.py", "TemporaryDirectory"): STAGED,
    ("deploy/int8.py", "fp32_file.write_bytes"): STAGED,
    ("deploy/int8.py", "quantize_static"): STAGED,
    ("deploy/sort_images.py", "folder.mkdir"): STAGED,
    ("deploy/sort_images.py", "folder.rmdir"): STAGED,
    ("deploy/sort_images.py", "open"): STAGED,
    ("deploy/sort_images.py", "os.symlink"): STAGED,
    ("deploy/sort_images.py", "self.staging.mkdir"): STAGED,
    ("deploy/sort_images.py", "shutil.copyfileobj"): STAGED,
    ("downloads.py", "open"): "a download that is resumed, under a lock",
    ("net/convert/state_dict.py", "torch.save"): STAGED,
    ("net/fetch_weights.py", "os.rename"): STAGED,
    ("net/fetch_weights.py", "target.parent.mkdir"): MAKES_FOLDER,
    ("net/fused_bn_kernels.py", "object_file.unlink"): STAGED,
    ("net/fused_bn_kernels.py", "path.parent.mkdir"): MAKES_FOLDER,
    ("net/save_model.py", "(unfinished_folder / name).write_bytes"): STAGED,
    ("net/save_model.py", "unfinished_folder.mkdir"): STAGED,
    ("net/safetensors_file.py", "path.chmod"): STAGED,
    ("net/safetensors_file.py", "path.touch"): STAGED,
    ("net/safetensors_file.py", "save_file"): STAGED,
    ("report/figures.py", "figure.savefig"): TO_MEMORY,
    ("studies/run_study.py", "folder.mkdir"): MAKES_FOLDER,
    ("study_records.py", "(study_folder / 'runs').rmdir"): EMPTY_ONLY,
    ("study_records.py", "record.folder.rmdir"): EMPTY_ONLY,
    ("training/run.py", "folder.mkdir"): MAKES_FOLDER,
    ("training/step_profile.py", "TemporaryDirectory"): "a trace that is read at once",
    ("training/step_profile.py", "temporary.write_bytes"): STAGED,
}


def may_write(call):
    """Whether a call may make, change, move or delete a file."""
    owner, _, method = ast.unparse(call.func).rpartition(".")
    if method == "open":
        return opens_for_writing(call, owner)
    if owner == "os":
        return method in OS_FUNCTIONS
    if owner == "shutil":
        return method not in READING_SHUTIL
    if method == "replace":  # of a path; that of a text takes two arguments
        return owner != "" and len(call.args) == 1 and not call.keywords
    if owner == "" and method == "write_text":
        return False  # that of residua.files
    return method in WRITING_METHODS


def opens_for_writing(call, owner):
    if owner == "os":
        return any(flag in ast.unparse(call) for flag in ("O_CREAT", "O_WRONLY", "O_RDWR"))
    is_builtin = owner in ("", "io", "gzip")
    modes = call.args[1:2] if is_builtin else call.args[:1]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(
        bool(set("wax+") & set(str(mode.value))) if isinstance(mode, ast.Constant) else is_builtin
        for mode in modes
    )


def find_writes(source):
    """The functions that a module calls and that may write, e.g. `path.unlink`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {ast.unparse(node.func) for node in nodes if may_write(node)}


def test_only_the_module_for_writing_writes():
    writes = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        if path.name not in WRITING_MODULES
        for name in find_writes(path.read_text())
    }
    assert writes - set(ALLOWED) == set(), "write through residua.files, or give the reason here"
    assert set(ALLOWED) - writes == set(), "these are gone"


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, 'a' if more else 'w')",
        "path.open('x')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "path.write_text(text)",
        "os.replace(a, b)",
        "a.rename(b)",
        "a.replace(b)",
        "shutil.move(a, b)",
        "torch.save(x, path)",
        "save_file(x, path)",
        "np.save(path, x)",
        "figure.savefig(path)",
        "image.save(path)",
        "tempfile.NamedTemporaryFile()",
    ],
)
def test_every_way_to_write_is_noticed(line):
    assert find_writes(line)


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'rb', opener=f)",
        "path.open()",
        "os.open(path, os.O_RDONLY)",
        "text.replace('a', 'b')",
        "dataclasses.replace(x, y=1)",
        "replace(x, y=1)",
        "shutil.which('cc')",
        "Image.open(file, formats=formats)",
        "write_text(path, text)",
    ],
)
def test_reading_is_no_writing(line):
    assert not find_writes(line)


# Commands that write to the same place at the same time.


def call_quietly(words, log):
    """Make a function that runs a command; its output goes to the file `log`."""

    def run_command():
        with open(log, "w") as file, redirect_stdout(file), redirect_stderr(file):
            return main([str(word) for word in words])

    return run_command


def run_commands_at_once(tmp_path, *commands):
    """Run commands at the same moment; return their exit codes and what they printed."""
    logs = [tmp_path / f"log-{i}" for i in range(len(commands))]
    codes = run_at_once([call_quietly(*pair) for pair in zip(commands, logs, strict=True)])
    texts = [log.read_text() for log in logs]
    for text in texts:
        assert "Traceback" not in text
        assert "unexpected error" not in text
    return codes, texts


def assert_no_left_overs(folder):
    assert [path for path in folder.rglob(".*") if path.name != ".lock"] == []


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "r"
    words = ["train", "digits", "--model", "cifar-resnet8", "--steps", "4", "--out", str(folder)]
    assert main(words) == 0
    return folder


@pytest.fixture
def run_folder(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "r")


def test_three_calibrations_at_once_leave_a_whole_model_folder(run_folder, tmp_path):
    words = ["evaluate", run_folder, "digits", "--calibrate"]
    codes, _ = run_commands_at_once(tmp_path, words, words, words)
    assert codes == [0, 0, 0]
    load_model_folder(run_folder / "last")
    assert_no_left_overs(tmp_path)


def test_four_reports_at_once_leave_a_whole_report(tmp_path, monkeypatch):
    folder = write_study_records(tmp_path / "s", {"cifar-resnet20": [(0.01, 0.05), (0.02, 0.06)]})
    summary = study.read_study_summary(folder)
    figures = study.render_study_figures(summary.runs.finished, summary.cells)
    monkeypatch.setattr(study, "render_study_figures", lambda runs, cells: figures)  # takes seconds
    words = ["report", folder]
    codes, _ = run_commands_at_once(tmp_path, words, words, words, words)
    assert codes == [0, 0, 0, 0]
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    assert json.loads((folder / "results.json").read_text())["cells"]
    assert_no_left_overs(tmp_path)


def test_runs_that_are_packed_by_three_processes_at_once_are_all_there(tmp_path):
    errors = [(0.01, 0.05), (0.02, 0.06), (0.03, 0.07)]
    folder = write_study_records(tmp_path / "s", {"cifar-resnet20": errors})
    list_run_records = study_records.list_run_records

    def pack_slowly(seconds):
        def list_then_wait(study_folder):
            records = list_run_records(study_folder)
            time.sleep(seconds)
            return records

        study_records.list_run_records = list_then_wait
        study_records.pack_runs(folder)

    packers = [partial(pack_slowly, seconds) for seconds in (0, 0.1, 0.2)]
    assert run_at_once(packers) == [0, 0, 0]
    rows = read_packed_runs(folder / "runs.jsonl")
    assert [len(row.read_metrics()) for row in rows] == [3, 3, 3]
    assert not (folder / "runs").exists()
    assert_no_left_overs(tmp_path)


def test_of_two_conversions_at_once_one_is_written_and_one_is_refused(tmp_path):
    torch.save(ThirdPartyCifarResNet(1, "A").state_dict(), tmp_path / "w.pth")
    pixels = ["--mean", *["0.5"] * 3, "--std", *["0.25"] * 3]
    options = ["--model", "cifar-resnet8", "--classes", "cifar10", *pixels]
    words = ["convert", tmp_path / "w.pth", *options, "--out", tmp_path / "m"]
    codes, texts = run_commands_at_once(tmp_path, words, words)
    assert sorted(codes) == [0, 2], texts
    refusal = texts[codes.index(2)]
    assert refusal == f"residua: {tmp_path / 'm'} already exists: choose another --out\n"
    load_model_folder(tmp_path / "m")
    assert_no_left_overs(tmp_path)


def test_of_two_exports_at_once_one_is_written_and_one_is_refused(
    run_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "write_export", lambda *a: a[-1].write_bytes(b"model"))
    monkeypatch.setattr(export, "load_exported_runner", lambda *a: time.sleep(0.3))
    difference = OutputDifference(0.0, 0.0, 1.0)
    monkeypatch.setattr(export, "measure_output_difference", lambda *a: difference)
    words = ["export", run_folder, "--to", "torch-export", "--out", tmp_path / "e.pt2"]
    codes, texts = run_commands_at_once(tmp_path, words, words)
    assert sorted(codes) == [0, 2], texts
    assert "already exists: choose another --out" in texts[codes.index(2)]
    assert (tmp_path / "e.pt2").read_bytes() == b"model"
    assert_no_left_overs(tmp_path)


def test_a_network_can_be_read_at_any_moment_while_it_is_replaced(tmp_path):
    save_old_model(tmp_path)

    def replace_often():
        for _ in range(15):
            save_new_model(tmp_path)
            save_old_model(tmp_path)

    def read_often():
        for _ in range(30):
            load_model_folder(tmp_path / "m")

    assert run_at_once([replace_often, read_often]) == [0, 0]
    assert_no_left_overs(tmp_path)


def test_a_config_is_not_written_beside_the_weights_of_another_network(tmp_path):
    save_old_model(tmp_path)
    config = read_model_config(tmp_path / "m")
    save_new_model(tmp_path)
    with pytest.raises(RecordError, match="another process has replaced the network in .*/m"):
        replace_model_config(tmp_path / "m", replace(config, temperature=2.0))
    load_model_folder(tmp_path / "m")


def test_a_second_training_does_not_claim_a_folder_in_which_a_first_one_begins(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    words = ["train", "digits", "--model", "cifar-resnet8", "--steps", "1", "--out", folder]
    with try_lock_folder(folder) as is_ours:
        assert is_ours
        codes, texts = run_commands_at_once(tmp_path, words)
    assert codes == [1]
    assert texts[0].endswith(f"residua: the run in {folder} is being trained by another process\n")
    assert os.listdir(folder) == []


def test_checkpoints_that_a_killed_process_left_in_a_finished_run_are_deleted(run_folder, tmp_path):
    (run_folder / "checkpoints").mkdir()
    (run_folder / "checkpoints" / "step-000000001.safetensors").write_bytes(b"")
    (run_folder / ".run.json.lock").touch()
    (run_folder / ".run.json.1-00000000.part").mkdir()
    words = ["train", "digits", "--model", "cifar-resnet8", "--steps", "4", "--out", run_folder]
    assert run_commands_at_once(tmp_path, words)[0] == [0]
    names = os.listdir(run_folder)
    assert "checkpoints" not in names
    assert [name for name in names if name.startswith(".")] == []


def test_decoding_deletes_what_a_killed_process_left_of_other_images(tmp_path):
    write_photos(tmp_path)
    (tmp_path / "cache" / ".other.1-00000000.part").mkdir(parents=True)
    (tmp_path / "cache" / ".other.lock").touch()
    decode_photos(tmp_path)
    assert os.listdir(tmp_path / "cache") == ["k"]


STUDY = Study(dataset="digits", recipe=recipe("small"), arms=(Arm("resnet"),), depths=(8,))


@pytest.mark.parametrize(
    "claim",
    [
        lambda folder: claim_study_folder(folder, STUDY),
        lambda folder: choose_signals_folder(folder, "cifar-resnet8"),
        check_lesion_output_folder,
    ],
    ids=["study", "signals", "lesion"],
)
def test_a_folder_that_holds_only_what_a_killed_process_left_counts_as_empty(tmp_path, claim):
    (tmp_path / ".study.json.lock").touch()
    (tmp_path / ".study.json.1-00000000.part").mkdir()
    claim(tmp_path)
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "study.json").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="is not empty"):
        claim(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a forked process cannot use CUDA")
def test_of_two_trainings_at_once_one_trains_and_the_other_leaves_its_record_alone(tmp_path):
    options = ["--model", "cifar-resnet8", "--steps", "30", "--out", tmp_path / "r"]
    commands = [["train", "digits", *options, "--seed", seed] for seed in (1, 2)]
    codes, texts = run_commands_at_once(tmp_path, *commands)
    assert codes.count(0) == 1, texts
    trained_seed = codes.index(0) + 1
    refusal = texts[2 - trained_seed]
    assert "is being trained by another process" in refusal or "holds another run" in refusal
    assert RunRecord(tmp_path / "r").read_run_json()["run"]["seed"] == trained_seed
    load_model_folder(tmp_path / "r" / "last")
    assert_no_left_overs(tmp_path)
    assert os.listdir(tmp_path / "r").count("checkpoints") == 0

"""A run goes on as if nothing had happened: after Ctrl-C, a kill, a damaged checkpoint, a full disk."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from residua.data.read import read
from residua.errors import Interrupted, RecordError, UsageError
from residua.spec.dataset import dataset
from residua.spec.papers import network
from residua.spec.recipe import recipe
from residua.spec.run import Run
from residua.train.checkpoint import Saving, every, saved
from residua.train.machine import Machine
from residua.train.run import train
from tests.train.runs import CPU, after, digits_run, lines, never, silent, weights


def test_an_interrupted_run_ends_in_the_same_bits_as_an_uninterrupted_one(tmp_path):
    run = digits_run()
    train(run, tmp_path / "whole", CPU, tell=silent, stop=never)
    stops = 0
    while True:
        try:
            train(run, tmp_path / "parts", CPU, resume=True, tell=silent, stop=after(7))  # also in the middle of an epoch
            break
        except Interrupted as stopped:
            stops += 1
            assert f"stopped at step {7 * stops} of 40: add --resume" in str(stopped)
    assert stops == 5
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_dropout_is_a_function_of_seed_and_step(tmp_path):
    from residua.spec.papers import SHORTCUT_ABLATIONS

    run = digits_run(steps=10)
    run = replace(run, network=replace(run.network, unit=SHORTCUT_ABLATIONS["dropout shortcut"]))
    train(run, tmp_path / "whole", CPU, tell=silent, stop=never)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(run, tmp_path / "parts", CPU, resume=True, tell=silent, stop=after(4))
    train(run, tmp_path / "parts", CPU, resume=True, tell=silent, stop=never)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_after_a_periodic_checkpoint_forgets_what_came_after_it(tmp_path, precision):
    """As on this machine by itself: channels-last, bf16; the checkpoint is older than the last line of measurements."""
    run, machine = digits_run(steps=55), Machine(torch.device("cpu"), precision)
    train(run, tmp_path / "whole", machine, tell=silent, stop=never)

    class Killed(BaseException):
        pass

    def killer(progress, line):
        if progress.step == 45:
            raise Killed

    with pytest.raises(Killed):
        train(run, tmp_path / "parts", machine, saving=Saving(steps=25), tell=killer, stop=never)
    assert lines(tmp_path / "parts")[-1]["step"] == 40
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 45, "los')
    train(run, tmp_path / "parts", machine, resume=True, tell=silent, stop=never)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_resuming_in_another_precision_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    with pytest.raises(UsageError, match="holds this run begun in fp32, not bf16: add --precision fp32"):
        train(digits_run(), tmp_path / "r", Machine(torch.device("cpu"), "bf16"), resume=True, tell=silent, stop=never)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    for name, model in (("a", "cifar-resnet8"), ("b", "cifar-resnet14")):
        with pytest.raises(Interrupted):
            train(digits_run(model), tmp_path / name, CPU, tell=silent, stop=after(3))
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(RecordError, match="checkpoints holds those of another network"):
        train(digits_run("cifar-resnet14"), tmp_path / "b", CPU, resume=True, tell=silent, stop=never)


def test_an_unfinished_run_wants_to_be_resumed(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    with pytest.raises(UsageError, match="holds this run already: add --resume to go on with it, or choose another --out"):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=never)


def spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-100]
    elif how == "flipped":
        content[-1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, how):
    train(digits_run(), tmp_path / "whole", CPU, tell=silent, stop=never)
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, saving=Saving(steps=10), tell=silent, stop=after(25))
    newest, before = saved(tmp_path / "r" / "checkpoints")
    assert (newest.name, before.name) == ("step-000000025.safetensors", "step-000000020.safetensors")
    spoil(newest, how)
    notes = []
    train(digits_run(), tmp_path / "r", CPU, resume=True, tell=lambda progress, line: notes.append(progress.note), stop=never)
    assert f"{newest} is damaged: " in notes[0]
    assert notes[0].endswith("; going on from the one before, step-000000020.safetensors")
    assert set(notes[1:]) == {""}
    ours, theirs = weights(tmp_path / "r"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "r") == lines(tmp_path / "whole")


def test_damaged_checkpoints_alone_are_named(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    [path] = saved(tmp_path / "r" / "checkpoints")
    spoil(path, "flipped")
    with pytest.raises(RecordError) as refused:
        train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)
    checksum = "its checksum is not that of its content"
    assert str(refused.value) == f"{path} is damaged: {checksum}, and there is no other: remove the folder to begin anew"


def test_the_last_few_checkpoints_are_kept_until_the_run_is_finished(tmp_path):
    kept = []

    def watch(progress, line):
        kept.append([path.stem for path in saved(tmp_path / "r" / "checkpoints")])

    train(digits_run(), tmp_path / "r", CPU, saving=Saving(steps=4, last=3), tell=watch, stop=never)
    assert kept[20] == ["step-000000020", "step-000000016", "step-000000012"]
    assert not (tmp_path / "r" / "checkpoints").exists()


@pytest.mark.parametrize(("text", "saving"), [("500", Saving(steps=500)), ("30s", Saving(30)), ("5m", Saving(300))])
def test_how_often_a_checkpoint_is_written(text, saving):
    assert every(text) == saving


@pytest.mark.parametrize("text", ["", "often", "0", "0s", "-3", "1.5m"])
def test_checkpoints_that_are_never_due_are_refused(text):
    with pytest.raises(UsageError, match="checkpoints"):
        every(text)


def test_a_data_set_that_changed_under_a_run_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    changed = read(dataset("digits"), "train")
    changed.pixels[0, 0, 0, 0] ^= 1
    monkeypatch.setattr("residua.train.run.read", lambda data, split, folder: changed)
    with pytest.raises(UsageError, match="begun on other images, the data have changed: choose another --out"):
        train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)


COMMAND = [sys.executable, "-m", "residua", "train", "digits", "--model", "cifar-resnet20", "--steps", "120", "--precision", "fp32"]


def started(folder):
    """A training process that has written its first line of measurements."""
    process = subprocess.Popen(
        [*COMMAND, "--resume", "--out", str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 60
    awaited = folder / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None and not (awaited.exists() and awaited.stat().st_size):
        time.sleep(0.02)
    return process


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    process = started(tmp_path / "r")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "add --resume to go on, with --out" in errors.splitlines()[-1]
    assert saved(tmp_path / "r" / "checkpoints")
    subprocess.run([*COMMAND, "--resume", "--out", str(tmp_path / "r")], check=True, capture_output=True)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["result"]["steps"] == 120


def test_a_killed_run_goes_on(tmp_path):
    process = started(tmp_path / "r")
    process.kill()
    process.communicate(timeout=60)
    done = subprocess.run(
        [*COMMAND, "--resume", "--json", "--out", str(tmp_path / "r")], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["steps"] == 120


def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(tmp_path):
    """A limit on the size of files stands in for the disk: measurements fit, a model or a checkpoint does not."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from residua.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    run = Run(network("cifar-resnet20", input=(1, 8, 8)), "digits", recipe("small").lasting(steps=120))
    with pytest.raises(Interrupted):
        train(run, tmp_path / "r", CPU, tell=silent, stop=after(30))
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")}
    assert len(before) == 2
    arguments = [*COMMAND[3:], "--resume", "--out", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "was written to" in done.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")} == before
    assert not list((tmp_path / "r").glob(".*"))

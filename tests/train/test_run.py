"""Whole runs on the digits: golden trace, resume, failures."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from residua.data.batches import Batches
from residua.data.read import read
from residua.errors import Interrupted, RecordError, TrainingError, UsageError
from residua.net.build import build
from residua.record import Record
from residua.spec.dataset import dataset
from residua.spec.papers import network
from residua.spec.recipe import recipe
from residua.spec.run import Run
from residua.spec.text import overridden
from residua.train import run as run_module
from residua.train.loop import fit
from residua.train.machine import Machine
from residua.train.run import train
from residua.train.step import Step

CPU = Machine(torch.device("cpu"), "fp32")
GOLDEN = [
    2.45027,
    2.63742,
    2.6578,
    2.34158,
    2.42147,
    2.50543,
    2.41497,
    2.38409,
    2.23641,
    2.31305,
    2.29054,
    2.15072,
    2.16674,
    2.25877,
    2.14382,
    2.11629,
    1.98858,
    2.02401,
    2.0155,
    2.00661,
]  # loss of the first 20 steps of cifar-resnet8 on the digits, seed 0, fp32


def digits_run(model="cifar-resnet8", steps=40, seed=0, **changes):
    chosen = recipe("small").lasting(steps=steps)
    for name, value in changes.items():
        chosen = overridden(chosen, f"{name.replace('__', '.')}={value}")
    return Run(network(model, input=(1, 8, 8)), "digits", chosen, seed)


def silent(progress, line):
    pass


def stopping_after(steps):
    """In place of Ctrl-C: asks to stop after so many steps."""

    @contextmanager
    def asked():
        left = [steps + 1]

        def stop():
            left[0] -= 1
            return left[0] <= 0

        yield stop

    return asked


def weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def lines(folder):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in Record(folder).lines()]


def test_the_losses_of_twenty_steps_are_the_golden_ones():
    data, chosen = dataset("digits"), recipe("small")
    batches = Batches(read(data, "train"), chosen.batch_size, chosen.augment, data.mean, data.std, seed=0)
    net = build(network("cifar-resnet8", input=data.input), seed=0)
    step = Step(net, chosen.optimiser, CPU)
    losses = [step(*batches.at(i), lr=0.01)[0].item() for i in range(20)]
    assert losses == pytest.approx(GOLDEN, rel=1e-3)


def test_a_run_leaves_a_record_that_can_be_read(tmp_path):
    result = train(digits_run(steps=200), tmp_path / "r", CPU, tell=silent)
    assert set(result) >= {"model", "steps", "seconds", "images_per_second", "train_error", "dev_error", "test_error"}
    assert result["test_error"] < 0.1
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"run.json", "metrics.jsonl", "last", "best"}
    measured = Record(tmp_path / "r").lines()
    assert measured[-1]["step"] == 200
    assert min(line["dev_error"] for line in measured) == result["best_dev_error"]
    assert all(set(line) == {"step", "epoch", "lr", "loss", "train_error", "dev_error", "dev_loss", "seconds"} for line in measured)


def test_an_interrupted_run_ends_in_the_same_bits_as_an_uninterrupted_one(tmp_path, monkeypatch):
    run = digits_run()
    train(run, tmp_path / "whole", CPU, tell=silent)
    monkeypatch.setattr(run_module, "asked_to_stop", stopping_after(7))  # also in the middle of an epoch
    stops = 0
    while True:
        try:
            train(run, tmp_path / "parts", CPU, resume=True, tell=silent)
            break
        except Interrupted as stopped:
            stops += 1
            assert f"stopped at step {7 * stops} of 40: add --resume" in str(stopped)
    assert stops == 5
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_dropout_is_a_function_of_seed_and_step(tmp_path, monkeypatch):
    from dataclasses import replace

    from residua.spec.papers import SHORTCUT_ABLATIONS

    run = digits_run(steps=10)
    run = replace(run, network=replace(run.network, unit=SHORTCUT_ABLATIONS["dropout shortcut"]))
    train(run, tmp_path / "whole", CPU, tell=silent)
    monkeypatch.setattr(run_module, "asked_to_stop", stopping_after(4))
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(run, tmp_path / "parts", CPU, resume=True, tell=silent)
    train(run, tmp_path / "parts", CPU, resume=True, tell=silent)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(digits_run(), tmp_path / "r", CPU, tell=silent)
    assert train(digits_run(), tmp_path / "r", CPU, tell=silent) == first


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    train(digits_run(), tmp_path / "r", CPU, tell=silent)
    before = (tmp_path / "r" / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds another run: recipe.batch_size is 64 there, 32 here; choose another --out"):
        train(digits_run(batch_size=32), tmp_path / "r", CPU, resume=True, tell=silent)
    assert (tmp_path / "r" / "run.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no run: choose another --out"):
        train(digits_run(), tmp_path, CPU, tell=silent)


def test_an_unfinished_run_wants_to_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "asked_to_stop", stopping_after(3))
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent)
    with pytest.raises(UsageError, match="holds this run already: add --resume to go on with it, or choose another --out"):
        train(digits_run(), tmp_path / "r", CPU, tell=silent)


def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "asked_to_stop", stopping_after(3))
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent)
    path = tmp_path / "r" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"checkpoint.safetensors is damaged"):
        train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    run = digits_run(
        steps=60,
        schedule='{"kind": "Drops", "lr": 1e25, "at": [], "factor": 1}',
        warmup='{"lr": 0.01, "steps": 25, "from_depth": 0}',
    )
    monkeypatch.setattr(run_module, "asked_to_stop", stopping_after(20))
    with pytest.raises(Interrupted):
        train(run, tmp_path / "r", CPU, tell=silent)
    monkeypatch.undo()
    kept = (tmp_path / "r" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 2[67] of 60: .* try a lower learning rate"):
        train(run, tmp_path / "r", CPU, resume=True, tell=silent)
    assert (tmp_path / "r" / "checkpoint.safetensors").read_bytes() == kept


def test_a_batch_larger_than_the_data_is_refused_and_no_folder_is_made(tmp_path):
    with pytest.raises(UsageError, match="a batch of 2000 is larger than the 1288 training images: choose at most that"):
        train(digits_run(batch_size=2000), tmp_path / "r", CPU, tell=silent)
    assert not (tmp_path / "r").exists()


def test_fit_trains_any_module(tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    data, chosen = dataset("digits"), recipe("small")
    batches = Batches(read(data, "train"), 64, chosen.augment, data.mean, data.std, seed=0)
    (tmp_path / "r").mkdir()
    progress = fit(
        net, batches, chosen, dev=read(data, "dev"), machine=CPU, record=Record(tmp_path / "r"),
        keep_best=lambda: None, tell=silent, stop=lambda: False,
    )  # fmt: skip
    assert progress.best < 0.3


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
    assert (tmp_path / "r" / "checkpoint.safetensors").exists()
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
    """A limit on the size of files stands in for the disk: run.json fits, a model does not."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from residua.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [*COMMAND[3:], "--out", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "residua: " in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "r").glob(".*"))
    assert json.loads((tmp_path / "r" / "run.json").read_text())["result"] is None

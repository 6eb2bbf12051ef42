"""Whole runs on the digits: golden trace, resume, failures."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from residua.data.batches import Batches
from residua.data.read import read
from residua.errors import Interrupted, RecordError, TrainingError, UsageError
from residua.files import alone
from residua.record import Record
from residua.spec.dataset import dataset
from residua.spec.papers import network
from residua.spec.recipe import recipe
from residua.spec.run import Run
from residua.spec.text import overridden
from residua.train.loop import fit
from residua.train.machine import Machine
from residua.train.run import train

CPU = Machine(torch.device("cpu"), "fp32")
GOLDEN = [
    2.644059,
    2.522628,
    2.439381,
    2.356706,
    2.359997,
    2.365753,
    2.289154,
    2.22295,
    2.163081,
    2.149816,
    2.144482,
    2.130259,
    2.134678,
    2.125992,
    2.123555,
    2.105616,
    2.112592,
    2.081483,
    2.095745,
    2.095073,
]  # loss of 20 steps, an epoch each, of cifar-resnet8 on the digits, seed 0, fp32


def digits_run(model="cifar-resnet8", steps=40, seed=0, **changes):
    chosen = recipe("small").lasting(steps=steps)
    for name, value in changes.items():
        chosen = overridden(chosen, f"{name.replace('__', '.')}={value}")
    return Run(network(model, input=(1, 8, 8)), "digits", chosen, seed)


def silent(progress, line):
    pass


def never():
    return False


def after(steps):
    """In place of Ctrl-C: asks to stop after so many steps."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


def weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def lines(folder):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in Record(folder).lines()]


def test_the_losses_of_twenty_steps_are_the_golden_ones(tmp_path):
    """Through the whole of `train`: order, augmentation, schedule and decay of he2015, dev error and all."""
    run = Run(network("cifar-resnet8", input=(1, 8, 8)), "digits", recipe("he2015").lasting(steps=20))
    run = replace(run, recipe=overridden(overridden(run.recipe, "batch_size=1288"), "optimiser.weight_decay=0.01"))
    train(run, tmp_path / "r", CPU, tell=silent, stop=never)
    assert [line["loss"] for line in lines(tmp_path / "r")] == pytest.approx(GOLDEN, rel=2e-4)


def test_a_run_leaves_a_record_that_can_be_read(tmp_path):
    result = train(digits_run(steps=200), tmp_path / "r", CPU, tell=silent, stop=never)
    assert set(result) >= {"model", "steps", "seconds", "images_per_second", "train_error", "dev_error", "test_error"}
    assert result["test_error"] < 0.1
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"run.json", "metrics.jsonl", "last", "best"}
    measured = Record(tmp_path / "r").lines()
    assert measured[-1]["step"] == 200
    assert min(line["dev_error"] for line in measured) == result["best_dev_error"]
    assert all(set(line) == {"step", "epoch", "lr", "loss", "train_error", "dev_error", "dev_loss", "seconds"} for line in measured)


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
def test_a_run_killed_after_a_periodic_checkpoint_forgets_what_came_after_it(tmp_path, monkeypatch, precision):
    """As on this machine by itself: channels-last, bf16; the checkpoint is older than the last line of measurements."""
    run, machine = digits_run(steps=55), Machine(torch.device("cpu"), precision)
    train(run, tmp_path / "whole", machine, tell=silent, stop=never)

    class Killed(BaseException):
        pass

    def killer(progress, line):
        if progress.step == 25:
            monkeypatch.setattr("residua.train.loop.SAVE_EVERY", 1e9)
        if progress.step == 45:
            raise Killed

    monkeypatch.setattr("residua.train.loop.SAVE_EVERY", 0.0)
    with pytest.raises(Killed):
        train(run, tmp_path / "parts", machine, tell=killer, stop=never)
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


def test_two_processes_do_not_train_the_same_run(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    with alone(tmp_path / "r") as ours:
        assert ours
        with pytest.raises(RecordError, match="is being trained by another process"):
            train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    for name, model in (("a", "cifar-resnet8"), ("b", "cifar-resnet14")):
        with pytest.raises(Interrupted):
            train(digits_run(model), tmp_path / name, CPU, tell=silent, stop=after(3))
    (tmp_path / "a" / "checkpoint.safetensors").replace(tmp_path / "b" / "checkpoint.safetensors")
    with pytest.raises(RecordError, match="is of another network"):
        train(digits_run("cifar-resnet14"), tmp_path / "b", CPU, resume=True, tell=silent, stop=never)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=never)
    assert train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=never) == first


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=never)
    before = (tmp_path / "r" / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds another run: recipe.batch_size is 64 there, 32 here; choose another --out"):
        train(digits_run(batch_size=32), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)
    assert (tmp_path / "r" / "run.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and holds no run: choose another --out"):
        train(digits_run(), tmp_path, CPU, tell=silent, stop=never)


def test_an_unfinished_run_wants_to_be_resumed(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    with pytest.raises(UsageError, match="holds this run already: add --resume to go on with it, or choose another --out"):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=never)


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    path = tmp_path / "r" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"checkpoint.safetensors is damaged"):
        train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(tmp_path):
    run = digits_run(
        steps=60,
        schedule='{"kind": "Drops", "lr": 0.01, "at": [0.4], "factor": 1e27}',
    )
    with pytest.raises(Interrupted):
        train(run, tmp_path / "r", CPU, tell=silent, stop=after(20))
    kept = (tmp_path / "r" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 2[5678] of 60: .* try a lower learning rate"):
        train(run, tmp_path / "r", CPU, resume=True, tell=silent, stop=never)
    assert (tmp_path / "r" / "checkpoint.safetensors").read_bytes() == kept


def test_a_batch_larger_than_the_data_is_refused_and_no_folder_is_made(tmp_path):
    with pytest.raises(UsageError, match="a batch of 2000 is larger than the 1288 training images: choose at most that"):
        train(digits_run(batch_size=2000), tmp_path / "r", CPU, tell=silent, stop=never)
    assert not (tmp_path / "r").exists()


def test_fit_trains_any_module(tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    data, chosen = dataset("digits"), recipe("small")
    batches = Batches(read(data, "train"), 64, chosen.augment, data.mean, data.std, seed=0)
    (tmp_path / "r").mkdir()
    progress = fit(
        net, batches, chosen, dev=read(data, "dev"), machine=CPU, record=Record(tmp_path / "r"),
        keep_best=lambda: None, tell=silent, stop=never,
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

"""Whole runs on the digits: golden trace, resume, failures."""

import os
import re
import signal
from dataclasses import replace

import pytest
import torch

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
from residua.train.checkpoint import saved
from residua.train.loop import fit
from residua.train.run import asked_to_stop, train
from tests.train.runs import CPU, after, digits_run, lines, never, silent

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


def test_the_losses_of_twenty_steps_are_the_golden_ones(tmp_path):
    """Through the whole of `train`: order, augmentation, schedule and decay of he2015, dev error and all."""
    run = Run(network("cifar-resnet8", input=(1, 8, 8)), "digits", recipe("he2015").lasting(steps=20))
    run = replace(run, recipe=overridden(overridden(run.recipe, "batch_size=1288"), "optimiser.weight_decay=0.01"))
    train(run, tmp_path / "r", CPU, tell=silent, stop=never)
    losses = [line["loss"] for line in lines(tmp_path / "r")]
    assert losses == pytest.approx(GOLDEN, rel=5e-4)  # CPUs round otherwise, by up to 2.2e-4 so far


def test_a_run_leaves_a_record_that_can_be_read(tmp_path):
    result = train(digits_run(steps=200), tmp_path / "r", CPU, tell=silent, stop=never)
    assert set(result) >= {"model", "steps", "seconds", "images_per_second", "train_error", "dev_error", "test_error"}
    assert result["test_error"] < 0.1
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"run.json", "metrics.jsonl", "last", "best"}
    measured = Record(tmp_path / "r").lines()
    assert measured[-1]["step"] == 200
    assert min(line["dev_error"] for line in measured) == result["best_dev_error"]
    assert all(set(line) == {"step", "epoch", "lr", "loss", "train_error", "dev_error", "dev_loss", "seconds"} for line in measured)


def test_two_processes_do_not_train_the_same_run(tmp_path):
    with pytest.raises(Interrupted):
        train(digits_run(), tmp_path / "r", CPU, tell=silent, stop=after(3))
    with alone(tmp_path / "r") as ours:
        assert ours
        with pytest.raises(RecordError, match="is being trained by another process"):
            train(digits_run(), tmp_path / "r", CPU, resume=True, tell=silent, stop=never)


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


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(tmp_path):
    run = digits_run(
        steps=60,
        schedule='{"kind": "Drops", "lr": 0.01, "at": [0.4], "factor": 1e27}',
    )
    with pytest.raises(Interrupted):
        train(run, tmp_path / "r", CPU, tell=silent, stop=after(20))
    [path] = saved(tmp_path / "r" / "checkpoints")
    kept = path.read_bytes()
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 2[5678] of 60: .* try a lower learning rate"):
        train(run, tmp_path / "r", CPU, resume=True, tell=silent, stop=never)
    assert path.read_bytes() == kept


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


def test_a_run_that_does_not_set_out_is_told_so_once_with_what_may_help(tmp_path):
    def notes_of(rate, steps):
        heard = []
        run = digits_run(steps=steps, schedule=f'{{"kind": "Drops", "lr": {rate}}}')
        train(run, tmp_path / f"{rate}", CPU, tell=lambda progress, line: heard.append(progress.note), stop=never)
        return [note for note in heard if note]

    assert notes_of(0.05, 80) == []
    [note] = notes_of(0.0, 80)
    assert re.match(r"the training error is still (8[5-9]|9[0-9]) % at step 40, where guessing gives 89 %: ", note)
    assert "a lower rate (--set schedule.lr=...), a warm-up (--recipe he2016), or, if it is plain, shortcuts" in note


def test_sigterm_asks_to_stop_too_and_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) == before

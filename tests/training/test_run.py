"""Whole runs on digits: golden losses, records, failures."""

import os
import re
import signal
from dataclasses import replace

import pytest
import torch

from residua.config.dataset import get_dataset
from residua.config.papers import network
from residua.config.recipe import recipe
from residua.config.run import Run
from residua.config.serialize import apply_override
from residua.data.batches import TrainingBatches
from residua.data.read import read_split
from residua.errors import Interrupted, RecordError, TrainingError, UsageError
from residua.files import try_lock_folder
from residua.record import RunRecord
from residua.training.checkpoint import list_checkpoints
from residua.training.loop import fit_network
from residua.training.run import catch_stop_signals, train_run
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    make_digits_run,
    never_stop,
    read_metrics_without_times,
    stop_after,
)

GOLDEN_LOSSES = [
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


def test_the_losses_of_twenty_steps_match_the_golden_values(tmp_path):
    """Through all of `train_run`, with order, augmentation, schedule and decay of he2015."""
    run = Run(
        network("cifar-resnet8", input=(1, 8, 8)),
        "digits",
        recipe("he2015").with_duration(steps=20),
    )
    run = replace(
        run,
        recipe=apply_override(
            apply_override(run.recipe, "batch_size=1288"), "optimiser.weight_decay=0.01"
        ),
    )
    train_run(run, tmp_path / "r", CPU_FP32, on_progress=ignore_progress, should_stop=never_stop)
    losses = [line["loss"] for line in read_metrics_without_times(tmp_path / "r")]
    assert losses == pytest.approx(
        GOLDEN_LOSSES, rel=5e-4
    )  # CPUs differ in rounding, by at most 2.2e-4 so far


def test_a_run_writes_a_readable_record(tmp_path):
    result = train_run(
        make_digits_run(steps=200),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert set(result) >= {
        "model",
        "steps",
        "seconds",
        "images_per_second",
        "train_error",
        "dev_error",
        "test_error",
    }
    assert result["test_error"] < 0.1
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "last",
        "best",
    }
    measured = RunRecord(tmp_path / "r").read_metrics()
    assert measured[-1]["step"] == 200
    assert min(line["dev_error"] for line in measured) == result["best_dev_error"]
    assert all(
        set(line)
        == {"step", "epoch", "lr", "loss", "train_error", "dev_error", "dev_loss", "seconds"}
        for line in measured
    )


def test_a_run_cannot_be_trained_by_two_processes_at_once(tmp_path):
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(3),
        )
    with try_lock_folder(tmp_path / "r") as ours:
        assert ours
        with pytest.raises(RecordError, match="is being trained by another process"):
            train_run(
                make_digits_run(),
                tmp_path / "r",
                CPU_FP32,
                resume=True,
                on_progress=ignore_progress,
                should_stop=never_stop,
            )


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert (
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
        == first
    )


def test_a_folder_of_another_run_is_refused_and_not_modified(tmp_path):
    train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    before = (tmp_path / "r" / "run.json").read_bytes()
    with pytest.raises(
        UsageError,
        match=r"holds another run: recipe.batch_size is 64 there, 32 here; choose another --out",
    ):
        train_run(
            make_digits_run(batch_size=32),
            tmp_path / "r",
            CPU_FP32,
            resume=True,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
    assert (tmp_path / "r" / "run.json").read_bytes() == before


def test_a_non_empty_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and contains no run: choose another --out"):
        train_run(
            make_digits_run(),
            tmp_path,
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(tmp_path):
    run = make_digits_run(
        steps=60,
        schedule='{"kind": "Drops", "lr": 0.01, "at": [0.4], "factor": 1e27}',
    )
    with pytest.raises(Interrupted):
        train_run(
            run, tmp_path / "r", CPU_FP32, on_progress=ignore_progress, should_stop=stop_after(20)
        )
    [path] = list_checkpoints(tmp_path / "r" / "checkpoints")
    checkpoint_bytes = path.read_bytes()
    with pytest.raises(
        TrainingError,
        match=r"the loss is (nan|inf) at step 2[5678] of 60: .* try a lower learning rate",
    ):
        train_run(
            run,
            tmp_path / "r",
            CPU_FP32,
            resume=True,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
    assert path.read_bytes() == checkpoint_bytes


def test_a_batch_larger_than_the_data_is_refused_and_no_folder_is_made(tmp_path):
    with pytest.raises(
        UsageError,
        match="batch size 2000 exceeds the 1288 training images: choose at most 1288",
    ):
        train_run(
            make_digits_run(batch_size=2000),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
    assert not (tmp_path / "r").exists()


def test_fit_trains_any_module(tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    data, chosen = get_dataset("digits"), recipe("small")
    batches = TrainingBatches(
        read_split(data, "train"), 64, chosen.augment, data.mean, data.std, seed=0
    )
    (tmp_path / "r").mkdir()
    progress = fit_network(
        net,
        batches,
        chosen,
        dev_images=read_split(data, "dev"),
        machine=CPU_FP32,
        record=RunRecord(tmp_path / "r"),
        save_best=lambda: None,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert progress.best_dev_error < 0.3


def test_a_run_that_does_not_start_learning_gets_one_note_with_remedies(tmp_path):
    def train_and_collect_notes(rate, steps):
        heard = []
        run = make_digits_run(steps=steps, schedule=f'{{"kind": "Drops", "lr": {rate}}}')
        train_run(
            run,
            tmp_path / f"{rate}",
            CPU_FP32,
            on_progress=lambda progress, line: heard.append(progress.note),
            should_stop=never_stop,
        )
        return [note for note in heard if note]

    assert train_and_collect_notes(0.05, 80) == []
    [note] = train_and_collect_notes(0.0, 80)
    assert re.match(
        r"the training error is still (8[5-9]|9[0-9]) % at step 40; guessing gives 89 %: ",
        note,
    )
    remedies = (
        "a lower learning rate (--set schedule.lr=...), a warm-up (--recipe he2016), "
        "or, if it is plain, shortcuts"
    )
    assert remedies in note


def test_sigterm_requests_a_stop_and_its_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with catch_stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) == before

"""Whole runs on digits: golden losses, records, failures."""

import json
import math
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binomtest

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.config.serialize import apply_override
from residua.data.batches import TrainingBatches
from residua.data.read import read_split
from residua.errors import Interrupted, RecordError, TrainingError, UsageError
from residua.files import try_lock_folder
from residua.record import RunRecord
from residua.report.format import QUANTITY_FORMATS
from residua.training.checkpoint import list_checkpoints
from residua.training.evaluate import EvaluationScore
from residua.training.loop import fit_network
from residua.training.run import catch_stop_signals, train_run
from tests.cli_runner import run_cli
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


def test_the_errors_on_held_out_images_come_with_their_number_and_interval(tmp_path):
    result = train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert (result["dev_images"], result["test_images"]) == (150, 359)
    for split in ("dev", "test"):
        error, count = result[f"{split}_error"], result[f"{split}_images"]
        interval = binomtest(round(error * count), count).proportion_ci(method="wilson")
        assert result[f"{split}_error_interval"] == pytest.approx([interval.low, interval.high])


def test_the_best_dev_error_includes_the_last_measurement(tmp_path, monkeypatch):
    """The last measurement is in fp32, so that it can be lower than all others."""
    monkeypatch.setattr(
        "residua.training.run_result.evaluate_network",
        lambda net, images, *_, **__: EvaluationScore(len(images), wrong=0, wrong5=0, loss=0.1),
    )
    result = train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert (result["dev_error"], result["best_dev_error"]) == (0.0, 0.0)
    best, last = [
        load_file(tmp_path / "r" / name / "model.safetensors") for name in ("best", "last")
    ]
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_a_dev_loss_that_is_not_finite_is_null_in_the_metrics(tmp_path, monkeypatch):
    """JSON has no nan: a row with it could not be read, and the run could not be resumed."""
    monkeypatch.setattr(
        "residua.training.loop.evaluate_network",
        lambda net, images, *_: EvaluationScore(len(images), wrong=9, wrong5=0, loss=math.nan),
    )
    monkeypatch.setattr(
        "residua.training.run_result.score_with_recalibrated_bn",
        lambda *_: EvaluationScore(10, wrong=5, wrong5=0, loss=math.inf),
    )
    result = train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    assert RunRecord(tmp_path / "r").read_metrics()[0]["dev_loss"] is None
    assert RunRecord(tmp_path / "r").read_result() == result
    assert (result["train_error_reestimated"], "train_loss" in result) == (0.5, False)


def test_every_printed_quantity_of_a_run_has_a_unit(tmp_path, capsys):
    for model in ("cifar-resnet8", "vlad"):
        steps = ["--steps", "4"] if model != "vlad" else []
        for extra in (["--dry-run"], []):
            out = ["--out", str(tmp_path / model), "--json"]
            assert main(["train", "digits", "--model", model, *steps, *extra, *out]) == 0
            facts = json.loads(capsys.readouterr().out)
            summary_keys = {"classes", "splits", "split_from", "skipped", "groups", "engine"}
            assert set(facts) - summary_keys <= set(QUANTITY_FORMATS)


def test_training_a_finished_run_says_that_nothing_was_trained(tmp_path, capsys):
    command = ["train", "digits", "--model", "cifar-resnet8", "--steps", "4"]
    command += ["--out", str(tmp_path / "r"), "--json"]
    code, out, _ = run_cli(capsys, *command)
    assert (code, json.loads(out)["trained"]) == (0, True)
    for extra in ([], ["--resume"]):
        code, out, last_line = run_cli(capsys, *command, *extra)
        assert (code, json.loads(out)["trained"]) == (0, False)
        assert last_line == (
            f"residua: the run in {tmp_path / 'r'} is already finished; nothing was trained: "
            f"to train its network further, add --from {tmp_path / 'r'} and another --out"
        )
    for longer in (["--steps", "8"], ["--set", "schedule.lr=0.5"]):
        code, _, last_line = run_cli(capsys, *command, *longer, "--resume")
        assert code == 2
        assert last_line.endswith(
            f"; choose another --out, with --from {tmp_path / 'r'} to go on from its network"
        )


def test_resume_says_that_there_is_nothing_to_resume(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "digits", "--model", "cifar-resnet8", "--steps"]
    _, _, first_line = run_cli_all_lines(capsys, *command, "4", "--resume")
    [folder] = (tmp_path / "runs").iterdir()
    assert first_line == (
        f"residua: there is no run in runs/{folder.name} to resume: training starts from the "
        "beginning"
    )
    _, _, first_line = run_cli_all_lines(capsys, *command, "6", "--resume")
    assert first_line.endswith(f"(to go on from runs/{folder.name}, add --from runs/{folder.name})")


def run_cli_all_lines(capsys, *arguments):
    """The exit code, the standard output, and the first line of the standard error."""
    capsys.readouterr()
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()[0]


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
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun sends it, and so may a scheduler
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before

"""Resuming is bit-identical: after Ctrl-C, a kill, a damaged checkpoint or a full disk."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.data.read import read_split
from residua.errors import Interrupted, RecordError, UsageError
from residua.training.checkpoint import CheckpointPolicy, list_checkpoints, parse_save_interval
from residua.training.machine import Machine
from residua.training.run import train_run
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    load_last_weights,
    make_digits_run,
    never_stop,
    read_metrics_without_times,
    stop_after,
)


def test_an_interrupted_run_is_bit_identical_to_an_uninterrupted_one(tmp_path):
    run = make_digits_run()
    train_run(
        run, tmp_path / "whole", CPU_FP32, on_progress=ignore_progress, should_stop=never_stop
    )
    stops = 0
    while True:
        try:
            train_run(
                run,
                tmp_path / "parts",
                CPU_FP32,
                resume=True,
                on_progress=ignore_progress,
                should_stop=stop_after(7),
            )  # also in the middle of an epoch
            break
        except Interrupted as stopped:
            stops += 1
            assert f"stopped at step {7 * stops} of 40: to continue, " in str(stopped)
    assert stops == 5
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics_without_times(tmp_path / "parts") == read_metrics_without_times(
        tmp_path / "whole"
    )


def test_dropout_depends_only_on_seed_and_step(tmp_path):
    from residua.config.papers import SHORTCUT_ABLATIONS

    run = make_digits_run(steps=10)
    run = replace(run, network=replace(run.network, unit=SHORTCUT_ABLATIONS["dropout shortcut"]))
    train_run(
        run, tmp_path / "whole", CPU_FP32, on_progress=ignore_progress, should_stop=never_stop
    )
    for _ in range(2):
        with pytest.raises(Interrupted):
            train_run(
                run,
                tmp_path / "parts",
                CPU_FP32,
                resume=True,
                on_progress=ignore_progress,
                should_stop=stop_after(4),
            )
    train_run(
        run,
        tmp_path / "parts",
        CPU_FP32,
        resume=True,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_after_a_checkpoint_resumes_from_it(tmp_path, precision):
    """The checkpoint is older than the last metrics line, and the layout is channels-last."""
    run, machine = make_digits_run(steps=55), Machine(torch.device("cpu"), precision)
    train_run(run, tmp_path / "whole", machine, on_progress=ignore_progress, should_stop=never_stop)

    class Killed(BaseException):
        pass

    def raise_at_step(progress, line):
        if progress.step == 45:
            raise Killed

    with pytest.raises(Killed):
        train_run(
            run,
            tmp_path / "parts",
            machine,
            checkpoint_policy=CheckpointPolicy(every_steps=25),
            on_progress=raise_at_step,
            should_stop=never_stop,
        )
    assert read_metrics_without_times(tmp_path / "parts")[-1]["step"] == 40
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 45, "los')
    train_run(
        run,
        tmp_path / "parts",
        machine,
        resume=True,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics_without_times(tmp_path / "parts") == read_metrics_without_times(
        tmp_path / "whole"
    )


def test_resuming_in_another_precision_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(3),
        )
    with pytest.raises(
        UsageError,
        match="holds this run, but it was started in fp32, not bf16: add --precision fp32",
    ):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            Machine(torch.device("cpu"), "bf16"),
            resume=True,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    for name, model in (("a", "cifar-resnet8"), ("b", "cifar-resnet14")):
        with pytest.raises(Interrupted):
            train_run(
                make_digits_run(model),
                tmp_path / name,
                CPU_FP32,
                on_progress=ignore_progress,
                should_stop=stop_after(3),
            )
    shutil.copytree(
        tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints", dirs_exist_ok=True
    )
    with pytest.raises(RecordError, match="checkpoints holds checkpoints of another network"):
        train_run(
            make_digits_run("cifar-resnet14"),
            tmp_path / "b",
            CPU_FP32,
            resume=True,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )


def test_an_unfinished_run_needs_resume(tmp_path):
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(3),
        )
    with pytest.raises(
        UsageError,
        match="already holds this run: add --resume to go on with it, or choose another --out",
    ):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )


def damage_file(path, damage):
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "flipped":
        content[-1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, how):
    train_run(
        make_digits_run(),
        tmp_path / "whole",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            checkpoint_policy=CheckpointPolicy(every_steps=10),
            on_progress=ignore_progress,
            should_stop=stop_after(25),
        )
    newest, before = list_checkpoints(tmp_path / "r" / "checkpoints")
    assert (newest.name, before.name) == (
        "step-000000025.safetensors",
        "step-000000020.safetensors",
    )
    damage_file(newest, how)
    notes = []
    train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        resume=True,
        on_progress=lambda progress, line: notes.append(progress.note),
        should_stop=never_stop,
    )
    assert f"{newest} is damaged: " in notes[0]
    assert notes[0].endswith("; resuming from the earlier step-000000020.safetensors")
    assert set(notes[1:]) == {""}
    ours, theirs = load_last_weights(tmp_path / "r"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics_without_times(tmp_path / "r") == read_metrics_without_times(
        tmp_path / "whole"
    )


def test_a_run_without_its_checkpoints_says_that_it_starts_again(tmp_path):
    notes, folder = [], tmp_path / "r"
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            folder,
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(25),
        )
    shutil.rmtree(folder / "checkpoints")
    train_run(
        make_digits_run(),
        folder,
        CPU_FP32,
        resume=True,
        on_progress=lambda progress, line: notes.append(progress.note),
        should_stop=never_stop,
    )
    assert notes[0] == (
        f"{folder} holds measurements, but no checkpoint that this version reads: "
        "training starts again from the beginning"
    )
    assert set(notes[1:]) == {""}


def test_when_all_checkpoints_are_damaged_they_are_reported(tmp_path):
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(3),
        )
    [path] = list_checkpoints(tmp_path / "r" / "checkpoints")
    damage_file(path, "flipped")
    with pytest.raises(RecordError) as refused:
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            resume=True,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
    checksum = "its checksum does not match its content"
    assert (
        str(refused.value) == f"{path} is damaged: {checksum}, and there is no other checkpoint "
        f"to resume from: delete {path.parent} to start over"
    )


def test_the_last_few_checkpoints_are_kept_until_the_run_is_finished(tmp_path):
    kept = []

    def record_checkpoints(progress, line):
        kept.append([path.stem for path in list_checkpoints(tmp_path / "r" / "checkpoints")])

    train_run(
        make_digits_run(),
        tmp_path / "r",
        CPU_FP32,
        checkpoint_policy=CheckpointPolicy(every_steps=4, keep_last=3),
        on_progress=record_checkpoints,
        should_stop=never_stop,
    )
    assert kept[20] == ["step-000000020", "step-000000016", "step-000000012"]
    assert not (tmp_path / "r" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("text", "saving"),
    [
        ("500", CheckpointPolicy(every_steps=500)),
        ("30s", CheckpointPolicy(30)),
        ("5m", CheckpointPolicy(300)),
    ],
)
def test_save_every_is_parsed(text, saving):
    assert parse_save_interval(text) == saving


def test_checkpoints_are_written_by_steps_or_by_time_but_not_by_both():
    by_steps, by_time = parse_save_interval("500"), parse_save_interval("30s")
    assert [by_steps.is_due(1e6, step) for step in (499, 500, 501, 1000)] == [0, 1, 0, 1]
    assert [by_time.is_due(seconds, 500) for seconds in (29, 31)] == [0, 1]


@pytest.mark.parametrize("text", ["", "often", "0", "0s", "-3", "1.5m"])
def test_checkpoints_that_are_never_due_are_refused(text):
    with pytest.raises(UsageError, match="checkpoints"):
        parse_save_interval(text)


def test_resuming_on_a_changed_data_set_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        train_run(
            make_digits_run(),
            tmp_path / "r",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(3),
        )
    changed = read_split(get_dataset("digits"), "train")
    changed.pixels[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(
        "residua.training.prepared_run.read_training_splits",
        lambda *arguments, **options: (changed, changed),
    )
    for run, message in (
        (make_digits_run(), "was started: choose another --out"),
        # what is left to choose is chosen for the data
        (make_digits_run(batch_size=32), "batch_size .*, and the images have changed since it was"),
    ):
        with pytest.raises(UsageError, match=message):
            train_run(
                run,
                tmp_path / "r",
                CPU_FP32,
                resume=True,
                on_progress=ignore_progress,
                should_stop=never_stop,
            )


TRAIN_ARGUMENTS = [
    "train",
    "digits",
    "--model",
    "cifar-resnet8",
    "--steps",
    "200",
    "--precision",
    "fp32",
]


def start_training(folder):
    """Start a training process, and wait until it has written its first metrics line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "residua", *TRAIN_ARGUMENTS, "--resume", "--out", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    metrics_file = folder / "metrics.jsonl"
    while (
        time.monotonic() < deadline
        and process.poll() is None
        and not (metrics_file.exists() and metrics_file.stat().st_size)
    ):
        time.sleep(0.02)
    return process


def test_a_run_stopped_by_ctrl_c_can_be_resumed(tmp_path):
    process = start_training(tmp_path / "r")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "repeat the command with --resume and --out" in errors.splitlines()[-1]
    assert list_checkpoints(tmp_path / "r" / "checkpoints")
    assert main([*TRAIN_ARGUMENTS, "--resume", "--out", str(tmp_path / "r")]) == 0
    assert json.loads((tmp_path / "r" / "run.json").read_text())["result"]["steps"] == 200


def test_a_killed_run_can_be_resumed(tmp_path, capsys):
    process = start_training(tmp_path / "r")
    process.kill()
    process.communicate(timeout=60)
    assert main([*TRAIN_ARGUMENTS, "--resume", "--json", "--out", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 200


def test_a_full_disk_gives_a_one_line_error_and_loses_nothing(tmp_path):
    """A limit on file sizes stands in for a full disk: metrics fit, but no checkpoint or model."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from residua.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    run = Run(
        network("cifar-resnet8", input=(1, 8, 8)),
        "digits",
        recipe("small").with_duration(steps=200),
    )
    with pytest.raises(Interrupted):
        train_run(
            run, tmp_path / "r", CPU_FP32, on_progress=ignore_progress, should_stop=stop_after(30)
        )
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")}
    assert len(before) == 2
    arguments = [*TRAIN_ARGUMENTS, "--resume", "--out", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "written to" in done.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.safetensors")} == before
    assert not list((tmp_path / "r").glob(".*"))

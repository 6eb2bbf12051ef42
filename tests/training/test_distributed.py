"""Processes started by torchrun compute together what one process computes alone."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from residua.cli.main import main
from residua.errors import Interrupted, TrainingError, UsageError
from residua.net.fused_bn_kernels import describe_fused_kernels
from residua.record import RunRecord
from residua.training.checkpoint import list_checkpoints
from residua.training.distributed import (
    DataParallelGroup,
    group_from_environment,
    join_process_group,
)
from residua.training.machine import Machine
from residua.training.run import train_run
from tests.training.distributed_worker import (
    CASES,
    CPU_DEVICE,
    evaluate_untrained,
    ignore_progress,
    make_short_run,
    never_stop,
    train_in_float64,
)
from tests.training.short_runs import load_last_weights, read_metrics_without_times, stop_after

WORKER_SCRIPT = Path(__file__).with_name("distributed_worker.py")
ROOT = WORKER_SCRIPT.parents[2]
TRAIN_COMMAND = [
    "train",
    "digits",
    "--model",
    "cifar-resnet8",
    "--precision",
    "fp32",
    "--set",
    "schedule.lr=0.001",
]
TRAIN_TWO_PARTS = [*TRAIN_COMMAND, "--set", "parts=2", "--steps", "20"]
CPU_FP32 = Machine(CPU_DEVICE, "fp32")


def start_torchrun(logs, *command, processes=2, restarts=0):
    """Start torchrun, with the output of each of its processes in files under `logs`."""
    options = [
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
        "--redirects=3",
        f"--log-dir={logs}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_torchrun(process, seconds=180):
    """Whether torchrun succeeded, and its own standard error."""
    _, stderr = process.communicate(timeout=seconds)
    return process.returncode == 0, stderr


def read_log(logs, rank, stream="stderr", attempt=0):
    [path] = logs.glob(f"*/attempt_{attempt}/{rank}/{stream}.log")
    return path.read_text()


def states_equal(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def max_abs_difference(ours, theirs):
    assert list(ours) == list(theirs)
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


@pytest.fixture(scope="module")
def distributed_results(tmp_path_factory):
    """The folder in which four processes wrote all cases of distributed_worker.py.

    The run `from one` was started by one process.
    """
    folder = tmp_path_factory.mktemp("together")
    with pytest.raises(Interrupted):
        train_run(
            make_short_run(1),
            folder / "from one",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(5),
        )
    wait_for_torchrun(
        start_torchrun(folder / "logs", WORKER_SCRIPT, "together", folder, processes=4)
    )
    assert (folder / "stopped at").exists(), read_log(folder / "logs", 0)
    return folder


@pytest.fixture(scope="module")
def cli_run_folder(tmp_path_factory):
    """A run of the command line by two processes, with one BN split each."""
    folder = tmp_path_factory.mktemp("commanded")
    done, errors = wait_for_torchrun(
        start_torchrun(
            folder / "logs",
            *("-m", "residua", *TRAIN_TWO_PARTS, "--json", "--out", folder / "run"),
            *(["--logger", "tensorboard"] if find_spec("tensorboard") else []),
        )
    )
    assert done, errors + read_log(folder / "logs", 0)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_four_processes_compute_the_same_as_one_in_float64(distributed_results, case):
    """Weights, running statistics, losses and wrong predictions.

    The cases have four processes per BN split, two per split, and one for two splits.
    """
    ours, theirs = (
        torch.load(distributed_results / f"{case}.pt"),
        train_in_float64(case, DataParallelGroup()),
    )
    torch.testing.assert_close(
        ours.pop("seen"), theirs.pop("seen"), rtol=1e-6, atol=0
    )  # losses are in fp32
    assert max_abs_difference(ours, theirs) < 1e-12


def test_two_processes_are_bit_identical_to_one_with_two_bn_splits(cli_run_folder, tmp_path):
    """As on the two GPUs of He et al. 2015."""
    assert main([*TRAIN_TWO_PARTS, "--out", str(tmp_path / "run")]) == 0
    ours, theirs = RunRecord(cli_run_folder / "run"), RunRecord(tmp_path / "run")
    assert states_equal(load_last_weights(ours.folder), load_last_weights(theirs.folder))
    assert read_metrics_without_times(ours.folder) == read_metrics_without_times(theirs.folder)
    assert (ours.read_run_json()["run"], ours.read_run_json()["id"]) == (
        theirs.read_run_json()["run"],
        theirs.read_run_json()["id"],
    )
    assert ours.read_run_json()["environment"]["processes"] == 2
    assert "processes" not in theirs.read_run_json()["environment"]
    assert ours.read_engine()["batchnorm"] == "each process by itself"
    assert "batchnorm" not in theirs.read_engine()


def test_bn_splits_differ_from_whole_batch_statistics(tmp_path):
    losses = []
    for parts in (1, 2):
        train_run(
            make_short_run(parts),
            tmp_path / f"{parts}",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
        losses.append(read_metrics_without_times(tmp_path / f"{parts}")[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_only_rank_0_prints_and_each_image_counts_once(cli_run_folder, capsys):
    logs = cli_run_folder / "logs"
    result = json.loads(read_log(logs, 0, "stdout"))
    assert "20/20" in read_log(logs, 0)
    assert (read_log(logs, 1), read_log(logs, 1, "stdout")) == ("", "")
    for split in ("train", "dev", "test"):
        assert (
            main(["evaluate", str(cli_run_folder / "run"), "digits", "--split", split, "--json"])
            == 0
        )
        assert json.loads(capsys.readouterr().out)["error"] == result[f"{split}_error"]


def test_only_rank_0_logs(cli_run_folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert len(list((cli_run_folder / "run").glob("*tfevents*"))) == 1
    events = accumulator.EventAccumulator(str(cli_run_folder / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [20]


def test_an_evaluation_by_four_processes_equals_that_of_one(distributed_results):
    score = evaluate_untrained(DataParallelGroup())
    count, wrong, wrong5, loss = torch.load(distributed_results / "score.pt")
    assert (count, wrong, wrong5) == (359, score.wrong, score.wrong5)
    assert loss == pytest.approx(score.loss, rel=1e-12)


def test_local_rank_0_goes_first_when_something_may_be_downloaded(distributed_results):
    order = (distributed_results / "first").read_text()
    assert order[0] == "0"
    assert sorted(order) == ["0", "1", "2", "3"]


def test_ranks_wait_longer_for_prepared_data_than_for_each_other(distributed_results):
    assert (distributed_results / "prepared").read_text() == "7777"


def test_synchronised_batchnorm_does_not_use_fused_kernels(distributed_results):
    for name, used in (("bf16 parts", describe_fused_kernels()), ("bf16 batch", "PyTorch's")):
        record = RunRecord(distributed_results / name)
        assert record.read_run_json()["environment"]["kernels"] == used
        assert record.read_result()["steps"] == 12
    engine = record.read_run_json()["environment"]["engine"]
    assert engine["gradients"] == "one all-reduce of 4 processes"
    assert engine["batchnorm"] == "synchronised between processes"


def test_all_processes_stop_when_one_is_asked_to(distributed_results):
    folder = distributed_results / "stopped"
    sentence = (
        "training stopped at step 5 of 12: to continue, repeat the command with --resume and "
        f"--out {folder}"
    )
    assert (distributed_results / "stopped at").read_text().splitlines() == [sentence] * 4


class TwoRanksInOne(DataParallelGroup):
    """Rank 0 of two; the other rank is asked to stop before the 17th exchange."""

    __slots__ = ("exchange_count",)

    def all_reduce_sum(self, x):
        object.__setattr__(self, "exchange_count", getattr(self, "exchange_count", 0) + 1)
        return x + torch.tensor([int(self.exchange_count == 17), 0])


def test_ranks_ask_each_other_twice_a_second_whether_to_stop(monkeypatch):
    """Steps of 1/64 s: the first ten ask; the next are 2, 4, 8, 16 and then 32 steps apart."""
    now, group = 0.0, TwoRanksInOne(0, 2)
    monkeypatch.setattr("residua.training.shared_request.time.monotonic", lambda: now)
    should_stop, asked, is_stopped = group.true_on_any_rank(lambda: False), [], False
    while not is_stopped:
        now += 1 / 64
        before = getattr(group, "exchange_count", 0)
        is_stopped = should_stop()
        asked += [64 * now] * (group.exchange_count - before)
    assert [b - a for a, b in pairwise(asked)] == [1] * 9 + [2, 4, 8, 16, 32, 32, 32]


class RankInThread(DataParallelGroup):
    """A rank whose processes are threads, and whose sums are those of all threads."""

    __slots__ = ("meeting",)

    def all_reduce_sum(self, x):
        return self.meeting.add(self.rank, x)


class Meeting:
    """Where threads add their tensors up; a rank that does not come breaks it."""

    def __init__(self, world_size):
        self.barrier = threading.Barrier(world_size, timeout=30)
        self.parts = [None] * world_size

    def add(self, rank, x):
        self.parts[rank] = x
        self.barrier.wait()
        total = sum(self.parts)
        self.barrier.wait()
        return total


def test_ranks_whose_clocks_differ_exchange_at_the_same_steps(monkeypatch):
    clock, meeting, exchanges = threading.local(), Meeting(3), {}
    monkeypatch.setattr("residua.training.shared_request.time.monotonic", lambda: clock.now)

    def run_rank(rank):
        clock.now, draw = 1e6 * rank, random.Random(rank)
        group, steps = RankInThread(rank, 3), exchanges.setdefault(rank, [])
        object.__setattr__(group, "meeting", meeting)
        should_stop = group.true_on_any_rank(lambda: rank == 2 and len(steps) > 40)
        for step in range(5000):
            clock.now += draw.expovariate(10 ** (rank + 1)) * (10 if step % 700 > 600 else 1)
            before = should_stop.exchanges
            is_stopped = should_stop()
            if should_stop.exchanges > before:
                steps.append(step)
            if is_stopped:
                return step
        return None

    with ThreadPoolExecutor(3) as pool:
        ends = list(pool.map(run_rank, range(3)))
    assert ends[0] is not None
    assert ends == [ends[0]] * 3
    assert exchanges[0] == exchanges[1] == exchanges[2]
    assert len({b - a for a, b in pairwise(exchanges[0])}) > 1  # some are steps apart


@pytest.mark.parametrize(("most_apart", "seconds"), [(10, 20.5), (100, 200.5)])
def test_a_request_waits_for_few_steps_when_streamed_steps_become_slow(
    monkeypatch, most_apart, seconds
):
    now, group = 0.0, TwoRanksInOne(0, 2)
    monkeypatch.setattr("residua.training.shared_request.time.monotonic", lambda: now)
    should_stop = group.true_on_any_rank(lambda: False, is_streamed=most_apart == 10)
    while getattr(group, "exchange_count", 0) < 16:
        now += 1 / 1024  # seconds
        should_stop()
    assert should_stop.interval == most_apart
    for _ in range(2):  # from now on each step takes 2 seconds
        start, before = now, group.exchange_count
        while group.exchange_count == before:
            now += 2
            should_stop()
        assert now - start <= seconds
    assert should_stop.interval == 1


def test_a_run_resumes_with_another_number_of_processes_and_reports_it(
    distributed_results, tmp_path
):
    notes = []
    train_run(
        make_short_run(1),
        distributed_results / "stopped",
        CPU_FP32,
        resume=True,
        on_progress=lambda progress, line: notes.append(progress.note),
        should_stop=never_stop,
    )
    assert notes[:2] == [
        "started with 4 processes, resuming with 1: "
        "the same batches, and the same results up to rounding",
        "",
    ]
    train_run(
        make_short_run(1),
        tmp_path / "whole",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    for name in ("stopped", "from one"):
        assert (
            max_abs_difference(
                load_last_weights(distributed_results / name), load_last_weights(tmp_path / "whole")
            )
            < 1e-4
        )
        assert [
            line["step"] for line in read_metrics_without_times(distributed_results / name)
        ] == [line["step"] for line in read_metrics_without_times(tmp_path / "whole")]


def test_rank_0_reports_the_failure_of_another_process(distributed_results):
    last = read_log(distributed_results / "logs", 0).splitlines()[-1]
    assert last.endswith("RankStoppedError: rank 1 stopped: the disk of this machine is gone")


def test_after_killed_processes_restart_the_run_is_bit_identical(cli_run_folder, tmp_path):
    """The first kill hits process 1 in a step; the second process 0 in the middle of a checkpoint.

    The lock of the killed process is gone, and so is what it had half written.
    """
    killed = [
        WORKER_SCRIPT,
        "killed",
        *TRAIN_TWO_PARTS,
        "--save-every",
        "5",
        "--out",
        tmp_path / "run",
    ]
    done, errors = wait_for_torchrun(start_torchrun(tmp_path / "logs", *killed, restarts=3))
    assert done, errors
    assert (tmp_path / "half a checkpoint").exists()
    assert "steps 10 to 19\n" in read_log(tmp_path / "logs", 0, "stdout", attempt=2)
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {
        path.name for path in (cli_run_folder / "run").rglob("*") if "tfevents" not in path.name
    }
    assert states_equal(
        load_last_weights(tmp_path / "run"), load_last_weights(cli_run_folder / "run")
    )
    assert read_metrics_without_times(tmp_path / "run") == read_metrics_without_times(
        cli_run_folder / "run"
    )


def test_ctrl_c_stops_all_processes_at_a_checkpoint(tmp_path):
    process = start_torchrun(
        tmp_path / "logs",
        "-m",
        "residua",
        *TRAIN_COMMAND,
        "--steps=3000",
        f"--out={tmp_path / 'run'}",
    )
    deadline = time.monotonic() + 90
    while (
        not RunRecord(tmp_path / "run").read_metrics()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    wait_for_torchrun(process)
    found = re.search(
        r"residua: training stopped at step (\d+) of 3,000: to continue, repeat the command",
        read_log(tmp_path / "logs", 0),
    )
    assert found
    assert read_log(tmp_path / "logs", 1) == ""
    [checkpoint] = list_checkpoints(RunRecord(tmp_path / "run").checkpoints_folder)
    assert checkpoint.name == f"step-{int(found[1]):09}.safetensors"


def test_without_torchrun_the_world_size_is_1():
    assert (
        group_from_environment({}) == group_from_environment({"RANK": "1"}) == DataParallelGroup()
    )
    with pytest.raises(
        UsageError,
        match="RANK and WORLD_SIZE are set without LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
    ):
        group_from_environment({"RANK": "0", "WORLD_SIZE": "2"})


def set_torchrun_environment(monkeypatch, rank, port):
    variables = {
        "RANK": rank,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_a_failed_rendezvous_is_reported(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        set_torchrun_environment(monkeypatch, 0, port)
        with pytest.raises(
            TrainingError,
            match=f"^127.0.0.1:{port} is in use: "
            "choose another MASTER_PORT, or start with torchrun",
        ):
            join_process_group(timedelta(seconds=1)).__enter__()
    with pytest.raises(
        TrainingError,
        match=f"^1 of 2 processes arrived at 127.0.0.1:{port} within 1 seconds: "
        "start the others too",
    ):
        join_process_group(timedelta(seconds=1)).__enter__()
    set_torchrun_environment(monkeypatch, 1, port)
    with pytest.raises(TrainingError, match=f"^the processes did not meet at 127.0.0.1:{port}: "):
        join_process_group(timedelta(seconds=1)).__enter__()


def test_more_processes_than_gpus_are_refused_on_every_rank(monkeypatch):
    set_torchrun_environment(monkeypatch, 1, 29500)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UsageError,
        match="^2 processes were started on this machine, which has 1 GPU: "
        "start at most one process per GPU$",
    ):
        join_process_group().__enter__()


def test_single_process_commands_are_refused_under_torchrun(monkeypatch, capsys):
    set_torchrun_environment(monkeypatch, 0, 29500)
    assert main(["study", "--data", "digits"]) == 2
    assert (
        capsys.readouterr().err
        == "residua: study runs in a single process: start it without torchrun\n"
    )

"""A run goes on with the machines that are left, as torchrun's `--nnodes 1:2` promises."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from residua.cli.main import main
from residua.record import RunRecord
from residua.training.checkpoint import list_checkpoints
from tests.training.test_distributed import ROOT, TRAIN_COMMAND
from tests.training.test_job_script import find_free_port

OPTIONS = ["--steps", "150", "--save-every", "10"]


def start_machine(folder, name, port):
    """Start one of at most two torchruns, which stand for machines, with one process each."""
    torchrun = [
        *("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "x", "--rdzv-endpoint", f"localhost:{port}"),
        "--rdzv-conf",
        "last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=3",
        *("--monitor-interval", "0.2", "-m", "residua"),
    ]
    with (folder / name).open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", *torchrun),
                *(*TRAIN_COMMAND, *OPTIONS, "--out", str(folder / "run")),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def wait_until_served(port, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.05)


def kill_with_children(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_run_of_two_machines_ends_on_the_one_that_is_left(tmp_path):
    port, record = find_free_port(), RunRecord(tmp_path / "run")
    first = start_machine(tmp_path, "first", port)
    wait_until_served(port)  # the machine of the endpoint must not be the one that dies
    second = start_machine(tmp_path, "second", port)
    deadline = time.monotonic() + 120
    try:
        while not (has_begun_with_two(record) and list_checkpoints(record.checkpoints_folder)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kill_with_children(second)
        assert first.wait(150) == 0, (tmp_path / "first").read_text()
    finally:
        for process in (first, second):
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    assert record.read_run_json()["environment"]["resumed"][-1]["processes"] == 1
    assert main([*TRAIN_COMMAND, *OPTIONS, "--out", str(tmp_path / "alone")]) == 0
    for row, alone in zip(
        record.read_metrics(), RunRecord(tmp_path / "alone").read_metrics(), strict=True
    ):
        assert row["step"] == alone["step"]
        assert row["loss"] == pytest.approx(alone["loss"], rel=0.02)


def has_begun_with_two(record):
    """Whether two processes train; one may have begun before the other came."""
    if not record.run_json_path.exists():
        return False
    environment = record.read_run_json()["environment"]
    counts = [environment.get("processes", 1)]
    return [*counts, *(entry["processes"] for entry in environment.get("resumed", []))][-1] == 2

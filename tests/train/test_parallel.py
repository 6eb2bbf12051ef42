"""Real processes, started by torchrun: what they compute together is what one computes alone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from residua.cli.main import main
from residua.errors import Interrupted, TrainingError, UsageError
from residua.net.fast import kernels
from residua.record import Record
from residua.spec.recipe import recipe
from residua.train.checkpoint import saved
from residua.train.machine import Machine
from residua.train.parallel import Group, joined, named, parts_here, share
from residua.train.run import train
from tests.train.many import CASES, CPU, exact, never, scored, silent, small
from tests.train.runs import after, lines, weights

MANY = Path(__file__).with_name("many.py")
ROOT = MANY.parents[2]
RUN = ["train", "digits", "--model", "cifar-resnet8", "--precision", "fp32", "--set", "schedule.lr=0.001"]
TRAIN = [*RUN, "--set", "parts=2", "--steps", "20"]
FP32 = Machine(CPU, "fp32")


def torchrun(logs, *command, processes=2, restarts=0):
    """A process of torchrun's that keeps what each of ours says in a file of `logs`."""
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--redirects=3", f"--log-dir={logs}"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process, seconds=180):
    """Whether torchrun ended well, and what it said itself."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode == 0, said


def said(logs, rank, stream="stderr", attempt=0):
    [path] = logs.glob(f"*/attempt_{attempt}/{rank}/{stream}.log")
    return path.read_text()


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def difference(ours, theirs):
    assert list(ours) == list(theirs)
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What four processes left of all cases of many.py; one process began the run `from one`."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.raises(Interrupted):
        train(small(1), folder / "from one", FP32, tell=silent, stop=after(5))
    ended(torchrun(folder / "logs", MANY, "together", folder, processes=4))
    assert (folder / "stopped at").exists(), said(folder / "logs", 0)
    return folder


@pytest.fixture(scope="module")
def commanded(tmp_path_factory):
    """A run of the command line, by two processes with a part each."""
    folder = tmp_path_factory.mktemp("commanded")
    done, errors = ended(torchrun(folder / "logs", "-m", "residua", *TRAIN, "--json", "--out", folder / "run"))
    assert done, errors + said(folder / "logs", 0)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_four_processes_compute_in_float64_what_one_does(together, case):
    """Weights, running statistics, losses, wrong answers: a part by four processes, a part by two, and two parts by one."""
    ours, theirs = torch.load(together / f"{case}.pt"), exact(case, Group())
    torch.testing.assert_close(ours.pop("seen"), theirs.pop("seen"), rtol=1e-6, atol=0)  # losses are in fp32
    assert difference(ours, theirs) < 1e-12


def test_two_processes_with_a_part_each_give_the_bits_of_one_with_two_parts(commanded, tmp_path):
    """As on the two GPUs of He et al. 2015."""
    assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 0
    ours, theirs = Record(commanded / "run"), Record(tmp_path / "run")
    assert same(weights(ours.folder), weights(theirs.folder))
    assert lines(ours.folder) == lines(theirs.folder)
    assert (ours.read()["run"], ours.read()["id"]) == (theirs.read()["run"], theirs.read()["id"])
    assert ours.read()["environment"]["processes"] == 2
    assert "processes" not in theirs.read()["environment"]


def test_parts_are_not_the_whole_batch(tmp_path):
    losses = []
    for parts in (1, 2):
        train(small(parts), tmp_path / f"{parts}", FP32, tell=silent, stop=never)
        losses.append(lines(tmp_path / f"{parts}")[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_the_first_process_alone_speaks_and_counts_each_image_once(commanded, capsys):
    logs = commanded / "logs"
    result = json.loads(said(logs, 0, "stdout"))
    assert "20/20" in said(logs, 0)
    assert (said(logs, 1), said(logs, 1, "stdout")) == ("", "")
    for split in ("train", "dev", "test"):
        assert main(["evaluate", str(commanded / "run"), "digits", "--split", split, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["error"] == result[f"{split}_error"]


def test_an_evaluation_by_four_processes_is_that_of_one(together):
    score = scored(Group())
    count, wrong, wrong5, loss = torch.load(together / "score.pt")
    assert (count, wrong, wrong5) == (359, score.wrong, score.wrong5)
    assert loss == pytest.approx(score.loss, rel=1e-12)


def test_one_process_of_a_machine_goes_first_where_something_may_be_downloaded(together):
    order = (together / "first").read_text()
    assert order[0] == "0"
    assert sorted(order) == ["0", "1", "2", "3"]


def test_synchronised_statistics_do_without_fused_kernels(together):
    for name, used in (("bf16 parts", kernels()), ("bf16 batch", "PyTorch's")):
        record = Record(together / name)
        assert record.read()["environment"]["kernels"] == used
        assert record.result()["steps"] == 12


def test_all_processes_stop_where_one_is_asked_to(together):
    sentence = f"stopped at step 5 of 12: add --resume to go on, with --out {together / 'stopped'}"
    assert (together / "stopped at").read_text().splitlines() == [sentence] * 4


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(together, tmp_path):
    heard = []
    train(small(1), together / "stopped", FP32, resume=True, tell=lambda progress, line: heard.append(progress.note), stop=never)
    assert heard[:2] == ["begun by 4 processes, goes on with 1: the same batches, and the same results but for rounding", ""]
    train(small(1), tmp_path / "whole", FP32, tell=silent, stop=never)
    for name in ("stopped", "from one"):
        assert difference(weights(together / name), weights(tmp_path / "whole")) < 1e-4
        assert [line["step"] for line in lines(together / name)] == [line["step"] for line in lines(tmp_path / "whole")]


def test_what_fails_in_another_process_is_said_by_the_first(together):
    last = said(together / "logs", 0).splitlines()[-1]
    assert last.endswith("TrainingError: process 1: the disk of this machine is gone")


def test_a_killed_process_is_started_again_and_the_run_ends_in_the_same_bits(commanded, tmp_path):
    killed = [MANY, "killed", *TRAIN, "--save-every", "5", "--out", tmp_path / "run"]
    done, errors = ended(torchrun(tmp_path / "logs", *killed, restarts=3))
    assert done, errors
    assert "steps 10 to 19\n" in said(tmp_path / "logs", 0, "stdout", attempt=1)
    assert same(weights(tmp_path / "run"), weights(commanded / "run"))
    assert lines(tmp_path / "run") == lines(commanded / "run")


def test_ctrl_c_stops_all_at_a_checkpoint(tmp_path):
    process = torchrun(tmp_path / "logs", "-m", "residua", *RUN, "--steps=3000", f"--out={tmp_path / 'run'}")
    deadline = time.monotonic() + 90
    while not Record(tmp_path / "run").lines() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended(process)
    found = re.search(r"residua: stopped at step (\d+) of 3,000: add --resume to go on", said(tmp_path / "logs", 0))
    assert found
    assert said(tmp_path / "logs", 1) == ""
    [checkpoint] = saved(Record(tmp_path / "run").checkpoints)
    assert checkpoint.name == f"step-{int(found[1]):09}.safetensors"


def test_a_batch_that_does_not_divide_is_refused_in_one_sentence_by_one_process(tmp_path):
    done, _ = ended(torchrun(tmp_path / "logs", "-m", "residua", *RUN, "--set=batch_size=63", f"--out={tmp_path / 'run'}"))
    assert not done
    sentence = "residua: a batch of 63 does not divide over 2 processes: choose batch_size=62 or batch_size=64\n"
    assert said(tmp_path / "logs", 0) == sentence
    assert said(tmp_path / "logs", 1) == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("batch_size", "parts", "size", "sentence"),
    [
        (1, 1, 4, "a batch of 1 does not divide over 4 processes: choose batch_size=4"),
        (66, 4, 2, "a batch of 66 does not divide into 4 parts: choose batch_size=64 or batch_size=68"),
        (64, 3, 2, "3 parts do not divide over 2 processes: choose parts=2 or parts=4"),
        (64, 3, 1, "a batch of 64 does not divide into 3 parts: choose batch_size=63 or batch_size=66"),
        (64, 4, 6, "4 parts do not divide over 6 processes: choose parts=3 or parts=6"),
    ],
)
def test_shares_that_cannot_be_equal_are_refused_with_the_nearest_that_can(batch_size, parts, size, sentence):
    with pytest.raises(UsageError) as refused:
        share(replace(recipe("small"), batch_size=batch_size, parts=parts), Group(0, size))
    assert str(refused.value) == sentence


def test_the_parts_of_all_processes_are_those_of_the_batch():
    assert [list(parts_here(4, Group(rank, 2))) for rank in range(2)] == [[0, 1], [2, 3]]
    assert [list(parts_here(2, Group(rank, 4))) for rank in range(4)] == [[0], [0], [1], [1]]
    assert list(parts_here(3, Group())) == [0, 1, 2]


def test_without_torchrun_a_process_is_alone():
    assert named({}) == named({"RANK": "1"}) == Group()
    with pytest.raises(UsageError, match="RANK and WORLD_SIZE are set, but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        named({"RANK": "0", "WORLD_SIZE": "2"})


def environment(monkeypatch, rank, port):
    said = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in said.items():
        monkeypatch.setenv(name, str(value))


def test_processes_that_do_not_meet_say_so(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment(monkeypatch, 0, port)
        with pytest.raises(TrainingError, match=f"^127.0.0.1:{port} is in use: choose another MASTER_PORT, or start by torchrun"):
            joined(timedelta(seconds=1)).__enter__()
    with pytest.raises(TrainingError, match=f"^1 of 2 processes came to 127.0.0.1:{port} within 1 seconds: start the others too"):
        joined(timedelta(seconds=1)).__enter__()
    environment(monkeypatch, 1, port)
    with pytest.raises(TrainingError, match=f"^the processes did not meet at 127.0.0.1:{port}: "):
        joined(timedelta(seconds=1)).__enter__()


def test_more_processes_than_gpus_are_refused_by_each(monkeypatch):
    environment(monkeypatch, 1, 29500)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="^2 processes here, but 1 GPU: start one for each at most$"):
        joined().__enter__()


def test_what_one_process_does_is_not_done_by_many(monkeypatch, capsys):
    environment(monkeypatch, 0, 29500)
    assert main(["study", "--data", "digits"]) == 2
    assert capsys.readouterr().err == "residua: study is for one process: start it without torchrun\n"

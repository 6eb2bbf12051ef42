"""Ranks that would not train the same refuse to start, and a rank that stops is named by others."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from residua.errors import RankStoppedError, UsageError
from residua.record import RunRecord
from residua.training.distributed import DataParallelGroup
from residua.training.rank_agreement import hash_source_code, require_equal_ranks
from tests.data.faulty_photos import write_clean_folder
from tests.training.short_runs import CPU_FP32

WORKER_SCRIPT = Path(__file__).with_name("disagreeing_ranks.py")
OPTIONS = ["--model", "cifar-resnet8", "--precision", "fp32", "--set", "batch_size=12"]


def train(data, steps=2, *others):
    return ["train", str(data), *OPTIONS, "--steps", str(steps), *others]


def make_cases(folder):
    """The cases: name -> arguments per rank, and other keys of disagreeing_ranks.py."""
    photos, moved, changed = (folder / name for name in ("photos", "moved", "changed"))
    write_clean_folder(photos)
    shutil.copytree(photos, moved)
    shutil.copytree(photos, changed)
    shutil.copy(photos / "val/cat/01.png", changed / "val/cat/00.png")
    out = ["--out", str(folder / "run")]
    digits, sized = train("digits", 2, *out), ["--size", "16", *out]
    fast, other_recipe = [*digits, "--set", "schedule.lr=0.5"], [*digits, "--recipe", "fast"]
    lying = {"residua": "0.0.1"}
    torchrun = {"TORCHELASTIC_RUN_ID": "none"}  # by which a process knows who started it
    cases = {
        "seed": ([digits, [*digits, "--seed", "1"]], {}),
        "rate": ([digits, digits, fast], {}),
        "recipe": ([digits, other_recipe], {}),
        "steps": ([digits, train("digits", 3, *out)], {}),
        "model": ([digits, ["train", "digits", "--model", "cifar-resnet14", *digits[4:]]], {}),
        "precision": ([digits, [*digits, "--precision", "bf16"]], {}),
        "command": ([digits, [*digits, "--dry-run"]], {}),
        "recompute": ([digits, [*digits, "--recompute", "unit"]], {}),
        "out": ([train("digits", 2, "--out", str(folder / o)) for o in ("here", "there")], {}),
        "residua": ([digits, digits], {"versions": {1: lying}}),
        "torch": ([digits, digits], {"versions": {1: {"torch": "1.0"}}}),
        "test image": ([train(photos, 2, *sized), train(changed, 2, *sized)], {}),
        "no data": ([digits, train(folder / "absent", 2, *out)], {}),
        "no data on rank 0": ([train(folder / "absent", 2, *out), digits, digits], {}),
        "argument": ([digits, [*digits, "--steps", "two"]], {}),
        "odd batch": (
            [[*digits, "--set", "batch_size=63", "--set", "parts=4"]] * 2,
            {"environment": torchrun},
        ),
        "all alike": ([[*digits, "--seed", "-1"]] * 2, {}),
        "moved": ([train(photos, 2, *sized), train(moved, 2, *sized)], {}),
        "evaluate": ([["evaluate", str(folder / "run"), str(d)] for d in (photos, changed)], {}),
        "killed": ([train("digits", 50, "--out", str(folder / "killed"))] * 3, {"kill": [2, 3]}),
        "killed host": ([train("digits", 50, "--out", str(folder / "k"))] * 2, {"kill": [0, 3]}),
    }
    return [{"name": name, "arguments": a, **keys} for name, (a, keys) in cases.items()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each rank printed, by case and rank."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = make_cases(folder)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in cases]
    for case, open_socket in zip(cases, sockets, strict=True):
        case["port"] = open_socket.getsockname()[1]
        open_socket.close()
    (folder / "cases").write_text(json.dumps(cases))
    environment = {
        **os.environ,
        "PYTHONPATH": str(WORKER_SCRIPT.parents[2]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER_SCRIPT, str(rank), "3", folder / "cases"], env=environment
        )
        for rank in range(3)
    ]
    for process in processes:
        process.wait(120)
    return {
        case["name"]: {
            rank: json.loads(path.read_text())
            for rank in range(3)
            if (path := folder / f"{case['name']}.{rank}.json").exists()
        }
        for case in cases
    } | {"folder": folder}


def last_line(outcome):
    return outcome["stderr"].splitlines()[-1]


OPTIONS_REMEDY = "start all ranks with the same options"
VERSION_REMEDY = "install the same version on all machines"
IMAGES_REMEDY = "give all ranks the same images"


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("seed", f"seed is 0 in rank 0, 1 in rank 1: {OPTIONS_REMEDY}"),
        ("rate", f"recipe.schedule.lr is 0.02 in rank 0, 0.5 in rank 2: {OPTIONS_REMEDY}"),
        ("steps", f"recipe.steps is 2 in rank 0, 3 in rank 1: {OPTIONS_REMEDY}"),
        ("precision", 'precision is "fp32" in rank 0, "bf16" in rank 1: give all ranks the same'),
        ("recompute", 'recompute is "none" in rank 0, "unit" in rank 1: give all ranks the same'),
        ("out", "there: give all ranks the same --out, on a disk that they share"),
        ("command", f'command is "train" in rank 0, "train --dry-run" in rank 1: {OPTIONS_REMEDY}'),
        ("torch", f'in rank 0, "1.0" in rank 1: {VERSION_REMEDY}'),
        ("residua", f'in rank 0, "0.0.1" in rank 1: {VERSION_REMEDY}'),
        ("model", '"cifar-resnet8" in rank 0, "cifar-resnet14" in rank 1'),
        ("recipe", f'recipe.name is "small" in rank 0, "fast" in rank 1: {OPTIONS_REMEDY}'),
        ("evaluate", f"the images of rank 1 are not those of rank 0: {IMAGES_REMEDY}"),
        ("test image", f"the images of rank 1 are not those of rank 0: {IMAGES_REMEDY}"),
    ],
)
def test_ranks_that_differ_do_not_start_and_each_says_the_difference(outcomes, case, sentence):
    *others, different = outcomes[case].values()
    assert different["code"] == 2
    assert sentence in last_line(different)
    for outcome in others:
        assert outcome["code"] == 1
        assert f"rank {len(others)} stopped: " in last_line(outcome)
        assert sentence in last_line(outcome)


def test_nothing_is_written_for_ranks_that_differ(outcomes):
    """All cases write to one folder, and those that differ come before the one that trains."""
    run = RunRecord(outcomes["folder"] / "run").read_run_json()["run"]
    assert run["dataset"] == str(outcomes["folder"] / "photos")


def test_a_rank_that_fails_says_why_and_the_others_say_that_it_stopped(outcomes):
    reason = f"there is no folder or table {outcomes['folder'] / 'absent'}: check the path"
    for case, failing in (("no data", 1), ("no data on rank 0", 0)):
        for rank, outcome in outcomes[case].items():
            prefix = "" if rank == failing else f"rank {failing} stopped: "
            assert last_line(outcome) == f"residua: {prefix}{reason}"
            assert "Traceback" not in outcome["stderr"]


def test_a_rank_with_invalid_arguments_is_not_waited_for(outcomes):
    assert last_line(outcomes["argument"][0]) == (
        "residua: rank 1 stopped: its arguments are invalid"
    )
    assert "--steps: two is not a whole number" in last_line(outcomes["argument"][1])


def test_under_torchrun_an_error_of_all_ranks_is_printed_by_rank_0_alone(outcomes):
    sentence = (
        "residua: a batch of 63 cannot be split evenly into 4 parts: "
        "choose batch_size=60 or batch_size=64\n"
    )
    assert [outcome["stderr"] for outcome in outcomes["odd batch"].values()] == [sentence, ""]
    assert all(outcome["code"] == 2 for outcome in outcomes["odd batch"].values())


def test_ranks_end_together(outcomes):
    outcomes = {name: ranks for name, ranks in outcomes.items() if name != "folder"}
    for ranks in outcomes.values():
        times = [outcome["ended"] for outcome in ranks.values()]
        assert max(times) - min(times) < 10


def test_the_same_images_in_another_folder_are_the_same_data(outcomes):
    assert [outcome["code"] for outcome in outcomes["moved"].values()] == [0, 0]


def test_a_rank_that_is_killed_in_the_middle_is_named_by_the_others(outcomes):
    for rank in (0, 1):
        assert "residua: rank 2 stopped or cannot be reached: " in last_line(
            outcomes["killed"][rank]
        )
    assert "residua: rank 0 stopped or cannot be reached: continue with --resume" in last_line(
        outcomes["killed host"][1]
    )


def test_the_source_code_of_all_ranks_is_the_same(monkeypatch):
    own_code = hash_source_code()
    facts = {"code": own_code}

    def gather(group, value):
        return [value, value | {"code": "of another checkout"}]

    monkeypatch.setattr(DataParallelGroup, "gather_from_all_ranks", gather)
    sentence = "the source code of residua in rank 1 is not that in rank 0: install the same code"
    for rank, error, start in ((0, RankStoppedError, "rank 1 stopped: "), (1, UsageError, "")):
        machine = CPU_FP32.__class__(CPU_FP32.device, "fp32", group=DataParallelGroup(rank, 2))
        with pytest.raises(error, match=f"^{start}{sentence}"):
            require_equal_ranks(machine, lambda: facts)

"""A kill at any file operation of a command leaves the old or the new state, and nothing else."""

import os
import shutil

import pytest

from residua import files
from tests.crash_points import count_operations, run_counted
from tests.crash_scenarios import SCENARIOS
from tests.forks import KILLED, run_forked

FOLDER_SCENARIOS = [scenario for scenario in SCENARIOS if scenario.name == "model folder"]


def kill_at_every_operation(scenario, tmp_path):
    """Kill the scenario at each of its operations, and check what is left; return their number."""
    before = tmp_path / "before"
    before.mkdir()
    scenario.prepare(before)
    after = shutil.copytree(before, tmp_path / "after")
    scenario.act(after)
    new_state = scenario.read_state(after)
    states = {scenario.read_state(before), new_state, *scenario.between}
    total = count_operations(scenario.act, shutil.copytree(before, tmp_path / "counted")).total()
    for n in range(1, total + 1):
        folder = shutil.copytree(before, tmp_path / "killed")
        assert run_forked(run_counted, scenario.act, folder, n) == KILLED
        assert scenario.read_state(folder) in states, f"killed at operation {n} of {total}"
        scenario.act(folder)
        assert scenario.read_state(folder) == new_state, f"repeated after a kill at {n} of {total}"
        left_overs = [path.name for path in folder.rglob(".*")]
        if scenario.is_done_once and n == total:  # killed when all that was left was to unlock
            left_overs = [name for name in left_overs if not name.endswith(".lock")]
        assert not left_overs, f"repeated after a kill at {n} of {total}"
        shutil.rmtree(folder)
    return total


@pytest.fixture(autouse=True)
def skip_flushing(monkeypatch):
    """Flushing to disk takes most of the time, and a kill, unlike a power failure, needs none."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_state(scenario, tmp_path):
    assert kill_at_every_operation(scenario, tmp_path) > 3


@pytest.mark.parametrize("scenario", FOLDER_SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_kill_between_two_renames_leaves_the_old_or_the_new_folder(
    scenario, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "exchange_paths", lambda first, second: False)
    assert kill_at_every_operation(scenario, tmp_path) > 20

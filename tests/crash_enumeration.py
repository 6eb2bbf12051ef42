"""Kill the scenarios and whole commands at every file operation, and print how many survive.

The operations are those that Python makes (`tests.crash_points`) and, where strace exists, the
system calls that the kernel sees; libraries in C and Rust make some of them.  scripts/crash_points
runs this module.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.crash_commands import COMMANDS
from tests.crash_points import count_operations, run_counted
from tests.crash_scenarios import SCENARIOS
from tests.forks import KILLED, run_forked, start_fork

SYSTEM_CALLS = {  # kinds by name
    "openat": "create",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "unlink": "delete",
    "unlinkat": "delete",
    "rmdir": "delete",
    "fsync": "fsync",
    "ftruncate": "truncate",
    "chmod": "chmod",
    "fchmod": "chmod",
    "write": "write",
    "pwrite64": "write",
    "link": "link",
    "symlink": "link",
}
PYTHON_KINDS = {
    "replace": "rename",
    "exchange": "rename",
    "unlink": "delete",
    "remove": "delete",
    "rmdir": "delete",
    "ftruncate": "truncate",
}


def trace_system_calls(action, folder, kill_at=None):
    """Run the action in a traced process; return its file operations in `folder`.

    Each is (thread, name of the call, how many such calls of the thread there were so far).  With
    `kill_at`, a name and a number, the process is killed when it makes that call.
    """
    log = folder.with_name("strace.log")
    log.unlink(missing_ok=True)

    def stop_then_act():
        os.kill(os.getpid(), signal.SIGSTOP)
        action(folder)

    pid = start_fork(stop_then_act)
    os.waitpid(pid, os.WUNTRACED)
    names = ",".join(SYSTEM_CALLS)
    inject = ["-e", f"inject={kill_at[0]}:signal=KILL:when={kill_at[1]}"] if kill_at else []
    command = ["strace", "-f", "-y", "-o", log, "-e", f"trace={names}", *inject, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    tracer.stderr.readline()  # "Process ... attached"
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    tracer.communicate()
    return list(parse_trace(log.read_text(), pid, str(folder)))


def parse_trace(text, main_thread, folder):
    numbers = Counter()
    for line in text.splitlines():
        match = re.match(r"(\d+)\s+(\w+)\((.*)", line)
        if match is None:
            continue
        thread, name, rest = int(match[1]), match[2], match[3]
        numbers[thread, name] += 1
        if folder not in rest or (name == "openat" and "O_CREAT" not in rest):
            continue
        yield "main" if thread == main_thread else "other", name, numbers[thread, name]


def act_in_fork(scenario, folder):
    """Run the scenario; not in this process, which could then have threads and not be forked."""
    assert run_forked(scenario.act, folder) == 0, "the command failed"


def kill_everywhere(scenario, root, kill_points, kill):
    """Kill the scenario at each of the points; return how many of them leave no damage."""
    before = root / "before"
    reference = shutil.copytree(before, root / "reference")
    act_in_fork(scenario, reference)
    new_state = scenario.read_state(reference)
    old_state = scenario.read_state(before)
    survived = 0
    for point in kill_points:
        folder = shutil.copytree(before, root / "work")
        try:
            kill(folder, point)
            state = scenario.read_state(folder)
            if scenario.between is not None:
                assert state in (old_state, new_state, *scenario.between), "half-written"
            act_in_fork(scenario, folder)
            assert scenario.read_state(folder) == new_state, "another result after repeating"
            left = [p.name for p in folder.rglob(".*") if p.suffix != ".lock"]
            assert not left, f"left over: {left}"
            survived += 1
        except Exception as error:
            print(f"  {scenario.name}: killed at {point}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    shutil.rmtree(reference)
    return survived


def kill_at_python_operation(scenario):
    def kill(folder, n):
        # 0 if it has fewer operations than when they were counted, e.g. as a clock decides
        assert run_forked(run_counted, scenario.act, folder, n) in (KILLED, 0)

    return kill


def kill_at_system_call(scenario):
    def kill(folder, point):
        trace_system_calls(scenario.act, folder, kill_at=point)

    return kill


def enumerate_scenario(scenario, root, with_kernel, with_kernel_kills):
    """Print and return (points, survived)."""
    before = root / "before"
    before.mkdir()
    assert run_forked(scenario.prepare, before) == 0
    counts = count_operations(scenario.act, shutil.copytree(before, root / "work"))
    shutil.rmtree(root / "work")
    total = counts.total()
    survived = kill_everywhere(
        scenario, root, range(1, total + 1), kill_at_python_operation(scenario)
    )
    print(f"{scenario.name:28} Python: {survived} of {total} points survived", flush=True)
    if not with_kernel:
        return total, survived
    trace = trace_system_calls(scenario.act, shutil.copytree(before, root / "work"))
    shutil.rmtree(root / "work")
    kinds = Counter(SYSTEM_CALLS[name] for _, name, _ in trace)
    python_kinds = Counter()
    for kind, count in counts.items():  # a write of Python has two points
        python_kinds[PYTHON_KINDS.get(kind, kind)] += count // 2 if kind == "write" else count
    print(f"{'':28} kernel: {dict(sorted(kinds.items()))}")
    print(f"{'':28} Python: {dict(sorted(python_kinds.items()))}")
    if not with_kernel_kills:
        return total, survived
    points = [(name, number) for thread, name, number in trace if thread == "main"]
    kernel_survived = kill_everywhere(scenario, root, points, kill_at_system_call(scenario))
    others = len(trace) - len(points)
    print(
        f"{'':28} kernel: {kernel_survived} of {len(points)} points survived"
        f"{f', {others} in other threads not tried' if others else ''}",
        flush=True,
    )
    return total + len(points), survived + kernel_survived


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", action="store_true", help="whole commands, too (minutes)")
    parser.add_argument(
        "--kernel", action="store_true", help="kill those at system calls, too (an hour)"
    )
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # forked processes cannot use the threads of their parent
    with_kernel = shutil.which("strace") is not None
    if not with_kernel:
        print("strace is not installed: only the operations of Python are tried")
    points = survived = 0
    for scenario in [*SCENARIOS, *(COMMANDS if arguments.commands else [])]:
        if arguments.only in scenario.name:
            is_fast = scenario in SCENARIOS
            with tempfile.TemporaryDirectory() as root:
                result = enumerate_scenario(
                    scenario, Path(root), with_kernel, is_fast or arguments.kernel
                )
            points, survived = points + result[0], survived + result[1]
    print(f"{survived} of {points} points survived")
    return survived != points


if __name__ == "__main__":
    sys.exit(main())

"""Run functions in forked processes, which cost milliseconds and may be killed at any point."""

import os
import signal
import sys
import traceback
import warnings

KILLED = 97  # the exit code of a process that ended as if it had been killed


def start_fork(function, *arguments):
    """Call the function in a forked process; return the process's id."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings(action="ignore"):  # newer Pythons warn of forks beside threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        result = function(*arguments)
        code = result if isinstance(result, int) else 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait_for_fork(pid):
    """The exit code of a forked process, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_forked(function, *arguments):
    """Call the function in a forked process; return its exit code."""
    return wait_for_fork(start_fork(function, *arguments))


def run_at_once(functions):
    """Call functions at the same moment, each in a forked process; return their exit codes."""
    read_end, write_end = os.pipe()

    def wait_then_call(function):
        os.close(write_end)
        os.read(read_end, 1)  # until the parent has started all
        return function()

    pids = [start_fork(wait_then_call, function) for function in functions]
    os.close(read_end)
    os.close(write_end)
    return [wait_for_fork(pid) for pid in pids]


def kill_fork(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
